"""How well concepts without labels stand out, beside units of permuted weights, in words."""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from tqdm import tqdm

from utils.concept_sources.image_sets import LEAST_SHARE
from utils.concept_sources.source_registry import SOURCES
from utils.defaults import IMAGE_SET_DRAWS
from utils.errors import UserError, listed
from utils.report.name_text import NAME_NOTE, SEARCH_NOTE, name_score_in_words, share_named
from utils.stages.image_set_nulls import ImageSetNulls, ImageSetScores
from utils.store.opened_splits import OpenedSplit
from utils.store.splits import SplitFile

NO_CLASSES = "stands out in no class"
NAMES = (
    f"many: classes of at least {LEAST_SHARE:.0%} of the set's training images; its validation images may have others"
)
LARGEST_P = 0.05  # of a concept that stands above permuted weights: with 20 units, none of them reaches it
NOTE = (
    f"{NAME_NOTE}; numbers: AP above prevalence of the new channel for these classes on validation images, and the "
    f"lowest and highest value of {IMAGE_SET_DRAWS} units of permuted weights with their own sets (units whose set "
    f"stands out in no class are left out); above: p < {LARGEST_P}; for a name, minus the mean of the other units"
)
MOST_NAMED = 20  # concepts that are named in the count
COUNT_NOTE = (
    "AP above prevalence: how well a new channel ranks the validation images of those classes that are frequent among "
    f"the training images of its concept. Each of {IMAGE_SET_DRAWS} units of permuted weights has its own reference "
    "images and clusters. It is compared by its set of the same rank by size, and counts as lower if this set stands "
    "out in no class. p = (1 + units that reach the concept) / (1 + units), for each concept alone. A concept stands "
    f"above permuted weights at p < {LARGEST_P}; this is not corrected for the number of concepts, so some pass by "
    "chance. These units are not fitted to the real channel, unlike the null of labelled concepts by least squares: "
    "they are easier to beat, so standing above them shows less.\n" + SEARCH_NOTE
)


@dataclass(frozen=True)
class ScoredSplit:
    """The concepts of a split beside permuted weights.

    ``source`` is the name of the source of its concepts, ``names`` are theirs; ``scores`` is None where they have none.
    """

    source: str
    channel: int
    names: Sequence[str]
    scores: ImageSetScores | None

    @classmethod
    def of(cls, file: SplitFile, scores: ImageSetScores | None) -> "ScoredSplit":
        """The concepts of a split file."""
        names = [concept.name for concept in file.split.own_concepts]
        return cls(file.source["name"], file.split.channel, names, scores)

    def above(self) -> list[str]:
        """The number and the name of each concept that stands above permuted weights: ``3 (espresso)``."""
        if self.scores is None:
            return []
        stands_above = (self.scores.p_values() < LARGEST_P).tolist()
        return [f"{k} ({name})" for k, name in enumerate(self.names, start=1) if stands_above[k - 1]]

    def named(self) -> list[str]:
        """The number and the name of each concept whose name has passed: ``3 (coffee)``."""
        if self.scores is None or self.scores.names is None:
            return []
        return [f"{k} ({name})" for k, name in enumerate(self.scores.names.names(), start=1) if name is not None]


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

    ``0.31 (above); permuted weights 0.12 to 0.20``: a concept that no unit reaches is marked, where there are enough.
    Units whose set stands out in no class are left out of the range, and the number of the others is shown. Of a
    concept with a name it is the name's.
    """
    if scores.names is not None and scores.names.are_named()[0, k]:
        return name_score_in_words(scores.names, k)
    if not scores.classes[k]:
        return NO_CLASSES
    value = float(scores.values[k])
    if np.isnan(value):
        return "no validation image of its classes"
    above = " (above)" if scores.p_values()[k] < LARGEST_P else ""
    measured = scores.nulls[:, k].numpy()
    measured = measured[~np.isnan(measured)]
    if not len(measured):
        return f"{value:.2f}{above}; permuted weights stand out in no class"
    counted = "" if len(measured) == len(scores.nulls) else f" ({len(measured)} of {len(scores.nulls)} units)"
    return f"{value:.2f}{above}; permuted weights {measured.min():.2f} to {measured.max():.2f}{counted}"


def count_in_words(scored: Iterable[ScoredSplit]) -> str:
    """Which concepts of some splits stand above permuted weights, of those that could be tested; empty if none were.

    ``2 of 10 circuits stand above permuted weights (20 units, p < 0.05 each; by chance 0.48): 3 (espresso), 7
    (ladybug)``, with the channel before the concepts where there are several splits. Then which have a name, of
    those for which names were searched.
    """
    of_sources: dict[str, list[ScoredSplit]] = {}
    for split in scored:
        if split.scores is not None:
            of_sources.setdefault(SOURCES.get(split.source).words, []).append(split)
    return "; ".join(filter(None, (_count_of(words, splits) for words, splits in of_sources.items())))


def _count_of(words: str, splits: list[ScoredSplit]) -> str:
    scores = [split.scores for split in splits if split.scores is not None]
    p = np.concatenate([of_split.p_values().numpy() for of_split in scores])
    p = p[~np.isnan(p)]
    if not len(p):
        return ""
    draws = len(scores[-1].nulls)
    by_chance = len(p) * (np.ceil(LARGEST_P * (1 + draws)) - 1) / (1 + draws)
    above = _of_channels(splits, ScoredSplit.above)
    count = (
        f"{len(above)} of {len(p)} {words} stand above permuted weights "
        f"({draws} units, p < {LARGEST_P} each; expected by chance {by_chance:.2g}){_listed(above)}"
    )
    searched = [of_split.names for of_split in scores if of_split.names is not None]
    share = share_named(searched, words) if searched else ""
    return f"{count}; {share}{_listed(_of_channels(splits, ScoredSplit.named))}" if share else count


def _of_channels(splits: list[ScoredSplit], concepts_of: Callable[[ScoredSplit], list[str]]) -> list[str]:
    """Some concepts of each split, with the channel before them where there are several splits."""
    return [
        f"channel {split.channel}: {concept}" if len(splits) > 1 else concept
        for split in splits
        for concept in concepts_of(split)
    ]


def _listed(concepts: list[str]) -> str:
    return f": {listed(concepts, MOST_NAMED)}" if concepts else ""
