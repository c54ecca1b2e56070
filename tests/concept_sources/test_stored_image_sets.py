"""Sources whose concepts follow from the store: what is found for many channels is kept, and goes on after a stop."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers import as_layer
from tests.stores import META, equal, study_of
from utils.concept_sources import stored_image_sets
from utils.concept_sources.circuits import Circuits
from utils.concept_sources.stored_image_sets import KeptClusters, StoredClusters
from utils.errors import UserError
from utils.images.folders import ImageList
from utils.method.clustering import TooFewImagesError
from utils.store.importance_store import ImportanceStore

CHANNELS = 7
IMAGES = 60


class Stopped(Exception):
    """A stop in the middle of a loop."""


@pytest.fixture
def study(tmp_path, monkeypatch):
    """The study of a store of chunks of ten images, in which something is kept after every chunk and every channel."""
    monkeypatch.setattr(stored_image_sets, "KEPT_CHUNKS", 1)
    monkeypatch.setattr(stored_image_sets, "KEPT_CHANNELS", 2)
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    layer = as_layer(nn.Conv2d(5, CHANNELS, 1).requires_grad_(False))
    paths = np.array([b"a/%d.png" % image for image in range(IMAGES)])
    images = ImageList(tmp_path, ["a", "b"], paths, np.full(IMAGES, 100), np.zeros(IMAGES, np.int64))
    changes = {"num_images": IMAGES, "chunk_size": 10, "num_channels": CHANNELS, "num_inputs": 5}
    store = ImportanceStore(tmp_path, "m")
    store.begin({**META, **changes}, layer, images)
    for chunk in range(6):
        indices = np.arange(10 * chunk, 10 * chunk + 10)
        batch = {
            "relative_importances": np.zeros((10, CHANNELS)),
            "positive_sums": np.ones(10),
            "input_sums": torch.rand(10, 5, 1, generator=generator),
            "targets": indices % 2,
            "predictions": np.zeros(10),
            "indices": indices,
            "content": indices.astype(np.uint64),
        }
        store.write_chunk(chunk, [batch])
    return study_of(store)


def weights(study):
    return study.weight_and_bias[0][:, None]


def kept_files(study):
    return sorted(path.name.rpartition("_")[0] for path in study.model_dir.iterdir())


def all_clusters(clusters):
    return {index: vars(clusters.of(index, 0)) for index in range(CHANNELS)}


def interrupted_at(step, function):
    """The function, which stops at a call."""
    calls = []

    def counted(*given, **named):
        calls.append(given)
        if len(calls) == step:
            raise Stopped
        return function(*given, **named)

    return counted, calls


def test_kept_clusters_are_those_of_each_channel(study):
    source = Circuits(3, 12)
    alone = {
        channel: vars(StoredClusters(source, study, weights(study)[[channel]]).of(0, 0)) for channel in range(CHANNELS)
    }
    assert equal(all_clusters(KeptClusters(source, study, weights(study))), alone)
    assert kept_files(study) == ["m_circuits_clusters", "m_strongest_images"]


@pytest.mark.parametrize("step", [1, 2, 5])
def test_a_stopped_pass_for_reference_images_goes_on(study, monkeypatch, step):
    expected = StoredClusters(Circuits(3, 12), study, weights(study)).references
    read = ImportanceStore.read_chunk
    stopped, _ = interrupted_at(step, read)
    monkeypatch.setattr(ImportanceStore, "read_chunk", stopped)
    with pytest.raises(Stopped):
        KeptClusters(Circuits(3, 12), study, weights(study))
    counted, calls = interrupted_at(0, read)
    monkeypatch.setattr(ImportanceStore, "read_chunk", counted)
    again = KeptClusters(Circuits(3, 12), study, weights(study)).references
    passed = [chunk for _, chunk, names in calls if {"input_sums", "targets"} <= set(names)]
    assert passed == list(range(step - 1, 6))
    assert torch.equal(again, expected)


@pytest.mark.parametrize("step", [1, 4, 7])
def test_channels_whose_clusters_were_found_are_not_clustered_again(study, monkeypatch, step):
    expected = all_clusters(KeptClusters(Circuits(3, 12), study, weights(study)))
    for path in study.model_dir.glob("*_clusters_*"):
        path.unlink()
    found = Circuits.clusters
    stopped, _ = interrupted_at(step, found)
    monkeypatch.setattr(Circuits, "clusters", stopped)
    with pytest.raises(Stopped):
        KeptClusters(Circuits(3, 12), study, weights(study))
    counted, calls = interrupted_at(0, found)
    monkeypatch.setattr(Circuits, "clusters", counted)
    again = KeptClusters(Circuits(3, 12), study, weights(study))
    assert len(calls) == CHANNELS - (step - 1) // 2 * 2
    assert equal(all_clusters(again), expected)
    assert kept_files(study) == ["m_circuits_clusters", "m_strongest_images"]  # and no unfinished ones


def test_what_was_found_is_not_computed_again_unless_something_differs(study, monkeypatch):
    KeptClusters(Circuits(3, 12), study, weights(study))
    counted, calls = interrupted_at(0, Circuits.clusters)
    monkeypatch.setattr(Circuits, "clusters", counted)
    counted_pass, passes = interrupted_at(0, stored_image_sets.strongest_images)
    monkeypatch.setattr(stored_image_sets, "strongest_images", counted_pass)
    KeptClusters(Circuits(3, 12), study, weights(study))
    assert not calls
    assert not passes
    KeptClusters(Circuits(4, 12), study, weights(study))
    assert len(calls) == CHANNELS
    assert not passes
    KeptClusters(Circuits(3, 13), study, weights(study))
    KeptClusters(Circuits(3, 12), study, weights(study)[:4])
    assert len(calls) == 2 * CHANNELS + 4
    assert len(passes) == 2


@pytest.mark.parametrize("name", ["clusters", "strongest_images"])
def test_a_damaged_file_is_made_again(study, name):
    expected = all_clusters(KeptClusters(Circuits(3, 12), study, weights(study)))
    (path,) = study.model_dir.glob(f"*_{name}_*.npz")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert equal(all_clusters(KeptClusters(Circuits(3, 12), study, weights(study))), expected)
    assert path.read_bytes() == data


def test_a_channel_without_clusters_fails_alone(study, monkeypatch):
    found = Circuits.clusters
    features = StoredClusters(Circuits(3, 12), study, weights(study)).features(4, 0)

    def failing(self, given):
        if torch.equal(given, features):
            raise TooFewImagesError("no clusters")
        return found(self, given)

    monkeypatch.setattr(Circuits, "clusters", failing)
    for _ in range(2):
        clusters = KeptClusters(Circuits(3, 12), study, weights(study))
        with pytest.raises(UserError, match="no clusters"):
            clusters.of(4, 0)
        assert len(clusters.of(5, 0).centroids) == 3
