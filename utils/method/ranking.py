"""How well the scores of channels rank the images of a concept above all others."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

CENTRED_TOGETHER = 2**18  # scores in float64, which fit into a processor's cache


class Score(NamedTuple):
    """How well the scores of units tell the images of a concept from all others, Tensors of one shape (float64).

    The area under the ROC curve is the probability that an image of the concept is above another one, ties counting
    half. Average precision is ``sum_n (R_n - R_n-1) P_n``, with recall R_n and precision P_n at the n-th distinct
    score: the mean over the concept's images of the share of its images among all that are at least as high. Pearson's
    correlation is between the scores and the concept's indicator, which is 1 for its images and 0 for others. A random
    ranking has an area of 0.5, a precision of about the prevalence, and a correlation of 0.
    """

    auroc: Tensor
    ap: Tensor
    pearson: Tensor

    def of(self, index: int) -> "Score":
        """The Score of one concept."""
        return Score(*(values[index] for values in self))


def stack_scores(scores: list[Score]) -> Score:
    """Scores of several concepts, [B] each, as one of [K, B]."""
    return Score(*map(torch.stack, zip(*scores, strict=True)))


def rank_images(scores: Tensor, is_own: Tensor) -> Score:
    """The Score [B] of each row of scores, which are signed: higher scores rank first.

    Parameters
    ----------
    scores : Tensor [B, N]
        Scores of N images by B channels.
    is_own : BoolTensor [N]
        True for the images of the concept.

    Returns
    -------
    Score of Tensors [B], float64
        NaN where all scores are equal, or where there is no image of the concept, or no other one.
    """
    if not is_own.any() or is_own.all():
        unknown = torch.full((len(scores),), torch.nan, dtype=torch.float64)
        return Score(unknown, unknown, unknown)
    everything = torch.from_numpy(np.sort(scores.numpy(), axis=1))  # numpy's is 20 times as fast as torch's here
    positives = torch.from_numpy(np.sort(scores[:, is_own].numpy(), axis=1))
    at_least = _numbers(everything, positives, right=False)
    own_at_least = _numbers(positives, positives, right=False)
    above = _numbers(everything, positives, right=True)
    own_above = _numbers(positives, positives, right=True)
    others = (at_least - own_at_least + above - own_above) / 2
    areas = 1 - others.mean(1) / (~is_own).sum()
    precisions = (own_at_least / at_least).mean(1)
    ranks = everything[:, 0] < everything[:, -1]
    values = areas, precisions, _correlations(scores, is_own)
    return Score(*(of_rows.where(ranks, torch.nan) for of_rows in values))


class StreamedPrecision:
    """The average precisions of channels whose scores of the other images come in blocks.

    As that of ``rank_images``: the mean over the concept's images of the share of its images among all that are at
    least as high; or, with the lowest score first, at most as high. Memory does not depend on the number of other
    images.

    Parameters
    ----------
    scores : Tensor [B, P]
        Scores of the P images of the concept by B channels.

    ``at_least`` and ``at_most`` [B, P] int64 count the other images so far that are at least, or at most, as high as
    each of these, which are in ascending order.
    """

    def __init__(self, scores: Tensor) -> None:
        self._own = torch.from_numpy(np.sort(scores.numpy(), axis=1))
        self.at_least = torch.zeros(self._own.shape, dtype=torch.long)
        self.at_most = torch.zeros_like(self.at_least)

    def add(self, scores: Tensor, channels: slice = slice(None)) -> None:
        """Count a block of other images, by their scores [b, n] of some of the channels."""
        ascending = torch.from_numpy(np.sort(scores.numpy(), axis=1))
        self.at_least[channels] += scores.shape[1] - torch.searchsorted(ascending, self._own[channels])
        self.at_most[channels] += torch.searchsorted(ascending, self._own[channels], right=True)

    def highest_first(self) -> Tensor:
        """The average precision of each channel, the highest score first: [B], float64."""
        own_at_least = _numbers(self._own, self._own, right=False)
        return (own_at_least / (own_at_least + self.at_least)).mean(1)

    def lowest_first(self) -> Tensor:
        """The same with the lowest score first."""
        own_at_most = self._own.shape[1] - _numbers(self._own, self._own, right=True)
        return (own_at_most / (own_at_most + self.at_most)).mean(1)


def above_prevalence(precisions: Tensor, prevalences: Tensor) -> Tensor:
    """Average precisions normalised by prevalence, ``(AP - pi) / (1 - pi)``: 0 by chance, 1 at best.

    Values for concepts of different numbers of images can be compared.
    """
    return (precisions - prevalences) / (1 - prevalences)


def _correlations(scores: Tensor, is_own: Tensor) -> Tensor:
    """Pearson's correlation of each row [N] of scores with the indicator ``is_own`` [N]: [B], float64.

    ``sum (s - mean s) (y - mean y) / sqrt(sum (s - mean s)^2 sum (y - mean y)^2)``; both are centred before they are
    multiplied, as the difference of two large sums would lose digits.
    """
    indicator = is_own.double()
    indicator -= indicator.mean()
    indicator /= torch.linalg.vector_norm(indicator)
    correlations = []
    for block in scores.split(max(1, CENTRED_TOGETHER // scores.shape[1])):
        centred = block.to(torch.float64, copy=True)
        centred -= centred.mean(1, keepdim=True)
        correlations.append((centred @ indicator) / torch.linalg.vector_norm(centred, dim=1))
    return torch.cat(correlations)


def _numbers(ascending: Tensor, thresholds: Tensor, right: bool) -> Tensor:
    """How many of each row's values are at least (``right``: above) each of its thresholds, [B, P] float64."""
    return (ascending.shape[1] - torch.searchsorted(ascending, thresholds, right=right)).double()
