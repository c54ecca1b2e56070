"""Results of a loop that is not finished: each step that is done is kept, until the whole result is written."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import UserError
from utils.store.files import (
    DIGEST,
    Layout,
    digest_array,
    json_digest,
    read_arrays,
    read_json,
    write_arrays,
    write_json,
)

FORMAT = 2  # another one where steps of an earlier version of this program would not fit
KEPT_IMAGES = 4096  # about as many images of a pass are a step of their own


class Unfinished:
    """The finished steps of a result in a folder of its own beside the result: a JSON file or an npz each.

    A step that is killed leaves no file. The same command finds the finished steps again and does the others; another
    ``made_from`` has another folder.

    Parameters
    ----------
    result : Path
        Path of the file that will hold the whole result; it need not exist.
    made_from : dict
        Plain values on which every step depends.
    """

    def __init__(self, result: Path, made_from: dict[str, Any]) -> None:
        digest = json_digest({"format": FORMAT, **made_from})
        self.folder = result.with_name(f"{result.stem}.unfinished_{digest[:16]}")

    def find(self, key: Any) -> dict[str, Any] | None:
        """What was kept of a step, identified by plain values ``key``; None if it is missing or damaged."""
        path = self._path(key, "json")
        if not path.is_file():
            return None
        try:
            step = read_json(path, "")
        except UserError:  # the step is done again
            return None
        return step["kept"] if json_digest(step["key"]) == json_digest(key) else None

    def keep(self, key: Any, value: dict[str, Any]) -> None:
        """Keep the plain values of a finished step; NaN stays NaN."""
        self._keep(lambda: write_json(self._path(key, "json"), {"key": key, "kept": value}))

    def find_arrays(self, key: Any, layout: Layout) -> dict[str, np.ndarray] | None:
        """The arrays that were kept of a step; None if they are missing, damaged or of another layout."""
        path = self._path(key, "npz")
        if not path.is_file():
            return None
        try:
            arrays = read_arrays(path, {**layout, "key": DIGEST}, "")
        except UserError:
            return None
        return arrays if np.array_equal(arrays.pop("key"), digest_array(key)) else None

    def keep_arrays(self, key: Any, arrays: dict[str, np.ndarray]) -> None:
        """Keep named arrays of a finished step."""
        self._keep(lambda: write_arrays(self._path(key, "npz"), {**arrays, "key": digest_array(key)}))

    def remove(self) -> None:
        """Remove what was kept, after the whole result has been written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _keep(self, write: Callable[[], None]) -> None:
        """Write a file; once more where an equal command that has finished removes the folder at this moment."""
        try:
            write()
        except UserError:
            if self.folder.is_dir():
                raise
            write()

    def _path(self, key: Any, kind: str) -> Path:
        return self.folder / f"{json_digest(key)[:32]}.{kind}"
