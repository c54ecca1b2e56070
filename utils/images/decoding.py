"""Decoding: what may be left to torchvision instead of PIL, and the way from a file to its crop with either.

Only plain JPEG files are ever decoded by anything but PIL. All else is left to it, whichever decoder is asked for, and
so is the verdict that an image cannot be read.
"""

from dataclasses import dataclass

import torch
from PIL import Image
from torch.nn.functional import interpolate
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.functional import center_crop

from utils.images.resizing import resized_sizes

DECODERS = ("pil", "fast", "gpu")
MOST_PIXELS = 2**26  # larger images are PIL's, which looks out for decompression bombs

START_OF_IMAGE, END_OF_IMAGE = b"\xff\xd8", b"\xff\xd9"
BASELINE, PROGRESSIVE, START_OF_SCAN, ADOBE = 0xC0, 0xC2, 0xDA, 0xEE
HARMLESS = {0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)}  # tables, restart interval, comment, applications' own


@dataclass
class Batch:
    """``crops`` uint8 [B, H, W, 3] of the images ``indices`` [B]; ``unreadable`` has (index, reason) of the rest."""

    indices: torch.Tensor
    crops: torch.Tensor
    unreadable: list

    def pin_memory(self):
        self.crops = self.crops.pin_memory()
        return self


class MachineFailure(str):
    """Why an image could not be read, where that is not the image's fault; it is never left out for it."""


def attempt(read, *arguments):
    """What ``read`` returns, and None; or None, and the reason why the image cannot be read."""
    try:
        return read(*arguments), None
    except Exception as error:  # PIL raises a dozen kinds, for a dozen kinds of damage
        reason = f"{type(error).__name__}: {error}"
        # damage has no errno; a file system that fails, and memory that is short, are not the image's fault
        machine = isinstance(error, MemoryError) or getattr(error, "errno", None) or "out of memory" in reason
        return None, MachineFailure(reason) if machine else reason


def crop_with_pil(path, transform):
    """Decode, resize and crop an image file: uint8 Tensor [H, W, 3]."""
    with Image.open(path) as image:
        return transform.crop(image.convert("RGB"))


def crop_with_torchvision(path, transform):
    """The same by torchvision's decoder and resizing, where the file is a plain JPEG file."""
    plain = read_plain_jpeg(path)
    if plain is not None:
        (image,) = decode([plain[0]], torch.device("cpu"))
        if image is not None:
            return _resize_and_crop(image, transform)
    return crop_with_pil(path, transform)


def decode(files, device):
    """Decode plain JPEG files together: a list of uint8 Tensor [3, height, width], None for those that are refused."""
    try:
        return decode_jpeg(files, mode=ImageReadMode.RGB, device=device)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # of any of them, and there is no partial result
        return [None] if len(files) == 1 else [image for file in files for image in decode([file], device)]


def _resize_and_crop(image, transform):
    # directly on uint8 with colours innermost, as the decoder leaves them, in the way of torchvision's v2 transforms;
    # functional.resize takes a detour over float32, and a plain image[None] hides the layout from interpolate
    batch = image.permute(1, 2, 0)[None].permute(0, 3, 1, 2)
    nearest = transform.interpolation == "nearest"
    (size,) = resized_sizes(torch.tensor([image.shape[1:]]), transform.resize_size).int().tolist()
    mode = "nearest-exact" if nearest else transform.interpolation
    (resized,) = interpolate(batch, size, mode=mode, antialias=not nearest)
    return center_crop(resized, [transform.crop_size]).permute(1, 2, 0)


# --------------------------------------------------------------------------------------------------------------------
# Which files are plain


def read_plain_jpeg(path):
    """Read a file: its bytes as uint8 Tensor [N] and its (height, width), or None unless it is a plain JPEG file."""
    with open(path, "rb") as file:
        data = bytearray(file.read())
    size = plain_jpeg_size(data)
    return None if size is None else (torch.frombuffer(data, dtype=torch.uint8), size)


def plain_jpeg_size(data):
    """(height, width) of a JPEG file that all decoders understand alike, else None.

    Eight bits, Huffman-coded, grey or YCbCr, at most ``MOST_PIXELS``, nothing unusual before the first scan, and with
    an end: decoders may fill what is missing of a truncated image with grey.
    """
    size, at = None, len(START_OF_IMAGE)
    if not data.startswith(START_OF_IMAGE):
        return None
    while data[at : at + 1] == b"\xff" and at + 4 <= len(data):
        marker, end = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == START_OF_SCAN:
            return size if data.rfind(END_OF_IMAGE, end) > 0 else None
        if marker in (BASELINE, PROGRESSIVE):
            size = _frame_size(data[at + 4 : end])
        elif marker not in HARMLESS or (marker == ADOBE and not _is_ycbcr(data[at + 4 : end])):
            return None
        at = end
    return None


def _frame_size(frame):
    """(height, width) that a frame header states, or None where it states anything unusual."""
    if len(frame) < 9 or frame[0] != 8 or frame[5] not in (1, 3) or frame[6::3] == b"RGB":
        return None
    height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    return (height, width) if 0 < height * width <= MOST_PIXELS else None


def _is_ycbcr(segment):
    return not segment.startswith(b"Adobe") or segment[11:12] == b"\1"
