"""Tap sums of stored images, against the arrays of all images; what is kept is not read again."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers import as_layer
from tests.stores import META
from utils.errors import UserError
from utils.images.folders import ImageList
from utils.method.disentangling import Concept
from utils.store import kept_rows, tap_sums
from utils.store.importance_store import ImportanceStore

IMAGES, INPUTS, TAPS, CLASSES, CHUNK = 50, 3, 2, 4, 8
MISSING = 21  # an unreadable image


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A store without one of its images, and the tap sums, targets and predictions of all."""
    random = np.random.default_rng(0)
    sums = random.normal(1, 1, (IMAGES, INPUTS, TAPS)).astype(np.float32)
    targets = random.integers(0, CLASSES, IMAGES)
    predictions = np.where(random.random(IMAGES) < 0.7, targets, (targets + 1) % CLASSES)
    names = list("abcd")
    paths = np.array([b"%d" % image for image in range(IMAGES)])
    listed = ImageList(Path("x"), names, paths, np.full(IMAGES, 9), np.sort(targets))
    sizes = {"num_channels": 2, "num_inputs": INPUTS, "num_taps": TAPS, "num_outputs": CLASSES, "chunk_size": CHUNK}
    meta = {**META, **sizes, "num_images": IMAGES, "classes": {name: k for k, name in enumerate(names)}}
    meta |= {"data_sha256": listed.digest(), "class_counts": dict.fromkeys(names, 1)}
    store = ImportanceStore(tmp_path_factory.mktemp("store"), "m")
    store.begin(meta, as_layer(nn.Conv2d(INPUTS, 2, (1, TAPS)).requires_grad_(False)), listed)
    for chunk in range(store.num_chunks):
        indices = np.array([image for image in store.chunk_range(chunk) if image != MISSING])
        batch = {
            "relative_importances": np.zeros((len(indices), 2)),
            "positive_sums": np.ones(len(indices)),
            "input_sums": sums[indices],
            "targets": targets[indices],
            "predictions": predictions[indices],
            "indices": indices,
            "content": indices.astype(np.uint64),
        }
        store.write_chunk(chunk, [batch])
    return store, sums, targets, predictions


def opened(world, only_correct=False):
    store = world[0]
    return tap_sums.StoredTapSums(store, store.read_labels, only_correct)


def there(condition):
    """The images that fulfil a condition, without the missing one."""
    return [image for image in range(IMAGES) if condition(image) and image != MISSING]


def moments(sums):
    """The mean outer product, image by image."""
    return sum(np.outer(one.ravel().astype(float), one.ravel()) for one in sums) / len(sums)


@pytest.mark.parametrize("only_correct", [False, True])
@pytest.mark.parametrize("classes", [[2], [3, 0]])
def test_images_of_classes_are_those_of_the_labels(world, only_correct, classes):
    _, sums, targets, predictions = world
    mine = there(lambda image: targets[image] in classes and (not only_correct or predictions[image] == targets[image]))
    found = opened(world, only_correct)
    concept = Concept("", classes)
    np.testing.assert_array_equal(found.of(concept), sums[mine])
    np.testing.assert_allclose(found.second_moments(concept), moments(sums[mine]), rtol=1e-12)


@pytest.mark.parametrize("concepts", [[Concept("", [1])], [Concept("", [0, 1]), Concept("", [3])], "images"])
def test_moments_of_everything_else_are_those_of_its_images(world, concepts):
    """Whether there are more of them than of the concepts', or fewer."""
    _, sums, targets, _ = world
    if concepts == "images":
        concepts = [Concept("", [], images=[3, 17, 40], kind="images")]
    classes = [output for concept in concepts for output in concept.classes]
    images = [image for concept in concepts for image in concept.images or ()]
    others = there(lambda image: targets[image] not in classes and image not in images)
    found = opened(world)
    np.testing.assert_array_equal(found.of_others(concepts), sums[others])
    np.testing.assert_allclose(found.second_moments_of_others(concepts), moments(sums[others]), rtol=1e-11)
    given, weights = found.of_concepts(concepts, 0.3).second_moments()
    assert weights == [1.0] * len(concepts) + [0.3] == found.of_concepts(concepts, 0.3).groups()[1]
    np.testing.assert_allclose(given[-1], moments(sums[others]), rtol=1e-11)


def test_without_anything_else_there_is_no_background(world):
    concepts = [Concept("", [0, 1, 2, 3])]
    for values in (
        opened(world).of_concepts(concepts, 1.0).groups,
        opened(world).of_concepts(concepts, 1.0).second_moments,
    ):
        with pytest.raises(UserError, match="no training image of anything else: give --background 0"):
            values()


