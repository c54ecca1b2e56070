"""Reading: an image file is read once, as a whole; its content is what stages compare, and is decoded from memory."""

import errno
import hashlib
import os
import re
import stat
from dataclasses import dataclass

import torch

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
