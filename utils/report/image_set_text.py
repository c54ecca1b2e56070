"""How well concepts without labels stand out, beside units of permuted weights, in words."""

import sys
from collections.abc import Iterable
from functools import cache

import numpy as np
from tqdm import tqdm

from utils.concept_sources.image_sets import LEAST_SHARE
from utils.concept_sources.source_registry import SOURCES
from utils.defaults import IMAGE_SET_DRAWS
from utils.errors import UserError
from utils.stages.image_set_nulls import ImageSetNulls, ImageSetScores
from utils.store.opened_splits import OpenedSplit

NO_CLASSES = "stands out in no class"
NAMES = (
    f"a name has the classes of at least {LEAST_SHARE:.0%} of the set's training images; its validation images may be "
    "of others"
)
LARGEST_P = 0.05  # of a concept that stands above permuted weights: with 20 units, none of them reaches it
NOTE = (
    "below a name: AP above prevalence of its new channel for the classes in the name, on validation images; lowest "
    f"and highest of {IMAGE_SET_DRAWS} units of permuted weights with sets of their own"
)
COUNT_NOTE = (
    "AP above prevalence: of a new channel, on validation images, for the classes that are frequent among the training "
    f"images of its concept. Each of {IMAGE_SET_DRAWS} units of permuted weights has reference images and clusters of "
    "its own, and is compared by its set of the same rank by size; one whose set stands out in no class does not reach "
    f"the concept. p = (1 + units that reach it) / (1 + units), of each concept alone: a concept stands above permuted "
    f"weights at p < {LARGEST_P}, without a correction for the number of concepts, so that some do by chance."
)


def print_count(count: str) -> None:
    """Print ``count_in_words`` and what it means, before anything else of the splits; nothing if it is empty."""
    if count:
        print(f"{count}\n{COUNT_NOTE}\n")


def scores_of(nulls: ImageSetNulls | None, split: OpenedSplit) -> ImageSetScores | None:
    """The scores of a split; None, with a warning, where it is of other training images: it is shown without them."""
    if nulls is None:
        return None
    try:
        return nulls.of(split)
    except UserError as error:
        _warn_once(f"warning: not compared with permuted weights: {error}")
        return None


@cache
def _warn_once(message: str) -> None:
    """A damaged file of a store is not named for each split."""
    tqdm.write(message, file=sys.stderr)


def score_in_words(scores: ImageSetScores, k: int) -> str:
    """The score of concept ``k`` (from 0) beside the lowest and the highest one of permuted weights.

    ``0.31; permuted weights 0.12 to 0.20``: fewer units than were drawn are counted, as a set of permuted weights may
    stand out in no class.
    """
    if not scores.classes[k]:
        return NO_CLASSES
    value = float(scores.values[k])
    if np.isnan(value):
        return "no validation image of its classes"
    measured = scores.nulls[:, k].numpy()
    measured = measured[~np.isnan(measured)]
    if not len(measured):
        return f"{value:.2f}; permuted weights stand out in no class"
    counted = "" if len(measured) == len(scores.nulls) else f" ({len(measured)} of {len(scores.nulls)})"
    return f"{value:.2f}; permuted weights {measured.min():.2f} to {measured.max():.2f}{counted}"


def count_in_words(measured: Iterable[tuple[str, ImageSetScores | None]]) -> str:
    """How many concepts of some splits stand above permuted weights, of those that could be tested; empty if none were.

    ``measured`` has the name of the source of each split's concepts, and its scores.
    ``3 of 10 circuits stand above permuted weights (20 units, p < 0.05 each; by chance 0.5)``.
    """
    p_values: dict[str, list[float]] = {}
    draws = 0
    for source, scores in measured:
        if scores is not None:
            p_values.setdefault(SOURCES.get(source).words, []).extend(scores.p_values().tolist())
            draws = len(scores.nulls)
    counts = []
    for words, of_source in p_values.items():
        p = np.array(of_source)
        p = p[~np.isnan(p)]
        by_chance = len(p) * (np.ceil(LARGEST_P * (1 + draws)) - 1) / (1 + draws)
        if len(p):
            counts.append(
                f"{(p < LARGEST_P).sum()} of {len(p)} {words} stand above permuted weights "
                f"({draws} units, p < {LARGEST_P} each; by chance {by_chance:.2g})"
            )
    return "; ".join(counts)
