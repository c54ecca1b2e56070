"""What the measured separation says of a channel, in words: is it more than choosing inputs alone would do?"""

from dataclasses import dataclass

import numpy as np

from utils.divisions.division_registry import DIVISIONS
from utils.report.separation_tables import draws_reached


@dataclass
class Verdict:
    """``label`` is a word or two, ``text`` a sentence; lower ``rank`` is better founded."""

    rank: int
    label: str
    text: str


@dataclass
class MeanSeparation:
    """Means over the concepts of a split: average precision of the channel before, of the new channels after, and what
    permuted weights reach; NaN where it was not measured."""

    before: float
    after: float
    reference: float

    @property
    def gain(self):
        """What is above permuted weights."""
        return self.after - self.reference


def primary_null(row):
    """The Null that decides on a row of a separation, by the way its split was divided."""
    return DIVISIONS.get(row["split_by"]).primary_null


def is_beyond(row):
    """Whether no draw of permuted weights separates the concept as well as the new channel."""
    return draws_reached(row)[primary_null(row).draws_column] == 0


def mean_separation(rows):
    """The MeanSeparation of a split's rows; those that could not be measured do not count."""
    measured = [row for row in rows or () if not np.isnan(row["ap_all"])]
    if not measured:
        return MeanSeparation(np.nan, np.nan, np.nan)
    of_rows = (
        [row["ap_all_original"] for row in measured],
        [row["ap_all"] for row in measured],
        [row[f"ap_all_{primary_null(row).column}"] for row in measured],
    )
    return MeanSeparation(*(float(np.mean(values)) for values in of_rows))


def verdict(groups, is_polysemantic, is_split, rows):
    """The Verdict of a channel.

    Parameters
    ----------
    groups : int
        Of its classes.
    is_polysemantic, is_split : bool
        Whether it is gamma-polysemantic, and whether there is a split into classes that make it so.
    rows : list of dict, or None
        Of ``Separations``, one a concept of its split; None where it was not measured.
    """
    measured = [row for row in rows or () if not np.isnan(row["ap_all"])]
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


def _of_rows(measured):
    beyond, of = [row for row in measured if is_beyond(row)], len(measured)
    mean = mean_separation(measured)
    chance = primary_null(measured[0]).phrase
    figures = f"average precision {mean.before:.2f} before, {mean.after:.2f} after, {mean.reference:.2f} by {chance}"
    if len(beyond) == of:
        text = f"Each of {of} new channels separates its concept better than any draw of permuted weights: {figures}."
        return Verdict(0, f"clear, {of} of {of}", text)
    if beyond:
        others = ", ".join(row["name"] for row in measured if not is_beyond(row))
        text = f"{len(beyond)} of {of} new channels separate their concepts better than any draw of permuted weights, "
        return Verdict(1, f"partly, {len(beyond)} of {of}", f"{text}but not {others}: {figures}.")
    text = "No new channel separates its concept better than permuted weights do, so that choosing inputs alone may "
    return Verdict(2, f"doubtful, 0 of {of}", f"{text}explain what is seen: {figures}.")
