"""References: rows of many units against one at a time, the identity behind them, p and q values, intervals."""

import itertools

import numpy as np
import pytest
import torch

from utils.method.disentangling import shares_of_owners, split_sources
from utils.method.least_squares import least_squares_shares
from utils.method.nulls import (
    mean_with_interval,
    p_value,
    permutation,
    q_values,
    rows_by_arv,
    rows_by_least_squares,
)


def units(num_units=5, num_inputs=7, taps=2, num_concepts=3):
    torch.manual_seed(0)
    weights = torch.randn(num_units, num_inputs, taps, dtype=torch.float64)
    return weights, torch.randn(num_concepts, num_inputs, taps, dtype=torch.float64)


def test_a_permutation_depends_on_what_it_is_for_and_on_nothing_else():
    first = permutation(50, "weights", 3, [[1], [2]], 0)
    permutation(50, "weights", 3, [[1], [2]], 1)
    assert torch.equal(first, permutation(50, "weights", 3, [[1], [2]], 0))
    assert torch.equal(first.sort().values, torch.arange(50))
    others = [("weights", 3, [[1], [2]], 1), ("owners", 3, [[1], [2]], 0), ("weights", 4, [[1], [2]], 0)]
    others.append(("weights", 3, [[1, 2]], 0))
    drawn = [first, *(permutation(50, *other) for other in others)]
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(drawn, 2))


@pytest.mark.parametrize("rho", [0.3, 0.7, 1.0])
def test_the_rule_on_many_units_is_the_rule_on_each(rho):
    weights, means = units()
    rows = rows_by_arv(weights, means, rho)
    assert rows.shape == (3, 5, 7, 2)
    for unit, weight in enumerate(weights):
        arvs = torch.stack([(weight * mean).sum(1) for mean in means])
        owners = [
            next((k + 1 for k in range(3) if all(rho * arvs[k, i] > arvs[j, i] for j in range(3) if j != k)), 0)
            for i in range(7)
        ]
        for k in range(3):
            kept = torch.tensor([owner in (0, k + 1) for owner in owners])
            assert torch.equal(rows[k, unit], weight * kept[:, None])


def test_owners_of_many_units_are_those_of_each():
    arvs = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))
    together = split_sources(arvs, 0.8)
    assert all(torch.equal(together[unit], split_sources(arvs[:, unit], 0.8)) for unit in range(4))
    assert torch.equal(shares_of_owners(together, 3)[:, 2], shares_of_owners(together[2], 3))


@pytest.mark.parametrize("ties", [False, True])
def test_a_split_of_two_at_rho_1_is_half_the_channel_and_half_a_sign_linear_discriminant(ties):
    """``c'_1 = (a + d) / 2`` with ``d = sum_i |W_i| sgn(M_1i - M_2i) S_i``, and ``c'_2 = (a - d) / 2``.

    One tap, no bias, and class means that differ for every input of weight other than 0. The inputs of equal ones, with
    or without a weight, are the residual r, and on top of both: ``(a + d + r) / 2``.
    """
    random = torch.Generator().manual_seed(1)
    weight, inputs = (torch.randn(*shape, dtype=torch.float64, generator=random) for shape in ((9,), (30, 9)))
    means = torch.randn(2, 9, dtype=torch.float64, generator=random)
    weight[4] = 0
    if ties:
        means[0, :3] = means[1, :3]
    assert (weight < 0).any() and (means < 0).any() and (weight * (means[0] - means[1]) < 0).any()
    first, second = rows_by_arv(weight[None, :, None], means[..., None], 1.0)[:, 0, :, 0] @ inputs.T
    channel = inputs @ weight
    discriminant = sum(weight[i].abs() * (means[0, i] - means[1, i]).sign() * inputs[:, i] for i in range(9))
    residual = sum(weight[i] * inputs[:, i] for i in range(9) if means[0, i] == means[1, i])
    torch.testing.assert_close(first, (channel + discriminant + residual) / 2)
    torch.testing.assert_close(second, (channel - discriminant + residual) / 2)
    if not ties:
        torch.testing.assert_close(first, (channel + discriminant) / 2)


def test_least_squares_on_many_units_is_that_on_each_and_shares_everything_out():
    weights, _ = units()
    groups = [torch.randn(n, 7, 2, generator=torch.Generator().manual_seed(n)) for n in (6, 8, 20)]
    targets = weights.flip(0)
    for target in (None, targets):
        rows = rows_by_least_squares(weights, groups, [1.0, 1.0, 0.5], target)
        torch.testing.assert_close(rows.sum(0), weights)
        shares = least_squares_shares(weights, groups, [1.0, 1.0, 0.5], target)
        torch.testing.assert_close(rows, shares.transpose(0, 1)[..., None] * weights, atol=0.02, rtol=0)


def test_p_values():
    assert p_value(0.5, [0.1, 0.5, 0.6, 0.2]) == 3 / 5
    assert p_value(0.9, torch.tensor([0.1, 0.5])) == 1 / 3
    assert p_value(0.5, [np.nan, 0.6, 0.1]) == 2 / 3
    assert np.isnan([p_value(np.nan, [0.1]), p_value(0.5, []), p_value(0.5, [np.nan])]).all()


def test_q_values_of_a_worked_case():
    p = [0.041, 0.001, np.nan, 0.008, 0.039, 0.6]
    q = [0.05125, 0.005, np.nan, 0.02, 0.05125, 0.6]
    np.testing.assert_allclose(q_values(p), q)
    assert np.isnan(q_values([np.nan])).all() and len(q_values([])) == 0


def test_q_is_the_lowest_rate_at_which_the_step_up_procedure_finds_a_discovery():
    p = np.random.default_rng(0).random(12).round(2) ** 2
    ascending = np.sort(p)

    def found(rate):
        passing = [value for rank, value in enumerate(ascending, start=1) if value <= rate * rank / len(p) + 1e-12]
        return p <= max(passing, default=-1)

    q = q_values(p)
    for one, value in enumerate(q):
        assert found(value)[one] and not found(value - 1e-6)[one]


def test_the_interval_is_as_wide_as_channels_differ_not_concepts():
    random = np.random.default_rng(0)
    channels = np.repeat(np.arange(400), 3)
    values = random.normal(0, 1, 400)[channels] + 0.2
    mean, low, high = mean_with_interval(values, channels)
    assert mean == pytest.approx(values.mean())
    error = values[::3].std() / np.sqrt(400)
    assert (low, high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.1 * error)
    order = random.permutation(len(values))
    assert mean_with_interval(values[order], channels[order]) == pytest.approx((mean, low, high), rel=1e-12)


def test_the_mean_is_over_concepts_and_what_is_missing_does_not_count():
    mean, low, high = mean_with_interval([1.0, 2.0, 3.0, np.nan], [7, 7, 8, 9])
    assert mean == 2 and np.isnan([low, high]).all()
    assert np.isnan(mean_with_interval([np.nan], [1])).all() and np.isnan(mean_with_interval([], [])).all()
    mean, low, high = mean_with_interval([0.5] * 6, range(6))
    assert mean == low == high == 0.5
