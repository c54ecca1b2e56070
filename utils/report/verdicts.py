"""The measured separation of a channel in words: does it exceed that of the null?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from utils.divisions.division_registry import DIVISIONS
from utils.divisions.nulls import Null
from utils.report.separation_tables import draws_reached
from utils.store.scores import NEW, ORIGINAL, unit_of


@dataclass(frozen=True)
class Verdict:
    """``label`` is a word or two, ``text`` a sentence; a lower ``rank`` means stronger evidence."""

    rank: int
    label: str
    text: str


@dataclass(frozen=True)
class MeanSeparation:
    """Average precision, as means over the concepts of a split; NaN where it was not measured.

    ``before`` is of the original channel, ``after`` of the new channels, ``null`` of the primary null.
    """

    before: float
    after: float
    null: float

    @property
    def gain(self) -> float:
        """The gain of the new channels over the null."""
        return self.after - self.null


def primary_null(row: dict[str, Any]) -> Null:
    """The null that decides on a row of a separation, by the way its split was divided."""
    return DIVISIONS.get(row["split_by"]).primary_null


def is_beyond(row: dict[str, Any]) -> bool:
    """Whether no draw of the primary null separates the concept as well as the new channel."""
    return draws_reached(row)[primary_null(row).draws_column] == 0


def _measured(rows: Sequence[dict[str, Any]] | None) -> list[dict[str, Any]]:
    return [row for row in rows or () if not np.isnan(row[NEW.ap])]


def mean_separation(rows: Sequence[dict[str, Any]] | None) -> MeanSeparation:
    """The MeanSeparation of a split's rows, without those that could not be measured."""
    measured = _measured(rows)
    if not measured:
        return MeanSeparation(np.nan, np.nan, np.nan)
    return MeanSeparation(
        before=float(np.mean([row[ORIGINAL.ap] for row in measured])),
        after=float(np.mean([row[NEW.ap] for row in measured])),
        null=float(np.mean([row[unit_of(primary_null(row)).ap] for row in measured])),
    )


def verdict(groups: int, is_polysemantic: bool, is_split: bool, rows: Sequence[dict[str, Any]] | None) -> Verdict:
    """The Verdict of a channel.

    Parameters
    ----------
    groups
        Number of groups of its classes.
    is_polysemantic
        Whether it is gamma-polysemantic.
    is_split
        Whether there is a split into classes that make it gamma-polysemantic.
    rows
        From ``Separations``, one for each concept of its split; None if it was not measured.
    """
    measured = _measured(rows)
    if measured:
        return _of_rows(measured)
    if not is_polysemantic:
        return Verdict(6, "not polysemantic", "No two of its classes have a cosine below gamma at these settings.")
    if groups < 2:
        text = "Two of its classes have a cosine below gamma, but those between them join all to one group."
        return Verdict(5, "one group", text)
    several = f"Its classes form {groups} groups, which it serves by different inputs"
    if not is_split:
        return Verdict(4, "not split", f"{several}; it has not been split into these yet.")
    return Verdict(3, "not measured", f"{several}; how well the split separates them has not been measured yet.")


def _of_rows(measured: list[dict[str, Any]]) -> Verdict:
    beyond = [row for row in measured if is_beyond(row)]
    counts = f"{len(beyond)} of {len(measured)}"
    mean = mean_separation(measured)
    chance = primary_null(measured[0]).phrase
    figures = f"average precision {mean.before:.2f} before, {mean.after:.2f} after, {mean.null:.2f} by {chance}"
    if len(beyond) == len(measured):
        text = f"Each of {len(measured)} new channels separates its concept better than any draw of permuted weights: "
        return Verdict(0, f"clear, {counts}", f"{text}{figures}.")
    if beyond:
        others = ", ".join(row["name"] for row in measured if not is_beyond(row))
        text = f"{counts} new channels separate their concepts better than any draw of permuted weights, "
        return Verdict(1, f"partly, {counts}", f"{text}but not {others}: {figures}.")
    text = "No new channel separates its concept better than permuted weights do, so that choosing inputs alone may "
    return Verdict(2, f"doubtful, {counts}", f"{text}explain what is seen: {figures}.")
