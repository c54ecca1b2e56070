"""Nulls: permutations, p and q values, and intervals by resampling channels."""

import itertools

import numpy as np
import pytest
import torch

from utils.method.significance import mean_with_interval, p_value, permutation, q_values


def test_a_permutation_depends_on_what_it_is_for_and_on_nothing_else():
    first = permutation(50, "weights", 3, [[1], [2]], 0)
    permutation(50, "weights", 3, [[1], [2]], 1)
    assert torch.equal(first, permutation(50, "weights", 3, [[1], [2]], 0))
    assert torch.equal(first.sort().values, torch.arange(50))
    others = [("weights", 3, [[1], [2]], 1), ("owners", 3, [[1], [2]], 0), ("weights", 4, [[1], [2]], 0)]
    others.append(("weights", 3, [[1, 2]], 0))
    drawn = [first, *(permutation(50, *other) for other in others)]
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(drawn, 2))


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
