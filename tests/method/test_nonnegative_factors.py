"""NMF: the objective falls, an exactly factorable matrix is factored, codes are scipy's."""

from itertools import pairwise

import numpy as np
import torch
from scipy.optimize import nnls

from utils.method.nonnegative_factors import factorise, nonnegative_codes


def uniform(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def error(values, factors):
    return float((values - factors.codes @ factors.components).square().sum())


def test_the_objective_falls_with_every_iteration():
    values = uniform(40, 12).double()
    errors = [error(values, factorise(values, 4, iterations=number, seed=0)) for number in range(12)]
    assert all(after < before for before, after in pairwise(errors))


def test_one_update_of_each_factor_is_lee_and_seungs():
    """From factors of one component, five updates of each, by loops."""
    values = uniform(5, 3).double()
    start = factorise(values, 1, iterations=0, seed=3)
    found = factorise(values, 1, iterations=1, seed=3)
    z, h = start.codes[:, 0].numpy().copy(), start.components[0].numpy().copy()
    for _ in range(5):
        z = z * np.array([sum(values[i, j].item() * h[j] for j in range(3)) / (z[i] * (h @ h)) for i in range(5)])
    for _ in range(5):
        h = h * np.array([sum(z[i] * values[i, j].item() for i in range(5)) / ((z @ z) * h[j]) for j in range(3)])
    np.testing.assert_allclose((found.codes @ found.components).numpy(), np.outer(z, h), rtol=1e-6)


def test_the_only_exact_factors_are_found():
    """Every row has one component alone, and every column at most one: there are no other exact factors."""
    components = torch.tensor([[3.0, 4, 0, 0, 0], [0, 0, 5, 0, 0], [0, 0, 0, 3, 4]])
    values = torch.eye(3).repeat(20, 1) * (0.5 + uniform(60, 1, seed=1)) @ components
    found = factorise(values, 3, iterations=200, seed=0)
    order = (components @ found.components.T).argmax(1)
    torch.testing.assert_close(found.components[order], components / 5, atol=1e-4, rtol=0)
    assert error(values, found) < 1e-6 * float(values.square().sum())


def test_factors_are_nonnegative_and_components_have_norm_1():
    codes, components = factorise(uniform(30, 8), 3, iterations=20, seed=0)
    assert (codes >= 0).all() and (components >= 0).all()
    torch.testing.assert_close(components.norm(dim=1), torch.ones(3))


def test_codes_of_given_components_are_those_of_nonnegative_least_squares():
    components = uniform(6, 9, seed=1).double()
    values = (uniform(20, 9, seed=2) - 0.2).double()
    expected = np.stack([nnls(components.T.numpy(), row.numpy())[0] for row in values])
    found = nonnegative_codes(values, components, steps=3000).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert (expected == 0).any()


def test_nothing_has_codes_of_nothing():
    assert not nonnegative_codes(torch.zeros(3, 5), uniform(2, 5), steps=5).any()
    assert torch.isfinite(factorise(torch.zeros(6, 5), 2, iterations=3, seed=0).codes).all()
