"""Edits: what taking concepts out of a channel does, one file for each split and rho."""

from math import inf, nan
from pathlib import Path
from typing import Any

from utils.store.files import damage_is_one_line
from utils.store.measurements import OfSplits, split_at, without_nan

KINDS_OF_IMAGES = ("own", "other", "rest")  # of the concept, of the channel's other concepts, of neither
HARMED = KINDS_OF_IMAGES[1:]
SELECTIVITY = {"other": "selectivity", "rest": "selectivity_rest"}  # columns, by the images that are harmed
# What is measured of a concept and a method; NaN where it cannot be
VALUES = (
    *(f"change_{kind}" for kind in KINDS_OF_IMAGES),
    *(f"harm_{kind}" for kind in HARMED),
    *SELECTIVITY.values(),
    *(f"margin_{kind}" for kind in KINDS_OF_IMAGES),
    *(f"top1_{kind}" for kind in KINDS_OF_IMAGES),
    "strength",
    "change_at_equal_effect",
    "harm_at_equal_effect",
    "harm_rest_at_equal_effect",
)
IS_LEAST = tuple(f"{name}_is_least" for name in SELECTIVITY.values())
NUMBERS = (*(f"images_{kind}" for kind in KINDS_OF_IMAGES), "training_images")
INFINITE = "infinite"  # JSON has no infinity


class Edits(OfSplits):
    """``results_quantitative/edits/``: one JSON for each split and rho, with a row for each concept and method."""

    kind = "edits"
    word = "edit"
    version = 1
    setting = "split_by"  # each split has one: of several rhos the newest counts
    again = "delete it and run get_results.py --get_edit again"
    needed = frozenset(
        (
            *("run", "split", "split_sha256", "weights_sha256", "layer", "transform", "precision", "decoding"),
            *("channel", "classes", "background", "split_by", "rho", "concepts_from", "found_by"),
            *("assignment", "numbers", "training_sha256", "validation", "methods", "rows", "evaluation"),
        )
    )

    def name(self, entry: dict[str, Any]) -> str:
        return split_at(entry)

    def find(self, expected: dict[str, Any]) -> dict[str, Any] | None:
        """The stored entry that has all ``expected`` values, and at least the expected methods; or None."""
        others = {name: value for name, value in expected.items() if name != "methods"}
        entry = super().find(others)
        return entry if entry is not None and set(expected["methods"]) <= set(entry["methods"]) else None

    def read(self, path: Path) -> dict[str, Any]:
        """The entry of a file; a value that could not be measured is NaN."""
        entry = super().read(path)
        with damage_is_one_line(path, self.again):
            for row in entry["rows"]:
                row |= {name: _number(row[name]) for name in VALUES}
                for name in ("concept", "name", "method", *IS_LEAST, *NUMBERS):
                    row[name]  # a missing one is damage
        return entry

    def write(self, entry: dict[str, Any]) -> None:
        rows = [{name: INFINITE if value == inf else value for name, value in row.items()} for row in entry["rows"]]
        super().write(without_nan({**entry, "rows": rows}))


def _number(value: Any) -> float:
    if value is None:
        return nan
    return inf if value == INFINITE else float(value)
