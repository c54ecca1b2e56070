"""Concepts of a unit by directions of the whole layer (O'Mahony et al., CVPR workshops 2023)."""

import torch

from utils.errors import UserError
from utils.method.clustering import by_size, k_means, number_below, ward

RESTARTS, FEWEST = 5, 5
CUT = 3.5  # times the root of the scale: as many clusters as published, of units of EfficientNet-Lite0


def spatial_means(weight, bias, positions, tap_sums):
    """Means over space of all channels of a layer, from the tap sums of its input: ``(W S + b P) / P``, [n, C]."""
    sums = tap_sums.flatten(1) @ weight.flatten(1).T
    return (sums if bias is None else sums + bias * positions) / positions


def spread(means):
    """Mean squared distance of images' features [n, C] from their mean."""
    means = means.double()
    return float((means - means.mean(0)).square().sum(1).mean())


def concept_clusters(means, scale, number=None, threshold=None):
    """Clusters of a unit's reference images by the spatial means of all channels.

    Ward's merges, cut at a distance, give the number of clusters, k-means the clusters. Images whose squared distance
    from their centroid reaches a limit are dropped, then clusters of fewer than five images.

    Parameters
    ----------
    means : Tensor [n, C]
    scale : float
        ``spread`` of all training images, R^2: what distances are measured by where there is no ``threshold``.
    number : int, optional
        Of clusters, in place of Ward's.
    threshold : float, optional
        The published rule: distance of the cut and limit alike, 15 for InceptionV3's Mixed_7b. Both depend on the
        network's scale. Default, free of it: the cut is at 3.5 R, and the limit is R^2.

    Returns
    -------
    labels : LongTensor [n]
        -1 for images that were dropped.
    centroids : Tensor [K, C]
        The means of what is left; over their norms they are the concept vectors.

    Raises
    ------
    UserError
        No cluster is left.
    """
    if len(means) < FEWEST:
        raise UserError(f"there are {len(means)} images, and a concept has {FEWEST} or more: ask for more references")
    means = means.double()
    if number is None:
        number = number_below(ward(means), CUT * scale**0.5 if threshold is None else threshold)
    labels, centroids = k_means(means, number, RESTARTS)
    limit = scale if threshold is None else threshold
    labels = labels.where((means - centroids[labels]).square().sum(1) < limit, -1)
    kept = [one for one in range(number) if (labels == one).sum() >= FEWEST]
    if not kept:
        raise UserError(f"no cluster of {FEWEST} images or more is left of {len(means)}: try --distance_threshold")
    place = torch.full((number + 1,), -1)
    place[kept] = torch.arange(len(kept))
    labels = place[labels]
    order = by_size(labels, len(kept))
    place = torch.cat([order.argsort(), torch.tensor([-1])])
    labels = place[labels]
    return labels, torch.stack([means[labels == one].mean(0) for one in range(len(kept))])


def concept_vectors(centroids):
    """Directions of the layer's channels, of norm 1: [K, C]."""
    return centroids / centroids.norm(dim=1, keepdim=True)


def projection_rows(vectors, weight, bias, positions):
    """The units that concept vectors are: an image's value is their dot product with its spatial means.

    Parameters
    ----------
    vectors : Tensor [K, C]
    weight : Tensor [C, C_in, taps]
    bias : Tensor [C] or None
    positions : int

    Returns
    -------
    rows : Tensor [K, C_in, taps]
        ``rows . S`` is the value, but for ``constants``, which are the same for all images.
    constants : Tensor [K]
    """
    rows = torch.einsum("kc,cit->kit", vectors, weight.to(vectors)) / positions
    constants = torch.zeros(len(vectors)).to(vectors) if bias is None else vectors @ bias.to(vectors)
    return rows, constants
