"""Effects: what stage 4 has measured of splits behind the layer, one file for each split, rho and replacement."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from utils.errors import UserError
from utils.store.files import damage_is_one_line, read_json, write_json
from utils.store.results import split_at, split_digest

EFFECT_FORMAT = 2
AGAIN = "delete it and run get_results.py --get_effect again"
NEEDED = {
    *("run", "split", "split_sha256", "weights_sha256", "layer", "transform", "precision", "decoding", "channel"),
    *("concepts", "concept_names", "background", "split_by", "rho", "to", "validation", "images", "evaluation"),
}


@dataclass
class Effects:
    """``results_quantitative/effect/``: one JSON for each split, rho and what its parts are replaced by.

    ``model_dir`` is where the splits are. ``stale`` names effects whose split has changed, which are left out;
    ``unchecked`` those whose split was not found.
    """

    output_dir: Path
    model_dir: Path
    stale: list = field(default_factory=list)
    unchecked: list = field(default_factory=list)

    def __post_init__(self):
        self.folder = Path(self.output_dir) / "results_quantitative"

    def path(self, effect):
        return self.folder / "effect" / f"{split_at(effect)}_{effect['to']}.json"

    def state(self):
        """What is there, to tell later whether it has changed: names and times of the files."""
        entries = [(path.name, path.stat().st_mtime_ns) for path in (self.folder / "effect").glob("*.json")]
        return sorted(entries)

    def read_all(self):
        """All effects of the splits as they are, the newest of each (split, to) where there are several rho."""
        found = [self._read(path) for path in sorted((self.folder / "effect").glob("*.json"))]
        now = {split: split_digest(self.model_dir, split) for split in {one["split"] for one in found}}
        self.unchecked = [self.path(one).name for one in found if now[one["split"]] is None]
        self.stale = [self.path(one).name for one in found if now[one["split"]] not in (None, one["split_sha256"])]
        as_they_are = [one for one in found if self.path(one).name not in self.stale]
        newest = {(one["split"], one["to"]): one for one in sorted(as_they_are, key=lambda one: one["evaluation"])}
        return [newest[key] for key in sorted(newest)]

    def _read(self, path):
        effect = read_json(path, AGAIN)
        if effect.get("format") != EFFECT_FORMAT or NEEDED - set(effect):
            raise UserError(f"{path} is of another version of this program: {AGAIN}")
        with damage_is_one_line(path, AGAIN):
            if self.path(effect) != path:
                raise ValueError(f"it is the effect of {self.path(effect).name}")
        return effect

    def check(self, run, weights_sha256):
        """Refuse to mix effects of different weights under one RUN."""
        if any(one["run"] == run and one["weights_sha256"] != weights_sha256 for one in self.read_all()):
            raise UserError(f"{self.folder} holds results of {run} with other weights: use another --output_dir")

    def find(self, known):
        """The effect that is there and equal in all that is known before measuring, or None."""
        path = self.path(known)
        if not path.is_file():
            return None
        try:
            effect = self._read(path)
        except UserError:  # damaged or of another version: it is made anew
            return None
        return effect if all(effect.get(name) == value for name, value in known.items()) else None

    def make_newest(self, effect):
        """Write an effect that is there again where another rho of its split was measured after it."""
        others = (self.folder / "effect").glob(f"{effect['split']}_rho*_{effect['to']}.json")
        if any(self._read(path)["evaluation"] > effect["evaluation"] for path in others):
            self.write(effect)

    def write(self, effect):
        """Write an effect; ``evaluation`` is the time, in nanoseconds."""
        write_json(self.path(effect), {"format": EFFECT_FORMAT, **effect, "evaluation": time.time_ns()})
