"""Results: what stage 4 has measured of each split, one file each, from which all tables and summaries are made."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from utils.errors import UserError
from utils.store.files import damage_is_one_line, read_json, write_json
from utils.store.splits import read_split

RESULT_FORMAT = 3
NEEDED = {
    *("run", "split", "split_sha256", "weights_sha256", "layer", "transform", "precision", "decoding", "only_correct"),
    *("channel", "concepts", "concept_names", "background", "split_by", "cosines", "rho", "tau", "validation"),
    *("images", "evaluation"),
}
AGAIN = "delete it and evaluate the split again"


def split_at(result):
    """The split and the rho that a result is of, fit for a file name."""
    return result["split"] if result["rho"] is None else f"{result['split']}_rho{result['rho']}"


@dataclass
class Results:
    """``results_quantitative/pairs/``: one JSON for each split, rho and tau.

    A result is a dictionary: what was measured (``split``, the stem of the split file, and its ``split_sha256``,
    ``run``, ``layer``, ``channel``, ``concepts``, ``concept_names``, ``cosines``, ``rho``, ``tau``, ``validation`` ...)
    and ``images``, for each concept what was kept of its images.

    ``model_dir`` is where the splits are. ``stale`` names results whose split has changed, which are left out;
    ``unchecked`` those whose split was not found.
    """

    output_dir: Path
    model_dir: Path
    stale: list = field(default_factory=list)
    unchecked: list = field(default_factory=list)

    def __post_init__(self):
        self.folder = Path(self.output_dir) / "results_quantitative"

    def path(self, result):
        name = f"{split_at(result)}_required{result['tau']}.json"
        return self.folder / "pairs" / name

    def state(self):
        """What is there, to tell later whether it has changed: names and times of the files."""
        entries = [(path.name, path.stat().st_mtime_ns) for path in (self.folder / "pairs").glob("*.json")]
        return sorted(entries)

    def read_all(self):
        """All results of the splits as they are, the newest of each (split, tau) where there are several rho."""
        newest, digests = {}, {}
        self.stale, self.unchecked = [], []
        for path in sorted((self.folder / "pairs").glob("*.json")):
            result = self._read(path)
            name = result["split"]
            if name not in digests:
                digests[name] = split_digest(self.model_dir, name)
            if digests[name] is None:
                self.unchecked.append(path.name)
            elif digests[name] != result["split_sha256"]:
                self.stale.append(path.name)
                continue
            key = (name, result["tau"])
            if key not in newest or newest[key]["evaluation"] < result["evaluation"]:
                newest[key] = result
        return [newest[key] for key in sorted(newest)]

    def _read(self, path):
        result = read_json(path, AGAIN)
        if result.get("format") != RESULT_FORMAT or NEEDED - set(result):
            raise UserError(f"{path} is of another version of this program: {AGAIN}")
        with damage_is_one_line(path, AGAIN):
            if self.path(result) != path:
                raise ValueError(f"it is the result of {self.path(result).name}")
        return result

    def check(self, run, weights_sha256):
        """Refuse to mix results of different weights under one RUN."""
        if any(result["run"] == run and result["weights_sha256"] != weights_sha256 for result in self.read_all()):
            raise UserError(f"{self.folder} holds results of {run} with other weights: use another --output_dir")

    def find(self, known):
        """The result that is there and equal in all that is known before measuring, or None."""
        path = self.path(known)
        if not path.is_file():
            return None
        try:
            result = self._read(path)
        except UserError:  # damaged or of another version: it is made anew
            return None
        return result if all(result.get(name) == value for name, value in known.items()) else None

    def make_newest(self, result):
        """Write a result that is there again where another rho of its split and tau was evaluated after it."""
        others = (self.folder / "pairs").glob(f"{result['split']}_rho*_required{result['tau']}.json")
        if any(self._read(path)["evaluation"] > result["evaluation"] for path in others):
            self.write(result)

    def write(self, result):
        """Write a result; ``evaluation`` is the time, in nanoseconds."""
        write_json(self.path(result), {"format": RESULT_FORMAT, **result, "evaluation": time.time_ns()})


def split_digest(model_dir, name):
    """The digest of a split file as it is now; None where it is missing or damaged."""
    try:
        return read_split(Path(model_dir) / f"{name}.pt").sha256
    except UserError:
        return None
