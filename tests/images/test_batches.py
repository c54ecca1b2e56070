"""Lists of images, the evaluation transform, and batches."""

import errno
import os

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import ResNet50_Weights

from tests.pictures import batches
from utils.errors import UserError
from utils.images.batches import ImageSource, Loading, batches_of, equal_batches_of
from utils.images.folders import list_images
from utils.images.transform import Transform


def write_image(path, seed=0, size=(40, 30), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


@pytest.fixture
def train(tmp_path):
    for seed, name in enumerate(["b/2.png", "b/1.jpg", "a/x.JPEG", "a/sub/y.png", "a/.hidden.png", ".cache/z.png"]):
        write_image(tmp_path / name, seed)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    return tmp_path


@pytest.mark.parametrize("size", [(400, 300), (300, 401), (64, 64)])
def test_the_default_transform_is_torchvisions_evaluation_transform(tmp_path, size):
    write_image(tmp_path / "a" / "x.png", 1, size)
    ((_, pixels, *_),) = batches(list_images(tmp_path), Transform(), [[0]])
    with Image.open(tmp_path / "a" / "x.png") as image:
        expected = ResNet50_Weights.IMAGENET1K_V1.transforms()(image)
    torch.testing.assert_close(pixels[0], expected, rtol=0, atol=1e-6)
    assert pixels.is_contiguous(memory_format=torch.channels_last)


def test_images_are_listed_sorted_with_sub_folders_and_without_hidden_ones(train):
    images = list_images(train)
    assert images.folders == ["a", "b"]
    assert [os.fsdecode(path) for path in images.paths] == ["a/sub/y.png", "a/x.JPEG", "b/1.jpg", "b/2.png"]
    assert images.counts() == {"a": 2, "b": 2}
    assert images.folder_of.tolist() == [0, 0, 1, 1]
    assert list_images(train, ["b"]).counts() == {"b": 2}


def test_images_at_some_indices_are_in_their_order_and_as_often(train):
    images = list_images(train).with_contents(np.array([1, 2]), np.array([5, 6], np.uint64))
    some = images.at([2, 0, 2])
    assert [os.fsdecode(path) for path in some.paths] == ["b/1.jpg", "a/sub/y.png", "b/1.jpg"]
    assert [some.content(number) for number in range(3)] == [6, None, 6]
    assert (some.sizes.tolist(), some.counts()) == (images.sizes[[2, 0, 2]].tolist(), {"a": 1, "b": 2})
    assert list_images(train).at([3]).content(0) is None


def test_the_digest_depends_on_paths_and_sizes_and_not_on_the_place(train, tmp_path_factory):
    digest = list_images(train).digest()
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "train"
    train.rename(elsewhere)
    assert list_images(elsewhere).digest() == digest
    (elsewhere / "b" / "1.jpg").rename(elsewhere / "b" / "3.jpg")
    renamed = list_images(elsewhere).digest()
    assert renamed != digest
    (elsewhere / "b" / "3.jpg").write_bytes((elsewhere / "b" / "3.jpg").read_bytes() + b"\0")
    assert list_images(elsewhere).digest() not in (digest, renamed)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_keep_their_order_and_leave_out_what_cannot_be_read(train, num_workers, capsys):
    (train / "a" / "x.JPEG").write_bytes(b"no JPEG at all")
    images, cut = list_images(train), [[3, 0], [1], [2]]
    loader = batches(images, Transform(16, 16), cut, num_workers=num_workers, skip_unreadable=True)
    seen = [(indices.tolist(), len(pixels)) for indices, pixels, *_ in loader]
    assert seen == [([3, 0], 2), ([], 0), ([2], 1)]
    assert loader.skipped == 1
    stderr = capsys.readouterr().err
    assert str(train / "a" / "x.JPEG") in stderr
    assert "1 unreadable images left out" in stderr
    with pytest.raises(UserError, match=r"x.JPEG.*--skip_unreadable"):
        list(batches(images, Transform(16, 16), cut, num_workers=num_workers))


def test_the_bar_of_a_pass_that_goes_on_begins_at_the_images_of_the_earlier_run(train, capsys):
    source = ImageSource(list_images(train), Transform(16, 16), 2, Loading(torch.device("cpu")))
    seen = [batch.indices.tolist() for batch in source.in_order(torch.tensor([3, 0, 1, 2]), "pass", done=2)]
    assert seen == [[1, 2]]
    bars = capsys.readouterr().err.split("\r")
    assert any(" 2/4 " in bar for bar in bars[:2]) and " 4/4 " in bars[-1]


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA", "1"])
def test_images_of_every_mode_become_rgb(tmp_path, mode):
    path = tmp_path / "a" / ("x.tif" if mode == "CMYK" else "x.png")
    write_image(path, mode=mode, size=(16, 16))
    ((_, pixels, *_),) = batches(list_images(tmp_path), Transform(16, 16, mean=(0,) * 3, std=(1,) * 3), [[0]])
    with Image.open(path) as image:
        assert image.mode == mode
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(pixels[0].permute(1, 2, 0).mul(255).round(), expected)


def test_folders_without_what_is_needed_are_refused(tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        list_images(tmp_path / "train")
    with pytest.raises(UserError, match="no class folders"):
        list_images(tmp_path)
    write_image(tmp_path / "flat.png")
    with pytest.raises(UserError, match="images but no class folders: sort them"):
        list_images(tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match="has no images"):
        list_images(tmp_path)
    with pytest.raises(UserError, match="no class folder b"):
        list_images(tmp_path, ["a", "b"])


def test_batches_of_never_lose_an_index():
    assert batches_of(range(5), 2) == [[0, 1], [2, 3], [4]]
    assert batches_of(np.array([7]), 2) == [[7]]


@pytest.mark.parametrize("batch_size", [1, 3, 33, 40, 64, 254, 5000])
@pytest.mark.parametrize("count", [0, 1, 7, 1167, 2048])
def test_equal_batches_are_as_few_as_full_ones_and_nearly_equal(count, batch_size):
    numbers = [3 * number for number in range(count)]
    full, equal = batches_of(numbers, batch_size), equal_batches_of(numbers, batch_size)
    assert [number for batch in equal for number in batch] == numbers
    if count == 2048 and batch_size == 254:
        assert [len(batch) for batch in full] == [254] * 8 + [16]
        assert [len(batch) for batch in equal] == [228] * 5 + [227] * 4
    assert len(equal) == len(full)
    sizes = [len(batch) for batch in equal] or [0]
    assert max(sizes) - min(sizes) <= 1 and max(sizes) <= batch_size


@pytest.mark.parametrize("error", [OSError(errno.ESTALE, "Stale file handle"), MemoryError(), OSError("out of memory")])
def test_a_failing_machine_is_no_unreadable_image(train, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(UserError, match="cannot read image"):
        list(batches(list_images(train), Transform(16, 16), [[0]], skip_unreadable=True))
