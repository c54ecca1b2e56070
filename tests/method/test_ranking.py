"""Areas, average precisions and correlations against loops over images, scipy, and worked cases."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.oracles import area, average_precision
from utils.method import ranking
from utils.method.evaluation import auroc
from utils.method.ranking import StreamedPrecision, rank_images


def test_a_worked_case():
    scores, own = torch.tensor([[0.1, 0.4, 0.35, 0.8]]), torch.tensor([False, False, True, True])
    areas, precisions, _ = rank_images(scores, own)
    assert areas.tolist() == [0.75]
    assert precisions.tolist() == pytest.approx([0.5 * 1 + 0.5 * 2 / 3])


def test_a_worked_correlation():
    """Scores 1, 2, 3, 6 and 0, 0, 0, 1: centred -2, -1, 0, 3 and -1/4, -1/4, -1/4, 3/4; 3 / sqrt(14 * 3/4)."""
    own = torch.tensor([False, False, False, True])
    scores = torch.tensor([[1.0, 2.0, 3.0, 6.0], [-1.0, -2.0, -3.0, -6.0], [0.0, 0.0, 0.0, 5.0]])
    expected = 3 / (14 * 3 / 4) ** 0.5
    assert rank_images(scores, own).pearson.tolist() == pytest.approx([expected, -expected, 1.0])


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000), distinct=st.integers(2, 20), size=st.integers(2, 15))
def test_all_equal_loops_whatever_is_tied(seed, distinct, size):
    random = np.random.default_rng(seed)
    scores, own = random.integers(0, distinct, (3, size)) - 3.0, np.arange(size) < random.integers(1, size)
    ranked = rank_images(torch.tensor(scores, dtype=torch.float32), torch.tensor(own))
    for row, found, precision, pearson in zip(scores, *ranked, strict=True):
        if np.ptp(row) == 0:
            assert found.isnan() and precision.isnan() and pearson.isnan()
            continue
        assert pearson.item() == pytest.approx(stats.pearsonr(row, own.astype(float)).statistic, abs=1e-12)
        assert found.item() == pytest.approx(area(row, own))
        assert found.item() == pytest.approx(auroc(row[own], row[~own]))
        assert precision.item() == pytest.approx(average_precision(row, own.tolist()))


def test_a_random_ranking_has_a_half_and_about_the_prevalence():
    torch.manual_seed(0)
    areas, precisions, correlations = rank_images(torch.randn(200, 1000), torch.arange(1000) < 50)
    assert areas.mean().item() == pytest.approx(0.5, abs=0.01)
    assert precisions.mean().item() == pytest.approx(0.05, abs=0.01)
    assert correlations.mean().item() == pytest.approx(0, abs=0.01)


def test_a_correlation_keeps_its_digits_far_from_zero():
    """Means of squares would cancel: the scores differ from 2^18 by sixteenths, which float32 holds exactly."""
    random = np.random.default_rng(0)
    own = np.arange(500) < 20
    scores = random.integers(-8, 8, (3, 500)) / 16 + own * 0.25
    far = rank_images(torch.tensor(scores + 2.0**18, dtype=torch.float32), torch.tensor(own)).pearson
    expected = [stats.pearsonr(row, own.astype(float)).statistic for row in scores]
    assert far.tolist() == pytest.approx(expected, abs=1e-12)


def test_scores_are_not_changed_and_blocks_change_nothing(monkeypatch):
    torch.manual_seed(0)
    scores, own = torch.randn(5, 40, dtype=torch.float64), torch.arange(40) < 4
    before, whole = scores.clone(), rank_images(scores, own).pearson
    assert scores.equal(before)
    monkeypatch.setattr(ranking, "CENTRED_TOGETHER", 80)
    assert rank_images(scores, own).pearson.tolist() == pytest.approx(whole.tolist(), rel=1e-14)


@pytest.mark.parametrize("value", [0.1, 1e30, -3e-30])
def test_scores_that_are_all_equal_have_no_correlation(value):
    """Their mean may differ from them by rounding, so that what is left is no zero."""
    assert rank_images(torch.full((2, 7), value), torch.arange(7) < 2).pearson.isnan().all()


@pytest.mark.parametrize("own", [[False] * 3, [True] * 3])
def test_without_own_images_or_without_others_there_is_nothing_to_rank(own):
    for values in rank_images(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor(own)):
        assert values.isnan().all()


def test_no_rows_make_no_values():
    assert [len(values) for values in rank_images(torch.empty(0, 3), torch.tensor([True, False, False]))] == [0, 0, 0]


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), distinct=st.integers(2, 20), size=st.integers(2, 15), block=st.integers(1, 5))
def test_precision_of_blocks_equals_that_of_all_scores(seed, distinct, size, block):
    random = np.random.default_rng(seed)
    own = np.arange(size) < random.integers(1, size)
    scores = torch.tensor(random.integers(0, distinct, (4, size)), dtype=torch.float32)
    counted = StreamedPrecision(scores[:, own])
    for part in (slice(0, 1), slice(1, 4)):
        for others in scores[part][:, ~own].split(block, 1):
            counted.add(others, part)
    for found, signed in ((counted.highest_first(), scores), (counted.lowest_first(), -scores)):
        assert found.tolist() == pytest.approx([average_precision(row, own.tolist()) for row in signed.numpy()])
