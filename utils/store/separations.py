"""Separation: how well splits separate concepts from all other validation images, one file for each run of stage 4."""

from collections.abc import Sequence
from math import nan
from pathlib import Path
from typing import Any

from utils.divisions.nulls import NULLS
from utils.method.significance import q_values
from utils.processes import progress
from utils.store.files import damage_is_one_line
from utils.store.measurements import Measurements, without_nan
from utils.store.scores import (
    AP_DRAWS,
    AUROC_DRAWS,
    IRRELEVANT,
    NEW,
    ORIGINAL,
    OTHER_GROUPINGS,
    OWN_LOGIT,
    READOUTS,
    unit_of,
)
from utils.store.unfinished import Unfinished

SCORED_UNITS = (NEW, ORIGINAL, *map(unit_of, NULLS), *READOUTS, OWN_LOGIT)
DRAWS = (AUROC_DRAWS, *AP_DRAWS.values())
# Measured values of a concept; NaN where they cannot be measured. p_null and q_null are against the primary null.
VALUES = (
    "prevalence",
    *(unit.ap for unit in SCORED_UNITS),
    OTHER_GROUPINGS.ap,
    *(unit.pearson for unit in SCORED_UNITS),
    *(unit.auroc for unit in SCORED_UNITS),
    NEW.auroc_others,
    ORIGINAL.auroc_others,
    "p_null",
    "q_null",
    "p_irrelevant",
    "q_irrelevant",
    IRRELEVANT.ap,
    IRRELEVANT.pearson,
    IRRELEVANT.auroc,
)


