"""Images: lists of files, the evaluation transform, and batches of them however they are decoded."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.errors import UserError
from utils.images.progress import progress

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class ImageList:
    """The images of some class folders: ``paths`` relative to ``root``, sorted; ``sizes`` in bytes.

    ``folder_of[i]`` is the index in ``folders`` of image i. Arrays, not lists: a million Python strings would be
    copied into every worker process.
    """

    root: Path
    folders: list
    paths: np.ndarray
    sizes: np.ndarray
    folder_of: np.ndarray

    def __len__(self):
        return len(self.paths)

    def path(self, index):
        return self.root / os.fsdecode(self.paths[index])

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
        raise UserError(f"{root} has no class folder {missing[0]}")
    found = [sorted(_scan(root / name, name)) for name in progress(folders, "listing images", delay=2, leave=False)]
    empty = [name for name, files in zip(folders, found, strict=True) if not files]
    if empty:
        raise UserError(f"class folder {root / empty[0]} has no images ({', '.join(IMAGE_SUFFIXES)})")
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
            yield f"{prefix}/{entry.name}", entry.stat().st_size
