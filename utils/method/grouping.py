"""Groups of classes: the relevant classes of a channel whose ARVs are similar are one concept."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from utils.method.polysemanticity import averaged_relevance_vectors, cosine_similarities
from utils.method.significance import permutation

ATTEMPTS = 20  # for each other grouping: few classes have few, which are drawn again and again


@dataclass
class ChannelGroups:
    """The groups of a channel's relevant classes.

    ``concepts`` has a list of network outputs for each group, in ascending order; groups are sorted by their first
    output. ``cosines`` [K, K] are the cosines between the concepts' ARVs. The ARV of a concept is the mean of the ARVs
    of its classes.
    """

    channel: int
    concepts: list[list[int]]
    cosines: Tensor

    def lowest_cosine(self) -> float:
        """The lowest cosine between two concepts; 1 if there is only one concept."""
        return self.cosines.min().item()


def linkage_of(cosines: Tensor) -> np.ndarray:
    """Average linkage of at least two classes on ``1 - cosine``: [n, n] -> scipy's merges [n - 1, 4]."""
    return linkage(squareform(1 - cosines.double().numpy(), checks=False), "average")


def cut_linkage(merges: np.ndarray, gamma: float) -> list[list[int]]:
    """The groups of a linkage at ``1 - gamma``: lists of ascending class indices, sorted by their first index.

    Two groups stay apart where the mean cosine between their classes is below gamma.
    """
    labels = fcluster(merges, 1 - gamma, "distance")
    _, firsts = np.unique(labels, return_index=True)
    return [np.flatnonzero(labels == labels[first]).tolist() for first in np.sort(firsts)]


def group_classes(cosines: Tensor, gamma: float) -> list[list[int]]:
    """Groups of classes: average linkage on ``1 - cosine``, cut at ``1 - gamma``.

    If several groups are equally close, scipy's order decides which are merged first; it is the same at every call.

    Parameters
    ----------
    cosines : Tensor [n, n]
        Cosines between the ARVs of the classes; 0 where an ARV is zero.
    gamma : float

    Returns
    -------
    list of lists of class indices, 0 ... n - 1
    """
    return cut_linkage(linkage_of(cosines), gamma) if len(cosines) > 1 else [[0]] * len(cosines)


def concept_means(values: Tensor, groups: list[list[int]]) -> Tensor:
    """Mean over the members of each group: [n, ...] -> [K, ...]. For ARVs, it gives the ARVs of the concepts."""
    return torch.stack([values[group].mean(0) for group in groups])


def class_groups(
    weight: Tensor,
    mean_inputs: Tensor,
    relevant: Tensor,
    gamma: float,
    shown: Callable[[list[int]], Iterable[int]] = iter,
) -> dict[int, ChannelGroups]:
    """The groups of relevant classes of each channel that has any: {channel: ChannelGroups}.

    Parameters
    ----------
    weight : Tensor [C, C_in, taps]
    mean_inputs : Tensor [T, C_in, taps]
    relevant : BoolTensor [T, C]
    gamma : float
    shown : function
        Goes through the channels: a progress bar.
    """
    groups_of_channels = {}
    for channel in shown(torch.nonzero(relevant.any(0)).flatten().tolist()):
        classes = torch.nonzero(relevant[:, channel]).flatten()
        arvs = averaged_relevance_vectors(weight[channel], mean_inputs[classes])
        groups = group_classes(cosine_similarities(arvs), gamma)
        concepts = [classes[group].tolist() for group in groups]
        cosines = cosine_similarities(concept_means(arvs, groups)).fill_diagonal_(1)
        groups_of_channels[channel] = ChannelGroups(channel, concepts, cosines)
    return groups_of_channels


def other_groupings(groups: list[list[int]], number: int, *purpose: Any) -> list[list[list[int]]]:
    """Random groupings of the same classes into groups of the same sizes, other than ``groups`` and than each other.

    Parameters
    ----------
    groups
        Lists of classes; no class twice.
    number
        Of groupings, at most; fewer where there are not as many. None if all groups have one class.
    purpose
        Plain values, which seed the draws.

    Returns
    -------
    list of lists of ascending lists
        The k-th group of each has as many classes as the k-th of ``groups``.
    """
    classes = [output for group in groups for output in group]
    bounds = list(pairwise(accumulate(map(len, groups), initial=0)))
    seen = {frozenset(map(frozenset, groups))}
    drawn: list[list[list[int]]] = []
    if len(groups) == 1 or len(classes) == len(groups):
        return drawn
    for attempt in range(number * ATTEMPTS):
        order = permutation(len(classes), "groups", *purpose, attempt).tolist()
        grouping = [sorted(classes[place] for place in order[first:end]) for first, end in bounds]
        as_sets = frozenset(map(frozenset, grouping))
        if as_sets not in seen:
            seen.add(as_sets)
            drawn.append(grouping)
        if len(drawn) == number:
            break
    return drawn
