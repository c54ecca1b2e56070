"""Groups of classes: the relevant classes of a channel whose ARVs are alike are one concept."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.cluster.hierarchy import fcluster, linkage

from utils.method.polysemanticity import averaged_relevance_vectors, cosine_similarities


@dataclass
class ChannelGroups:
    """The groups of a channel's relevant classes.

    ``concepts`` are lists of network outputs: ascending in a group, the groups by their smallest. ``cosines`` [K, K]
    are those of the concepts' ARVs, each the mean of its classes'.
    """

    channel: int
    concepts: list
    cosines: torch.Tensor

    def lowest_cosine(self):
        """Of two concepts; 1 where there is only one."""
        return self.cosines.min().item()


def linkage_of(cosines):
    """Average linkage of classes on ``1 - cosine``: [n, n] -> scipy's merges [n - 1, 4], of two classes or more."""
    first, second = torch.triu_indices(len(cosines), len(cosines), offset=1)
    return linkage(1 - cosines[first, second].double().numpy(), "average")


def cut(merges, gamma):
    """The groups of a linkage at ``1 - gamma``: lists of places, in ascending order, the groups by their smallest.

    Two groups stay apart where the mean cosine between their classes is below gamma.
    """
    labels = fcluster(merges, 1 - gamma, "distance")
    _, first = np.unique(labels, return_index=True)
    return [np.flatnonzero(labels == labels[place]).tolist() for place in np.sort(first)]


def group_classes(cosines, gamma):
    """Groups of classes: average linkage on ``1 - cosine``, cut at ``1 - gamma``.

    Of equally close groups scipy's order decides which are merged first, the same at every call.

    Parameters
    ----------
    cosines : Tensor [n, n]
        Of the classes' ARVs; 0 where one is zero.
    gamma : float

    Returns
    -------
    list of lists of places in 0 ... n - 1
    """
    return cut(linkage_of(cosines), gamma) if len(cosines) > 1 else [[0]] * len(cosines)


def concept_means(values, groups):
    """Mean over the members of each group: [n, ...] -> [K, ...]. Of ARVs, it is the concepts' ARVs."""
    return torch.stack([values[group].mean(0) for group in groups])


def class_groups(weight, mean_inputs, relevant, gamma):
    """The groups of every channel that is relevant for a class.

    Parameters
    ----------
    weight : Tensor [C, C_in, taps]
    mean_inputs : Tensor [T, C_in, taps]
    relevant : BoolTensor [T, C]
    gamma : float

    Returns
    -------
    dict of channel -> ChannelGroups
    """
    found = {}
    for channel in torch.nonzero(relevant.any(0)).flatten().tolist():
        classes = torch.nonzero(relevant[:, channel]).flatten()
        arvs = averaged_relevance_vectors(weight[channel], mean_inputs[classes])
        groups = group_classes(cosine_similarities(arvs), gamma)
        cosines = cosine_similarities(concept_means(arvs, groups)).fill_diagonal_(1)
        found[channel] = ChannelGroups(channel, [classes[group].tolist() for group in groups], cosines)
    return found
