"""PURE's virtual neurons: a unit where an image's circuit is nearest to one of its clusters, and nothing elsewhere."""

import torch
from torch import Tensor

from utils.method.order import largest_first


def virtual_neurons(maxima: Tensor, nearest: Tensor, number: int) -> Tensor:
    """Values of a unit's virtual neurons: its maximum of ``max(a, 0)`` where the nearest centroid is theirs, else 0.

    Parameters
    ----------
    maxima : Tensor [N]
        The unit's largest ``max(a, 0)`` in each image.
    nearest : integer Tensor [N]
        Number of the centroid that is nearest to the image's circuit.
    number : int
        K, of centroids.

    Returns
    -------
    Tensor [K, N]
    """
    return torch.stack([maxima.where(nearest == cluster, 0) for cluster in range(number)])


def strongest_images(maxima: Tensor, nearest: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The images in which a unit is largest, and the virtual neuron of each.

    Returns
    -------
    images : LongTensor [n]
        At most ``number`` of 0 ... N-1, among the images in which the unit is active; the largest activation first, for
        equal ones the smaller index.
    clusters : LongTensor [n]
    """
    images = largest_first(maxima, number)
    images = images[maxima[images] > 0]
    return images, nearest[images].long()
