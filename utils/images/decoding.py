"""Reading and decoding: the way from an image file to its crop, by PIL, or for plain JPEG files by torchvision.

Only plain JPEG files are ever decoded by anything but PIL. All else is left to it, whichever decoder is asked for, and
so is the verdict that an image cannot be read.
"""

import errno
import hashlib
import io
import logging
import os
import re
import stat
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch.nn.functional import interpolate
from torchvision.transforms.functional import center_crop

from utils.errors import UserError
from utils.images.resizing import resized_sizes

MOST_PIXELS = 2**26  # larger images are PIL's, which looks out for decompression bombs
LONGEST_SIDE = 50  # of the shorter one; a row of pixels would become gigabytes when its shorter side is resized

# What PIL may take a file for, whatever its name: those of IMAGE_SUFFIXES (MPO, of many cameras, is JPEG to it). PIL
# knows more, and runs Ghostscript for one of them
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")

# PIL warns of large images, which are read up to its limit, and of damaged EXIF data and the like, which are not used.
# Not around each image: threads share the filters
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())
# torchvision's decoders will go, which is no concern of users: jpeg_decoder knows their successors
warnings.filterwarnings("ignore", "The image decoding and encoding capabilities of TorchVision", DeprecationWarning)

START_OF_IMAGE, END_OF_IMAGE = b"\xff\xd8", b"\xff\xd9"
BASELINE, PROGRESSIVE, START_OF_SCAN, EXIF, ADOBE, NOBODYS = 0xC0, 0xC2, 0xDA, 0xE1, 0xEE, 0xEF
HARMLESS = {0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)}  # tables, restart interval, comment, applications' own


@dataclass
class Batch:
    """``crops`` uint8 [B, H, W, 3] of the images ``indices`` [B], whose ``contents`` are an array of uint64 [B].

    ``unreadable`` has (index, reason) of the rest.
    """

    indices: torch.Tensor
    crops: torch.Tensor
    contents: np.ndarray
    unreadable: list

    @classmethod
    def of(cls, pictures, crops):
        """The batch of some Pictures; ``crops`` are those of all that have no reason."""
        readable = [picture for picture in pictures if picture.reason is None]
        return cls(
            torch.tensor([picture.index for picture in readable], dtype=torch.long),
            crops,
            np.array([picture.content for picture in readable], dtype=np.uint64),
            [(picture.index, picture.reason) for picture in pictures if picture.reason is not None],
        )

    def pin_memory(self):
        self.crops, self.indices = self.crops.pin_memory(), self.indices.pin_memory()
        return self


def crop_with_pil(data, transform):
    """Decode, resize and crop the bytes of an image file: uint8 Tensor [H, W, 3]."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise UnidentifiedImageError(f"not recognised as {', '.join(FORMATS)}") from None
    with image:
        if is_sliver(image.size):
            width, height = image.size
            raise ValueError(f"{width} x {height} pixels: one side is more than {LONGEST_SIDE} times the other")
        return transform.crop(image.convert("RGB"))


def crop_with_torchvision(data, transform):
    """The same by torchvision's decoder and resizing, where the file is a plain JPEG file."""
    if plain_jpeg_size(data) is not None:
        (image,) = decode([data], torch.device("cpu"))
        if image is not None:
            return _resize_and_crop(image, transform)
    return crop_with_pil(data, transform)


def decode(files, device):
    """Decode plain JPEG files, bytearrays, together: a list of uint8 Tensor [3, height, width], or None if refused."""
    try:
        tensors = [torch.frombuffer(data, dtype=torch.uint8) for data in files]
        return jpeg_decoder()(tensors, mode="RGB", device=device)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # of any of them, and there is no partial result
        return [None] if len(files) == 1 else [image for file in files for image in decode([file], device)]


def jpeg_decoder():
    """torchvision's ``decode_jpeg``, of files that are tensors; torchcodec's where torchvision has none any more.

    Imported where it is used, as PIL does without. UserError where there is neither.
    """
    try:
        from torchvision.io import decode_jpeg
    except ImportError:
        try:
            from torchcodec.decoders import decode_jpeg as successor
        except (ImportError, OSError, RuntimeError) as error:  # the latter two where its libraries are missing
            raise UserError(
                "--decode fast and --decode gpu need torchcodec 0.16 or newer where torchvision decodes no images any "
                "more: install it, or use --decode pil"
            ) from error

        def decode_jpeg(files, mode, device):
            files = [_without_exif(file) for file in files]
            images = successor(files, mode=mode, device=device)
            if device.type == "cuda":  # it may read the files as long as it has not decoded them
                torch.cuda.current_stream(device).synchronize()
            return images

    return decode_jpeg


def _without_exif(file):
    """A copy of a JPEG file, a uint8 Tensor, without what would make torchcodec turn the image; PIL does not either."""
    data = bytearray(file.numpy())
    for marker, start, _ in _segments(data):
        if marker == START_OF_SCAN:
            break
        if marker == EXIF:
            data[start + 1] = NOBODYS
    return torch.frombuffer(data, dtype=torch.uint8)


