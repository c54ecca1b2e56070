"""Matching units to concepts on some images, judging them on others: against loops over pairs of images."""

import numpy as np
import pytest
import torch

from tests.oracles import area, average_precision, correlation
from utils.method.matching import judge, match


def worlds():
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(40) % 5
    own = torch.stack([targets == 0, (targets == 1) | (targets == 2)])
    scores = torch.randn(4, 40, generator=generator).round(decimals=1)  # with ties
    return scores, own


def test_a_concept_has_the_unit_of_the_largest_area():
    scores, own = worlds()
    shown = own.any(0)
    areas = [[area(one.numpy(), of.numpy()) for one in scores[:, shown]] for of in own[:, shown]]
    assert match(scores[:, shown], own[:, shown]).tolist() == np.argmax(areas, axis=1).tolist()


def test_one_unit_may_serve_both_and_a_constant_one_is_chance():
    own = torch.tensor([[True, True, False, False], [False, False, True, True]])
    constant, wrong = torch.zeros(4), torch.tensor([0.0, 1.0, 2.0, 3.0])
    assert match(torch.stack([wrong, constant]), own).tolist() == [1, 0]
    assert match(torch.stack([constant]), own).tolist() == [0, 0]


def test_judged_values_equal_loops():
    scores, own = worlds()
    found = judge(scores[:2], own)
    shown = own.any(0)
    for k in range(2):
        one, of = scores[k].numpy(), own[k].numpy()
        assert found.score.auroc[k].item() == pytest.approx(area(one, of))
        assert found.score.ap[k].item() == pytest.approx(average_precision(one, of))
        assert found.score.pearson[k].item() == pytest.approx(correlation(one, of))
        assert found.auroc_others[k].item() == pytest.approx(area(one[shown], of[shown]))


def test_a_unit_that_is_the_same_for_all_images_is_as_good_as_chance():
    own = torch.tensor([[True, False, False, False], [False, True, True, False]])
    found = judge(torch.ones(2, 4), own)
    assert found.score.auroc.tolist() == found.auroc_others.tolist() == [0.5, 0.5]
    assert found.score.ap.tolist() == [0.25, 0.5]
    assert found.score.pearson.tolist() == [0, 0]


def test_no_image_of_a_concept_cannot_be_judged():
    own = torch.tensor([[False, False, False], [False, True, True]])
    found = judge(torch.rand(2, 3), own)
    assert all(value[0].isnan() for value in (*found.score, found.auroc_others)) and not found.score.ap[1].isnan()
    nothing = judge(torch.rand(2, 3), torch.zeros(2, 3, dtype=torch.bool))
    assert all(value.isnan().all() for value in (*nothing.score, nothing.auroc_others))
