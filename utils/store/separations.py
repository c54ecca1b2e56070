"""Separation: what stage 4 has measured of many splits against all validation images, one file for each run of it."""

from math import nan

from utils.divisions.nulls import NULLS
from utils.store.files import damage_is_one_line
from utils.store.measurements import Measurements, without_nan

KINDS = ("", "_original", *(f"_{null.column}" for null in NULLS))
DRAWS = ("auroc_draws", "ap_draws", "ap_draws_real_target")
# What was measured of a concept, and cannot be where it is NaN
VALUES = (
    *("prevalence", *(f"auroc_all{kind}" for kind in KINDS), *(f"ap_all{kind}" for kind in KINDS), "ap_all_own_logit"),
    *("auroc_others", "auroc_others_original", "p_irrelevant", "q_irrelevant"),
    *("auroc_all_irrelevant", "ap_all_irrelevant"),
)


class Separations(Measurements):
    """``results_quantitative/separation/``: one JSON for each run and candidates file, or split named by flags.

    A separation is a dictionary: ``name``, its file's; what was measured and how; ``splits``, digest, rho, tau and p
    of each split by its stem; ``rows``, of ``stages.separation.separate``. ``stale`` and ``unchecked`` name splits.
    """

    kind, word, version = "separation", "separation", 2
    again = "delete it and run get_results.py --get_separation again"
    needed = frozenset(
        (
            *("name", "run", "layer", "weights_sha256", "precision", "decoding", "validation_sha256"),
            *("training_sha256", "images", "draws", "irrelevant", "splits", "rows", "evaluation"),
        )
    )

    def name(self, entry):
        return entry["name"]

    def read(self, path):
        found = super().read(path)
        with damage_is_one_line(path, self.again):
            for row in found["rows"]:
                row |= {name: nan if row[name] is None else row[name] for name in VALUES}
                row |= {name: [nan if one is None else one for one in row[name]] for name in DRAWS}
        return found

    def read_all(self):
        """All separations, without the rows of splits that have changed; one of which no row is left is left out."""
        found = [self.read(path) for path in self.paths()]
        now = {split: self.split_digest(split) for one in found for split in one["splits"]}
        self.unchecked = sorted(split for split in now if now[split] is None)
        stale = set()
        for one in found:
            changed = {split for split, (sha256, *_) in one["splits"].items() if now[split] not in (None, sha256)}
            one["rows"] = [row for row in one["rows"] if row["split"] not in changed]
            stale |= changed
        self.stale = sorted(stale)
        return [one for one in found if one["rows"]]

    def make_newest(self, found):
        """Write a separation that is there again where, for one of its splits, another rho or setting counts."""
        count = {row["split"]: _setting(one, row) for one, row in newest_rows(self.read_all())}
        if any(count[row["split"]] != _setting(found, row) for row in found["rows"] if row["split"] in count):
            self.write(found)

    def write(self, entry):
        super().write(without_nan(entry))


def newest_rows(separations):
    """The rows of all separations, each split's once, at its newest rho and setting: validation images, training store,
    tau and p.

    Of several at these, those beside most splits count, then the newest: its q values are as good as what they were
    found beside.
    """
    newest, last = {}, {}
    for one in sorted(separations, key=lambda one: one["evaluation"]):
        newest |= {row["split"]: _setting(one, row) for row in one["rows"]}
    for one in sorted(separations, key=lambda one: (len(one["splits"]), one["evaluation"])):
        rows = [row for row in one["rows"] if _setting(one, row) == newest[row["split"]]]
        last |= {row["split"]: one["name"] for row in rows}
    return [(one, row) for one in separations for row in one["rows"] if last[row["split"]] == one["name"]]


def _setting(separation, row):
    """What a row's values depend on, beside its split: the q value alone depends on the other rows."""
    _, rho, tau, p = separation["splits"][row["split"]]
    return rho, tau, p, separation["validation_sha256"], separation["training_sha256"]
