"""Concepts of a unit by directions of the whole layer (O'Mahony et al., CVPR workshops 2023)."""

import torch
from torch import Tensor

from utils.method.clustering import TooFewImagesError, by_size, centroids_of, k_means, number_below, ward

RESTARTS = 5
FEWEST = 5  # images of a concept
CUT = 3.5  # times the root of the scale: gives as many clusters as published for EfficientNet-Lite0


def spatial_means(weight: Tensor, bias: Tensor | None, positions: int, tap_sums: Tensor) -> Tensor:
    """Means over space of all channels of a layer, from the tap sums of its input: ``(W S + b P) / P``, [n, C]."""
    sums = tap_sums.flatten(1) @ weight.flatten(1).T
    return (sums if bias is None else sums + bias * positions) / positions


def spread(means: Tensor) -> float:
    """Mean squared distance of images' features [n, C] from their mean."""
    means = means.double()
    return float((means - means.mean(0)).square().sum(1).mean())


def concept_clusters(
    means: Tensor, scale: float, number: int | None = None, threshold: float | None = None
) -> tuple[Tensor, Tensor]:
    """Clusters of a unit's reference images by the spatial means of all channels.

    Ward's merges, cut at a distance, give the number of clusters; k-means finds them. Images whose squared distance
    from their centroid reaches a limit are dropped, then clusters of fewer than five images.

    Parameters
    ----------
    means : Tensor [n, C]
    scale : float
        ``spread`` of all training images, R^2: the unit of distances where there is no ``threshold``.
    number : int, optional
        Number of clusters, in place of Ward's.
    threshold : float, optional
        The published rule: both the distance of the cut and the limit, 15 for InceptionV3's Mixed_7b. Both depend on
        the network's scale. The default does not: the cut is at 3.5 R, and the limit is R^2.

    Returns
    -------
    labels : LongTensor [n]
        -1 for images that were dropped.
    centroids : Tensor [K, C]
        The means of the images that are left; divided by their norms, they are the concept vectors.

    Raises
    ------
    TooFewImagesError
        No cluster is left.
    """
    if len(means) < FEWEST:
        raise TooFewImagesError(
            f"there are {len(means)} images, and a concept has {FEWEST} or more: ask for more references"
        )
    means = means.double()
    if number is None:
        number = number_below(ward(means), CUT * scale**0.5 if threshold is None else threshold)
    labels, centroids = k_means(means, number, RESTARTS)
    limit = scale if threshold is None else threshold
    labels = labels.where((means - centroids[labels]).square().sum(1) < limit, -1)
    kept = [cluster for cluster in range(number) if (labels == cluster).sum() >= FEWEST]
    if not kept:
        raise TooFewImagesError(
            f"no cluster of {FEWEST} images or more is left of {len(means)}: try --distance_threshold"
        )
    labels = _renumbered(labels, kept, number)
    return labels, centroids_of(means, labels)


def _renumbered(labels: Tensor, kept: list[int], number: int) -> Tensor:
    """Labels of the clusters that are ``kept`` of ``number``, in the order of their sizes; -1 for all other images."""
    among_kept = torch.full((number + 1,), -1)
    among_kept[kept] = torch.arange(len(kept))
    labels = among_kept[labels]
    ranks = by_size(labels[labels >= 0], len(kept)).argsort()
    return torch.cat([ranks, torch.tensor([-1])])[labels]


def concept_vectors(centroids: Tensor) -> Tensor:
    """Directions of the layer's channels, of norm 1: [K, C]."""
    return centroids / centroids.norm(dim=1, keepdim=True)


def projection_rows(vectors: Tensor, weight: Tensor, bias: Tensor | None, positions: int) -> tuple[Tensor, Tensor]:
    """The units that compute concept vectors: an image's value is their dot product with its spatial means.

    Parameters
    ----------
    vectors : Tensor [K, C]
    weight : Tensor [C, C_in, taps]
    bias : Tensor [C] or None
    positions : int

    Returns
    -------
    rows : Tensor [K, C_in, taps]
        ``rows . S`` is the value without ``constants``, which are the same for all images.
    constants : Tensor [K]
    """
    rows = torch.einsum("kc,cit->kit", vectors, weight.to(vectors)) / positions
    constants = torch.zeros(len(vectors)).to(vectors) if bias is None else vectors @ bias.to(vectors)
    return rows, constants
