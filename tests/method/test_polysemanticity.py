"""Relevance counts and pairs against loops."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.method.importance import relevant_classes, relevant_in_images
from utils.method.polysemanticity import (
    ClassMeans,
    RelevantCounts,
    channel_levels,
    class_pairs,
    cosine_similarities,
    overall_mean,
)


def random_chunk(seed, images=40, classes=3, channels=6, inputs=4, taps=2):
    generator = torch.Generator().manual_seed(seed)
    return {
        "relative": (torch.randn(images, channels, generator=generator) / 10).half(),
        "positive_sums": torch.rand(images, generator=generator) * (torch.rand(images, generator=generator) > 0.2),
        "input_sums": torch.randn(images, inputs, taps, generator=generator),
        "targets": torch.randint(0, classes, (images,), generator=generator),
        "predictions": torch.randint(0, classes, (images,), generator=generator),
    }


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), tau=st.floats(0.01, 0.3), cut=st.integers(0, 40), odd_first=st.booleans())
def test_statistics_equal_a_loop_over_images_however_they_are_chunked(seed, tau, cut, odd_first):
    chunk = random_chunk(seed)
    indices = torch.arange(40) * 3 + odd_first  # unreadable images are left out: an index is not a place
    means, counts = ClassMeans(4, 4, 2), RelevantCounts(tau, 4, 6)
    for part in (slice(0, cut), slice(cut, 40)):
        own = {name: values[part] for name, values in chunk.items()}
        labels = own["targets"], own["predictions"]
        means.add(own["input_sums"], *labels, indices[part])
        counts.add(own["relative"], own["positive_sums"], *labels)
    images, relevant = torch.zeros(2, 3, 4).long(), torch.zeros(2, 4, 6).long()
    sums = torch.zeros(2, 3, 4, 4, 2, dtype=torch.float64)
    for i in range(40):
        target = chunk["targets"][i].item()
        for which in (0, 1) if target == chunk["predictions"][i] else (0,):
            for half in (0, 1 + indices[i].item() % 2):
                images[which, half, target] += 1
                sums[which, half, target] += chunk["input_sums"][i].double()
            for channel in range(6):
                enough = chunk["relative"][i, channel].float().item() >= tau
                relevant[which, target, channel] += enough and chunk["positive_sums"][i].item() > 0
    assert torch.equal(means.numbers(), images)
    assert torch.equal(counts.counts, relevant)
    assert counts.tau == tau
    assert means.means()[:, :, 3].isnan().all()  # a class without images
    assert means.means().dtype == torch.float64
    torch.testing.assert_close(means.means(), sums / images[..., None, None], equal_nan=True)


def test_the_threshold_counts_itself_and_is_not_rounded_to_float16():
    stored = torch.tensor([[0.25, 0.03, 0.029]]).half()
    assert relevant_in_images(stored, torch.ones(1), 0.25).tolist() == [[True, False, False]]
    assert relevant_in_images(stored, torch.ones(1), 0.03).tolist() == [[True, stored[0, 1].item() >= 0.03, False]]
    assert not relevant_in_images(stored, torch.zeros(1), 0.01).any()


def test_relevance_equals_a_comparison_of_every_half_with_tau():
    """All 65536 halves but NaN, as one image's channels."""
    halves = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.half)
    halves = halves[~halves.isnan()][None]
    taus = [1.0, 0.03, 0.01, 0.25, 1e-4, 6e-8, 5e-8, 1e-9, 0.1 + 1e-9, float(torch.tensor(0.05).half())]
    for tau in taus:
        assert torch.equal(relevant_in_images(halves, torch.ones(1), tau), halves.float() >= tau)


def test_a_class_needs_at_least_p_of_its_images():
    counts = torch.tensor([[3, 2, 4], [0, 0, 0], [1, 0, 0]])
    images = torch.tensor([4, 0, 1])
    expected = [[True, False, True], [False, False, False], [True, False, False]]
    assert relevant_classes(counts, images, 0.75).tolist() == expected
    assert relevant_classes(counts, images, 0.75, min_images=2).tolist() == [*expected[:2], [False] * 3]


def test_pairs_equal_a_loop():
    torch.manual_seed(0)
    weight, means, relevant = torch.randn(5, 4, 2), torch.randn(6, 4, 2), torch.rand(6, 5) > 0.4
    expected = []
    for channel, class1, class2 in itertools.product(range(5), range(6), range(6)):
        if class1 < class2 and relevant[class1, channel] and relevant[class2, channel]:
            first, second = ((weight[channel] * means[c]).sum(1) for c in (class1, class2))
            expected.append((channel, class1, class2, (first @ second / first.norm() / second.norm()).item()))
    expected.sort(key=lambda pair: -pair[3])
    pairs = class_pairs(weight, means, relevant)
    assert [pair[:3] for pair in pairs.rows()] == [pair[:3] for pair in expected]
    assert [pair[3] for pair in pairs.rows()] == pytest.approx([pair[3] for pair in expected], abs=1e-6)
    assert len(pairs) == len(expected) > 0
    assert list(pairs[pairs.cosine < 0].rows()) == [pair for pair in pairs.rows() if pair[3] < 0]
    assert list(pairs[1:3].rows()) == list(pairs.rows())[1:3]
    nothing = class_pairs(weight, means, torch.zeros(6, 5, dtype=torch.bool))
    assert (len(nothing), list(nothing.rows())) == (0, [])


def test_pairs_of_equal_cosine_are_in_the_order_of_channel_and_classes():
    weight, means = torch.ones(3, 2, 1), torch.ones(4, 2, 1)
    pairs = class_pairs(weight, means, torch.ones(4, 3, dtype=torch.bool))
    assert len(pairs.cosine.unique()) == 1
    expected = [(channel, *pair) for channel in range(3) for pair in itertools.combinations(range(4), 2)]
    assert [pair[:3] for pair in pairs.rows()] == expected


def test_cosine_with_a_zero_vector_is_zero():
    assert cosine_similarities(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))[0].tolist() == [0, 0]
    torch.testing.assert_close(cosine_similarities(torch.tensor([[1.0, 0.0], [3.0, 4.0]]))[0, 1], torch.tensor(0.6))


@pytest.mark.parametrize("with_bias", [False, True])
def test_levels_of_classes_equal_a_loop_over_images(with_bias):
    chunk, weight = random_chunk(3), torch.randn(6, 4, 2, generator=torch.Generator().manual_seed(0))
    bias = torch.linspace(-1, 1, 6) if with_bias else None
    sums = torch.stack([(weight.double() * image.double()).sum((1, 2)) for image in chunk["input_sums"]])
    sums += 9 * bias.double() if with_bias else 0
    statistics = ClassMeans(4, 4, 2)
    statistics.add(chunk["input_sums"], chunk["targets"], chunk["predictions"], torch.arange(40))
    means, images = statistics.means()[:, 0], statistics.numbers()[:, 0]
    levels = channel_levels(weight, bias, 9, means[1], overall_mean(means[0], images[0]))
    torch.testing.assert_close(levels.mean, sums.mean(0))
    for output in range(3):
        own = (chunk["targets"] == output) & (chunk["predictions"] == output)
        torch.testing.assert_close(levels.sums[output], sums[own].mean(0))
        assert levels.below[output].tolist() == (sums[own].mean(0) < sums.mean(0)).tolist()
    assert levels.sums[3].isnan().all() and not levels.below[3].any()
    assert 0 < levels.below[:3].sum() < 18
