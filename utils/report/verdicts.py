"""The measured separation of a channel in words: do its concepts stand above their null?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from utils.report.separation_headline import Headline, headline, is_above_null
from utils.store.scores import NEW


@dataclass(frozen=True)
class Verdict:
    """``label`` is a word or two, ``text`` a sentence; a lower ``rank`` means stronger evidence."""

    rank: int
    label: str
    text: str


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
    of_rows = headline(rows)
    if of_rows is not None:
        return _of_rows(of_rows, rows or ())
    if not is_polysemantic:
        return Verdict(6, "not polysemantic", "No two of its classes have a cosine below gamma at these settings.")
    if groups < 2:
        text = (
            "Two of its classes have a cosine below gamma, but other classes connect them, so that all form one group."
        )
        return Verdict(5, "one group", text)
    several = f"Its classes form {groups} groups, which it serves by different inputs"
    if not is_split:
        return Verdict(4, "not split", f"{several}; it has not been split into these yet.")
    return Verdict(3, "not measured", f"{several}; how well the split separates them has not been measured yet.")


def _of_rows(of_rows: Headline, rows: Sequence[dict[str, Any]]) -> Verdict:
    counts = f"{of_rows.above} of {of_rows.concepts}"
    text = " ".join(f"{line}." for line in (of_rows.count, of_rows.precision, of_rows.caution) if line)
    if of_rows.above == of_rows.concepts:
        return Verdict(0, f"clear, {counts}", text)
    if of_rows.above:
        others = ", ".join(row["name"] for row in rows if not (np.isnan(row[NEW.ap]) or is_above_null(row)))
        return Verdict(1, f"partly, {counts}", f"{text} Not above it: {others}.")
    return Verdict(2, f"doubtful, {counts}", f"{text} Choosing inputs alone may explain this result.")