def require_decoder(device, flag):
    """Raise UserError where JPEG files cannot be decoded on a device, rather than leave every single one to PIL."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")
    try:
        jpeg_decoder()([torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)], mode="RGB", device=device)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        other = "fast" if flag == "gpu" else "pil"
        raise UserError(
            f"--decode {flag}: this torchvision cannot decode on {device} ({error}): use --decode {other}"
        ) from error


def is_sliver(size):
    """Whether one side is so much longer than the other one that no photograph has such a shape."""
    return max(size) > LONGEST_SIDE * min(size)


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


def plain_jpeg_size(data):
    """(height, width) of a JPEG file that all decoders understand alike, else None.

    Eight bits, Huffman-coded, grey or YCbCr, at most ``MOST_PIXELS``, no sliver, nothing unusual before the first scan,
    and with an end: decoders may fill what is missing of a truncated image with grey.
    """
    size = None
    if not data.startswith(START_OF_IMAGE):
        return None
    for marker, at, end in _segments(data):
        if marker == START_OF_SCAN:
            return size if data.rfind(END_OF_IMAGE, end) > 0 else None
        if marker in (BASELINE, PROGRESSIVE):
            size = _frame_size(data[at + 4 : end])
        elif marker not in HARMLESS or (marker == ADOBE and not _is_ycbcr(data[at + 4 : end])):
            return None
    return None


def _segments(data):
    """(marker, start, end) of the segments of a JPEG file, as far as they follow each other."""
    at = len(START_OF_IMAGE)
    while data[at : at + 1] == b"\xff" and at + 4 <= len(data):
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        yield data[at + 1], at, end
        at = end


def _frame_size(frame):
    """(height, width) that a frame header states, or None where it states anything unusual."""
    if len(frame) < 9 or frame[0] != 8 or frame[5] not in (1, 3) or frame[6::3] == b"RGB":
        return None
    height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    return (height, width) if 0 < height * width <= MOST_PIXELS and not is_sliver((height, width)) else None


def _is_ycbcr(segment):
    return not segment.startswith(b"Adobe") or segment[11:12] == b"\1"


# --------------------------------------------------------------------------------------------------------------------
# Reading: an image file is read once, as a whole; its content is what stages compare, and is decoded from memory.


LARGEST_FILE = 2**31  # bytes; far more than any image that PIL would decode
NO_MEMORY = re.compile("out of memory|can't allocate memory")  # what PIL and torch say


class MachineFailure(str):
    """Why an image could not be read, where that is not the image's fault; it is never left out for it."""


class ContentChanged(str):
    """Why an image must not be used, though it can be read."""


@dataclass(eq=False)
class Picture:
    """An image on its way: the ``data`` of its file, then its ``crop`` or the ``reason`` why there is none.

    ``content`` is the number made of the data; ``size`` (height, width) is set where a device is to decode them.
    """

    index: int
    data: bytearray = None
    content: int = None
    size: tuple = None
    crop: torch.Tensor = None
    reason: str = None

    def decode(self, crop, transform):
        """Make the crop, uint8 Tensor [H, W, 3], with ``crop(data, transform)``; then nobody needs the data."""
        self.crop, self.reason = attempt(crop, self.data, transform)
        self.data = None


def read_picture(images, index):
    """Read the file of an image of an ImageList: a Picture with its data, or with the reason why there are none.

    A file that is not the one whose content the list knows is not used.
    """
    data, reason = attempt(read_file, images.path(index))
    if reason is not None:
        return Picture(index, reason=reason)
    content = content_of(data)
    if images.content(index) not in (None, content):
        return Picture(index, reason=ContentChanged("its content has changed"))
    return Picture(index, data, content)


def read_file(path):
    """The bytes of a regular file, as a bytearray, which torch can take for a tensor as it is.

    A FIFO or a device of an image's name is an OSError instead of a process that waits for ever.
    """
    with open(path, "rb", opener=_open_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if status.st_size > LARGEST_FILE:
            raise ValueError(f"{status.st_size} bytes are too many for an image")
        return bytearray(file.read())


def _open_at_once(path, flags):
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def content_of(data):
    """The content of an image: the first 8 bytes of the SHA-256 of its file, as a little-endian number."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "little")


def attempt(function, *arguments):
    """What ``function`` returns, and None; or None, and the reason why the image cannot be read."""
    try:
        return function(*arguments), None
    except Exception as error:  # PIL raises a dozen kinds, for a dozen kinds of damage
        reason = f"{type(error).__name__}: {error}".removesuffix(": ")
        # damage has no errno; a file system that fails, and memory that is short, are not the image's fault
        machine = isinstance(error, MemoryError) or getattr(error, "errno", None) or NO_MEMORY.search(reason)
        return None, MachineFailure(reason) if machine else reason
