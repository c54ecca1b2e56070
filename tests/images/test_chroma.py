"""What the CUDA tests demand of crops, on the CPU: interpolated and repeated chroma meet it, mistakes do not."""

import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.chroma import repeated_chroma
from tests.chroma import INTERPOLATED, REPEATED, kinds_of_chroma, repeating_decoder
from tests.pictures import levels, write_photographs
from utils.images import decoding
from utils.images.transform import Transform

pytestmark = pytest.mark.filterwarnings("ignore:.*TorchCodec:DeprecationWarning")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Folders of photographs by the subsampling of their chroma."""
    folders = {subsampling: tmp_path_factory.mktemp(f"photographs{subsampling}") for subsampling in (0, 1, 2)}
    for subsampling, folder in folders.items():
        write_photographs(folder, subsampling)
    return folders


def jpeg(pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **options)
    return file


@pytest.mark.parametrize("size", [(48, 32), (47, 31), (2, 3), (1, 5)])
def test_repeated_chroma_is_that_of_the_file(size):
    """A picture with one colour a square of two pixels: interpolation changes it, repetition does not."""
    random = np.random.default_rng(0)
    chroma = random.integers(60, 190, (-(-size[1] // 2), -(-size[0] // 2), 2)).repeat(2, 0).repeat(2, 1)
    ycbcr = np.concatenate([np.full((*size[::-1], 1), 128), chroma[: size[1], : size[0]]], 2).astype(np.uint8)
    original = np.asarray(Image.fromarray(ycbcr, "YCbCr").convert("RGB")).astype(int)
    file = jpeg(original.astype(np.uint8), quality=100, subsampling=2)
    repeated = np.asarray(repeated_chroma(file)).astype(int)
    interpolated = np.asarray(Image.open(file).convert("RGB")).astype(int)
    assert repeated.shape == original.shape
    assert np.abs(repeated - original).max() <= 6  # of rounding to RGB and of quality 100
    if min(size) > 8:
        assert np.abs(interpolated - original).max() > 20


@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 1}, {"progressive": True, "subsampling": 0}])
def test_other_subsampling_is_left_as_it_is(options):
    file = jpeg(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8), **options)
    assert np.array_equal(repeated_chroma(file), Image.open(file).convert("RGB"))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_odd_files_meet_the_limits_either_way(readable, interpolation, monkeypatch):
    transform = Transform(32, 28, interpolation)
    assert kinds_of_chroma(levels(readable, "gpu", transform), readable, transform) == {INTERPOLATED}
    monkeypatch.setattr(decoding, "jpeg_decoder", repeating_decoder)
    assert kinds_of_chroma(levels(readable, "gpu", transform), readable, transform) == {REPEATED}


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_photographs_meet_the_limits_either_way(photographs, subsampling, monkeypatch):
    transform, folder = Transform(), photographs[subsampling]
    both = {INTERPOLATED, REPEATED}
    expected = {INTERPOLATED} if subsampling == 2 else both
    assert kinds_of_chroma(levels(folder, "gpu", transform), folder, transform) == expected
    monkeypatch.setattr(decoding, "jpeg_decoder", repeating_decoder)
    assert kinds_of_chroma(levels(folder, "gpu", transform), folder, transform) == (both - expected or both)


MISTAKES = {
    "three levels brighter": lambda image: (image.int() + 3).clamp(max=255).to(torch.uint8),
    "red and blue exchanged": lambda image: image.flip(0),
    "a pixel to the right": lambda image: image.roll(2, 2),
    "another row first": lambda image: image.roll(2, 1),
    "grey": lambda image: image.float().mean(0, keepdim=True).expand(3, -1, -1).to(torch.uint8),
}


WITHIN_WIDER_LIMITS = {"three levels brighter", "a pixel to the right", "another row first"}  # those of 4:2:2


@pytest.mark.parametrize(
    ("subsampling", "mistake"),
    [
        *itertools.product((0, 2), MISTAKES),
        *((1, mistake) for mistake in MISTAKES if mistake not in WITHIN_WIDER_LIMITS),
    ],
)
def test_mistakes_do_not_meet_the_limits(photographs, subsampling, mistake, monkeypatch):
    decode = repeating_decoder()

    def decode_jpeg(files, **options):
        return [MISTAKES[mistake](image).contiguous() for image in decode(files, **options)]

    monkeypatch.setattr(decoding, "jpeg_decoder", lambda: decode_jpeg)
    folder = photographs[subsampling]
    with pytest.raises(AssertionError):
        kinds_of_chroma(levels(folder, "gpu", Transform()), folder, Transform())
