"""Fractions, summaries and densities."""

import numpy as np
import pytest
from scipy.integrate import trapezoid
from scipy.stats import norm

from utils.method.evaluation import (
    auroc,
    density_curves,
    failed_conditions,
    fractions_of_original,
    overshoots,
    separation,
    summarise,
)


def test_fractions_and_their_summary():
    original, sums = [2.0, 4.0, 0.0, -1.0, 8.0], [[1.0, 2.0], [4.0, 0.0], [1.0, 1.0], [1.0, 1.0], [6.0, 2.0]]
    assert fractions_of_original(original[:2], sums[:2]).tolist() == [[0.5, 1.0], [1.0, 0.0]]
    assert not np.isfinite(fractions_of_original(original, sums)[2]).any()
    summary = summarise(original, sums, [True, True, True, True, False])
    assert summary.mean.tolist() == [0.75, 0.5]
    assert summary.median.tolist() == [0.75, 0.5]
    assert (summary.counted, summary.included, summary.images) == (2, 4, 5)
    assert summarise(original, sums, [False] * 5).included == 0
    assert np.isnan(summarise(original, sums, [False] * 5).mean).all()


def test_auroc_equals_a_loop_over_pairs():
    random = np.random.default_rng(0)
    positives, negatives = random.integers(0, 6, 13), random.integers(-2, 5, 17)  # with ties
    wins = [(p > n) + 0.5 * (p == n) for p in positives for n in negatives]
    assert auroc(positives, negatives) == pytest.approx(np.mean(wins))
    assert auroc([3, 4], [1, 2]) == 1
    assert auroc([1, 1], [1]) == 0.5
    assert np.isnan(auroc([], [1])) and np.isnan(auroc([1], []))


def test_the_density_is_scipys_and_integrates_to_one():
    values = np.random.default_rng(0).normal(3, 2, 2000)
    grid, curves = density_curves({"a": values, "b": values[:3]})
    assert trapezoid(curves["a"], grid) == pytest.approx(1, abs=0.01)
    assert np.abs(curves["a"] - norm(3, 2).pdf(grid)).max() < 0.02
    assert grid[0] < values.min() < values.max() < grid[-1]


@pytest.mark.parametrize("values", [[0.0], [2.5, 2.5, 2.5], [1e8, 1e8 + 1e-8]])
def test_values_that_are_all_equal_have_no_density(values):
    grid, curves = density_curves({"constant": np.array(values), "other": np.array([1.0, 2.0])})
    assert curves["constant"] is None
    assert curves["other"] is not None
    assert np.all(np.diff(grid) > 0)
    assert density_curves({"constant": np.array(values)})[1] == {"constant": None}


def test_a_narrow_density_beside_a_wide_one_is_not_lost_between_grid_points():
    random = np.random.default_rng(0)
    grid, curves = density_curves({"wide": random.normal(0, 1000, 50), "narrow": random.normal(0, 1e-3, 50)})
    assert trapezoid(curves["narrow"], grid) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("fractions", "failed", "overshooting"),
    [
        ((0.8, 0.2, 0.9), [], False),
        ((0.79, 0.2, 0), ["own 0.79"], False),
        ((0.9, 0.21, 0), ["other 0.21"], False),
        ((0.1, 0.8, 0), ["own 0.10", "other 0.80"], False),
        ((1.26, -0.26, 0), [], True),
        ((1.25, -0.25, 2), [], False),
    ],
)
def test_what_keeps_a_concept_from_being_clean(fractions, failed, overshooting):
    summary = summarise([1.0, 1.0], [fractions, fractions], [True, True])
    assert failed_conditions(summary, 0) == failed
    assert overshoots(summary) == overshooting


def test_without_an_image_to_measure_nothing_is_clean():
    assert failed_conditions(summarise([-1.0], [[1.0, 0.0, 0.0]], [True]), 0) == ["no image"]


def test_one_concept_alone_has_no_others_to_be_told_from():
    assert np.isnan(separation([np.ones(3)], [np.ones((3, 3))])).all()
