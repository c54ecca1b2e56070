"""Reading and decoding: from an image file to its crop, by PIL, or for plain JPEG files by torchvision.

Other files are decoded by PIL, whichever decoder is chosen. Only PIL decides that an image cannot be read.
"""

import errno
import hashlib
import io
import logging
import os
import re
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.functional import center_crop

from utils.errors import NO_MEMORY, UserError
from utils.images.folders import ImageList
from utils.images.resizing import resized_sizes
from utils.images.transform import Transform

Crop = Callable[[bytes, Transform], Tensor]  # from the bytes of an image file, uint8 [H, W, 3]
Value = TypeVar("Value")

MOST_PIXELS = 2**26  # PIL decodes larger images: it detects decompression bombs
LONGEST_SIDE = 50  # times the shorter one; a row of pixels would become gigabytes when its shorter side is resized

# The formats in which PIL may read a file, whatever its name: those of IMAGE_SUFFIXES (PIL takes MPO, written by many
# cameras, for JPEG). PIL has more formats, and runs Ghostscript for one of them
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")

# PIL warns of large images, which are read up to its limit, and of damaged EXIF data and similar, which is not used.
# The filter is not set around each image, because threads share the filters
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())
# torch makes a tensor of a file's bytes without copying them, and decoders only read it
warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
# torchvision's decoders are deprecated, which users need not know: jpeg_decoder falls back to their successors
warnings.filterwarnings("ignore", "The image decoding and encoding capabilities of TorchVision", DeprecationWarning)

START_OF_IMAGE = b"\xff\xd8"
END_OF_IMAGE = b"\xff\xd9"
BASELINE = 0xC0
PROGRESSIVE = 0xC2
START_OF_SCAN = 0xDA
EXIF = 0xE1
ADOBE = 0xEE
UNUSED = 0xEF  # an application's segment that no decoder reads
HARMLESS = {0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)}  # tables, restart interval, comment, applications' segments


@dataclass
class Batch:
    """``crops`` uint8 [B, H, W, 3] of the images ``indices`` [B], whose ``contents`` are an array of uint64 [B].

    ``unreadable`` has (index, reason) of the rest; ``refused`` are the indices of plain JPEG files that PIL decoded,
    because the device's decoder refused them.
    """

    indices: Tensor
    crops: Tensor
    contents: np.ndarray
    unreadable: list[tuple[int, str]]
    refused: list[int]

    @classmethod
    def of(cls, pictures: "Sequence[Picture]", crops: Tensor) -> "Batch":
        """The batch of some Pictures; ``crops`` are those of all that have no reason."""
        readable = [picture for picture in pictures if picture.reason is None]
        return cls(
            torch.tensor([picture.index for picture in readable], dtype=torch.long),
            crops,
            np.array([picture.content for picture in readable], dtype=np.uint64),
            [(picture.index, picture.reason) for picture in pictures if picture.reason is not None],
            [picture.index for picture in pictures if picture.is_refused],
        )

    def pin_memory(self) -> "Batch":
        self.crops = self.crops.pin_memory()
        self.indices = self.indices.pin_memory()
        return self


def crop_with_pil(data: bytes, transform: Transform) -> Tensor:
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


def crop_with_torchvision(data: bytes, transform: Transform) -> Tensor:
    """As ``crop_with_pil``, by torchvision's decoder and resizing if the file is a plain JPEG file."""
    if plain_jpeg_size(data) is not None:
        (image,) = decode([data], torch.device("cpu"))
        if image is not None:
            return _resize_and_crop(image, transform)
    return crop_with_pil(data, transform)


class DecoderFailure(UserError):
    """A decoder fails for reasons that are not the image's."""


def decode(files: Sequence[bytes], device: torch.device) -> list[Tensor | None]:
    """Decode plain JPEG files together: a list of uint8 Tensor [3, height, width], or None if the decoder refuses one.

    One file fails all of them, without a partial result, so halves are tried until one file is left; memory that is
    short may do for fewer files. A file is refused if it fails alone, twice, and a picture of our own in between does
    not: what is left to PIL must not depend on the state of the device.

    Raises
    ------
    torch.OutOfMemoryError
        Memory is short even for one file.
    DecoderFailure
        The decoder fails on the picture of our own, too.
    """
    images = _attempt_to_decode(files, device)
    if not isinstance(images, RuntimeError):
        return images
    if len(files) > 1:
        middle = len(files) // 2
        return decode(files[:middle], device) + decode(files[middle:], device)
    of_our_own = _attempt_to_decode([_small_jpeg()], device)
    images = _attempt_to_decode(files, device)
    if not isinstance(images, RuntimeError):
        return images
    if is_short_memory(images):
        raise torch.OutOfMemoryError(str(images)) from images
    if isinstance(of_our_own, RuntimeError):
        raise DecoderFailure(f"JPEG files cannot be decoded on {device} any more ({first_line(images)})") from images
    return [None]


