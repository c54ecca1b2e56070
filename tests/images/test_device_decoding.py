"""The threads and streams of decoding on a device, here the CPU."""

import threading
from types import SimpleNamespace

import pytest
import torch

from tests.images.test_decoding import CPU, loader
from tests.images.test_resizing import picture
from utils.errors import UserError
from utils.images import decoding, device_decoding, reading
from utils.images.device_decoding import DecodingStreams, groups_of_similar_size, require_decoder
from utils.images.reading import Picture

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
    batches = iter(loader(photos, "gpu", cut=[[0, 0]] * 40))
    for _ in range(3):
        next(batches)
    ahead = device_decoding.BATCHES_AHEAD
    assert 6 <= sum(seen) <= 2 * (3 + ahead)
    assert len(list(batches)) == 37
    assert seen == [2] * 40


@pytest.mark.parametrize("error", [ValueError("boom"), torch.OutOfMemoryError("boom"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["read_file", "plain_jpeg_size", "decode", "resize_windows", "here"])
def test_no_thread_outlives_an_error_and_none_is_lost(photos, where, error, monkeypatch):
    def fail(*_):
        raise error

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
        monkeypatch.setattr(reading if where == "read_file" else device_decoding, where, fail)
        with pytest.raises(expected, match="boom" if isinstance(error, Exception) else None):
            list(files)
    assert set(threading.enumerate()) == before


def test_memory_that_is_short_is_not_left_to_pil(photos, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("short")

    files = loader(photos, "gpu")
    monkeypatch.setattr(decoding, "decode_jpeg", fail)
    with pytest.raises(torch.OutOfMemoryError):
        list(files)


def test_a_torchvision_that_cannot_decode_on_the_device_is_refused(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("not compiled with nvJPEG support")

    require_decoder(CPU)
    monkeypatch.setattr(device_decoding, "decode_jpeg", fail)
    with pytest.raises(UserError, match=r"cannot decode on cpu \(not compiled with nvJPEG.*--decode fast"):
        require_decoder(CPU)


def test_each_decoding_thread_has_a_stream_and_memory_is_handed_over(monkeypatch):
    """The calls, in their order; without a GPU nothing else can be seen of them."""
    said = []

    class Stream(SimpleNamespace):
        def synchronize(self):
            said.append(f"wait for {self.name}")

        def record_event(self):
            return Stream(name="mark")

    streams = [Stream(name="first"), Stream(name="second")]
    monkeypatch.setattr(device_decoding, "_cuda_streams", lambda device: streams)
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: said.append(f"enter {stream.name}"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(name="current"))
    ours = DecodingStreams(torch.device("cuda", 0))
    ours.enter()
    ours.enter()
    ours.wait()
    tensor = SimpleNamespace(record_stream=lambda stream: said.append(f"used in {stream.name}"))
    for _ in range(4):
        ours.hand_over([tensor])
    used = ["used in current"]
    assert said == [
        "enter second",
        "enter first",
        "wait for current",
        *used * 3,
        "wait for mark",
        *used,
        "wait for mark",
    ]
