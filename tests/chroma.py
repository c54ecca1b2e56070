"""Crops of JPEG files against what decoders may make of their chroma: interpolated as PIL's, or repeated.

Where chroma is not subsampled, decoders agree within two levels. Where it is (4:2:0), a crop must be within two levels
of either PIL's or of that of a picture with repeated chroma, and of the same one in all files.
"""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.JpegImagePlugin import get_sampling

from benchmarks.chroma import repeated_chroma
from tests.pictures import LEFT_TO_PIL

TWO_LEVELS = 2.01
INTERPOLATED, REPEATED = "interpolated", "repeated"
# of photographs with chroma of 4:2:2 from PIL's, in levels, where chroma is repeated; measured: 21 and 2.5
LARGEST_DIFFERENCE, MEAN_DIFFERENCE = 25, 3


def is_near(crop, expected, interpolation):
    difference = (crop - expected).abs()
    if interpolation == "nearest":  # centres that lie between two pixels may go to either
        return (difference > TWO_LEVELS).float().mean().item() < 0.2
    return difference.max().item() < TWO_LEVELS


def subsampling_of(path):
    """PIL's number: 0 is 4:4:4, 1 is 4:2:2, 2 is 4:2:0; 0 for what has no chroma of its own, or is no JPEG file."""
    with Image.open(path) as image:
        return max(get_sampling(image), 0) if image.format == "JPEG" and image.mode == "RGB" else 0


def kinds_of_chroma(found, folder, transform):
    """Check crops, {name: float Tensor [3, H, W] in levels}: how chroma may have been made."""
    kinds = {INTERPOLATED, REPEATED}
    paths = {path.name: path for path in Path(folder).rglob("*") if path.is_file()}
    assert found.keys() == paths.keys()
    for name, crop in found.items():
        with Image.open(paths[name]) as image:
            pictures = {INTERPOLATED: image.convert("RGB"), REPEATED: repeated_chroma(paths[name])}
        expected = {kind: transform.crop(picture).permute(2, 0, 1).float() for kind, picture in pictures.items()}
        difference = (crop - expected[INTERPOLATED]).abs()
        subsampling = subsampling_of(paths[name])
        if name in LEFT_TO_PIL:
            assert difference.max() < 1e-3, name
        elif subsampling == 0:
            assert is_near(crop, expected[INTERPOLATED], transform.interpolation), (name, difference.max())
        elif subsampling == 1:  # there is no picture with repeated chroma to compare with
            assert difference.max() < LARGEST_DIFFERENCE and difference.mean() < MEAN_DIFFERENCE, name
        else:
            kinds &= {kind for kind, value in expected.items() if is_near(crop, value, transform.interpolation)}
            assert kinds, (name, *((crop - value).abs().max() for value in expected.values()))
    return kinds


def repeating_decoder():
    """What decodes as torchvision's decoder does on a GPU, on the CPU and slowly."""

    def decode_jpeg(files, mode, device):
        pictures = [repeated_chroma(io.BytesIO(file.numpy().tobytes())) for file in files]
        return [torch.from_numpy(np.array(picture)).permute(2, 0, 1).to(device) for picture in pictures]

    return decode_jpeg
