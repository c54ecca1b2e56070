"""Concept vectors against hand-worked clusters and plain convolutions."""

import pytest
import torch
from torch import nn

from utils.errors import UserError
from utils.method.concept_directions import concept_clusters, concept_vectors, projection_rows, spatial_means, spread

# nine images near (0, 0), five near (10, 0), one far from both
POINTS = torch.tensor([[0.0, y] for y in range(9)] + [[10.0, y] for y in range(5)] + [[10.0, 30.0]])


def test_small_clusters_are_dropped_and_the_largest_cluster_is_the_first():
    labels, centroids = concept_clusters(POINTS, 100.0, number=3)
    assert labels.tolist() == [0] * 9 + [1] * 5 + [-1]
    assert centroids.tolist() == [[0.0, 4.0], [10.0, 2.0]]


def test_the_published_threshold_cuts_and_drops_by_the_same_number():
    # at 15 Ward leaves the far image alone, which is too few; (0, 0) and (0, 8) lie at squared distance 16 of (0, 4)
    labels, centroids = concept_clusters(POINTS, float("nan"), threshold=15.0)
    assert labels.tolist() == [-1, *[0] * 7, -1, *[1] * 5, -1]
    assert centroids.tolist() == [[0.0, 4.0], [10.0, 2.0]]


def test_without_a_threshold_only_the_scale_counts():
    labels, _ = concept_clusters(POINTS, spread(POINTS))
    for factor in (1e-3, 1e3):
        scaled, _ = concept_clusters(factor * POINTS, spread(factor * POINTS))
        assert torch.equal(scaled, labels)
    assert spread(torch.tensor([[0.0, 0.0], [6.0, 8.0]])) == 25


def test_where_no_cluster_is_left_the_message_says_what_to_try():
    with pytest.raises(UserError, match="no cluster of 5 images or more is left of 15: try --distance_threshold"):
        concept_clusters(POINTS, 1.0, number=12)


@pytest.mark.parametrize("number", [None, 1])
def test_too_few_images_are_refused(number):
    for few in (0, 1, 4):
        with pytest.raises(UserError, match=f"there are {few} images, and a concept has 5 or more"):
            concept_clusters(POINTS[:few], 1.0, number)


@pytest.mark.parametrize("bias", [False, True])
def test_spatial_means_and_projections_are_those_of_the_layers_output(bias):
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 6, 3, padding=1, stride=2, bias=bias).requires_grad_(False)
    x = torch.randn(4, 3, 7, 7)
    output, columns = convolution(x), nn.functional.unfold(x, 3, padding=1, stride=2)
    weight, sums, positions = convolution.weight.flatten(2), columns.sum(-1).view(4, 3, 9), columns.shape[-1]
    means = spatial_means(weight, convolution.bias, positions, sums)
    torch.testing.assert_close(means, output.mean((2, 3)))
    vectors = concept_vectors(torch.randn(2, 6))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
    rows, constants = projection_rows(vectors, weight, convolution.bias, positions)
    values = torch.einsum("bit,kit->bk", sums, rows) + constants
    torch.testing.assert_close(values, output.mean((2, 3)) @ vectors.T)
