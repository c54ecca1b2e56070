"""What all that stage 4 measures of splits has in common: JSON files, and which of them still hold."""

import time
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path

from utils.errors import UserError
from utils.store.files import damage_is_one_line, read_json, write_json
from utils.store.splits import read_split


def split_at(entry):
    """The split and the rho that something was measured of, fit for a file name."""
    return entry["split"] if entry["rho"] is None else f"{entry['split']}_rho{entry['rho']}"


def without_nan(value):
    """JSON has no NaN: null instead."""
    if isinstance(value, dict):
        return {key: without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(one) for one in value]
    return None if isinstance(value, float) and isnan(value) else value


@dataclass
class Measurements:
    """A folder of JSON files below ``results_quantitative/``; an entry is the dictionary that a file holds.

    A kind of entries is a subclass: ``kind`` is its folder and ``word`` what one is called, ``version`` that of its
    format, ``needed`` the names that an entry must have, ``again`` what to do about a file that cannot be read.

    ``model_dir`` is where the splits are. ``stale`` names what is left out, as its split has changed; ``unchecked``
    that whose split was not found.
    """

    output_dir: Path
    model_dir: Path
    stale: list = field(default_factory=list)
    unchecked: list = field(default_factory=list)

    kind = word = version = needed = again = None

    @property
    def folder(self):
        return Path(self.output_dir) / "results_quantitative"

    def name(self, entry):
        """The stem of an entry's file."""
        raise NotImplementedError

    def read_all(self):
        """All entries of the splits as they are, that count; notes those that are stale or unchecked."""
        raise NotImplementedError

    def path(self, entry):
        return self.folder / self.kind / f"{self.name(entry)}.json"

    def paths(self):
        return sorted((self.folder / self.kind).glob("*.json"))

    def state(self):
        """What is there, to tell later whether it has changed: names and times of the files."""
        return [(path.name, path.stat().st_mtime_ns) for path in self.paths()]

    def read(self, path):
        entry = read_json(path, self.again)
        if entry.get("format") != self.version or self.needed - set(entry):
            raise UserError(f"{path} is of another version of this program: {self.again}")
        with damage_is_one_line(path, self.again):
            if self.path(entry) != path:
                raise ValueError(f"it is the {self.word} of {self.name(entry)}")
        return entry

    def write(self, entry):
        """Write an entry; ``evaluation`` is the time, in nanoseconds."""
        write_json(self.path(entry), {"format": self.version, **entry, "evaluation": time.time_ns()})

    def check(self, run, weights_sha256):
        """Refuse to mix entries of different weights under one RUN."""
        if any(one["run"] == run and one["weights_sha256"] != weights_sha256 for one in self.read_all()):
            raise UserError(f"{self.folder} holds results of {run} with other weights: use another --output_dir")

    def find(self, known):
        """The entry that is there and equal in all that is known before measuring, or None."""
        path = self.path(known)
        if not path.is_file():
            return None
        try:
            entry = self.read(path)
        except UserError:  # damaged or of another version: it is made anew
            return None
        return entry if all(entry.get(name) == value for name, value in known.items()) else None

    def split_digest(self, split):
        """The digest of a split file as it is now; None where it is missing or damaged."""
        try:
            return read_split(Path(self.model_dir) / f"{split}.pt").sha256
        except UserError:
            return None


class OfSplits(Measurements):
    """Measurements that have a file for each split, rho and ``setting``, of which the newest rho counts."""

    setting = None  # the name of what else an entry was measured at

    def read_all(self):
        found = [self.read(path) for path in self.paths()]
        now = {split: self.split_digest(split) for split in {one["split"] for one in found}}
        self.unchecked = [self.path(one).name for one in found if now[one["split"]] is None]
        self.stale = [self.path(one).name for one in found if now[one["split"]] not in (None, one["split_sha256"])]
        as_they_are = [one for one in found if self.path(one).name not in self.stale]
        as_they_are.sort(key=lambda one: one["evaluation"])
        newest = {(one["split"], one[self.setting]): one for one in as_they_are}
        return [newest[key] for key in sorted(newest)]

    def make_newest(self, entry):
        """Write an entry that is there again where another rho of its split and setting was measured after it."""
        name = self.name({**entry, "rho": "*"})
        others = (self.folder / self.kind).glob(f"{name}.json")
        if any(self.read(path)["evaluation"] > entry["evaluation"] for path in others):
            self.write(entry)
