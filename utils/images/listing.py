"""Lists of images: which files the class folders hold."""

import hashlib
import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from utils.errors import UserError, printable
from utils.images.batches import progress

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class ImageList:
    """The images of some class folders: ``paths`` relative to ``root``, sorted; ``sizes`` in bytes.

    ``folder_of[i]`` is the index in ``folders`` of image i. ``contents`` uint64 [N] are those that the images must have
    when they are read, masked where that is not known (stage 1 left the image out); None: of no image. Arrays, not
    lists: a million Python strings would be copied into every worker process.
    """

    root: Path
    folders: list
    paths: np.ndarray
    sizes: np.ndarray
    folder_of: np.ndarray
    contents: np.ma.MaskedArray | None = None

    def __len__(self):
        return len(self.paths)

    def path(self, index):
        return self.root / os.fsdecode(self.paths[index])

    def with_contents(self, indices, contents):
        """The same images, the contents of some of which are known.

        Parameters
        ----------
        indices : array of int [n]
        contents : array of uint64 [n]
            As an ``ImageBatch`` has them.
        """
        known = np.ma.masked_all(len(self), np.uint64)
        known[indices] = contents
        return replace(self, contents=known)

    def content(self, index):
        """The content that an image must have, or None where it is not known."""
        content = np.ma.masked if self.contents is None else self.contents[index]
        return None if content is np.ma.masked else int(content)

    def at(self, indices):
        """The images at some indices, in their order, one that is there twice twice."""
        contents = None if self.contents is None else self.contents[indices]
        parts = {name: getattr(self, name)[indices] for name in ("paths", "sizes", "folder_of")}
        return replace(self, **parts, contents=contents)

    def counts(self):
        """Number of images by folder name."""
        counts = np.bincount(self.folder_of, minlength=len(self.folders)).tolist()
        return dict(zip(self.folders, counts, strict=True))

    def digest(self):
        """SHA-256 of the relative paths and sizes: equal content at another place is equal."""
        digest = hashlib.sha256()
        for path, size in zip(self.paths.tolist(), self.sizes.tolist(), strict=True):
            digest.update(b"%s\0%d\n" % (path, size))
        return digest.hexdigest()


def class_folders(root):
    """Names of the class folders of ``train/`` or ``val/``, sorted; UserError where there are none."""
    if not Path(root).is_dir():
        raise UserError(f"there is no folder {root}: --data_dir must hold train/ and val/, one sub-folder a class")
    present = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    if not present:
        flat = any(entry.name.lower().endswith(IMAGE_SUFFIXES) for entry in os.scandir(root))
        what = "images but no class folders: sort them into one sub-folder a class" if flat else "no class folders"
        raise UserError(f"{root} has {what}")
    return present


def list_images(root, folders=None):
    """List the images in the class folders of ``root``, sub-folders included, hidden files and folders ignored.

    Parameters
    ----------
    root : Path
        ``train/`` or ``val/``.
    folders : list of str, optional
        The class folders asked for; default: all.

    Raises
    ------
    UserError
        No such folder, no class folders, or a class without images.
    """
    root, present = Path(root), class_folders(root)
    folders = present if folders is None else folders
    missing = sorted(set(folders) - set(present))
    if missing:
        raise UserError(f"{root} has no class folder {printable(missing[0])}")
    found = [sorted(_scan(root / name, name)) for name in progress(folders, "listing images", delay=2, leave=False)]
    empty = [name for name, files in zip(folders, found, strict=True) if not files]
    if empty:
        raise UserError(f"class folder {printable(str(root / empty[0]))} has no images ({', '.join(IMAGE_SUFFIXES)})")
    files = [file for of_folder in found for file in of_folder]
    return ImageList(
        root,
        folders,
        np.array([os.fsencode(path) for path, _ in files]),
        np.array([size for _, size in files], dtype=np.int64),
        np.repeat(np.arange(len(folders)), [len(of_folder) for of_folder in found]),
    )


def has_images(folder):
    """Whether ``list_images`` would find an image in a class folder."""
    return any(True for _ in _scan(folder, ""))


def _scan(folder, prefix):
    for entry in os.scandir(folder):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _scan(entry.path, f"{prefix}/{entry.name}")
        elif entry.name.lower().endswith(IMAGE_SUFFIXES):
            status = entry.stat()  # of a link that leads nowhere an error: its image is missing
            if stat.S_ISREG(status.st_mode):
                yield f"{prefix}/{entry.name}", status.st_size
