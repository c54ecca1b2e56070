"""Shares by least squares, against scipy's solver and a loop over images."""

import weakref

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from utils.method import shares
from utils.method.shares import least_squares_shares, least_squares_shares_of_each, on_simplex, second_moments


def problem(seed=0, num_inputs=4, taps=2, sizes=(5, 7, 11)):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(3, num_inputs, taps, generator=generator, dtype=torch.float64)
    groups = [torch.randn(n, num_inputs, taps, generator=generator).double() + 1 for n in sizes]
    return weights, groups, [1.0, 1.0, 0.3]


def moments_of(groups):
    return [second_moments(group) for group in groups]


def value(shares, weight, groups, importance, target, ridge=0.01):
    """What is minimised, image by image and concept by concept."""
    num_concepts, total = len(groups), 0.0
    diagonal = np.zeros(len(weight))
    for g, (images, counts) in enumerate(zip(groups, importance, strict=True)):
        for image in images.numpy():
            inputs = (weight * image).sum(1)
            wanted = (target * image).sum()
            for k in range(num_concepts):
                total += counts / len(images) * ((shares[k] * inputs).sum() - (k == g) * wanted) ** 2
            diagonal += counts / len(images) * inputs_squared(weight, image)
    return total + ridge * diagonal.mean() * ((shares - 1 / num_concepts) ** 2).sum()


def inputs_squared(weight, image):
    """What an image adds to the diagonal of the quadratic form, which the ridge is measured by."""
    return (weight * image).sum(1) ** 2


def by_scipy(weight, groups, importance, target):
    shape = len(groups), len(weight)
    constraint = {"type": "eq", "fun": lambda flat: flat.reshape(shape).sum(0) - 1}
    found = minimize(
        lambda flat: value(flat.reshape(shape), weight, groups, importance, target),
        np.full(shape, 1 / shape[0]).ravel(),
        bounds=[(0, 1)] * (shape[0] * shape[1]),
        constraints=[constraint],
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-12},
    )
    assert found.success
    return found.x.reshape(shape)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("other_target", [False, True])
def test_the_shares_are_those_that_scipy_finds(seed, other_target):
    weights, groups, importance = problem(seed)
    targets = weights.flip(0) if other_target else None
    found = least_squares_shares(weights, moments_of(groups), importance, targets, tolerance=1e-10)
    assert found.shape == (3, 3, 4)
    for unit in range(3):
        weight, target = weights[unit].numpy(), (weights if targets is None else targets)[unit].numpy()
        expected = by_scipy(weight, groups, importance, target)
        best, ours = (value(shares, weight, groups, importance, target) for shares in (expected, found[unit].numpy()))
        assert ours <= best * (1 + 1e-7)
        np.testing.assert_allclose(found[unit], expected, atol=2e-4)


def test_shares_are_on_the_simplex_and_units_do_not_see_each_other():
    weights, groups, importance = problem()
    together = least_squares_shares(weights, moments_of(groups), importance)
    assert (together >= 0).all()
    torch.testing.assert_close(together.sum(1), torch.ones(3, 4, dtype=torch.float64))
    for unit in range(3):
        alone = least_squares_shares(weights[unit : unit + 1], moments_of(groups), importance)[0]
        torch.testing.assert_close(together[unit], alone, rtol=0, atol=1e-9)


@pytest.mark.parametrize("tolerance", [1e-1, 1e-3, 1e-5])
def test_it_stops_no_further_from_the_best_than_it_promises(tolerance):
    weights, groups, importance = problem(num_inputs=12, sizes=(30, 20, 50))
    best = least_squares_shares(weights, moments_of(groups), importance, tolerance=1e-12)
    found = least_squares_shares(weights, moments_of(groups), importance, tolerance=tolerance)
    for unit in range(3):
        weight = weights[unit].numpy()
        nothing = sum(
            w * np.mean([(weight * image).sum() ** 2 for image in images.numpy()])
            for images, w in zip(groups, importance, strict=True)
        )
        ours, least = (value(one[unit].numpy(), weight, groups, importance, weight) for one in (found, best))
        assert ours - least <= tolerance * nothing


def test_inputs_that_only_one_concept_has_are_its_own():
    """Input 0 is seen in images of concept 1 alone, input 1 in those of concept 2; the rest of the sum is 1."""
    first, second = (torch.tensor(one).double()[None, :, None] for one in ([3.0, 0.0], [0.0, 2.0]))
    shares = least_squares_shares(torch.ones(1, 2, 1).double(), moments_of([first, second]), [1.0, 1.0], ridge=1e-6)
    torch.testing.assert_close(shares[0], torch.eye(2).double(), rtol=0, atol=1e-3)


def test_a_unit_that_does_not_respond_keeps_equal_shares():
    weights, groups, importance = problem()
    shares = least_squares_shares(torch.zeros_like(weights), moments_of(groups), importance)
    torch.testing.assert_close(shares, torch.full_like(shares, 1 / 3))


def test_the_nearest_point_of_the_simplex():
    """Against bisection on the shift that brings the sum to 1."""
    values = 3 * torch.randn(6, 5, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    low, high = values.min(1, keepdim=True).values - 1, values.max(1, keepdim=True).values
    for _ in range(100):
        middle = (low + high) / 2
        enough = (values - middle).clamp(min=0).sum(1, keepdim=True) >= 1
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    torch.testing.assert_close(on_simplex(values), (values - low).clamp(min=0))


@pytest.mark.parametrize("together", [1, 2, 3])
def test_units_with_concepts_of_their_own_are_divided_as_each_alone(together, monkeypatch):
    weights, _, importance = problem()
    groups_of_each = [problem(seed)[1] for seed in (1, 2, 3)]
    monkeypatch.setattr(shares, "TOTALS_BYTES", together * 8 * weights[0].numel() ** 2)
    of_each = least_squares_shares_of_each(weights, [moments_of(groups) for groups in groups_of_each], importance)
    for weight, groups, of_unit in zip(weights, groups_of_each, of_each, strict=True):
        alone = least_squares_shares(weight[None], moments_of(groups), importance)[0]
        torch.testing.assert_close(of_unit, alone)


def test_the_moments_of_a_unit_are_let_go_before_those_of_later_units_are_made():
    """Those of 20 units of a wide layer do not fit into memory."""
    weights, groups, importance = problem()
    given = []
    most = 0

    def moments_of_each():
        nonlocal most
        for _ in range(8):
            moments = moments_of(groups)
            given.append(weakref.ref(moments[0]))
            most = max(most, sum(reference() is not None for reference in given))
            yield moments

    least_squares_shares_of_each(weights[:1].expand(8, -1, -1), moments_of_each(), importance)
    assert len(given) == 8 and most <= 2