def _attempt_to_decode(files: Sequence[bytes], device: torch.device) -> list[Tensor | None] | RuntimeError:
    """The decoded files, or the error that the decoder raised, once nothing of its work is under way."""
    try:
        tensors = [torch.frombuffer(data, dtype=torch.uint8) for data in files]
        return list(jpeg_decoder()(tensors, mode="RGB", device=device))
    except RuntimeError as error:
        failure = error
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # else it may still write into memory that is free again
        if is_short_memory(failure):
            torch.cuda.empty_cache()  # decoders have memory apart from PyTorch's
    return failure


def is_short_memory(error: RuntimeError) -> bool:
    """Whether a decoder failed for want of memory; torchvision's for CUDA says so by a number of nvJPEG's."""
    text = str(error)
    return bool(NO_MEMORY.search(text) or re.search(r"\bFailed to .*: 5$", text, re.MULTILINE))


def _small_jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")
    return file.getvalue()


def first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]


def jpeg_decoder() -> Callable[..., list[Tensor]]:
    """torchvision's ``decode_jpeg``, which takes files as tensors; torchcodec's if torchvision has none any more.

    Imported where it is used, because decoding with PIL does not need it. UserError if there is neither.
    """
    try:
        from torchvision.io import decode_jpeg
    except ImportError:
        try:
            from torchcodec.decoders import decode_jpeg as successor
        except (ImportError, OSError, RuntimeError) as error:  # the last two where its libraries are missing
            raise UserError(
                "--decode fast and --decode gpu need torchcodec 0.16 or newer where torchvision decodes no images any "
                "more: install it, or use --decode pil"
            ) from error

        def decode_jpeg(files: list[Tensor], mode: str, device: torch.device) -> list[Tensor]:
            files = [_without_exif(file) for file in files]
            images = successor(files, mode=mode, device=device)
            if device.type == "cuda":  # it reads the files until it has decoded them
                torch.cuda.current_stream(device).synchronize()
            return images

    return decode_jpeg


def _without_exif(file: Tensor) -> Tensor:
    """A copy of a JPEG file, a uint8 Tensor, without the data that make torchcodec turn an image, which PIL ignores."""
    data = bytearray(file.numpy())
    for marker, start, _ in _segments(data):
        if marker == START_OF_SCAN:
            break
        if marker == EXIF:
            data[start + 1] = UNUSED
    return torch.frombuffer(data, dtype=torch.uint8)


def require_decoder(device: torch.device, flag: str) -> None:
    """Raise UserError if JPEG files cannot be decoded on a device, rather than let PIL decode every file."""
    failure = _attempt_to_decode([_small_jpeg()], device)
    if isinstance(failure, RuntimeError):
        if is_short_memory(failure):
            raise torch.OutOfMemoryError(str(failure)) from failure
        instead = "fast" if flag == "gpu" else "pil"
        raise UserError(
            f"--decode {flag}: this torchvision cannot decode on {device} ({failure}): use --decode {instead}"
        ) from failure


def is_sliver(size: tuple[int, int]) -> bool:
    """Whether one side is so much longer than the other that no photograph has such a shape."""
    return max(size) > LONGEST_SIDE * min(size)


def _resize_and_crop(image: Tensor, transform: Transform) -> Tensor:
    # directly on uint8 with colours innermost, as the decoder returns them and torchvision's v2 transforms do it;
    # functional.resize converts to float32, and with image[None] interpolate does not see the layout
    batch = image.permute(1, 2, 0)[None].permute(0, 3, 1, 2)
    nearest = transform.interpolation == "nearest"
    size: list[int] = resized_sizes(torch.tensor([image.shape[1:]]), transform.resize_size)[0].int().tolist()
    mode = "nearest-exact" if nearest else transform.interpolation
    (resized,) = interpolate(batch, size, mode=mode, antialias=not nearest)
    return center_crop(resized, [transform.crop_size]).permute(1, 2, 0)


# --------------------------------------------------------------------------------------------------------------------
# Which files are plain


def plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of a JPEG file that all decoders read in the same way, else None.

    Eight bits, Huffman-coded, grey or YCbCr, at most ``MOST_PIXELS``, no sliver, nothing unusual before the first scan,
    and with an end: decoders may fill the missing part of a truncated image with grey.
    """
    size = None
    if not data.startswith(START_OF_IMAGE):
        return None
    for marker, start, end in _segments(data):
        if marker == START_OF_SCAN:
            return size if data.rfind(END_OF_IMAGE, end) > 0 else None
        if marker in (BASELINE, PROGRESSIVE):
            size = _frame_size(data[start + 4 : end])
        elif marker not in HARMLESS or (marker == ADOBE and not _is_ycbcr(data[start + 4 : end])):
            return None
    return None


def _segments(data: bytes | bytearray) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of the segments of a JPEG file, as long as each follows the one before."""
    start = len(START_OF_IMAGE)
    while start + 4 <= len(data) and data[start] == 0xFF:
        end = start + 2 + 256 * data[start + 2] + data[start + 3]
        yield data[start + 1], start, end
        start = end


def _frame_size(frame: bytes) -> tuple[int, int] | None:
    """(height, width) that a frame header states, or None if it states anything unusual."""
    if len(frame) < 9 or frame[0] != 8 or frame[5] not in (1, 3) or frame[6::3] == b"RGB":
        return None
    height = int.from_bytes(frame[1:3], "big")
    width = int.from_bytes(frame[3:5], "big")
    return (height, width) if 0 < height * width <= MOST_PIXELS and not is_sliver((height, width)) else None


def _is_ycbcr(segment: bytes) -> bool:
    return not segment.startswith(b"Adobe") or segment[11:12] == b"\1"


# --------------------------------------------------------------------------------------------------------------------
# Reading: an image file is read once, as a whole. Stages compare its content; it is decoded from memory.


READ_AT_ONCE = os.O_RDONLY | sum(getattr(os, flag, 0) for flag in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
LARGEST_FILE = 2**31  # bytes; far more than any image that PIL would decode


class MachineFailure(str):
    """Why an image could not be read, where the machine is the reason: the image is never left out then."""


class ContentChanged(str):
    """Why an image must not be used, though it can be read."""


@dataclass(eq=False)
class Picture:
    """An image while it is read: the ``data`` of its file, then its ``crop`` or the ``reason`` why there is none.

    ``content`` is the number that ``content_of`` makes of the data; ``size`` (height, width) is set if a device is to
    decode them. Both and the data are empty for an image that cannot be read. ``is_refused`` once the device's decoder
    has refused it.
    """

    index: int
    data: bytes = b""
    content: int = 0
    size: tuple[int, int] | None = None
    crop: Tensor | None = None
    reason: str | None = None
    is_refused: bool = False

    @property
    def num_pixels(self) -> int:
        return 0 if self.size is None else self.size[0] * self.size[1]

    def decode(self, crop: Crop, transform: Transform) -> None:
        """Make the crop, uint8 Tensor [H, W, 3], with ``crop(data, transform)``, and drop the data."""
        self.crop, self.reason = attempt(crop, self.data, transform)
        self.data = b""


def read_picture(images: ImageList, index: int) -> Picture:
    """Read the file of an image of an ImageList: a Picture with its data, or with the reason why there are none.

    A file whose content is not the one in the list is not used.
    """
    data, reason = attempt(read_file, images.path(index))
    if data is None:
        return Picture(index, reason=reason)
    content = content_of(data)
    if images.content(index) not in (None, content):
        return Picture(index, reason=ContentChanged("its content has changed"))
    return Picture(index, data, content)


def read_file(path: str | Path) -> bytes:
    """The bytes of a regular file, read at once and not copied: many threads read, and copying would stop the others.

    A FIFO or a device with the name of an image is an OSError instead of a process that waits for ever.
    """
    file = os.open(path, READ_AT_ONCE)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if status.st_size > LARGEST_FILE:
            raise ValueError(f"{status.st_size} bytes are too many for an image")
        data = os.read(file, status.st_size)
        while len(data) < status.st_size and (part := os.read(file, status.st_size - len(data))):
            data += part  # some file systems read less at once
        return data
    finally:
        os.close(file)


def content_of(data: bytes) -> int:
    """The content of an image: the first 8 bytes of the SHA-256 of its file, as a little-endian number."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "little")


def attempt(function: Callable[..., Value], *arguments: Any) -> tuple[Value, None] | tuple[None, str]:
    """The result of ``function``, and None; or None, and the reason why the image cannot be read."""
    try:
        return function(*arguments), None
    except Exception as error:  # PIL raises a dozen kinds, for a dozen kinds of damage
        reason = f"{type(error).__name__}: {error}".removesuffix(": ")
        # a damaged image has no errno; a file system that fails, and memory that is short, are not the image's fault
        machine = (
            isinstance(error, (MemoryError, DecoderFailure))
            or getattr(error, "errno", None)
            or NO_MEMORY.search(reason)
        )
        return None, MachineFailure(reason) if machine else reason
