"""The threads of decoding on a device, here the CPU."""

import io
import threading
import time

import pytest
import torch
from PIL import Image

from tests.pictures import CPU, levels, loader, picture
from tests.scripts import PATIENCE
from utils.errors import UserError
from utils.images import decoding, device_decoding
from utils.images.decoding import Picture, require_decoder
from utils.images.device_decoding import groups_of_similar_size
from utils.processes import progress

pytestmark = pytest.mark.filterwarnings("ignore:.*TorchCodec:DeprecationWarning")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    (folder / "a").mkdir()
    for number in range(3):
        picture((50, 40), number).save(folder / "a" / f"{number}.jpg")
    return folder


def test_a_huge_image_does_not_enlarge_the_batch_of_the_others():
    pictures = [Picture(0, size=(90, 100)), *(Picture(i, size=(10, 9 + i % 2)) for i in range(1, 9))]
    groups = groups_of_similar_size(pictures, 500)
    assert [[picture.index for picture in group] for group in groups] == [[2, 4, 6, 8, 1], [3, 5, 7], [0]]
    assert groups_of_similar_size([], 500) == []


def test_files_are_read_some_batches_ahead_and_no_further(photos, monkeypatch):
    seen = []
    monkeypatch.setattr(device_decoding, "decode", lambda files, device: seen.append(len(files)) or [None] * len(files))
    batches, ahead = iter(loader(photos, "gpu", cut=[[0, 0]] * 40)), device_decoding.BATCHES_AHEAD
    for number in range(1, 41):
        next(batches)
        most = min(number + ahead, 40)
        end = time.monotonic() + PATIENCE
        while len(seen) < most and time.monotonic() < end:
            time.sleep(0.001)
        assert len(seen) == most
    assert list(batches) == []
    assert seen == [2] * 40


@pytest.mark.parametrize("error", [ValueError("boom"), torch.OutOfMemoryError("boom"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["read_file", "plain_jpeg_size", "decode", "resize_windows", "here"])
def test_no_thread_outlives_an_error_and_none_is_lost(photos, where, error, monkeypatch):
    def fail(*_):
        raise error

    with progress(["any bar starts tqdm's own thread"]):
        before = set(threading.enumerate())
    if where == "here":
        batches = iter(loader(photos, "gpu", cut=[[0, 1], [2]] * 30))
        next(batches)
        with pytest.raises(type(error)):
            batches.throw(error)
    else:
        # what reading raises is the image's fault, unless it is no Exception at all
        expected = UserError if where == "read_file" and isinstance(error, Exception) else type(error)
        files = loader(photos, "gpu", cut=[[0, 1], [2]] * 30)
        monkeypatch.setattr(decoding if where == "read_file" else device_decoding, where, fail)
        with pytest.raises(expected, match="boom" if isinstance(error, Exception) else None):
            list(files)
    assert set(threading.enumerate()) == before


# What torchvision's decoder raises: PyTorch's memory is short, or nvJPEG's own (its status 5)
SHORT = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB"),
    RuntimeError("Error while decoding JPEG images: CUDA out of memory. Tried to allocate 20 MiB"),
    RuntimeError("Error while decoding JPEG images: Failed to decode batch: 5\nException raised"),
]
REFUSED = RuntimeError("Error while decoding JPEG images: Failed to parse jpeg stream: 4")


@pytest.fixture
def decoder(monkeypatch):
    """A decoder that calls a function with the files of each call, as bytes, before it decodes them.

    The calls' numbers of files are noted, without those of the picture that tests the decoder.
    """
    original, own = decoding.jpeg_decoder(), decoding._small_jpeg()

    def install(before):
        calls = []

        def decode_jpeg(files, **options):
            files_as_bytes = [file.numpy().tobytes() for file in files]
            if files_as_bytes != [own]:
                calls.append(len(files))
            before(files_as_bytes)
            return original(files, **options)

        monkeypatch.setattr(decoding, "jpeg_decoder", lambda: decode_jpeg)
        return calls

    return install


def jpegs(count):
    """JPEG files of grey pictures of one size, each of its own grey."""
    return [encoded(Image.new("L", (16, 16), grey)) for grey in range(count)]


def encoded(image):
    file = io.BytesIO()
    image.save(file, "JPEG")
    return file.getvalue()


def greys(images):
    return [None if image is None else int(image[0, 0, 0]) for image in images]


@pytest.mark.parametrize("error", SHORT, ids=["PyTorch", "torchvision", "nvJPEG"])
def test_memory_that_is_short_is_not_left_to_pil(photos, error, decoder):
    def before(_):
        raise error

    files = loader(photos, "gpu")
    decoder(before)
    with pytest.raises(torch.OutOfMemoryError):
        list(files)


@pytest.mark.parametrize("error", SHORT, ids=["PyTorch", "torchvision", "nvJPEG"])
def test_memory_that_is_short_for_many_files_may_do_for_fewer(error, decoder):
    def before(files):
        if len(files) > 5:
            raise error

    calls = decoder(before)
    assert greys(decoding.decode(jpegs(16), CPU)) == list(range(16))
    assert calls == [16, 8, 4, 4, 8, 4, 4]


def test_a_refused_file_is_found_by_halves(decoder):
    files, refused = jpegs(64), 41

    def before(files_of_call):
        if files[refused] in files_of_call:
            raise REFUSED

    calls = decoder(before)
    expected = [None if number == refused else number for number in range(64)]
    assert greys(decoding.decode(files, CPU)) == expected
    assert len(calls) == 14 and sum(calls) < 3 * 64  # one by one: 65 calls


def test_a_failure_that_passes_refuses_no_file(decoder):
    failures = [REFUSED] * 3

    def before(_):
        if failures:
            raise failures.pop()

    decoder(before)
    assert greys(decoding.decode(jpegs(4), CPU)) == [0, 1, 2, 3]
    assert not failures


def test_a_decoder_that_fails_on_any_file_refuses_none(photos, decoder, capsys):
    def before(_):
        raise REFUSED

    for decode in ("gpu", "fast"):
        files = loader(photos, decode, skip_unreadable=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(decoding, "jpeg_decoder", lambda: lambda *_, **__: before(None))
            with pytest.raises(UserError, match=r"JPEG files cannot be decoded on cpu any more \(.*jpeg stream: 4\)"):
                list(files)
    assert "left out" not in capsys.readouterr().err


def test_refused_files_are_counted_once_at_the_end(photos, decoder, capsys):
    refused = [(photos / "a" / f"{number}.jpg").read_bytes() for number in (0, 2)]

    def before(files):
        if any(file in refused for file in files):
            raise REFUSED

    decoder(before)
    found, expected = levels(photos, "gpu", cut=[[0, 1], [2]]), levels(photos, "pil")
    said = capsys.readouterr().err
    assert said.count("refused") == 1
    path = photos / "a" / "0.jpg"
    assert f"2 JPEG files refused by the decoder of cpu were decoded by PIL, the first of them {path}\n" in said
    for name, crop in found.items():
        assert (crop - expected[name]).abs().max() < (2.01 if name == "1.jpg" else 1e-3)
    list(loader(photos, "gpu", cut=[[1]]))
    assert "refused" not in capsys.readouterr().err


def test_a_torchvision_that_cannot_decode_on_the_device_is_refused(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("not compiled with nvJPEG support")

    require_decoder(CPU, "gpu")
    monkeypatch.setattr(decoding, "jpeg_decoder", lambda: fail)
    with pytest.raises(UserError, match=r"cannot decode on cpu \(not compiled with nvJPEG.*--decode fast"):
        require_decoder(CPU, "gpu")
