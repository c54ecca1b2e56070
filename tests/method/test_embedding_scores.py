"""Monosemanticity and distances of patches against loops over pairs, cases worked by hand, and published numbers."""

import itertools

import numpy as np
import pytest
import torch

from tests.oracles import monosemanticity_by_hand
from utils.method.embedding_scores import (
    Monosemanticity,
    PatchDistances,
    corrected_for_chance,
    mean_cosine,
    mean_distances,
    monosemanticity,
    monosemanticity_of_strongest,
    patch_distances,
    strongest_alone,
    unit_vectors,
)


def draw(images=9, units=5, size=4, seed=0):
    """Activations [N, R], not all of them above 0, and embeddings [N, D]."""
    generator = torch.Generator().manual_seed(seed)
    activations = torch.randn(images, units, generator=generator) * 3 + torch.arange(units)
    return activations, torch.randn(images, size, generator=generator) + 0.5


def test_monosemanticity_equals_a_loop_over_pairs():
    activations, embeddings = draw()
    scores = monosemanticity(activations, embeddings)
    assert scores.dtype == torch.float64
    for unit, score in enumerate(scores.tolist()):
        assert score == pytest.approx(
            monosemanticity_by_hand(activations[:, unit].double().numpy(), embeddings.double().numpy())
        )


@pytest.mark.parametrize("shift", [0, 1e3])
def test_batches_and_blocks_of_units_add_up_to_the_same(shift):
    activations, embeddings = draw(images=20, units=7)
    activations = activations.double() + shift
    running = Monosemanticity(7, 4)
    for images in ([0, 1, 2], [], range(3, 19), [19]):
        images = list(images)
        for first in (0, 3, 6):
            running.add(activations[images, first : first + 3], embeddings[images], first)
    scores = monosemanticity(activations - shift, embeddings)
    torch.testing.assert_close(running.scores(), scores, rtol=1e-7, atol=1e-9)
    assert running.mean_cosine() == pytest.approx(mean_cosine(embeddings))


