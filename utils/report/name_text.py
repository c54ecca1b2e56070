"""What concepts without labels are called in tables, figures and pages, and how many of their names have passed."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.concept_sources.image_sets import name_parts
from utils.defaults import IMAGE_SET_DRAWS, NAMING_IMAGES
from utils.method.naming import COMBINED, LARGEST_PREVALENCE
from utils.report.numbers import csv_number
from utils.report.tables import Table
from utils.stages.concept_names import LEVEL, SearchedNames
from utils.stages.image_set_nulls import ImageSetScores

NO_NAME = "no name"
MOST = "many"  # before the classes that are frequent among the training images of a concept without a name
NAME_NOTE = (
    "a name has passed a test; a concept without one is described by the frequent classes of its training images "
    "(many: ...)"
)
SEARCH_NOTE = (
    f"Name: candidates are classes, the WordNet synsets above them (prevalence at most {LARGEST_PREVALENCE}) "
    f"and the pairs of the best {COMBINED}. The best candidate has the highest AP above prevalence on training images "
    f"(at most {NAMING_IMAGES:,}, evenly spread), minus the mean of the other units for it. Each of "
    f"{IMAGE_SET_DRAWS} units of permuted weights searches in the same way, with its set of the same rank by size. "
    "The name is given if its value on validation images, again minus the mean of the other units, is among the "
    f"highest {LEVEL:.0%} of the units' values. If the channel did not differ from these units, at most {LEVEL:.0%} of "
    "its concepts would get a name."
)
COLUMNS = ["Channel", "Concept", "TrainingImages", "Description", "BestName", "Named", "Value", "NullMedian"]
COLUMNS += ["NullHighest", "P", "NullsNamed", "Nulls"]


class ShownName(NamedTuple):
    """What a concept is called: a ``heading``, and a ``note`` in small print, which may be empty."""

    heading: str
    note: str

    @property
    def text(self) -> str:
        """Both in one line."""
        return f"{self.heading} ({self.note})" if self.note else self.heading

    @property
    def short(self) -> str:
        """The name, or the number of a concept without one, where there is little room."""
        return self.heading.removesuffix(f", {NO_NAME}")


def shown_names(stored: Sequence[str], scores: ImageSetScores | None) -> list[ShownName]:
    """What the concepts of a split are called.

    Where names were searched for, a concept is called by the name that has passed, ``swimwear (circuit 7)``; else by
    its number, ``circuit 7, no name (many: bikini, seashore)``: its frequent classes describe it and are not tested.

    Parameters
    ----------
    stored
        The names in the split file.
    scores
        Of a split without labels, or None.
    """
    if scores is None or scores.names is None:
        return [ShownName(name, "") for name in stored]
    shown = []
    for k, name in enumerate(scores.names.names()):
        number, description = name_parts(stored[k])
        if not scores.names.words[k]:
            shown.append(ShownName(stored[k], ""))
        elif name is None:
            note = f"{MOST}: {description}" if scores.classes[k] else description
            shown.append(ShownName(f"{number}, {NO_NAME}", note))
        else:
            shown.append(ShownName(name, number))
    return shown


def texts_of(stored: Sequence[str], scores: ImageSetScores | None) -> list[str]:
    """``shown_names`` in one line each."""
    return [name.text for name in shown_names(stored, scores)]


def name_score_in_words(names: SearchedNames, k: int) -> str:
    """The value of the name of concept ``k`` beside the lowest and highest of permuted weights with their own names.

    Of permuted weights whose names have validation images.
    """
    nulls = names.values[1:, k].numpy()
    nulls = nulls[np.isfinite(nulls)]
    if not len(nulls):
        return f"name {names.values[0, k]:.2f}; those of permuted weights have no validation images"
    return f"name {names.values[0, k]:.2f}; permuted weights {nulls.min():.2f} to {nulls.max():.2f}"


def share_named(names: Sequence[SearchedNames], words: str) -> str:
    """How many concepts have a name, and how many of the units of permuted weights in their place; empty without any.

    ``3 of 120 circuits have a name (2.5%; with permuted weights 117 of 2400, 4.9%; 5% expected by chance)``.
    """
    are_named = np.concatenate([of_split.are_named().numpy() for of_split in names], 1)
    measured = np.concatenate([~of_split.values.isnan().numpy() for of_split in names], 1)
    counts = [(int(are_named[units].sum()), int(measured[units].sum())) for units in (slice(1), slice(1, None))]
    (named, number), (nulls_named, nulls) = counts
    if not number or not nulls:
        return ""
    return (
        f"{named} of {number} {words} have a name ({named / number:.1%}; with permuted weights "
        f"{nulls_named} of {nulls}, {nulls_named / nulls:.1%}; {LEVEL:.0%} expected by chance)"
    )


def write_names(path: Path, channel: int, stored: Sequence[str], sizes: Sequence[int], names: SearchedNames) -> Path:
    """Write the search of a split as CSV, a row for each concept with its best name, whether it passes or not."""
    p = names.p_values()
    are_named = names.are_named()
    rows = []
    for k, word in enumerate(names.words):
        nulls = names.values[1:, k].numpy()
        nulls = nulls[~np.isnan(nulls)]
        middle, highest = (float(np.median(nulls)), float(nulls.max())) if len(nulls) else (np.nan, np.nan)
        rows.append(
            [
                *(channel, k + 1, sizes[k], stored[k], word, "yes" if are_named[0, k] else "no"),
                *map(csv_number, (float(names.values[0, k]), middle, highest, float(p[0, k]))),
                *(int(are_named[1:, k].sum()), len(nulls)),
            ]
        )
    Table(COLUMNS, rows).write_csv(path)
    return path
