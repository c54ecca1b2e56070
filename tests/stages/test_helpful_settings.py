"""Where stage 2 finds nothing: the settings that it proposes, against a loop over all of them, and by running them."""

import itertools
import shlex

import pytest
import torch

from tests.scripts import printed_pairs, run_script, stage2
from utils.stages.helpful_settings import ENOUGH, FEWEST_CORRECT, Criteria, helpful_settings, helpful_taus
from utils.stages.relevance import ClassStatistics, LayerClasses

CLASSES, CHANNELS, INPUTS = 8, 30, 12
TAUS = (0.1, 0.05, 0.01)
REQUESTED = Criteria(0.1, 0.75, False, 1, False, -1.0, 0.5)


def layer_of(weight):
    nothing = {"mean_inputs": None, "images": None, "levels": None, "relevant": None, "pairs": None, "groups": {}}
    return LayerClasses(weight=weight, bias=None, positions=4, **nothing)


def statistics_of(shares, num_images=40, accuracy=0.9):
    """Statistics in which a channel is relevant in ``shares[tau]`` of a class's images, and a layer at random."""
    torch.manual_seed(0)
    images = torch.tensor([num_images, round(num_images * accuracy)])[:, None, None].expand(2, 3, CLASSES)
    relevant = [(share * images[:, 0, :, None]).long().expand(2, CLASSES, CHANNELS) for share in shares]
    inputs = torch.rand(2, 3, CLASSES, INPUTS, 1, dtype=torch.float64)
    return ClassStatistics(inputs, images, relevant), layer_of(torch.randn(CHANNELS, INPUTS, 1))


def cosines_of(statistics, layer, which):
    """The cosines of all pairs of classes in all channels, by a loop."""
    arvs = layer.weight[:, None, :, 0].double() * statistics.mean_inputs[which, 0, None, :, :, 0]
    pairs = itertools.combinations(range(CLASSES), 2)
    return [torch.cosine_similarity(arvs[:, one], arvs[:, other], dim=1) for one, other in pairs]


def count(cosines, low, high):
    return sum(int(((low <= of_pair) & (of_pair < high)).sum()) for of_pair in cosines)


def test_the_largest_tau_that_finds_enough_pairs():
    statistics, layer = statistics_of([0, 0.75, 1])
    found = helpful_settings(REQUESTED, statistics, TAUS, layer)
    expected = count(cosines_of(statistics, layer, 0), -1, 0.5)
    assert found.pairs == expected >= ENOUGH
    assert found.criteria == Criteria(0.05, 0.75, False, 1, False, -1.0, 0.5)


def test_correct_images_alone_where_accuracy_is_low_and_classes_have_enough_of_them():
    for accuracy, number, only_correct in ((0.49, 100, True), (0.5, 40, False), (0.2, 40, False), (0.25, 40, True)):
        statistics, layer = statistics_of([0, 0.8, 1], number, accuracy)
        found = helpful_settings(REQUESTED, statistics, TAUS, layer)
        assert found.criteria.only_correct == only_correct
        assert found.criteria.min_images == (FEWEST_CORRECT if only_correct else 1)
        assert found.pairs == count(cosines_of(statistics, layer, int(only_correct)), -1, 0.5)


def test_the_smallest_bound_in_hundredths_that_gives_enough_pairs_where_none_is_below():
    statistics, layer = statistics_of([0, 1, 1])
    cosines = cosines_of(statistics, layer, 0)
    lowest = min(float(of_pair.min()) for of_pair in cosines)
    requested = Criteria(0.1, 0.75, False, 1, False, -1.0, lowest)
    found = helpful_settings(requested, statistics, TAUS, layer)
    high = found.criteria.cos_sim_high
    assert count(cosines, -1, high) == found.pairs >= ENOUGH > count(cosines, -1, high - 0.01)
    assert found.criteria == Criteria(0.05, 0.75, False, 1, False, -1.0, high)


def test_a_smaller_p_only_where_no_channel_has_two_classes_and_nothing_where_none_has():
    statistics, layer = statistics_of([0, 0, 0.6])
    assert helpful_settings(REQUESTED, statistics, TAUS, layer).criteria.p == 0.5
    statistics, layer = statistics_of([0, 0, 0])
    assert helpful_settings(REQUESTED, statistics, TAUS, layer) is None


def test_fewer_pairs_than_enough_are_better_than_none():
    statistics, layer = statistics_of([0, 0.8, 0.8])
    one_pair = torch.zeros(2, CLASSES, CHANNELS, dtype=torch.long)
    one_pair[:, :2, 0] = 40
    only_above = Criteria(0.1, 0.75, False, 1, False, -1.0, 1.0)
    few = ClassStatistics(statistics.mean_inputs, statistics.images, [one_pair * 0, one_pair, one_pair])
    found = helpful_settings(only_above, few, TAUS, layer)
    assert (found.pairs, found.criteria.tau) == (1, 0.05)


def test_tau_itself_is_tried_first_and_then_smaller_ones():
    assert helpful_taus(0.03) == [0.03, 0.02, 0.01, 0.005, 0.003, 0.002, 0.001]
    assert helpful_taus(0.0001) == [0.0001]


@pytest.mark.parametrize(
    "nothing",
    [
        ("--proportion_attribution_required", "0.9", "--p", "0.5", "--cos_sim_low", "-1", "--cos_sim_high", "0.9"),
        ("--cos_sim_low", "-1", "--cos_sim_high", "-0.9999"),
        ("--proportion_attribution_required", "0.6", "--p", "1", "--cos_sim_low", "-1", "--only_above_mean"),
    ],
)
def test_where_stage_2_finds_nothing_it_ends_in_a_line_that_finds_some(copy, nothing, without_figures):
    out = stage2("store", *nothing, cwd=copy)
    assert printed_pairs(out) == []
    *_, last = out.splitlines()
    assert last.startswith("next: ") and "open first" not in out
    words = shlex.split(last.removeprefix("next: "))
    result = run_script("get_cosine_similarities.py", *words[2:], cwd=copy)
    assert result.returncode == 0, result.stderr
    number = len(printed_pairs(result.stdout))
    assert number > 0 and f"\nno pairs, but {number} with " in out
