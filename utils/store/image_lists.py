"""Lists of images that a user writes: text files with a path below ``train/`` or ``val/`` on each line."""

from __future__ import annotations

import codecs
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.errors import UserError, nearest_hint, printable
from utils.store.files import read_bytes

if TYPE_CHECKING:
    import torch

    from utils.images.folders import ImageList
    from utils.store.importance_store import ImportanceStore, Labels

MOST_COMPARED = 2000  # images of a folder, among which the nearest name is looked for


@dataclass(frozen=True)
class ListedImages:
    """The images of a list.

    Parameters
    ----------
    file : str
        The list, as the user named it.
    flag : str
        The flag that named it, for messages.
    paths : array of bytes [n]
        Relative to ``train/`` or ``val/``; sorted, each once.
    """

    file: str
    flag: str
    paths: np.ndarray

    @property
    def name(self) -> str:
        """The name of the list: that of its file, without the ending."""
        return printable(Path(self.file).stem)

    @property
    def stem(self) -> str:
        """The name as it stands in names of files."""
        return re.sub(r"[^A-Za-z0-9.-]", "-", self.name)

    def digest(self) -> str:
        """SHA-256 of the paths: independent of their order, and of where the list is."""
        return hashlib.sha256(b"\0".join(self.paths.tolist())).hexdigest()

    def found_in(self, images: ImageList) -> np.ndarray:
        """Indices in an ImageList of the listed images that it has, ascending."""
        nearest_row = np.searchsorted(self.paths, images.paths).clip(max=len(self.paths) - 1)
        return np.flatnonzero(self.paths[nearest_row] == images.paths)

    def missing_from(self, images: ImageList) -> np.ndarray:
        """The listed paths that an ImageList lacks, sorted."""
        return np.setdiff1d(self.paths, images.paths[self.found_in(images)])

    def indices_in(self, store: ImportanceStore, labels: Labels) -> torch.Tensor:
        """Indices of the listed images in a complete store, ascending: LongTensor [n].

        UserError if the store lacks one of them, or if stage 1 has left one out. ``labels`` are the store's.
        """
        import torch  # a list is read before torch is needed

        images = store.read_images(store.meta["images"])
        missing = self.missing_from(images)
        if len(missing):
            raise UserError(self.lacking(missing, f"that {store.folder} does not have", images))
        indices = torch.from_numpy(self.found_in(images))
        left_out = indices[~torch.isin(indices, labels.indices)]
        if len(left_out):
            paths = images.paths[left_out.numpy()]
            raise UserError(self.lacking(paths, "that stage 1 has left out as unreadable"))
        return indices

    def require_file_in(self, root: Path) -> None:
        """Raise a UserError if an image is not below a folder, ``train/`` or ``val/``."""
        missing = [path for path in self.paths.tolist() if not (root / os.fsdecode(path)).is_file()]
        if missing:
            raise UserError(self.lacking(np.array(missing), f"that {root} does not have"))

    def lacking(self, paths: np.ndarray, problem: str, images: ImageList | None = None) -> str:
        """The message for listed paths with a problem: their number, the first one, and the nearest of ``images``."""
        first = os.fsdecode(paths[0])
        hint = "" if images is None else _nearest_in_folder(paths[0], images)
        count = f"{len(paths)} image{'s' if len(paths) > 1 else ''}"
        return f"{self.flag} {self.file} lists {count} {problem}: {printable(first)}{hint}"


def read_image_list(file: str | Path, flag: str, least: int) -> ListedImages:
    """Read a list of images: a path on each line; blank lines and lines that begin with ``#`` are ignored.

    A path that is listed several times counts once. UserError if there is no such file, or if it lists fewer than
    ``least`` images. ``flag`` names the file in messages.
    """
    if not Path(file).is_file():
        raise UserError(f"{flag}: there is no file {file}")
    text = read_bytes(Path(file)).removeprefix(codecs.BOM_UTF8)  # with which editors on Windows begin
    lines = [line.strip() for line in text.splitlines()]
    paths = sorted({line.removeprefix(b"./") for line in lines if line and not line.startswith(b"#")})
    if len(paths) < least:
        raise UserError(f"{flag} {file} lists {len(paths)} images: at least {least} are needed, one path per line")
    return ListedImages(str(file), flag, np.array(paths))


def _nearest_in_folder(path: bytes, images: ImageList) -> str:
    """The nearest paths of the folder that a path names, or the nearest folders, as the end of a message."""
    folder, _, _ = path.partition(b"/")
    if os.fsdecode(folder) not in images.folders:
        hint = nearest_hint(os.fsdecode(folder), {name: (name,) for name in images.folders[:MOST_COMPARED]})
        return f" (there is no class folder {printable(os.fsdecode(folder))}{hint})"
    in_folder = images.paths[images.folder_of == images.folders.index(os.fsdecode(folder))][:MOST_COMPARED]
    names = [os.fsdecode(name) for name in in_folder.tolist()]
    return nearest_hint(os.fsdecode(path), {name: (name,) for name in names}, most=1)
