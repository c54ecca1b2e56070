"""Matching a method's units with labelled concepts on some images, and judging them on others."""

from typing import NamedTuple

import torch
from torch import Tensor

from utils.method.ranking import Score, rank_images, stack_scores


class Judgement(NamedTuple):
    """How well units rank K concepts: the ``score`` [K] against all other images, and ``auroc_others`` [K], the area
    under the ROC curve against the images of the other concepts alone. float64."""

    score: Score
    auroc_others: Tensor


def match(scores: Tensor, is_own: Tensor) -> Tensor:
    """For each concept the unit that ranks its images best above those of the other concepts (area under the ROC
    curve); of equally good ones the first. One unit may serve several concepts.

    Parameters
    ----------
    scores : Tensor [k, n]
        Scores of k units in the images of the concepts.
    is_own : BoolTensor [K, n]
        True where an image belongs to a concept.

    Returns
    -------
    LongTensor [K]
    """
    return torch.stack([rank_images(scores, of_concept).auroc.nan_to_num(0.5).argmax() for of_concept in is_own])


def judge(scores: Tensor, is_own: Tensor) -> Judgement:
    """How well units that were matched with K concepts rank these, in images that did not decide on it.

    A unit that is the same for all images is as good as chance. NaN without images of a concept, or without others.

    Parameters
    ----------
    scores : Tensor [K, N]
        Scores of the unit of each concept in all images.
    is_own : BoolTensor [K, N]
        True where an image belongs to a concept.
    """
    of_concepts = is_own.any(0)
    all_scores, others = [], []
    for unit, of_concept in zip(scores, is_own, strict=True):
        all_scores.append(_ranked(unit[None], of_concept))
        others.append(_ranked(unit[None, of_concepts], of_concept[of_concepts]).auroc)
    return Judgement(stack_scores(all_scores), torch.stack(others))


def _ranked(scores: Tensor, is_own: Tensor) -> Score:
    """The Score [] of one unit [1, N]; that of chance where it ranks nothing."""
    if 0 < is_own.sum() < len(is_own) and scores.min() == scores.max():
        half, nothing = torch.tensor([0.5, 0.0], dtype=torch.float64)
        return Score(auroc=half, ap=is_own.double().mean(), pearson=nothing)
    return rank_images(scores, is_own).of(0)
