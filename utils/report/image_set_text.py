"""How well a concept without labels stands out, beside units of permuted weights, in words."""

import sys

import numpy as np
from tqdm import tqdm

from utils.concept_sources.image_sets import LEAST_SHARE
from utils.defaults import IMAGE_SET_DRAWS
from utils.errors import UserError
from utils.stages.image_set_nulls import ImageSetNulls, ImageSetScores
from utils.store.opened_splits import OpenedSplit

NO_CLASSES = "stands out in no class"
NAMES = (
    f"a name has the classes of at least {LEAST_SHARE:.0%} of the set's training images; its validation images may be "
    "of others"
)
NOTE = (
    "below a name: AP above prevalence of its new channel for the classes in the name, on validation images; lowest "
    f"and highest of {IMAGE_SET_DRAWS} units of permuted weights with sets of their own"
)


def scores_of(nulls: ImageSetNulls | None, split: OpenedSplit) -> ImageSetScores | None:
    """The scores of a split; None, with a warning, where it is of other training images: it is shown without them."""
    if nulls is None:
        return None
    try:
        return nulls.of(split)
    except UserError as error:
        tqdm.write(f"warning: not compared with permuted weights: {error}", file=sys.stderr)
        return None


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
