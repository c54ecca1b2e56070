"""Names of units without labels: the classes whose images a unit ranks above all others, better than other units do.

A name is a set of classes. Its score for a unit is the average precision with which the unit ranks the images of these
classes above all others, normalised by prevalence. A unit may reach a high score only because *any* unit does; so what
counts is the score less the mean score of the same name over the other units.

U units are compared: one of interest and its nulls. Each chooses its best name in the same way, each is judged on other
images in the same way, and none has a place of its own: exchanging two units exchanges their results. If the unit of
interest and its nulls are exchangeable, the rank of its result is therefore uniform, and the probability that the name
of any unit passes (``rank_p_values``) is at most the level of the test, although names were searched for.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.method.order import largest_first
from utils.method.ranking import above_prevalence

LARGEST_PREVALENCE = 0.1  # of a name
COMBINED = 20  # best names of a unit, of which every two may be one name
BLOCK_VALUES = 2**22  # counts at once
NOTHING = -1


def class_precisions(scores: Tensor, targets: Tensor, num_classes: int) -> Tensor:
    """``A`` [U, T, T], from which the average precision of any set S of classes follows as a sum over its pairs.

        AP(S) = sum over t, u in S of A[t, u] / n_S,
        A[t, u] = sum over images i of class t of
                  (images of class u that are at least as high as i) / (all images that are at least as high as i)

    with n_S the number of images of S: the definition in ``ranking.Score``, the sums exchanged. The scores of a unit
    are sorted once for all sets.

    Parameters
    ----------
    scores : Tensor [U, N]
        Scores of N images by U units: higher scores rank first.
    targets : LongTensor [N]
        The class of each image, 0 ... T - 1; negative for images of other classes.
    num_classes : int
        T.

    Returns
    -------
    Tensor [U, T, T], float64
    """
    shown = (targets >= 0).nonzero().flatten()
    of_shown = targets[shown]
    precisions = torch.zeros(len(scores), num_classes, num_classes, dtype=torch.float64)
    for unit, of_unit in enumerate(scores.numpy()):
        order = np.argsort(-of_unit, kind="stable")
        ascending = of_unit[order[::-1]]
        at_least = len(of_unit) - np.searchsorted(ascending, of_unit[shown.numpy()])
        in_order = targets[order]
        for block in torch.arange(num_classes).split(max(1, BLOCK_VALUES // max(1, len(of_unit)))):
            counts = (in_order == block[:, None]).numpy().cumsum(1, dtype=np.int32)
            shares = torch.from_numpy(counts[:, at_least - 1] / at_least)
            precisions[unit, :, block] = precisions.new_zeros(num_classes, len(block)).index_add_(0, of_shown, shares.T)
    return precisions


def name_scores(precisions: Tensor, names: Tensor, images: Tensor) -> Tensor:
    """The score of each name for each unit, ``(AP - prevalence) / (1 - prevalence)``: [U, M], float64.

    NaN for a name without images.

    Parameters
    ----------
    precisions : Tensor [U, T, T]
        Of ``class_precisions``.
    names : BoolTensor [M, T]
        The classes of each name.
    images : LongTensor [T + 1]
        The number of images of each class, and, last, of all other images.
    """
    are_in = names.double()
    sums = torch.stack([(are_in @ of_unit * are_in).sum(1) for of_unit in precisions])
    return _normalised(sums, are_in @ images[:-1].double(), images)


def _normalised(sums: Tensor, numbers: Tensor, images: Tensor) -> Tensor:
    return above_prevalence(sums / numbers, numbers / images.sum())


def less_others(scores: Tensor) -> Tensor:
    """The scores [U, ...] of each unit less the mean of the other units."""
    return scores - (scores.sum(0) - scores) / (len(scores) - 1)


class ChosenNames(NamedTuple):
    """The name that each of U units has chosen.

    ``first`` and ``second`` LongTensor [U] are indices of names; ``second`` is ``NOTHING`` where a unit has chosen one
    name, else its name is both together. ``values`` [U] float64 are the scores on the images of the choice, less the
    mean of the other units.
    """

    first: Tensor
    second: Tensor
    values: Tensor

    def classes(self, names: Tensor) -> Tensor:
        """The classes of the chosen names: BoolTensor [U, T], for the ``names`` [M, T] that were offered."""
        has_second = self.second != NOTHING
        return names[self.first] | names[self.second] & has_second[:, None]


def choose_names(precisions: Tensor, names: Tensor, images: Tensor) -> ChosenNames:
    """The name of each unit: that of the highest score less the mean score of the same name over the other units.

    Two of a unit's COMBINED best names are one more name for it where they have no class in common and their prevalence
    together is at most LARGEST_PREVALENCE. Of equal values the earlier name is chosen, and one name before two.

    Parameters
    ----------
    precisions, names, images
        As in ``name_scores``, for at least two units, and names with images, each of at most LARGEST_PREVALENCE.
    """
    values = less_others(name_scores(precisions, names, images))
    best = largest_first(values, COMBINED)
    first = best[:, 0].clone()
    second = torch.full_like(first, NOTHING)
    chosen = values.gather(1, first[:, None])[:, 0]
    for unit, of_unit in enumerate(best):
        of_pairs = _pair_values(precisions, names[of_unit], images)[unit]
        i, j = np.unravel_index(of_pairs.numpy().argmax(), of_pairs.shape)
        if of_pairs[i, j] > chosen[unit]:
            first[unit] = of_unit[i]
            second[unit] = of_unit[j]
            chosen[unit] = of_pairs[i, j]
    return ChosenNames(first, second, chosen)


def _pair_values(precisions: Tensor, names: Tensor, images: Tensor) -> Tensor:
    """The score of every two names [B, T] together, less the mean of the other units; -inf where they are no name.

    Tensor [U, B, B]: pairs [i, j] with i < j.
    """
    are_in = names.double()
    within = are_in @ precisions @ are_in.T
    of_each = within.diagonal(dim1=1, dim2=2)
    sums = of_each[:, :, None] + of_each[:, None, :] + within + within.mT
    numbers = are_in @ images[:-1].double()
    together = numbers[:, None] + numbers
    are_a_name = (are_in @ are_in.T == 0) & (together <= LARGEST_PREVALENCE * images.sum())
    values = less_others(_normalised(sums, together, images))
    return values.where(are_a_name.triu(1), -torch.inf)


def judged_values(precisions: Tensor, chosen: Tensor, images: Tensor) -> Tensor:
    """The score of each unit for its own name, less the mean score of the same name over the other units: [U].

    Parameters
    ----------
    precisions, images
        As in ``name_scores``, of images that had no part in the choice.
    chosen : BoolTensor [U, T]
        The classes of each unit's name.
    """
    return less_others(name_scores(precisions, chosen, images)).diagonal()


def rank_p_values(values: Tensor) -> Tensor:
    """The p value of each unit among all U: ``(1 + number of others at least as high) / U``, Tensor [..., U].

    If the units are exchangeable, ``P(p <= a) <= a`` for each. NaN is lower than every number.
    """
    numbers = values.nan_to_num(nan=-torch.inf)
    at_least = (numbers[..., None, :] >= numbers[..., :, None]).sum(-1)
    return at_least.double() / values.shape[-1]
