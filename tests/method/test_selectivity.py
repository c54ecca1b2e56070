"""Selectivity, strengths of equal effect and changes of logits, against sums by hand."""

from math import inf, isnan, nan

import numpy as np
import pytest
import torch

from utils.method.selectivity import (
    HALVINGS,
    central_range,
    drawn_half,
    interval_over_images,
    logit_changes,
    selectivity,
    selectivity_of_layer,
    strengths_for,
)
from utils.method.significance import Interval, mean_with_interval, ratio_with_interval


def linear(slopes):
    return lambda strengths: torch.tensor(slopes, dtype=torch.float64)[:, None] * strengths


# --------------------------------------------------------------------------------------------------------------------
# Selectivity


def test_selectivity_is_the_size_of_the_effect_over_the_harm():
    assert selectivity(-0.6, Interval(0.2, 0.1, 0.3)) == (pytest.approx(3.0), False)
    assert selectivity(0.6, Interval(0.2, nan, nan)) == (pytest.approx(3.0), False)


def test_a_harm_below_the_half_width_of_its_interval_gives_a_lower_bound():
    assert selectivity(-0.6, Interval(0.2, -0.05, 0.45)) == (pytest.approx(0.6 / 0.45), True)
    assert selectivity(-0.6, Interval(0.2, 0.0, 0.4)) == (pytest.approx(3.0), False)


def test_selectivity_without_harm_is_infinite_and_without_values_unknown():
    assert selectivity(-0.5, Interval(0.0, 0.0, 0.0)) == (inf, False)
    for value, harm in ((0.0, Interval(0.0, 0.0, 0.0)), (nan, Interval(1.0, 0.9, 1.1)), (1.0, Interval(nan, nan, nan))):
        assert isnan(selectivity(value, harm).value) and not selectivity(value, harm).is_least


def test_selectivity_of_a_layer_is_the_ratio_of_sums_and_resamples_channels():
    effects, harms = [-0.6, 0.2, 0.4, 1.0, 0.3, 0.5, nan], [0.3, 0.1, 0.1, 0.5, 0.2, 0.1, 9.0]
    channels = [1, 1, 2, 3, 4, 5, 6]
    ratio, interval = selectivity_of_layer(effects, harms, channels)
    assert ratio == (pytest.approx(3.0 / 1.3), False) and interval.mean == pytest.approx(3.0 / 1.3)
    assert 0.3 / 0.2 <= interval.low < interval.mean < interval.high <= 5.0


def test_a_layer_whose_harm_is_of_one_channel_alone_has_a_lower_bound():
    ratio, _ = selectivity_of_layer([1.0] * 6, [6.0, 0, 0, 0, 0, 0], range(6))
    harm = mean_with_interval([6.0, 0, 0, 0, 0, 0], range(6))
    assert harm.mean < (harm.high - harm.low) / 2
    assert ratio == (pytest.approx(1 / harm.high), True)


def test_a_ratio_of_sums_is_resampled_as_a_loop_would():
    tops, bottoms, groups = np.array([1.0, 2, 4, 3, 5, 7]), np.array([2.0, 2, 3, 5, 1, 4]), np.array([0, 0, 1, 2, 3, 4])
    drawn = np.random.default_rng(0).integers(5, size=(5000, 5))
    ratios = []
    for of_resample in drawn:
        rows = np.concatenate([np.flatnonzero(groups == group) for group in of_resample])
        ratios.append(tops[rows].sum() / bottoms[rows].sum())
    expected = np.quantile(ratios, (0.025, 0.975))
    found = ratio_with_interval(tops, bottoms, groups)
    np.testing.assert_allclose(found, [22 / 17, *expected])


def test_a_ratio_without_values_or_with_few_groups_has_no_interval():
    assert all(isnan(value) for value in ratio_with_interval([], [], []))
    assert all(isnan(value) for value in ratio_with_interval([1.0], [0.0], [1]))
    few = ratio_with_interval([1.0, 3.0, nan], [2.0, 2.0, 5.0], [1, 2, 3])
    assert few.mean == 1.0 and isnan(few.low) and isnan(few.high)


