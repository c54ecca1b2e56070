"""Clusters of images, against hand-worked cases and a search of all divisions."""

from itertools import product

import numpy as np
import pytest
import torch

from utils.errors import UserError
from utils.method.clustering import adjusted_rand_index, by_size, k_means, nearest, number_below, ward


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
