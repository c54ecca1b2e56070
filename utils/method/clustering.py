"""Clusters of images: k-means with seeded restarts, their number by Ward's method, and how two divisions agree."""

import numpy as np
import torch
from scipy.cluster.hierarchy import linkage
from scipy.cluster.vq import ClusterError, kmeans2

from utils.errors import UserError

RESTARTS, MOST_STARTS = 10, 100
ITERATIONS, MOST_ROUNDS = 5, 40


def k_means(features, number, restarts=RESTARTS):
    """k-means: of several seeded restarts that of least squared distances; the same for the same features.

    Parameters
    ----------
    features : Tensor [n, F]
    number : int
        Of clusters.
    restarts : int

    Returns
    -------
    labels : LongTensor [n]
        Clusters by size, the largest first; of equal size that of the smallest image.
    centroids : Tensor [number, F], float64

    Raises
    ------
    UserError
        Fewer different features than clusters.
    """
    points = features.double().numpy()
    different = len(np.unique(points, axis=0))
    if different < number:
        raise UserError(f"there are {different} different images for {number} clusters")
    found = [_one_k_means(points, number, seed) for seed in range(restarts)]
    centroids, labels, _ = min(found, key=lambda one: one[2])
    order = by_size(torch.from_numpy(labels), number)
    place = torch.empty_like(order)
    place[order] = torch.arange(number)
    return place[torch.from_numpy(labels).long()], torch.from_numpy(centroids)[order]


def _one_k_means(points, number, seed):
    """Centroids, labels and the sum of squared distances of one start; one in which a cluster ran empty is begun anew.

    scipy's makes as many iterations as it is told: a few at a time, until nothing changes.
    """
    generator = np.random.default_rng(seed)
    for _ in range(MOST_STARTS):
        try:
            # equal points make a division by zero within k-means++, which then draws one of them
            with np.errstate(divide="ignore", invalid="ignore"):
                centroids, labels = kmeans2(points, number, ITERATIONS, minit="++", missing="raise", seed=generator)
            for _ in range(MOST_ROUNDS):
                before = labels
                centroids, labels = kmeans2(points, centroids, ITERATIONS, minit="matrix", missing="raise")
                if np.array_equal(before, labels):
                    break
        except ClusterError:
            continue
        return centroids, labels, np.square(points - centroids[labels]).sum()
    raise UserError(f"k-means finds no {number} clusters of {len(points)} images")


def by_size(labels, number):
    """Clusters in the order that decides Ineq. 5: the largest first, of equal size that of the smallest image."""
    places = torch.arange(len(labels))
    sizes = [int((labels == one).sum()) for one in range(number)]
    first = [int(places[labels == one].min()) if sizes[one] else len(labels) for one in range(number)]
    return torch.tensor(sorted(range(number), key=lambda one: (-sizes[one], first[one])))


def ward(features):
    """Ward's merges of points [n, F]: scipy's [n - 1, 4]."""
    return linkage(features.double().numpy(), "ward")


def number_below(merges, distance):
    """How many clusters there are where merges at a ``distance`` or more are undone."""
    return 1 + int((merges[:, 2] >= distance).sum())


def nearest(features, centroids):
    """The nearest of centroids [..., K, F] to each of features [..., n, F]: LongTensor [..., n]."""
    return torch.cdist(features.double(), centroids.double()).argmin(-1)


def adjusted_rand_index(one, other):
    """How far two divisions of the same images agree beyond chance (Hubert and Arabie 1985): 1 the same, 0 chance.

    ``(sum_ij C(n_ij, 2) - E) / ((A + B) / 2 - E)`` with ``A = sum_i C(n_i., 2)``, ``B = sum_j C(n_.j, 2)`` and
    ``E = A B / C(n, 2)``. NaN where both have one cluster, or each image its own.

    Parameters
    ----------
    one, other : LongTensor [n]
        Labels from 0.
    """
    table = torch.zeros(int(one.max()) + 1, int(other.max()) + 1, dtype=torch.float64)
    table.index_put_((one, other), torch.ones(len(one), dtype=torch.float64), accumulate=True)
    together, rows, columns, everything = (_pairs(n).sum() for n in (table, table.sum(1), table.sum(0), table.sum()))
    expected = rows * columns / everything
    return float((together - expected) / ((rows + columns) / 2 - expected))


def _pairs(numbers):
    return numbers * (numbers - 1) / 2