def test_an_interval_over_images_is_that_of_a_mean():
    found = interval_over_images(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    half_width = 1.96 * np.std([1, 2, 3, 6], ddof=1) / 2
    np.testing.assert_allclose(found, [3.0, 3.0 - half_width, 3.0 + half_width])
    assert interval_over_images(torch.tensor([2.0])).mean == 2.0 and isnan(interval_over_images(torch.ones(1)).low)
    assert all(map(isnan, interval_over_images(torch.empty(0))))


# --------------------------------------------------------------------------------------------------------------------
# Equal effect


def test_strengths_of_linear_effects_are_ratios():
    slopes = [-0.4, -0.1, -0.05, -0.8]
    found = strengths_for(linear(slopes), torch.full((4,), -0.2, dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor([0.5, 2.0, 4.0, 0.25], dtype=torch.float64))


def test_a_target_that_no_strength_reaches_is_not_reached():
    targets = torch.tensor([-0.2, -0.2, 0.0, torch.nan], dtype=torch.float64)
    assert strengths_for(linear([-0.049, 0.4, -1.0, -1.0]), targets).isnan().all()


def test_a_target_may_have_either_sign():
    found = strengths_for(linear([0.4, -0.4]), torch.tensor([0.1, -0.1], dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor([0.25, 0.25], dtype=torch.float64))


def test_of_several_crossings_the_first_that_is_seen_counts():
    """Up to 2 at s = 1, down to 0 at 2, and up again."""

    def effects_at(strengths):
        return torch.where(strengths <= 1, 2 * strengths, torch.where(strengths <= 2, 4 - 2 * strengths, strengths))

    found = strengths_for(effects_at, torch.tensor([1.5, 3.0], dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor([0.75, 3.0], dtype=torch.float64))


def test_a_curved_effect_is_found_to_a_thousandth():
    found = strengths_for(lambda strengths: strengths**3, torch.tensor([0.2, 5.0], dtype=torch.float64))
    np.testing.assert_allclose(found, np.cbrt([0.2, 5.0]), rtol=1e-3)


def test_a_step_is_found_from_above():
    """ReLU and ranges may jump: the strength found has the effect, as far as halving goes."""
    found = strengths_for(lambda strengths: (strengths > 0.3).double(), torch.tensor([1.0], dtype=torch.float64))
    assert abs(found.item() - 0.3) < 0.5 / 2**HALVINGS + 1e-9


# --------------------------------------------------------------------------------------------------------------------
# Logits, halves and ranges


def test_changes_of_the_own_class_by_hand():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 3.0]])
    differences = torch.tensor([[[-1.5, 0.0, 0.3], [0.5, 0.1, 0.2]], [[0.0, 0.0, 0.0], [0.0, 3.0, 0.0]]])
    found = logit_changes(logits, differences, torch.tensor([0, 1]))
    torch.testing.assert_close(found.own, torch.tensor([[-1.5, 0.1], [0.0, 3.0]]))
    torch.testing.assert_close(found.margin, torch.tensor([[-1.5 - 0.15, 0.1 - 0.35], [0.0, 3.0]]))
    assert found.correct.tolist() == [[False, False], [True, True]]


def test_half_of_the_inputs_are_drawn():
    assert drawn_half(torch.tensor([4, 0, 3, 1, 2])).tolist() == [1, 0, 0, 1, 1]
    assert drawn_half(torch.tensor([1, 0])).tolist() == [0, 1]


def test_the_central_range_leaves_out_both_ends():
    low, high = central_range(torch.arange(1001.0), 0.95)
    assert (low, high) == (pytest.approx(25.0), pytest.approx(975.0))
    assert all(map(isnan, central_range(torch.empty(0), 0.95)))
