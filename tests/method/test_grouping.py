"""Groups of classes against a loop, and the cases in which they are not what one might think."""

import itertools

import pytest
import torch

from utils.method.grouping import class_groups, concept_means, group_classes, other_groupings
from utils.method.polysemanticity import (
    averaged_relevance_vectors,
    class_pairs,
    cosine_similarities,
    gamma_polysemantic,
)


def cosines_of(size, values):
    """A symmetric matrix of the cosines of pairs, in the order of ``itertools.combinations``."""
    cosines = torch.eye(size, dtype=torch.float64)
    for (i, j), value in zip(itertools.combinations(range(size), 2), values, strict=True):
        cosines[i, j] = cosines[j, i] = value
    return cosines


def grouped_by_a_loop(cosines, gamma):
    """Merge the two groups of the highest mean cosine between their members, as long as that is at least gamma."""
    groups = [[place] for place in range(len(cosines))]
    while len(groups) > 1:
        means = {
            (one, other): sum(cosines[i][j] for i in groups[one] for j in groups[other])
            / (len(groups[one]) * len(groups[other]))
            for one, other in itertools.combinations(range(len(groups)), 2)
        }
        (one, other), mean = max(means.items(), key=lambda item: item[1])
        if mean < gamma:
            break
        groups[one] += groups.pop(other)
    return sorted(sorted(group) for group in groups)


def test_three_classes_can_be_polysemantic_and_one_group():
    cosines = cosines_of(3, (0.45, 0.6, 0.7))
    assert gamma_polysemantic(cosines, 0.5).any()
    assert group_classes(cosines, 0.5) == [[0, 1, 2]]  # 0.7 first, and then (0.45 + 0.6) / 2
    assert group_classes(cosines, 0.53) == [[0], [1, 2]]
    assert group_classes(cosines, 0.71) == [[0], [1], [2]]


@pytest.mark.parametrize("seed", range(10))
def test_groups_equal_a_loop(seed):
    generator = torch.Generator().manual_seed(seed)
    cosines = cosine_similarities(torch.randn(3 + 2 * seed, 3, generator=generator, dtype=torch.float64))
    for gamma in (-0.5, 0.0, 0.3, 0.5, 0.9):
        assert group_classes(cosines, gamma) == grouped_by_a_loop(cosines.tolist(), gamma)


def test_equal_cosines_are_at_gamma_in_one_group_and_the_first_of_equally_close_ones_is_merged_first():
    for size in (2, 3, 6):
        all_equal = cosines_of(size, [0.5] * (size * (size - 1) // 2))
        assert group_classes(all_equal, 0.5) == [list(range(size))]
        assert group_classes(all_equal, 0.75) == [[place] for place in range(size)]
    chain = cosines_of(3, (0.75, 0.0, 0.75))  # of 0 and 1, and of 1 and 2
    assert group_classes(chain, 0.5) == group_classes(chain.flip(0, 1), 0.5) == [[0, 1], [2]]
    same = cosine_similarities(torch.ones(3, 7, dtype=torch.float64))
    assert group_classes(same, 0.999) == [[0, 1, 2]]


def test_one_class_is_a_group_and_none_is_none():
    assert group_classes(torch.ones(1, 1), 0.5) == [[0]]
    assert group_classes(torch.ones(0, 0), 0.5) == []


def test_a_zero_arv_is_a_group_of_its_own():
    arvs = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.1], [0.0, 0.0]])
    assert group_classes(cosine_similarities(arvs), 0.5) == [[0], [1, 2], [3]]
    weight, relevant = torch.ones(1, 2, 1), torch.ones(4, 1, dtype=torch.bool)
    groups = class_groups(weight, arvs[:, :, None], relevant, 0.5)[0]
    assert groups.cosines.tolist() == torch.eye(3).tolist() and groups.lowest_cosine() == 0


def test_groups_of_a_layer_are_outputs_in_order_with_the_cosines_of_their_mean_arvs():
    torch.manual_seed(1)
    weight, means, relevant = torch.randn(6, 4, 2), torch.randn(9, 4, 2).double(), torch.rand(9, 6) > 0.4
    means[5], relevant[5], relevant[:, 4], relevant[:, 3] = torch.nan, False, False, torch.arange(9) == 2
    found = class_groups(weight, means, relevant, 0.3)
    assert 4 not in found and set(found) == {0, 1, 2, 3, 5}
    assert any(len(one.concepts) > 1 and max(map(len, one.concepts)) > 1 for one in found.values())
    for channel, one in found.items():
        classes = relevant[:, channel].nonzero().flatten().tolist()
        arvs = averaged_relevance_vectors(weight[channel], means)
        expected = grouped_by_a_loop(cosine_similarities(arvs[classes]).tolist(), 0.3)
        assert one.channel == channel
        assert one.concepts == [[classes[place] for place in group] for group in expected]
        for (i, first), (j, second) in itertools.product(enumerate(one.concepts), repeat=2):
            vectors = [sum(arvs[output] for output in concept) / len(concept) for concept in (first, second)]
            assert one.cosines[i, j].item() == pytest.approx(torch.cosine_similarity(*vectors, dim=0).item())
    several = {channel for channel, one in found.items() if len(one.concepts) > 1}
    pairs = class_pairs(weight, means, relevant)
    assert several <= set(pairs.channel[gamma_polysemantic(pairs.cosine, 0.3)].tolist())


def test_the_mean_of_a_group_counts_its_classes_alike():
    values = torch.arange(8.0).view(4, 2)
    assert concept_means(values, [[0, 3], [1]]).tolist() == [[3.0, 4.0], [2.0, 3.0]]


@pytest.mark.parametrize("groups, count", [([[0, 1], [2]], 2), ([[0, 1], [2, 3]], 2), ([[5, 7, 9], [2]], 3)])
def test_other_groupings_are_all_that_there_are(groups, count):
    groupings = other_groupings(groups, 20, "purpose")
    assert len(groupings) == count
    assert groupings == other_groupings(groups, 20, "purpose")
    as_sets = {frozenset(map(frozenset, grouping)) for grouping in [groups, *groupings]}
    assert len(as_sets) == 1 + count
    for grouping in groupings:
        assert [len(group) for group in grouping] == [len(group) for group in groups]
        assert sorted(itertools.chain(*grouping)) == sorted(itertools.chain(*groups))
        assert all(group == sorted(group) for group in grouping)


def test_other_groupings_are_as_many_as_asked_for_and_none_of_single_classes():
    groups = [list(range(6)), list(range(6, 12))]
    assert len(other_groupings(groups, 5, 1)) == 5
    assert other_groupings(groups, 5, 1) != other_groupings(groups, 5, 2)
    assert other_groupings([[0], [1], [2]], 5) == other_groupings([[0, 1]], 5) == []
