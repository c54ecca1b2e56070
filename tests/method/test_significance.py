"""Nulls: permutations, p and q values, and intervals by resampling channels."""

import itertools

import numpy as np
import pytest
import torch

from utils.method.significance import mean_with_interval, p_value, permutation, q_values, sequential_test


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


def test_a_sequential_test_of_worked_cases():
    """Three nulls that reach the value end it: 3 / 4, whatever is drawn later; else (reached + 1) / (draws + 1)."""
    nulls = [0.1, 0.7, 0.5, 0.9]
    nulls_with_more = [*nulls, 0.8, 0.1]
    assert sequential_test(0.5, nulls) == sequential_test(0.5, nulls_with_more) == (3 / 4, 3, 4)
    assert sequential_test(0.6, nulls) == (3 / 5, 2, 4) and sequential_test(0.95, nulls) == (1 / 5, 0, 4)
    assert sequential_test(0.5, [np.nan, *nulls[:2], np.nan, *nulls[2:]]) == (3 / 4, 3, 4)
    assert [sequential_test(value, nulls).has_stopped for value in (0.5, 0.6)] == [True, False]
    for value, without in ((np.nan, nulls), (0.5, []), (0.5, [np.nan])):
        p, *counts = sequential_test(value, without)
        assert np.isnan(p) and counts == [0, 0]


def drawn_one_by_one(value, nulls):
    """The p value of Besag and Clifford, draw by draw."""
    reached = 0
    for draw, null in enumerate(nulls, start=1):
        reached += bool(null >= value)
        if reached == 3:
            return reached / draw
    return (reached + 1) / (len(nulls) + 1)


@pytest.mark.parametrize("values", [range(7), [0, 0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 0, 0, 1], [5] * 7])
def test_a_sequential_p_value_is_valid_where_a_value_and_its_nulls_are_exchangeable(values):
    """All orders of a value and six nulls are equally likely: P(p <= a) is a without ties, at most a with them."""
    orders = list(itertools.permutations(values))
    p = [sequential_test(value, nulls).p for value, *nulls in orders]
    assert p == [drawn_one_by_one(value, nulls) for value, *nulls in orders]
    shares = {level: np.mean(np.array(p) <= level) for level in set(p)}
    assert all(share <= level + 1e-12 for level, share in shares.items())
    if len(set(values)) == 7:
        levels = (1 / 7, 2 / 7, 3 / 7, 3 / 6, 3 / 5, 3 / 4, 3 / 3)
        assert sorted(shares.items()) == [pytest.approx((level, level)) for level in levels]


def test_199_draws_find_as_many_by_chance_as_the_level_allows():
    """4,000 values that are drawn as their nulls are: P(p <= a) is at most a, but for four standard errors."""
    drawn = np.random.default_rng(0).normal(size=(4000, 200))
    p = np.array([sequential_test(value, nulls).p for value, *nulls in drawn])
    for level in (0.005, 0.05, 0.25, 0.6):
        assert np.mean(p <= level) <= level + 4 * np.sqrt(level * (1 - level) / len(p))
    assert p.min() == 1 / 200 and np.mean(p <= 0.05) > 0.03


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
