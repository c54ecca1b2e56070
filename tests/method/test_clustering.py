"""Clusters of images, against hand-worked cases and a search of all divisions."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy.cluster.vq import ClusterError, kmeans2

from utils.errors import UserError
from utils.method import clustering
from utils.method.clustering import (
    adjusted_rand_index,
    by_size,
    k_means,
    k_means_of_many,
    nearest,
    number_below,
    ward,
)


def squared_distances(points, labels):
    clusters = [points[labels == one] for one in labels.unique()]
    return sum(float((cluster - cluster.mean(0)).square().sum()) for cluster in clusters)


@pytest.mark.parametrize("number", [2, 3])
def test_no_division_is_closer_to_its_means(number):
    points = torch.randn(8, 2, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
    labels, centroids = k_means(points, number)
    best = min(
        squared_distances(points, torch.tensor(labels))
        for labels in product(range(number), repeat=len(points))
        if len(set(labels)) == number
    )
    assert squared_distances(points, labels) == pytest.approx(best, abs=1e-12)
    for one in range(number):
        assert torch.allclose(centroids[one], points[labels == one].mean(0))
    assert torch.equal(nearest(points, centroids), labels)


def test_the_largest_cluster_is_the_first_and_the_same_features_make_the_same_clusters():
    points = torch.tensor([[9.0], [0.0], [0.1], [5.0], [5.1], [0.2]])
    labels, centroids = k_means(points, 3)
    assert labels.tolist() == [2, 0, 0, 1, 1, 0]
    assert centroids.flatten().tolist() == pytest.approx([0.1, 5.05, 9.0])
    again, _ = k_means(points, 3)
    assert torch.equal(labels, again)
    assert by_size(torch.tensor([1, 0, 0, 1, 2]), 4).tolist() == [1, 0, 2, 3]


def test_equal_images_make_no_more_clusters_than_there_are_different_ones():
    points = torch.tensor([[0.0], [0.0], [0.0], [1.0]])
    labels, _ = k_means(points, 2)
    assert labels.tolist() == [0, 0, 0, 1]
    with pytest.raises(UserError, match="2 different images for 3 clusters"):
        k_means(points, 3)


def noisy_groups(problems, number, images=60, features=20):
    """Points [problems, images, features] around ``number`` centres that are not far apart."""
    generator = torch.Generator().manual_seed(images)
    centres = torch.rand(problems, number, features, generator=generator)
    groups = torch.randint(number, (problems, images), generator=generator)
    noise = torch.randn(problems, images, features, generator=generator)
    return centres[torch.arange(problems)[:, None], groups] + 0.4 * noise


def scipys(points, number, restarts):
    """The labels of the best of scipy's k-means from as many seeds; a start with an empty cluster is repeated."""
    starts = []
    for seed in range(restarts):
        generator = np.random.default_rng(seed)
        while len(starts) == seed:
            try:
                _, labels = kmeans2(points, number, 200, minit="++", missing="raise", seed=generator)
                starts.append(torch.from_numpy(labels).long())
            except ClusterError:
                pass
    labels = min(starts, key=lambda labels: squared_distances(torch.from_numpy(points), labels))
    return by_size(labels, number).argsort()[labels]


@pytest.mark.parametrize("number", [2, 7, 20])
def test_k_means_of_many_equals_scipys(number):
    points = noisy_groups(12, number)
    equal = 0
    for problem, (labels, centroids) in zip(points.double(), k_means_of_many(points, number, 5), strict=True):
        expected = scipys(problem.numpy(), number, 5)
        equal += torch.equal(labels, expected)
        assert squared_distances(problem, labels) <= squared_distances(problem, expected) * (1 + 1e-12)
        assert torch.allclose(centroids, torch.stack([problem[labels == one].mean(0) for one in range(number)]))
    assert equal >= 0.95 * len(points)


