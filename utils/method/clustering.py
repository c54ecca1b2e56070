"""Clusters of images: k-means with seeded restarts, their number by Ward's method, and agreement of clusterings."""

from typing import NamedTuple

import numpy as np
import torch
from scipy.cluster.hierarchy import linkage
from scipy.cluster.vq import ClusterError, kmeans2
from torch import Tensor

from utils.errors import UserError

RESTARTS = 10
MOST_STARTS = 100
ITERATIONS = 5
MOST_ROUNDS = 40


class _Clustering(NamedTuple):
    """One start of k-means: centroids [number, F], labels [n], and the sum of squared distances."""

    centroids: np.ndarray
    labels: np.ndarray
    squared_distances: float


def k_means(features: Tensor, number: int, restarts: int = RESTARTS) -> tuple[Tensor, Tensor]:
    """The k-means clustering of least squared distances among several seeded restarts; deterministic.

    Parameters
    ----------
    features : Tensor [n, F]
    number : int
        Number of clusters.
    restarts : int

    Returns
    -------
    labels : LongTensor [n]
        Clusters are numbered by size, the largest first; of equal ones, that of the smallest image index is first.
    centroids : Tensor [number, F], float64

    Raises
    ------
    UserError
        There are fewer distinct features than clusters.
    """
    points = features.double().numpy()
    different = len(np.unique(points, axis=0))
    if different < number:
        raise UserError(f"there are {different} different images for {number} clusters")
    starts = [_one_k_means(points, number, seed) for seed in range(restarts)]
    best = min(starts, key=lambda start: start.squared_distances)
    labels = torch.from_numpy(best.labels).long()
    order = by_size(labels, number)
    return order.argsort()[labels], torch.from_numpy(best.centroids)[order]


def _one_k_means(points: np.ndarray, number: int, seed: int) -> _Clustering:
    """k-means from one seed; a start in which a cluster becomes empty is repeated.

    scipy's k-means takes a fixed number of iterations: it is called with a few at a time, until nothing changes.
    """
    generator = np.random.default_rng(seed)
    for _ in range(MOST_STARTS):
        try:
            # equal points cause a division by zero within k-means++, which then draws one of them
            with np.errstate(divide="ignore", invalid="ignore"):
                centroids, labels = kmeans2(points, number, ITERATIONS, minit="++", missing="raise", seed=generator)
            for _ in range(MOST_ROUNDS):
                before = labels
                centroids, labels = kmeans2(points, centroids, ITERATIONS, minit="matrix", missing="raise")
                if np.array_equal(before, labels):
                    break
        except ClusterError:
            continue
        return _Clustering(centroids, labels, np.square(points - centroids[labels]).sum())
    raise UserError(f"k-means finds no {number} clusters of {len(points)} images")


def by_size(labels: Tensor, number: int) -> Tensor:
    """Clusters in the order used by Ineq. 5: largest first; of equal ones, that of the smallest image index."""
    images = torch.arange(len(labels))
    sizes = labels.bincount(minlength=number)
    firsts = torch.full((number,), len(labels)).scatter_reduce(0, labels, images, "amin")
    return torch.from_numpy(np.lexsort((firsts.numpy(), -sizes.numpy())))


def ward(features: Tensor) -> np.ndarray:
    """Ward's merges of points [n, F]: scipy's [n - 1, 4]."""
    return linkage(features.double().numpy(), "ward")


def number_below(merges: np.ndarray, distance: float) -> int:
    """The number of clusters after undoing merges at a ``distance`` or more."""
    return 1 + int((merges[:, 2] >= distance).sum())


def nearest(features: Tensor, centroids: Tensor) -> Tensor:
    """The nearest of centroids [..., K, F] to each of features [..., n, F]: LongTensor [..., n]."""
    return torch.cdist(features.double(), centroids.double()).argmin(-1)


def adjusted_rand_index(first: Tensor, second: Tensor) -> float:
    """Agreement of two clusterings beyond chance (Hubert and Arabie 1985): 1 if they are equal, 0 by chance.

    ``(sum_ij C(n_ij, 2) - E) / ((A + B) / 2 - E)`` with ``A = sum_i C(n_i., 2)``, ``B = sum_j C(n_.j, 2)`` and
    ``E = A B / C(n, 2)``. NaN if both have a single cluster, or a cluster for each image.

    Parameters
    ----------
    first, second : LongTensor [n]
        Labels from 0.
    """
    table = torch.zeros(int(first.max()) + 1, int(second.max()) + 1, dtype=torch.float64)
    table.index_put_((first, second), torch.ones(len(first), dtype=torch.float64), accumulate=True)
    together = _pairs(table)
    rows = _pairs(table.sum(1))
    columns = _pairs(table.sum(0))
    expected = rows * columns / _pairs(table.sum())
    return float((together - expected) / ((rows + columns) / 2 - expected))


def _pairs(numbers: Tensor) -> Tensor:
    """The number of pairs within groups of these sizes."""
    return (numbers * (numbers - 1) / 2).sum()