def test_blocks_of_images_change_no_moments(world, monkeypatch):
    whole = opened(world).second_moments(Concept("", [2]))
    monkeypatch.setattr(tap_sums, "BLOCK_VALUES", 2 * INPUTS * TAPS)
    torch.testing.assert_close(opened(world).second_moments(Concept("", [2])), whole, rtol=1e-13, atol=0)


@pytest.mark.parametrize("most_bytes", [kept_rows.MOST_BYTES, 0])
def test_what_is_kept_is_read_once_from_memory_or_a_scratch_file(world, monkeypatch, most_bytes):
    store, sums, *_ = world
    monkeypatch.setattr(kept_rows, "MOST_BYTES", most_bytes)
    reads = []
    read_chunk = ImportanceStore.read_chunk
    monkeypatch.setattr(
        ImportanceStore, "read_chunk", lambda self, chunk, names: reads.append(chunk) or read_chunk(self, chunk, names)
    )
    found = opened(world)
    found.keep(torch.tensor([40, 2, 3, 49, 2]))
    found.keep(torch.tensor([3, 9, 1]))
    assert reads == [0, 5, 6, 1]  # chunk 0 was still in memory
    reads.clear()
    for images in ([2, 3, 40], [1, 3, 9, 49], [49], []):
        np.testing.assert_array_equal(found.of_images(torch.tensor(images, dtype=torch.long)), sums[images])
    assert reads == []
    partly_kept = [1, 2, 30, 31, 49]
    np.testing.assert_array_equal(found.of_images(torch.tensor(partly_kept)), sums[partly_kept])
    assert reads == [3]
    assert not [path for path in store.folder.iterdir() if not path.name.endswith((".npz", ".json"))]


def test_a_scratch_file_without_space_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(kept_rows, "MOST_BYTES", 0)
    kept = kept_rows.KeptRows(torch.arange(10), (INPUTS, TAPS), tmp_path)

    class Full:
        def seek(self, position):
            pass

        def write(self, content):
            raise OSError(28, "No space left on device")

    kept._file = Full()
    with pytest.raises(UserError, match=r"cannot write a scratch file of 0.0 GB \(No space left on device\)"):
        kept.write(0, torch.zeros(2, INPUTS, TAPS))


@pytest.mark.parametrize("most", [100, 7])
def test_probed_images_stand_for_all_images_and_are_standardised(world, monkeypatch, most):
    _, sums, targets, predictions = world
    monkeypatch.setattr(tap_sums, "BACKGROUND_SAMPLE", most)
    of_store = opened(world, only_correct=True)
    probed = of_store.probed(Concept("", [0, 2]))
    own = there(lambda image: targets[image] in (0, 2) and targets[image] == predictions[image])
    others = there(lambda image: targets[image] not in (0, 2))
    assert probed.is_own.sum() == min(most, len(own))
    assert probed.weights[probed.is_own].sum().item() == pytest.approx(len(own))
    assert probed.weights[~probed.is_own].sum().item() == pytest.approx(len(others))
    rows = torch.linspace(0, IMAGES - 2, min(most, IMAGES - 1), dtype=torch.float64).round().long().numpy()
    sample = sums[there(lambda image: True)][rows].reshape(-1, INPUTS * TAPS).astype(float)
    chosen = [image for image in np.array(there(lambda image: True))[rows] if image in others]
    expected = (sums[chosen].reshape(-1, INPUTS * TAPS) - sample.mean(0)) / sample.std(0)
    np.testing.assert_allclose(probed.inputs[~probed.is_own], expected, rtol=1e-5)
    # weights of standardised inputs rank images as their rows do
    weights = torch.randn(INPUTS * TAPS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    by_rows = (of_store.as_rows(weights).numpy() * sums[chosen]).sum((1, 2))
    differences = by_rows - (expected @ weights.numpy())
    np.testing.assert_allclose(differences, differences[0], rtol=1e-5)


def test_second_moments_of_classes_are_those_of_their_images(world):
    _, sums, targets, _ = world
    of_store = opened(world)
    inputs = sums[there(lambda image: targets[image] in (1, 3))].reshape(-1, INPUTS * TAPS).astype(float)
    for _ in range(2):  # once measured, once kept
        moments = of_store.second_moments(Concept("", [3, 1]))
        np.testing.assert_allclose(moments, inputs.T @ inputs / len(inputs), rtol=1e-6)
    with pytest.raises(UserError, match="no training image of anything else"):
        of_store.probed(Concept("", [0, 1, 2, 3]))