def test_a_problem_does_not_depend_on_the_others(monkeypatch):
    points = noisy_groups(9, 5)
    points[4] = points[4, 0]  # a single point, again and again: it has no clusters
    together = k_means_of_many(points, 5)
    assert [found is None for found in together] == [number == 4 for number in range(9)]
    monkeypatch.setattr(clustering, "AT_ONCE", 1)
    alone = k_means_of_many(points.flip(0), 5)[::-1]
    for of_all, of_one in zip(together, alone, strict=True):
        assert of_all is of_one is None or all(map(torch.equal, of_all, of_one))


@pytest.mark.parametrize("limit", ["MOST_POINTS", "MOVED_AT_ONCE"])
def test_what_does_not_fit_into_memory_makes_the_same_clusters(limit, monkeypatch):
    points = noisy_groups(3, 5)
    expected = k_means_of_many(points, 5)
    monkeypatch.setattr(clustering, limit, 1)
    for found, before in zip(k_means_of_many(points, 5), expected, strict=True):
        assert torch.equal(found.labels, before.labels)
        assert torch.equal(found.centroids, before.centroids)


def test_a_start_in_which_a_cluster_becomes_empty_is_repeated_with_its_next_draws(monkeypatch):
    points = noisy_groups(2, 4)
    second = clustering._draws(60, 4, 1)
    next(second)
    expected = clustering._plus_plus(
        clustering._Products.of(points.double()),
        torch.tensor([0, 1]),
        *(values.expand(2, *values.shape[1:]) for values in next(second)),
    )
    seen = []
    plus_plus = clustering._plus_plus

    def with_an_empty_cluster(products, problems, firsts, uniforms):
        labels = plus_plus(products, problems, firsts, uniforms)
        seen.append((problems, labels))
        return labels.where((labels < 3) | (problems[:, None] == 0), 0) if len(seen) == 1 else labels

    monkeypatch.setattr(clustering, "_plus_plus", with_an_empty_cluster)
    first, other = k_means_of_many(points, 4, 1)
    assert [problems.tolist() for problems, _ in seen] == [[0, 1], [1]]
    assert torch.equal(seen[1][1][0], expected[1])
    for found in (first, other):
        assert found.labels.bincount(minlength=4).min() > 0


def test_a_problem_whose_starts_all_fail_has_no_clusters(monkeypatch):
    monkeypatch.setattr(clustering, "MOST_STARTS", 2)
    monkeypatch.setattr(
        clustering,
        "_lloyd",
        lambda products, problems, labels, number: (
            torch.full_like(labels, -1),
            torch.full((len(labels),), -torch.inf, dtype=torch.float64),
        ),
    )
    assert k_means_of_many(noisy_groups(2, 3), 3) == [None, None]
    with pytest.raises(UserError, match="k-means finds no 3 clusters of 60 images"):
        k_means(noisy_groups(1, 3)[0], 3)


def test_ward_by_hand():
    # two pairs at distance 1 each; between the pairs sqrt(2 n m / (n + m)) times the distance 10 of their means
    points = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    merges = ward(points)
    assert merges[:, 2].tolist() == pytest.approx([1, 1, np.sqrt(2 * 2 * 2 / 4) * 10])
    assert [number_below(merges, distance) for distance in (0.5, 1.5, 14, 14.2)] == [4, 2, 2, 1]
    assert number_below(ward(torch.tensor([[0.0], [15.0]])), 15) == 2  # a merge at the distance itself is undone


def test_adjusted_rand_index_by_hand():
    one, other = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 0, 1, 1, 2, 2])
    # pairs together in both: 2 of 15; A = 6, B = 3, E = 18 / 15
    assert adjusted_rand_index(one, other) == pytest.approx((2 - 1.2) / (4.5 - 1.2))
    assert adjusted_rand_index(one, 1 - one) == 1
    assert np.isnan(adjusted_rand_index(torch.zeros(4).long(), torch.zeros(4).long()))


def test_adjusted_rand_index_of_divisions_at_random_is_0_on_average():
    generator = torch.Generator().manual_seed(0)
    values = [
        adjusted_rand_index(*(torch.randint(3, (30,), generator=generator) for _ in range(2))) for _ in range(300)
    ]
    assert abs(np.mean(values)) < 0.01
