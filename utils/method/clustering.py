"""Clusters of images: k-means of many problems at once, their number by Ward's method, and agreement of clusterings."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from scipy.cluster.hierarchy import linkage
from torch import Tensor
from torch.nn.functional import one_hot

from utils.errors import UserError

ALGORITHM = "inner products"  # of k-means; splits keep it, so that those of another one are not mixed with them
RESTARTS = 10
MOST_STARTS = 100
MOST_STEPS = 1000
MOST_POINTS = 8192  # whose inner products are kept
AT_ONCE = 2**21  # inner products, and sums of them, of the problems that are solved at once
MOVED_AT_ONCE = 2**23  # inner products of points that change their cluster


class TooFewImagesError(UserError):
    """Images are too few, or too similar, for the clusters that were asked for."""


class Clustering(NamedTuple):
    """Clusters of n points: ``labels`` LongTensor [n] and ``centroids`` Tensor [number, F] float64.

    Clusters are numbered by size, the largest first; of equal ones, that of the smallest index is first.
    """

    labels: Tensor
    centroids: Tensor


def k_means(features: Tensor, number: int, restarts: int = RESTARTS) -> Clustering:
    """The k-means clustering of least squared distances among several seeded restarts; deterministic.

    Parameters
    ----------
    features : Tensor [n, F]
    number : int
        Number of clusters.
    restarts : int

    Raises
    ------
    TooFewImagesError
        There are fewer distinct features than clusters.
    """
    (clustering,) = k_means_of_many(features[None], number, restarts)
    if clustering is None:
        different = _count_different(features, number)
        if different < number:
            raise TooFewImagesError(f"there are {different} different images for {number} clusters")
        raise TooFewImagesError(f"k-means finds no {number} clusters of {len(features)} images")
    return clustering


def k_means_of_many(features: Tensor, number: int, restarts: int = RESTARTS) -> list[Clustering | None]:
    """``k_means`` of many problems of the same size; the result of one does not depend on the others.

    The first centroids are drawn as in k-means++. A start in which a cluster becomes empty is repeated with the next
    draws of its seed. The iterations need inner products of the points alone: where a point changes its cluster, sums
    of inner products change for two clusters.

    Parameters
    ----------
    features : Tensor [B, n, F]
    number : int
        Number of clusters of each problem.
    restarts : int

    Returns
    -------
    list of B Clusterings
        None for a problem that has no such clusters, for example with fewer distinct features than clusters.
    """
    num_points = features.shape[1]
    results: list[Clustering | None] = [None] * len(features)
    solvable = [b for b, points in enumerate(features) if _count_different(points, number) == number]
    values = num_points * (min(num_points, MOST_POINTS) + restarts * number)
    size = max(1, AT_ONCE // values)
    for first in range(0, len(solvable), size):
        block = solvable[first : first + size]
        points = features[block].double()
        for b, of_problem, labels in zip(block, points, _best_starts(points, number, restarts), strict=True):
            if labels[0] >= 0:
                results[b] = _clustering(of_problem, labels, number)
    return results


def _count_different(points: Tensor, enough: int) -> int:
    """The number of different points [n, F], counted up to ``enough``."""
    different: set[bytes] = set()
    for point in (points + 0.0).numpy():  # -0 becomes 0
        different.add(point.tobytes())
        if len(different) == enough:
            break
    return len(different)


def _clustering(points: Tensor, labels: Tensor, number: int) -> Clustering:
    """The Clustering of points [n, F] with ``labels`` [n] in any order of clusters."""
    labels = by_size(labels, number).argsort()[labels]
    return Clustering(labels, centroids_of(points, labels))


def centroids_of(features: Tensor, labels: Tensor) -> Tensor:
    """The mean features [n, F] of each cluster, [K, F] float64; points with label -1 belong to none."""
    chosen = labels >= 0
    sizes = labels[chosen].bincount()
    sums = torch.zeros(len(sizes), features.shape[1], dtype=torch.float64)
    return sums.index_add_(0, labels[chosen], features[chosen].double()) / sizes[:, None]


# --------------------------------------------------------------------------------------------------------------------
# All starts of k-means of some problems


def _best_starts(points: Tensor, number: int, restarts: int) -> Tensor:
    """The labels [B, n] of least squared distances among the starts of B problems [B, n, F]; -1: all have failed."""
    products = _Products.of(points)
    labels = torch.full((len(points), restarts, points.shape[1]), -1)
    explained = points.new_full((len(points), restarts), -torch.inf)
    for firsts, uniforms in _draws(points.shape[1], number, restarts):
        problems, starts = (labels[..., 0] < 0).nonzero(as_tuple=True)
        if not len(problems):
            break
        nearest_seeds = _plus_plus(products, problems, firsts[starts], uniforms[starts])
        labels[problems, starts], explained[problems, starts] = _lloyd(products, problems, nearest_seeds, number)
    return labels[torch.arange(len(points)), explained.argmax(1)]


def _draws(num_points: int, number: int, restarts: int) -> Iterator[tuple[Tensor, Tensor]]:
    """For each attempt, what each start draws: a point [restarts], and numbers [restarts, number - 1] below 1."""
    generators = [np.random.default_rng(seed) for seed in range(restarts)]
    for _ in range(MOST_STARTS):
        firsts = torch.empty(restarts, dtype=torch.long)
        uniforms = torch.empty(restarts, number - 1, dtype=torch.float64)
        for start, generator in enumerate(generators):
            firsts[start] = int(generator.integers(num_points))
            uniforms[start] = torch.from_numpy(generator.uniform(size=number - 1))
        yield firsts, uniforms


@dataclass(frozen=True)
class _Products:
    """Inner products of the points of B problems.

    ``points`` [B, n, F] have mean 0; ``squares`` [B, n] are their squared norms; ``gram`` [B, n, n] are all inner
    products, or None if there are too many points to keep them.
    """

    points: Tensor
    squares: Tensor
    gram: Tensor | None

    @classmethod
    def of(cls, points: Tensor) -> "_Products":
        points = points - points.mean(1, keepdim=True)
        kept = points.shape[1] <= MOST_POINTS
        gram = torch.stack([of_problem @ of_problem.T for of_problem in points]) if kept else None
        return cls(points, points.square().sum(-1), gram)

    def rows(self, problems: Tensor, images: Tensor) -> Tensor:
        """Inner products of some points with all points of their problems: [m, n]."""
        if self.gram is not None:
            return self.gram[problems, images]
        pairs = zip(problems.tolist(), images.tolist(), strict=True)
        return torch.stack([self.points[problem] @ self.points[problem, image] for problem, image in pairs])

    def sums(self, problems: Tensor, labels: Tensor, number: int) -> Tensor:
        """Sums of the inner products of all points with those of each cluster: [starts, number, n]."""
        sums = self.points.new_empty(len(labels), number, labels.shape[1])
        for problem in problems.unique().tolist():
            starts = problems == problem
            members = one_hot(labels[starts], number).mT.flatten(0, 1).to(self.points)
            points = self.points[problem]
            of_clusters = members @ points @ points.T if self.gram is None else members @ self.gram[problem]
            sums[starts] = of_clusters.unflatten(0, (-1, number))
        return sums


def _plus_plus(products: _Products, problems: Tensor, firsts: Tensor, uniforms: Tensor) -> Tensor:
    """The nearest of the first centroids of some starts, which k-means++ draws: [starts, n].

    Each further centroid is a point, drawn in proportion to its squared distance from the nearest earlier one.
    """
    squares = products.squares[problems]

    def distances_from(seeds: Tensor) -> Tensor:
        squared = squares + squares.gather(1, seeds[:, None]) - 2 * products.rows(problems, seeds)
        return squared.clamp(min=0)

    distances = distances_from(firsts)
    nearest_seeds = torch.zeros(distances.shape, dtype=torch.long)
    for number, draws in enumerate(uniforms.T, start=1):
        cumulated = (distances / distances.sum(1, keepdim=True)).cumsum(1)
        seeds = torch.searchsorted(cumulated, draws[:, None].contiguous())[:, 0].clamp(max=distances.shape[1] - 1)
        from_seeds = distances_from(seeds)
        nearest_seeds[from_seeds < distances] = number
        distances = torch.minimum(distances, from_seeds)
    return nearest_seeds


@dataclass(frozen=True)
class _Starts:
    """Starts that go on: which they are, their problems, ``labels`` [starts, n] and ``_Products.sums`` of these."""

    numbers: Tensor
    problems: Tensor
    labels: Tensor
    sums: Tensor

    def some(self, chosen: Tensor) -> "_Starts":
        if chosen.all():
            return self
        return _Starts(self.numbers[chosen], self.problems[chosen], self.labels[chosen], self.sums[chosen])


def _lloyd(products: _Products, problems: Tensor, labels: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Lloyd's iterations of some starts from ``labels`` [starts, n], until no label changes.

    Returns
    -------
    labels : LongTensor [starts, n]
        -1 where a cluster became empty.
    explained : Tensor [starts]
        The sum of squared norms less the sum of squared distances from the centroids.
    """
    result = torch.full_like(labels, -1)
    explained = products.squares.new_full((len(labels),), -torch.inf)
    starts = _Starts(torch.arange(len(labels)), problems, labels, products.sums(problems, labels, number))
    for _ in range(MOST_STEPS):
        sizes = starts.labels.new_zeros(len(starts.labels), number)
        sizes.scatter_add_(1, starts.labels, torch.ones_like(starts.labels))
        filled = (sizes > 0).all(1)
        starts, sizes = starts.some(filled), sizes[filled]
        own_sums = starts.sums.gather(1, starts.labels[:, None])[:, 0]
        squares = own_sums.new_zeros(sizes.shape).scatter_add_(1, starts.labels, own_sums)  # of the sums of clusters
        # squared distances from the centroids, but for the squared norms of the points
        distances = (squares / sizes.square())[..., None] - starts.sums * (2 / sizes)[..., None]
        nearest_clusters = distances.min(1).indices  # argmin takes six times as long
        changed = (nearest_clusters != starts.labels).any(1)
        result[starts.numbers[~changed]] = starts.labels[~changed]
        explained[starts.numbers[~changed]] = (squares / sizes).sum(1)[~changed]
        if not changed.any():
            break
        starts = _moved(products, starts.some(changed), nearest_clusters[changed], number)
    return result, explained


def _moved(products: _Products, starts: _Starts, labels: Tensor, number: int) -> _Starts:
    """Starts with new ``labels`` [starts, n]; the sums are changed in place."""
    if products.gram is None:
        return replace(starts, labels=labels, sums=products.sums(starts.problems, labels, number))
    sums = starts.sums.flatten(0, 1)
    rows, images = (labels != starts.labels).nonzero(as_tuple=True)
    for some in torch.arange(len(rows)).split(max(1, MOVED_AT_ONCE // labels.shape[1])):
        moving, points = rows[some], images[some]
        inner_products = products.rows(starts.problems[moving], points)
        sums.index_add_(0, moving * number + labels[moving, points], inner_products)
        sums.index_add_(0, moving * number + starts.labels[moving, points], inner_products, alpha=-1)
    return replace(starts, labels=labels)


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
