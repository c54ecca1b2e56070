"""Decoding by torchvision, and in batches on a device (here the CPU), against PIL."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from tests.pictures import CPU, LEFT_TO_PIL, PLAIN, SMALL, levels, loader, picture, write_images
from tests.scripts import COMPUTE, NETWORK, RUN, run_script, stage1
from utils.command_line import flags as command_line
from utils.command_line.parser import Parser
from utils.errors import UserError
from utils.images import decoding, device_decoding
from utils.images.batches import ImageBatches
from utils.images.decoding import attempt
from utils.images.folders import list_images
from utils.images.transform import Transform
from utils.store.importance_store import ImportanceStore

pytestmark = pytest.mark.filterwarnings("ignore:.*TorchCodec:DeprecationWarning")

UNREADABLE = ("cut_header.jpg", "empty.jpg", "no_image.jpg", "truncated.jpg")


@pytest.fixture
def damaged(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("good.jpg", "last.jpg", "truncated.jpg", "cut_header.jpg"):
        picture((90, 70)).save(tmp_path / "a" / name, quality=95)
    (tmp_path / "a" / "empty.jpg").touch()
    (tmp_path / "a" / "no_image.jpg").write_text("<html>Not found</html>")
    for name, share in (("truncated.jpg", 0.9), ("cut_header.jpg", 0.05)):
        data = (tmp_path / "a" / name).read_bytes()
        (tmp_path / "a" / name).write_bytes(data[: int(share * len(data))])
    return tmp_path


def pil_is_not_to_be_asked(data, transform):
    raise AssertionError("left to PIL")


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("decode", ["fast", "gpu"])
def test_crops_are_those_of_pil(readable, decode, interpolation):
    transform = Transform(32, 28, interpolation)
    expected, found = levels(readable, "pil", transform), levels(readable, decode, transform)
    assert list(found) == list(expected)
    for name, crop in found.items():
        difference = (crop - expected[name]).abs()
        if name in LEFT_TO_PIL:
            assert difference.max() < 1e-3, name
        elif interpolation == "nearest":  # centres that lie between two pixels may go to either
            assert (difference > 0.5).float().mean() < 0.2, name
        else:
            assert difference.max() < 2.01, name
            assert difference.mean() < 0.03, name


@pytest.mark.parametrize("decode", ["fast", "gpu"])
def test_photographs_in_the_papers_transform_are_within_a_level_of_pil(tmp_path, decode):
    (tmp_path / "a").mkdir()
    for number, size in enumerate([(500, 375), (333, 500), (1100, 800), (160, 230)]):
        picture(size, number).save(tmp_path / "a" / f"{number}.jpg", quality=90)
    expected, found = (levels(tmp_path, way, Transform()) for way in ("pil", decode))
    assert list(found) == list(expected) == [f"{number}.jpg" for number in range(4)]
    for name, crop in found.items():
        difference = (crop - expected[name]).abs()
        assert difference.max() < 2.01
        assert difference.mean() < 0.03


@pytest.mark.parametrize("decode", ["fast", "gpu"])
def test_plain_jpeg_files_are_not_left_to_pil_and_all_others_are(readable, decode, monkeypatch):
    for module in (decoding, device_decoding):
        monkeypatch.setattr(module, "crop_with_pil", pil_is_not_to_be_asked)
    files = loader(readable, decode, skip_unreadable=True)
    (batch,) = files
    assert {files.images.path(index).name for index in batch.indices.tolist()} == {*PLAIN, "trailing.jpg"}


def test_only_what_every_decoder_understands_alike_is_plain():
    def jpeg(**options):
        file = io.BytesIO()
        picture((20, 10)).save(file, "JPEG", **options)
        return file.getvalue()

    data, frame = jpeg(), jpeg().index(b"\xff\xc0")
    assert decoding.plain_jpeg_size(data) == (10, 20)
    adobe = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0"
    assert decoding.plain_jpeg_size(data[:2] + adobe + b"\1" + data[2:]) == (10, 20)
    assert decoding.plain_jpeg_size(data[:2] + adobe + b"\0" + data[2:]) is None  # says that it is RGB
    for at, value in [(1, 0xC1), (1, 0xC9), (4, 12), (9, 4), (10, ord("R")), (5, 200), (2, 255)]:
        changed = bytearray(data)
        changed[frame + at] = value
        if at == 10:
            changed[frame + 13], changed[frame + 16] = b"GB"
        if at == 5:  # height and width
            changed[frame + 5 : frame + 9] = b"\x40\0\x40\0"
        assert decoding.plain_jpeg_size(changed) is None
    assert decoding.plain_jpeg_size(data[:-2]) is None
    thumbnail = b"\xff\xe1" + (len(data) + 2).to_bytes(2, "big") + data
    assert (
        decoding.plain_jpeg_size((data[:2] + thumbnail + data[2:])[:-2]) is None
    )  # the thumbnail's end is not its own
    for junk in (b"\0", b"\xff\xf0\0\2"):
        assert decoding.plain_jpeg_size(data[:2] + junk + data[2:]) is None
    assert [decoding.plain_jpeg_size(data[:length]) for length in range(0, len(data), 7)] == [None] * -(-len(data) // 7)


def test_what_pil_refuses_no_decoder_accepts():
    """Bytes changed at random, most of them in the header."""
    file, random = io.BytesIO(), np.random.default_rng(0)
    picture((24, 20)).save(file, "JPEG")
    refused = 0
    for _ in range(300):
        data = bytearray(file.getvalue())
        for _ in range(random.integers(1, 4)):
            data[random.integers(len(data) if random.random() < 0.3 else 200)] = random.integers(256)
        reasons = [attempt(crop, data, SMALL)[1] for crop in (decoding.crop_with_pil, decoding.crop_with_torchvision)]
        assert reasons[0] == reasons[1]
        refused += reasons[0] is not None
    assert 50 < refused < 250


@pytest.mark.parametrize(("decode", "num_workers"), [("fast", 2), ("gpu", 0), ("gpu", 3)])
def test_order_is_kept_across_batches_groups_and_what_is_left_to_pil(readable, decode, num_workers, monkeypatch):
    monkeypatch.setattr(device_decoding, "FILES_A_TASK", 2)
    monkeypatch.setattr(device_decoding, "PIXELS_A_GROUP", 6000)
    count = len(list_images(readable))
    shuffled = np.random.default_rng(0).permutation(count).tolist()
    cut = [shuffled[start : start + 5] for start in range(0, count, 5)] * 3
    expected = {}
    for indices, pixels, *_ in loader(readable, "pil"):
        expected.update(zip(indices.tolist(), pixels, strict=True))
    found = list(loader(readable, decode, cut=cut, num_workers=num_workers))
    assert [batch.indices.tolist() for batch in found] == cut
    for indices, pixels, *_ in found:
        assert pixels.is_contiguous(memory_format=torch.channels_last)
        for index, crop in zip(indices.tolist(), pixels, strict=True):
            assert (crop - expected[index]).abs().max() < 0.04  # two levels


@pytest.mark.parametrize("refused", [[2], [0, 1, 2, 3]])
def test_what_the_device_cannot_decode_is_left_to_pil(readable, refused, monkeypatch):
    """One bad file fails the whole call, without partial results."""
    kept = ["grey.jpg", "odd.jpg", "tall.jpg", "wide.jpg"]
    data = [(readable / "a" / name).read_bytes() for name in kept]
    original = decoding.jpeg_decoder()

    def decode_jpeg(files, **options):
        if any(bytes(file.numpy()) in [data[number] for number in refused] for file in files):
            raise RuntimeError("nvjpeg: bad file")
        return original(files, **options)

    def crop_with_pil(file, transform):
        left_to_pil.append(data.index(file))
        return decoding.crop_with_pil(file, transform)

    left_to_pil = []
    monkeypatch.setattr(decoding, "jpeg_decoder", lambda: decode_jpeg)
    monkeypatch.setattr(device_decoding, "crop_with_pil", crop_with_pil)
    cut = [[i for i, path in enumerate(list_images(readable).paths) if path.decode()[2:] in kept]]
    expected, found = (levels(readable, way, cut=cut) for way in ("pil", "gpu"))
    assert list(found) == kept
    assert sorted(left_to_pil) == refused
    for number, name in enumerate(kept):
        assert (found[name] - expected[name]).abs().max() < (1e-3 if number in refused else 2.01)


@pytest.mark.parametrize("decode", ["fast", "gpu"])
def test_unreadable_images_are_reported_as_with_pil(damaged, decode, capsys):
    seen = {}
    for way in ("pil", decode):
        files = loader(damaged, way, skip_unreadable=True, cut=[[0], [1, 2], [3, 4], [5]])
        batches = [batch.indices.tolist() for batch in files]
        said = [line for line in capsys.readouterr().err.split("\n") if "unreadable" in line]
        with pytest.raises(UserError, match=r"cut_header.jpg \(.*--skip_unreadable") as error:
            list(loader(damaged, way))
        seen[way] = batches, files.skipped, [line.split("\r")[-1] for line in said], str(error.value)
        capsys.readouterr()
    assert seen[decode] == seen["pil"]
    assert seen[decode][:2] == ([[], [2], [3], []], 4)
    assert len(seen[decode][2]) == 5


@pytest.mark.parametrize("decode", ["pil", "fast", "gpu"])
def test_a_file_that_cannot_be_opened_is_never_left_out(damaged, decode):
    files = loader(damaged, decode, skip_unreadable=True)
    (damaged / "a" / "last.jpg").unlink()
    with pytest.raises(UserError, match=r"cannot read image .*last.jpg \(FileNotFoundError: .*'\)$"):
        list(files)


# --------------------------------------------------------------------------------------------------------------------
# The scripts


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory):
    folder = write_images(tmp_path_factory.mktemp("jpegs"), train=3, val=0)
    for path in folder.rglob("*.png"):
        with Image.open(path) as image:
            image.resize((60, 45)).save(path.with_suffix(".jpg"), quality=95)  # else both decoders may agree
        path.unlink()
    return folder


def test_stage1_decodes_fast_and_does_not_go_on_otherwise(jpegs, tmp_path):
    for decode in ("pil", "fast"):
        stage1(jpegs, decode, "--decode", decode, "--num_workers", "1", cwd=tmp_path)
    stores = [ImportanceStore(tmp_path / decode, RUN) for decode in ("pil", "fast")]
    assert [store.load_meta()["decoding"] for store in stores] == ["pil", "fast"]
    sums = [store.read_chunk(0)["input_sums"] for store in stores]
    assert not torch.equal(*sums)
    torch.testing.assert_close(*sums, rtol=0.01, atol=0.5)
    flags = ("--data_dir", jpegs, "--batch_size", "4", "--chunk_size", "8", "--resize_size", "24", "--crop_size", "24")
    for store, now in (("pil", "fast"), ("fast", "pil")):
        more = ("--store_dir", store, "--decode", now)
        result = run_script("get_importances_for_classes.py", *NETWORK, *flags, *COMPUTE, *more, cwd=tmp_path)
        assert result.returncode == 2
        assert f"decoding ({store}; now {now})" in result.stderr


def test_the_flag_reaches_the_loader(readable):
    parser = Parser("a script")
    command_line.add_image_flags(parser)
    command_line.add_compute_flags(parser)
    for flags, crop in (((), decoding.crop_with_pil), (("--decode", "fast"), decoding.crop_with_torchvision)):
        loading = command_line.loading(parser.parse_args(["--num_workers", "0", *flags]), CPU)
        assert ImageBatches(list_images(readable), SMALL, [[0]], "", loading).loader.dataset.crop is crop


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("get_importances_for_classes.py", ("--store_dir", "new")),
        ("disentangle_channel.py", ("--channel_disentangle", "9")),
        ("get_results.py", ("--channel_of_interest", "9")),
    ],
)
def test_decoding_on_a_gpu_without_one_is_refused_in_one_line(copy, script, flags):
    store = () if "--store_dir" in flags else ("--store_dir", "store")
    concepts = () if store == () else ("--classes_for_concept1", "1", "--classes_for_concept2", "dog")
    flags = (*NETWORK, *COMPUTE, "--data_dir", "data", *flags, *store, *concepts, "--decode", "gpu")
    result = run_script(script, *flags, cwd=copy)
    assert result.returncode == 2
    assert result.stderr == f"{script}: error: --decode gpu needs a CUDA device: use --decode fast\n"
    assert not (copy / "new").exists()