def judged_together(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with q values against the primary null among all of them; rows of several runs had others in each."""
    q_null = q_values([row["p_null"] for row in rows])
    return [{**row, "q_null": float(of_row)} for row, of_row in zip(rows, q_null, strict=True)]


class Separations(Measurements):
    """``results_quantitative/separation/``: one JSON for each run and candidates file, or split named by flags.

    A separation is a dictionary: ``name``, that of its file; what was measured and how; ``splits``, digest, rho, tau
    and p of each split by its stem; ``rows``, of ``stages.separation.separate``. ``stale`` and ``unchecked`` name
    splits.
    """

    kind = "separation"
    word = "separation"
    version = 4
    again = "delete it and run get_results.py --get_separation again"
    needed = frozenset(
        (
            *("name", "run", "layer", "weights_sha256", "precision", "decoding", "validation_sha256"),
            *("training_sha256", "images", "draws", "irrelevant", "splits", "rows", "evaluation"),
        )
    )

    def name(self, entry: dict[str, Any]) -> str:
        return entry["name"]

    def read(self, path: Path) -> dict[str, Any]:
        """The separation of a file; a value that could not be measured is NaN."""
        separation = super().read(path)
        with damage_is_one_line(path, self.again):  # a file made with other nulls lacks some values
            for row in separation["rows"]:
                row |= {name: nan if row[name] is None else row[name] for name in VALUES}
                row |= {name: [nan if value is None else value for value in row[name]] for name in DRAWS}
        return separation

    def read_all(self) -> list[dict[str, Any]]:
        """All separations, without the rows of splits that have changed; one without remaining rows is left out."""
        separations = [self.read(path) for path in self.paths()]
        splits = {split for separation in separations for split in separation["splits"]}
        bar = progress(sorted(splits), "reading digests", unit=" splits", delay=2, leave=False)
        digests = {split: self.split_digest(split) for split in bar}
        self.unchecked = sorted(split for split in digests if digests[split] is None)
        stale: set[str] = set()
        for separation in separations:
            stored = {split: sha256 for split, (sha256, *_) in separation["splits"].items()}
            changed = {split for split in stored if digests[split] not in (None, stored[split])}
            separation["rows"] = [row for row in separation["rows"] if row["split"] not in changed]
            stale |= changed
        self.stale = sorted(stale)
        return [separation for separation in separations if separation["rows"]]

    def with_stored_draws(self, described: dict[str, Any]) -> dict[str, Any]:
        """``described`` with the draws of the stored separation of its name, where these are more.

        A separation of fewer draws would replace a better one. If the stored one differs in more than draws and splits,
        it is replaced. A line says which.
        """
        path = self.path(described)
        shared = {name: value for name, value in described.items() if name not in ("draws", "splits")}
        stored = self.find({"name": described["name"]})
        if stored is None or stored["draws"] <= described["draws"]:
            return described
        if self.find(shared) is None:
            print(f"{path}, of {stored['draws']} draws, was measured with other settings or images: it is replaced")
            return described
        print(f"{stored['draws']} draws are stored: kept ({path}; delete it to have {described['draws']})")
        return {**described, "draws": stored["draws"]}

    def make_newest(self, separation: dict[str, Any]) -> None:
        """Write a stored separation again if another rho or setting counts for one of its splits."""
        counting = {row["split"]: _setting(newest, row) for newest, row in newest_rows(self.read_all())}
        rows = [row for row in separation["rows"] if row["split"] in counting]
        if any(counting[row["split"]] != _setting(separation, row) for row in rows):
            self.write(separation)

    def write(self, entry: dict[str, Any]) -> None:
        super().write(without_nan(entry))


class MeasuredRows:
    """The rows of splits that were measured before: in an earlier separation of the same name, or before a stop.

    Rows depend on the split and on all values of the separation that do not name splits; only q values depend on the
    other splits.

    Parameters
    ----------
    separations
    described
        The fields of a separation that are known before it is measured.
    """

    def __init__(self, separations: Separations, described: dict[str, Any]) -> None:
        self._splits = described["splits"]
        shared = {name: value for name, value in described.items() if name != "splits"}
        self._unfinished = Unfinished(separations.path(described), shared)
        earlier = separations.find(shared) or {"splits": {}, "rows": []}
        self._rows: dict[str, list[dict[str, Any]]] = {}
        for row in earlier["rows"]:
            if self._splits.get(row["split"]) == earlier["splits"][row["split"]]:
                self._rows.setdefault(row["split"], []).append(row)

    def find(self, split: str) -> list[dict[str, Any]] | None:
        """The rows of a split, by the stem of its file; None if they have not been measured."""
        if split not in self._rows:
            kept = self._unfinished.find([split, *self._splits[split]])
            if kept is None:
                return None
            self._rows[split] = kept["rows"]
        return self._rows[split]

    def require(self, split: str) -> list[dict[str, Any]]:
        """The rows of a split that has been measured."""
        return self._rows[split]

    def keep(self, split: str, rows: list[dict[str, Any]]) -> None:
        self._rows[split] = rows
        self._unfinished.keep([split, *self._splits[split]], {"rows": rows})

    def remove(self) -> None:
        """Remove what was kept, after the separation has been written."""
        self._unfinished.remove()


def newest_rows(separations: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The rows of all separations, those of a split once: at its newest rho, validation images, training store, tau, p.

    If several separations have a split at these, the one with the most splits counts, then the newest: a q value is
    more meaningful the more splits it was computed among.

    Returns
    -------
    list of (separation, row)
    """
    newest: dict[str, tuple] = {}
    for separation in sorted(separations, key=lambda separation: separation["evaluation"]):
        newest |= {row["split"]: _setting(separation, row) for row in separation["rows"]}
    counting: dict[str, str] = {}  # the name of the separation whose rows of a split count
    by_size = sorted(separations, key=lambda separation: (len(separation["splits"]), separation["evaluation"]))
    for separation in by_size:
        rows = [row for row in separation["rows"] if _setting(separation, row) == newest[row["split"]]]
        counting |= {row["split"]: separation["name"] for row in rows}
    return [
        (separation, row)
        for separation in separations
        for row in separation["rows"]
        if counting[row["split"]] == separation["name"]
    ]


def _setting(separation: dict[str, Any], row: dict[str, Any]) -> tuple:
    """The values that a row depends on besides its split; only its q value depends on the other rows."""
    _, rho, tau, p = separation["splits"][row["split"]]
    return rho, tau, p, separation["validation_sha256"], separation["training_sha256"]
