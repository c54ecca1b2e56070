"""Files of arrays that were computed from a training store, and can be computed again."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import UserError
from utils.store.files import DIGEST, Layout, digest_array, is_made_from, json_digest, read_arrays, write_arrays
from utils.store.unfinished import Unfinished


class DerivedArrays:
    """An npz of named arrays, ``NAME_DIGEST.npz``, that depends on plain values alone.

    Parameters
    ----------
    folder : Path
    name : str
        The beginning of the file name.
    made_from : dict
        Plain values on which the arrays depend; other values have another file.
    layout : Layout
        Of the arrays.
    """

    def __init__(self, folder: Path, name: str, made_from: dict[str, Any], layout: Layout) -> None:
        self.path = folder / f"{name}_{json_digest(made_from)[:16]}.npz"
        self.unfinished = Unfinished(self.path, made_from)
        self._origin = digest_array(made_from)
        self._layout: Layout = {**layout, "origin": DIGEST}

    def read(self) -> dict[str, np.ndarray] | None:
        """The arrays; None if the file is missing or damaged: they are computed again."""
        try:
            if is_made_from(self.path, self._origin, self._layout, ""):
                return read_arrays(self.path, self._layout, "")
        except UserError:
            pass
        return None

    def is_writable(self) -> bool:
        """Whether the file may be made: a store may be there to be read alone."""
        folder = self.path.parent
        return os.access(folder if folder.exists() else folder.parent, os.W_OK)

    def write(self, arrays: dict[str, np.ndarray]) -> None:
        """Write the whole result, and remove what was kept of its steps."""
        write_arrays(self.path, {**arrays, "origin": self._origin})
        self.unfinished.remove()
