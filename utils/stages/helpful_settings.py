"""Which settings of stage 2 find candidates, where the requested ones find none: computed from what is stored."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import floor

import torch
from torch import Tensor

from utils.method.importance import relevant_classes
from utils.method.polysemanticity import channel_levels, class_pairs, gamma_polysemantic, overall_mean
from utils.stages.relevance import ClassStatistics, LayerClasses

TAUS = (0.1, 0.05, 0.03, 0.02, 0.01, 0.005, 0.003, 0.002, 0.001)
PS = (0.5, 0.25)  # where no channel is relevant for two classes at the requested p
ENOUGH = 20  # pairs
LOW_ACCURACY = 0.5  # below it, most images of a class say little about what the network knows of it
FEWEST_CORRECT = 10  # correctly classified images of a class


@dataclass(frozen=True)
class Criteria:
    """What stage 2 counts, and the bounds of the cosine: ``cos_sim_low`` <= cosine < ``cos_sim_high``."""

    tau: float
    p: float
    only_correct: bool
    min_images: int
    only_above_mean: bool
    cos_sim_low: float
    cos_sim_high: float


@dataclass(frozen=True)
class Helpful:
    """Criteria that find candidates, and the number of ``pairs`` that they find."""

    criteria: Criteria
    pairs: int


def helpful_taus(tau: float) -> list[float]:
    """The values of tau that are tried where ``tau`` finds nothing: itself, and smaller ones."""
    return [tau, *(smaller for smaller in TAUS if smaller < tau)]


def helpful_settings(
    requested: Criteria, statistics: ClassStatistics, taus: Sequence[float], layer: LayerClasses
) -> Helpful | None:
    """The Criteria nearest to the requested ones that find pairs; None if there are none.

    The first that gives ENOUGH pairs of this order: only correctly classified images where accuracy is low, then all
    images; for each, tau descends. If none does, the one with most pairs; if there is no pair within the bounds, the
    smallest ``cos_sim_high``, in hundredths, that gives ENOUGH of them. Only if no channel is relevant for two classes,
    the same with a smaller p.

    Parameters
    ----------
    requested
    statistics
        Of ``taus``, which begin with the requested tau and descend.
    taus
    layer
    """
    for p in (requested.p, *(smaller for smaller in PS if smaller < requested.p)):
        most: Helpful | None = None
        above: list[tuple[Criteria, Tensor]] = []
        for criteria, cosines in _cosines(replace(requested, p=p), statistics, taus, layer):
            kept = int(gamma_polysemantic(cosines, criteria.cos_sim_high).sum())
            if kept >= ENOUGH:
                return Helpful(criteria, kept)
            if kept > (most.pairs if most else 0):
                most = Helpful(criteria, kept)
            if len(cosines) and not (above and len(above[-1][1]) >= ENOUGH):
                above.append((criteria, cosines))
        if most:
            return most
        if above:
            return _with_higher_bound(*max(above, key=lambda tried: min(len(tried[1]), ENOUGH)))
    return None


def _cosines(
    requested: Criteria, statistics: ClassStatistics, taus: Sequence[float], layer: LayerClasses
) -> Iterator[tuple[Criteria, Tensor]]:
    """The cosines of the pairs that are not below ``cos_sim_low``, for the Criteria that are tried at one p."""
    counted = [(requested.only_correct, requested.min_images)]
    num_images = statistics.images[:, 0].sum(1)
    if not requested.only_correct and num_images[1] < LOW_ACCURACY * num_images[0]:
        counted.insert(0, (True, max(requested.min_images, FEWEST_CORRECT)))
    mean_input = overall_mean(statistics.mean_inputs[0, 0], statistics.images[0, 0])
    for only_correct, min_images in counted:
        which = int(only_correct)
        mean_inputs = statistics.mean_inputs[which, 0]
        below = channel_levels(layer.weight, layer.bias, layer.positions, mean_inputs, mean_input).below
        for tau, counts in zip(taus, statistics.relevant, strict=True):
            relevant = relevant_classes(counts[which], statistics.images[which, 0], requested.p, min_images)
            if requested.only_above_mean:
                relevant &= ~below
            cosines = class_pairs(layer.weight, mean_inputs, relevant).cosine
            criteria = replace(requested, tau=tau, only_correct=only_correct, min_images=min_images)
            yield criteria, cosines[cosines >= requested.cos_sim_low]


def _with_higher_bound(criteria: Criteria, cosines: Tensor) -> Helpful:
    """The smallest upper bound, in hundredths, below which ENOUGH of the cosines lie, or all if there are fewer."""
    lowest = torch.sort(cosines).values[:ENOUGH]
    high = min((floor(100 * float(lowest[-1])) + 1) / 100, 1.0)
    return Helpful(replace(criteria, cos_sim_high=high), int(gamma_polysemantic(cosines, high).sum()))
