"""What gamma can go by: each against a loop or a case worked by hand."""

import itertools

import numpy as np
import pytest
import torch

from utils.method.disentangling import split_sources
from utils.method.gamma import clean_concepts, cosine_of_modes, cosines_of_halves, held_out_fractions


def test_cosines_of_halves_are_those_of_their_arvs():
    torch.manual_seed(0)
    weight, even, odd = torch.randn(5, 2), torch.randn(3, 5, 2).double(), torch.randn(3, 5, 2).double()
    odd[1], odd[2] = 2 * even[1], 0
    cosines = cosines_of_halves(weight, even, odd).tolist()
    one, other = ((weight.double() * half[0]).sum(1).numpy() for half in (even, odd))
    assert cosines[0] == pytest.approx(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
    assert cosines[1:] == [pytest.approx(1), 0]


def best_halving(circuits):
    """The centroids of the two clusters of the least squared distance, from all there are."""
    size, best = len(circuits), None
    for members in itertools.product((False, True), repeat=size - 1):
        one = np.array([True, *members])
        if one.all():
            continue
        parts = circuits[one], circuits[~one]
        spread = sum(((part - part.mean(0)) ** 2).sum() for part in parts)
        if best is None or spread < best[0]:
            best = spread, [part.mean(0) for part in parts]
    return best[1]


@pytest.mark.parametrize("seed", range(5))
def test_modes_are_those_of_all_halvings_where_two_are_apart(seed):
    random = np.random.default_rng(seed)
    modes = random.normal(size=(2, 4)) * 5
    circuits = modes[random.permutation([0] * 4 + [1] * 5)] + random.normal(size=(9, 4)) * 0.3
    one, other = best_halving(circuits)
    expected = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    assert cosine_of_modes(torch.from_numpy(circuits), np.random.default_rng(seed)) == pytest.approx(expected)


def test_modes_of_images_that_are_equal_or_two():
    random = np.random.default_rng(0)
    assert np.isnan(cosine_of_modes(np.ones((4, 3)), random))
    assert np.isnan(cosine_of_modes(np.ones((1, 3)), random))
    assert cosine_of_modes(np.array([[3.0, 4.0], [4.0, 3.0]]), random) == pytest.approx(0.96)
    assert cosine_of_modes(np.array([[0.0, 0.0], [4.0, 3.0]]), random) == 0


@pytest.mark.parametrize("bias", [None, 0.75])
@pytest.mark.parametrize("num_concepts", [2, 3])
def test_fractions_on_held_out_means_equal_a_loop(bias, num_concepts):
    torch.manual_seed(num_concepts)
    weight = torch.randn(6, 2)
    fitted, held_out = torch.randn(2, num_concepts, 6, 2).double()
    given = None if bias is None else torch.tensor(bias)
    found = held_out_fractions(weight, given, 9, fitted, held_out)
    owners = split_sources((weight.double() * fitted).sum(2), 1.0).tolist()
    assert len(set(owners)) == num_concepts + (0 in owners)
    positive = 0
    for image, channel in itertools.product(range(num_concepts), repeat=2):
        parts = (weight.double() * held_out[image]).sum(1).tolist()
        base = 9 * (bias or 0)
        original = sum(parts) + base
        own = sum(part for part, owner in zip(parts, owners, strict=True) if owner in (0, channel + 1)) + base
        positive += original > 0
        expected = own / original if original > 0 else np.nan
        assert found[image, channel] == pytest.approx(expected, nan_ok=True)
    assert positive


def test_a_concept_is_clean_by_its_own_channel_and_all_others():
    fractions = np.array([[0.8, 0.2, -3.0], [0.21, 1.5, 0.0], [0.0, 0.0, 0.79]])
    assert clean_concepts(fractions).tolist() == [True, False, False]
    assert clean_concepts(np.array([[1.0, 0.1], [np.nan, np.nan]])).tolist() == [True, False]
