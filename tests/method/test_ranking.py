"""Areas and average precisions against loops over images, and against worked cases."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles import area, average_precision
from utils.method.evaluation import auroc
from utils.method.ranking import StreamedPrecision, rank_images


def test_a_worked_case():
    scores, own = torch.tensor([[0.1, 0.4, 0.35, 0.8]]), torch.tensor([False, False, True, True])
    areas, precisions = rank_images(scores, own)
    assert areas.tolist() == [0.75]
    assert precisions.tolist() == pytest.approx([0.5 * 1 + 0.5 * 2 / 3])


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000), distinct=st.integers(2, 20), size=st.integers(2, 15))
def test_both_equal_loops_whatever_is_tied(seed, distinct, size):
    random = np.random.default_rng(seed)
    scores, own = random.integers(0, distinct, (3, size)) - 3.0, np.arange(size) < random.integers(1, size)
    areas, precisions = rank_images(torch.tensor(scores, dtype=torch.float32), torch.tensor(own))
    for row, found, precision in zip(scores, areas, precisions, strict=True):
        if np.ptp(row) == 0:
            assert found.isnan() and precision.isnan()
            continue
        assert found.item() == pytest.approx(area(row, own))
        assert found.item() == pytest.approx(auroc(row[own], row[~own]))
        assert precision.item() == pytest.approx(average_precision(row, own.tolist()))


def test_a_random_ranking_has_a_half_and_about_the_prevalence():
    torch.manual_seed(0)
    areas, precisions = rank_images(torch.randn(200, 1000), torch.arange(1000) < 50)
    assert areas.mean().item() == pytest.approx(0.5, abs=0.01)
    assert precisions.mean().item() == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize("own", [[False] * 3, [True] * 3])
def test_without_own_images_or_without_others_there_is_nothing_to_rank(own):
    for values in rank_images(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor(own)):
        assert values.isnan().all()


def test_no_rows_make_no_values():
    assert [len(values) for values in rank_images(torch.empty(0, 3), torch.tensor([True, False, False]))] == [0, 0]


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
