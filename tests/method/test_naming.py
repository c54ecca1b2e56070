"""Names of units: against loops over images and names, and how often units that are alike are named."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles import average_precision
from utils.method import naming
from utils.method.naming import (
    NOTHING,
    ChosenNames,
    choose_names,
    class_precisions,
    judged_values,
    name_scores,
    rank_p_values,
)

UNITS, CLASSES, IMAGES = 4, 12, 90


def images_per_class(targets, num_classes=CLASSES):
    """The numbers of images of all classes, then of images of other classes."""
    return torch.tensor([int((targets == output).sum()) for output in (*range(num_classes), -1)])


def score_by_hand(scores, targets, outputs):
    is_own = np.isin(targets, outputs)
    return (average_precision(scores, is_own.tolist()) - is_own.mean()) / (1 - is_own.mean())


def values_by_hand(scores, targets, outputs):
    """For each unit, its score less the mean of the others."""
    of_units = [score_by_hand(of_unit, targets, outputs) for of_unit in scores]
    return [of_units[u] - np.mean(of_units[:u] + of_units[u + 1 :]) for u in range(len(scores))]


def drawn(seed, distinct=10_000):
    random = np.random.default_rng(seed)
    targets = random.permutation(np.arange(IMAGES) % CLASSES)
    scores = random.integers(0, distinct, (UNITS, IMAGES)) + 300 * (targets % (2 + np.arange(UNITS)[:, None]))
    return scores.astype(np.float32), targets


def as_names(sets, num_classes=CLASSES):
    return torch.tensor([[output in outputs for output in range(num_classes)] for outputs in sets])


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), distinct=st.sampled_from([2, 20, 10_000]))
def test_scores_of_sets_equal_loops_whatever_is_tied(seed, distinct):
    scores, targets = drawn(seed, distinct)
    targets = np.where(targets < 10, targets, -1)  # others are ranked, too
    sets = [[0], [3], [1, 2], [0, 4, 9], list(range(10))]
    precisions = class_precisions(torch.from_numpy(scores), torch.from_numpy(targets), 10)
    found = name_scores(precisions, as_names(sets, 10), images_per_class(targets, 10))
    expected = [[score_by_hand(of_unit, targets, outputs) for outputs in sets] for of_unit in scores]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_scores_in_blocks_of_classes_are_the_same(monkeypatch):
    scores, targets = map(torch.from_numpy, drawn(1))
    whole = class_precisions(scores, targets, CLASSES)
    monkeypatch.setattr(naming, "BLOCK_VALUES", 5 * IMAGES)
    assert torch.equal(class_precisions(scores, targets, CLASSES), whole)


def test_a_name_without_images_has_no_score():
    scores, targets = map(torch.from_numpy, drawn(1))
    targets[targets == 5] = 6
    found = name_scores(class_precisions(scores, targets, CLASSES), as_names([[5], [6]]), images_per_class(targets))
    assert found[:, 0].isnan().all() and not found[:, 1].isnan().any()


@pytest.mark.parametrize("seed", range(8))
def test_the_whole_search_equals_a_loop_over_all_names_and_pairs(seed, monkeypatch):
    """The limits are such that some pairs are too frequent, and some names are not among the best."""
    limit, combined = 0.3, 5
    monkeypatch.setattr(naming, "LARGEST_PREVALENCE", limit)
    monkeypatch.setattr(naming, "COMBINED", combined)
    scores, targets = drawn(seed)
    sets = [[output] for output in range(CLASSES)] + [[0, 1], [2, 3, 4], [4, 5], [9, 11]]
    names = as_names(sets)
    images = images_per_class(targets)
    chosen = choose_names(class_precisions(torch.from_numpy(scores), torch.from_numpy(targets), CLASSES), names, images)
    new_scores, new_targets = drawn(seed + 1000)
    judged = judged_values(
        class_precisions(torch.from_numpy(new_scores), torch.from_numpy(new_targets), CLASSES),
        chosen.classes(names),
        images_per_class(new_targets),
    )
    of_sets = [values_by_hand(scores, targets, outputs) for outputs in sets]
    for unit in range(UNITS):
        best = sorted(range(len(sets)), key=lambda m: -of_sets[m][unit])[:combined]
        offered = [(of_sets[m][unit], sets[m], (m, NOTHING)) for m in range(len(sets))]
        for i, j in itertools.combinations(best, 2):
            both = sets[i] + sets[j]
            if len(set(both)) == len(both) and np.isin(targets, both).mean() <= limit:
                offered.append((values_by_hand(scores, targets, both)[unit], both, (i, j)))
        value, outputs, indices = max(offered, key=lambda name: name[0])
        assert (chosen.first[unit], chosen.second[unit]) == indices
        assert chosen.values[unit].item() == pytest.approx(value)
        assert chosen.classes(names)[unit].nonzero().flatten().tolist() == sorted(outputs)
        assert judged[unit].item() == pytest.approx(values_by_hand(new_scores, new_targets, outputs)[unit])


def test_pairs_are_chosen_where_a_unit_answers_to_both():
    targets = torch.arange(100) % 20
    scores = torch.randn(5, 100, generator=torch.Generator().manual_seed(0))
    scores[2, (targets == 3) | (targets == 7)] += 9
    images = torch.cat([torch.full((20,), 5), torch.zeros(1, dtype=torch.long)])
    chosen = choose_names(class_precisions(scores, targets, 20), torch.eye(20, dtype=torch.bool), images)
    assert {int(chosen.first[2]), int(chosen.second[2])} == {3, 7} and chosen.values[2] > 0.8


def test_classes_of_one_name_and_of_two():
    names = torch.tensor([[True, False, False], [False, True, False], [False, False, True]])
    chosen = ChosenNames(torch.tensor([2, 0]), torch.tensor([NOTHING, 1]), torch.zeros(2))
    assert chosen.classes(names).tolist() == [[False, False, True], [True, True, False]]


def test_p_values_are_ranks_among_all():
    nan = torch.nan
    assert rank_p_values(torch.tensor([3.0, 1.0, 1.0, nan])).tolist() == [0.25, 0.75, 0.75, 1.0]
    assert rank_p_values(torch.tensor([[1.0, 2.0], [2.0, 1.0]])).tolist() == [[1.0, 0.5], [0.5, 1.0]]


def rounds(effect, number=150, seed=0):
    """p values [number, units] of units that find names in noise; with an effect, the first of them answers to one
    class in both kinds of images."""
    random = np.random.default_rng(seed)
    classes, units = 20, 20
    names = torch.cat([torch.eye(classes), torch.eye(classes).roll(1, 1) + torch.eye(classes)]).bool()
    found = []
    for _ in range(number):
        precisions = []
        targets = torch.arange(100) % classes
        of_both = random.normal(size=(units, classes))  # what a unit answers to in training and validation images
        for _ in range(2):
            scores = torch.from_numpy(random.normal(size=(units, 100)) + 0.5 * of_both[:, targets])
            scores[0, targets == 4] += effect
            precisions.append(class_precisions(scores, targets, classes))
        images = images_per_class(targets, classes)
        chosen = choose_names(precisions[0], names, images)
        found.append(rank_p_values(judged_values(precisions[1], chosen.classes(names), images)))
    return torch.stack(found)


def test_of_units_that_are_alike_few_are_named_although_each_has_a_taste():
    """Of 20 units exactly one has the highest value, whichever: each is named in 5 % of the rounds."""
    named = (rounds(effect=0) <= 0.05).double()
    assert named.sum(1).tolist() == [1.0] * len(named)
    assert abs(named[:, 0].mean().item() - 0.05) < 0.05  # 2.8 standard deviations of 150 rounds
    assert named.mean(0).amax() < 0.13


def test_a_unit_that_stands_out_is_named():
    assert (rounds(effect=3, number=20)[:, 0] <= 0.05).double().mean() > 0.9
