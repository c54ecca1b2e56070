"""Base classes of stage 4's stored results: JSON files, and which of them are still valid."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path
from typing import Any, ClassVar

from utils.errors import UserError
from utils.processes import progress
from utils.store.files import damage_is_one_line, file_identity, read_json, write_json
from utils.store.splits import stored_digest


def split_at(entry: dict[str, Any]) -> str:
    """The split and the rho that an entry was measured at, as part of a file name."""
    return entry["split"] if entry["rho"] is None else f"{entry['split']}_rho{entry['rho']}"


def without_nan(value: Any) -> Any:
    """A copy of plain values in which every NaN is None, as JSON has no NaN."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and isnan(value) else value


@dataclass
class Measurements(ABC):
    """A folder of JSON files below ``results_quantitative/``; an entry is the dictionary that a file holds.

    A subclass is a kind of entries: ``kind`` is its folder, ``word`` what an entry is called, ``version`` that of its
    format, ``needed`` the names that an entry must have, ``again`` what to do about a file that cannot be read.

    ``model_dir`` is the folder of the splits. ``read_all`` fills ``stale`` with the names of entries that are left out
    because their split has changed, and ``unchecked`` with the names of entries whose split was not found.
    """

    output_dir: Path | str
    model_dir: Path | str | None
    stale: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    # What ``entries`` has read: the identity of each file, and its entry
    _kept: dict[Path, tuple[Any, dict[str, Any]]] = field(default_factory=dict, init=False, repr=False)

    kind: ClassVar[str]
    word: ClassVar[str]
    version: ClassVar[int]
    needed: ClassVar[frozenset[str]]
    again: ClassVar[str]

    @property
    def folder(self) -> Path:
        return Path(self.output_dir) / "results_quantitative"

    @abstractmethod
    def name(self, entry: dict[str, Any]) -> str:
        """The stem of an entry's file."""

    @abstractmethod
    def read_all(self) -> list[dict[str, Any]]:
        """The entries that count and whose splits have not changed; fills ``stale`` and ``unchecked``."""

    def path(self, entry: dict[str, Any]) -> Path:
        return self.folder / self.kind / f"{self.name(entry)}.json"

    def paths(self) -> list[Path]:
        return sorted((self.folder / self.kind).glob("*.json"))

    def entries(self) -> list[dict[str, Any]]:
        """The entries of all files, which must not be changed; a file that has not changed is read once."""
        paths = self.paths()
        for path in progress(paths, f"reading {self.kind}", unit=" files", delay=2, leave=False):
            self._kept[path] = file_identity(path), self._unchanged(path) or self.read(path)
        self._kept = {path: self._kept[path] for path in paths}
        return [entry for _, entry in self._kept.values()]

    def _unchanged(self, path: Path) -> dict[str, Any] | None:
        """The entry of a file that ``entries`` has read and that has not changed since; else None."""
        identity, entry = self._kept.get(path, (None, None))
        return entry if identity == file_identity(path) else None

    def state(self) -> list[tuple[str, int]]:
        """Names and modification times of the files, to find out later whether any has changed."""
        return [(path.name, path.stat().st_mtime_ns) for path in self.paths()]

    def read(self, path: Path) -> dict[str, Any]:
        """The entry of a file."""
        entry = read_json(path, self.again)
        if entry.get("format") != self.version or self.needed - set(entry):
            raise UserError(f"{path} is of another version of this program: {self.again}")
        with damage_is_one_line(path, self.again):
            if self.path(entry) != path:
                raise ValueError(f"it is the {self.word} of {self.name(entry)}")
        return entry

    def write(self, entry: dict[str, Any]) -> None:
        """Write an entry; ``evaluation`` becomes the time, in nanoseconds."""
        write_json(self.path(entry), {"format": self.version, **entry, "evaluation": time.time_ns()})

    def check(self, run: str, weights_sha256: str) -> None:
        """Refuse to mix entries of different weights under one RUN."""
        if any(entry["run"] == run and entry["weights_sha256"] != weights_sha256 for entry in self.read_all()):
            raise UserError(f"{self.folder} holds results of {run} with other weights: use another --output_dir")

    def find(self, expected: dict[str, Any]) -> dict[str, Any] | None:
        """The stored entry that has all ``expected`` values (those known before measuring), or None."""
        path = self.path(expected)
        if not path.is_file():
            return None
        try:
            entry = self._unchanged(path) or self.read(path)
        except UserError:  # damaged or of another version: it will be measured again
            return None
        return entry if all(entry.get(name) == value for name, value in expected.items()) else None

    def split_digest(self, split: str) -> str | None:
        """The present digest of a split file; None if it is missing or damaged."""
        try:
            return stored_digest(Path(self.model_dir or "") / f"{split}.pt")
        except UserError:
            return None


class OfSplits(Measurements):
    """Measurements with a file for each split, rho and ``setting``; the newest rho of a split and setting counts."""

    setting: ClassVar[str]  # the name of the value that an entry was measured at, besides rho

    def read_all(self) -> list[dict[str, Any]]:
        entries = self.entries()
        splits = sorted({entry["split"] for entry in entries})
        bar = progress(splits, "reading digests", unit=" splits", delay=2, leave=False)
        digests = {split: self.split_digest(split) for split in bar}
        self.unchecked = []
        self.stale = []
        unchanged = []
        for entry in entries:
            digest = digests[entry["split"]]
            if digest is None:
                self.unchecked.append(self.path(entry).name)
            elif digest != entry["split_sha256"]:
                self.stale.append(self.path(entry).name)
                continue
            unchanged.append(entry)
        unchanged.sort(key=lambda entry: entry["evaluation"])
        newest = {(entry["split"], entry[self.setting]): entry for entry in unchanged}
        return [newest[key] for key in sorted(newest)]

    def make_newest(self, entries: Iterable[dict[str, Any]]) -> None:
        """Write stored entries again for whose split and setting another rho was measured after them."""
        newest: dict[tuple, int] = {}
        for stored in self.entries():
            key = stored["split"], stored[self.setting]
            newest[key] = max(newest.get(key, 0), stored["evaluation"])
        for entry in entries:
            if newest.get((entry["split"], entry[self.setting]), 0) > entry["evaluation"]:
                self.write(entry)