def test_neither_the_scale_of_activations_nor_of_embeddings_matters():
    activations, embeddings = draw()
    scales = torch.linspace(0.1, 30, len(embeddings))[:, None]
    changed = monosemanticity(activations * 7 + 2, embeddings * scales)
    torch.testing.assert_close(changed, monosemanticity(activations, embeddings), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_two_orthogonal_groups_and_one(n):
    """Groups of n fully active images, and one image of no activation in a third direction."""
    embeddings = torch.eye(3)[[0] * n + [1] * n + [2]]
    both, one = torch.tensor([1.0] * 2 * n + [0]), torch.tensor([1.0] * n + [0] * (n + 1))
    scores = monosemanticity(torch.stack([both, one], 1), embeddings).tolist()
    assert scores[0] == pytest.approx((n - 1) / (2 * n - 1))
    assert scores[1] == pytest.approx(1) if n > 1 else np.isnan(scores[1])  # one image has no pair


def test_what_has_no_pair_of_active_images_is_unknown():
    _, embeddings = draw()
    activations = torch.full((9, 4), 0.3)
    activations[4, 1] += 1  # an image alone
    activations[2:4, 2] += 1
    activations[:, 3] = 0
    scores = monosemanticity(activations, embeddings)
    assert scores.isnan().tolist() == [True, True, False, True]
    assert scores[2] == pytest.approx(torch.cosine_similarity(embeddings[2], embeddings[3], dim=0).item())
    assert Monosemanticity(2, 3).scores().isnan().all()
    assert np.isnan(Monosemanticity(2, 3).mean_cosine())


def test_the_mean_cosine_is_that_of_all_pairs():
    _, embeddings = draw()
    pairs = [
        torch.cosine_similarity(embeddings[i], embeddings[j], dim=0).item()
        for i, j in itertools.combinations(range(9), 2)
    ]
    assert mean_cosine(embeddings) == pytest.approx(np.mean(pairs), rel=1e-5)
    assert np.isnan(mean_cosine(embeddings[:1]))


def test_corrected_for_chance_an_activation_of_nothing_is_0_and_one_group_is_1():
    """An activation that is 1 in half of the images and not at all in others gives the mean cosine, on average."""
    embeddings = draw(images=300, size=6)[1]
    activations = (torch.rand(300, 200, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    scores = corrected_for_chance(monosemanticity(activations, embeddings), mean_cosine(embeddings))
    assert scores.mean().abs() < 3 * scores.std() / 200**0.5 + 1e-3
    assert mean_cosine(embeddings) > 0.1
    assert corrected_for_chance(1.0, 0.4) == 1
    assert corrected_for_chance(0.4, 0.4) == 0
    assert corrected_for_chance(0.7, 0.4) == pytest.approx(0.5)


def test_unit_vectors_are_of_length_1_in_their_direction():
    _, embeddings = draw()
    units = unit_vectors(embeddings)
    torch.testing.assert_close(units.norm(dim=1), torch.ones(9, dtype=torch.float64))
    torch.testing.assert_close(units * embeddings.double().norm(dim=1, keepdim=True), embeddings.double())


# --------------------------------------------------------------------------------------------------------------------
# Distances of patches


@pytest.mark.parametrize("num_clusters", [2, 4])
def test_distances_equal_a_loop_over_pairs(num_clusters):
    embeddings = draw(images=11)[1].double()
    labels = torch.arange(11) ** 2 % 5 % num_clusters
    labels[:num_clusters] = torch.arange(num_clusters)
    found = {"intra": [], "inter": [], "any": []}
    for i, j in itertools.combinations(range(11), 2):
        distance = float((embeddings[i] - embeddings[j]).square().sum() ** 0.5)
        found["any"].append(distance)
        found["intra" if labels[i] == labels[j] else "inter"].append(distance)
    distances = patch_distances(embeddings, labels, num_clusters)
    assert distances._asdict() == {name: pytest.approx(np.mean(values)) for name, values in found.items()}
    assert distances.gap == pytest.approx((distances.inter - distances.intra) / distances.any)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_two_points_repeated_n_times(n):
    embeddings = torch.tensor([[0.0, 0, 0]] * n + [[3.0, 0, 4]] * n)
    distances = patch_distances(embeddings, [0] * n + [1] * n, 2)
    assert distances.intra == 0
    assert distances.inter == pytest.approx(5)
    assert distances.gap == pytest.approx((2 * n - 1) / n)


def test_the_gap_of_pures_published_averages():
    published = {"PURE": (5.85, 6.40, 6.08), "DINOv2": (5.79, 6.48, 6.08), "activations": (5.95, 6.26, 6.08)}
    gaps = {name: round(PatchDistances(*values).gap, 3) for name, values in published.items()}
    assert gaps == {"PURE": 0.090, "DINOv2": 0.113, "activations": 0.051}


def test_without_a_second_cluster_there_is_no_distance_between():
    embeddings = draw(images=6)[1]
    whole = patch_distances(embeddings, [0, 0, 0, 1, 1, 1], 2).any
    for labels, num_clusters in (([0] * 6, 1), ([0] * 6, 2), ([0, 0, 0, 2, 2, 2], 3)):
        distances = patch_distances(embeddings, labels, num_clusters)
        assert np.isnan([distances.intra, distances.inter, distances.gap]).all()
        assert distances.any == whole
    assert np.isnan(patch_distances(embeddings, range(6), 6).intra)  # six clusters of one patch have no pair
    assert not np.isnan(patch_distances(embeddings, range(6), 6).inter)
    assert np.isnan(patch_distances(embeddings[:1], [0], 1)).all()


def test_averages_over_units_are_of_those_that_are_known():
    units = [PatchDistances(1, 3, 2), PatchDistances(2, 4, 3), PatchDistances(float("nan"), 5, 4)]
    mean = mean_distances(units)
    assert mean == (1.5, 3.5, 2.5)
    assert mean.gap == pytest.approx(0.8)
    assert np.isnan(mean_distances([])).all()


def test_the_strongest_images_alone_count():
    activations = torch.tensor([[3.0, 0.0], [1.0, 2.0], [2.0, 2.0], [0.5, 2.0]])
    assert strongest_alone(activations, 2).tolist() == [[3.0, 0.0], [0.0, 2.0], [2.0, 2.0], [0.0, 2.0]]
    assert torch.equal(strongest_alone(activations, 9), activations)
    # one concept of two images in a unit that is weakly active everywhere
    embeddings = torch.eye(8)[[0, 0, 1, 2, 3, 4, 5, 6]]
    dense = torch.tensor([[5.0], [5.0], [2.0], [2.0], [2.0], [2.0], [2.0], [1.9]])
    assert monosemanticity(strongest_alone(dense, 2), embeddings).item() == pytest.approx(1)
    assert monosemanticity(dense - 1.9, embeddings).item() < 0.9


@pytest.mark.parametrize("number", [3, 40])
def test_the_strongest_images_are_scored_without_the_others(number):
    activations, embeddings = draw(images=40)
    activations = activations.clamp(min=0)
    activations[:, 0] += 0.5  # active everywhere
    activations[:, 1] = 0
    expected = monosemanticity(strongest_alone(activations, number), embeddings)
    found = monosemanticity_of_strongest(activations, embeddings, number)
    torch.testing.assert_close(found, expected, equal_nan=True)
    assert found[1].isnan() and not found[0].isnan()
