"""The plane of a map: principal components against numpy's eigh, and pictures that hide none."""

import numpy as np
import pytest
import torch

from utils.method.planar_map import in_unit_square, principal_components, with_room


def random_points(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape) @ np.diag(np.arange(1, shape[1] + 1.0)))


@pytest.mark.parametrize("shape", [(40, 6), (5, 30)])
def test_principal_components_are_those_of_the_covariance(shape):
    features = random_points(*shape)
    scores, shares = principal_components(features, 3)
    centred = (features - features.mean(0)).numpy()
    values, directions = np.linalg.eigh(centred.T @ centred)
    for k in range(3):
        direction = directions[:, -1 - k]
        direction = direction * np.sign(direction[np.abs(direction).argmax()])
        assert scores[:, k].numpy() == pytest.approx(centred @ direction)
        assert float(shares[k]) == pytest.approx(values[-1 - k] / values.sum())


def test_a_hand_worked_map():
    """Along (3, 4) by 5 and -5, across it by 1 and -1: 50 and 2 of a variance of 52."""
    features = torch.tensor([[3, 4], [-3, -4], [0.8, -0.6], [-0.8, 0.6]]) + 7
    scores, shares = principal_components(features)
    expected = torch.tensor([[5, 0], [-5, 0], [0, 1], [0, -1]], dtype=torch.float64)
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(shares, torch.tensor([50, 2], dtype=torch.float64) / 52, rtol=1e-5, atol=0)


def test_the_sign_of_a_component_depends_on_the_points_alone():
    features = random_points(20, 4)
    scores, _ = principal_components(features)
    mirrored, _ = principal_components(-features)
    torch.testing.assert_close(mirrored, -scores)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(principal_components(features[order])[0], scores[order])


@pytest.mark.parametrize("features", [torch.ones(4, 3), torch.ones(1, 3), torch.arange(4.0)[:, None]])
def test_what_has_no_two_dimensions_is_a_line_or_a_point(features):
    scores, shares = principal_components(features)
    assert scores.shape == (len(features), 2) and not scores[:, 1].any()
    assert shares.tolist() == ([1, 0] if len(features.unique()) > 1 else [0, 0])
    places = in_unit_square(scores)
    assert (places[:, 1] == 0.5).all() and ((places >= 0) & (places <= 1)).all()


def test_points_fill_the_unit_square():
    places = in_unit_square(torch.tensor([[-2.0, 10], [0, 15], [2, 30]]))
    assert places.tolist() == [[0, 0], [0.5, 0.25], [1, 1]]


def test_pictures_are_given_to_points_in_order_where_they_hide_none():
    places = torch.tensor([[0, 0], [0.05, 0.05], [0.3, 0], [0, 0.1], [0.5, 0.5]])
    assert with_room(places, [0, 1, 2, 3, 4], 0.1, 9) == [0, 2, 3, 4]
    assert with_room(places, [1, 0, 2, 3, 4], 0.1, 9) == [1, 2, 4]
    assert with_room(places, [0, 1, 2, 3, 4], 0.1, 2) == [0, 2]
    places = torch.rand(200, 2, generator=torch.Generator().manual_seed(0))
    chosen = with_room(places, list(range(200)), 0.1, 200)
    apart = (places[:, None] - places[None]).abs().amax(-1)
    assert all(apart[a, b] >= 0.1 for a in chosen for b in chosen if a != b)
    assert all(apart[one, chosen].min() < 0.1 for one in range(200) if one not in chosen)
