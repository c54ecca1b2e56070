"""Images of which the network before the layer is computed once: what is kept, and in which order groups come."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from tests import factories
from utils.errors import UserError
from utils.images.batches import ImageBatch
from utils.networks.layers import find_layer
from utils.networks.opened_network import OpenedNetwork
from utils.stages import recorded_images
from utils.stages.recorded_images import LabelledImages, RecordedImages

UNREADABLE = 7


def pixels_of(indices):
    return torch.stack([torch.full((3, 24, 24), index / 10) for index in indices]) if indices else torch.empty(0)


@dataclass
class Source:
    """An ImageSource of uniform images that remembers what was read together; one of them is not readable."""

    batch_size: int = 2
    images: tuple = ()
    read: list = field(default_factory=list)

    def batches(self, plan, description):
        self.read.append([index for batch in plan for index in batch])
        for batch in plan:
            readable = [index for index in batch if index != UNREADABLE]
            yield ImageBatch(torch.tensor(readable, dtype=torch.long), pixels_of(readable), np.empty(0), torch.empty(0))


@pytest.fixture
def network():
    module = factories.small()
    return OpenedNetwork(module, find_layer(module, "last", 24), "fp32")


def recorded_by(network):
    source = Source()
    return source, RecordedImages(network, LabelledImages(source, torch.arange(20) % 4))


def indices_of(groups):
    return {key: [index for batch in batches for index in batch.indices.tolist()] for key, batches in groups}


def test_groups_come_in_order_with_the_networks_logits(network):
    source, images = recorded_by(network)
    groups = {"b": [4, 5, 6], "a": np.array([1]), "none": [UNREADABLE]}
    found = list(images.of(groups))
    assert indices_of(found) == {"b": [4, 5, 6], "a": [1], "none": []}
    assert [key for key, _ in found] == list(groups) and images.images_run == 4
    for _, batches in found:
        for batch in batches:
            torch.testing.assert_close(batch.logits, network.module(pixels_of(batch.indices.tolist())))
            assert torch.equal(batch.targets, batch.indices % 4)
    assert indices_of(images.of({"a": [1], "c": [9], "d": [0]})) == {"a": [1], "c": [9], "d": [0]}
    # the first group alone, then by its size; what is kept is not read again
    assert source.read == [[4, 5, 6], [1, UNREADABLE], [9, 0]]


def test_a_group_that_could_not_be_recorded_does_not_stand_as_a_whole_one(network, monkeypatch):
    _, images = recorded_by(network)

    def refuse(tensors, indices, of_images):
        if 3 in indices:
            raise UserError("image 3")

    monkeypatch.setattr(recorded_images, "require_finite_values", refuse)
    for _ in range(2):  # the second time it is not there either
        with pytest.raises(UserError, match="image 3"):
            list(images.of({"a": [1, 2, 3, 4]}))
    monkeypatch.undo()
    assert indices_of(images.of({"a": [1, 2, 3, 4]})) == {"a": [1, 2, 3, 4]}


@pytest.mark.parametrize("by_bytes", [True, False])
def test_lots_bound_what_is_in_memory(network, monkeypatch, by_bytes):
    """Nothing may be kept: each lot replaces the one before, and groups of an earlier call are recorded again."""
    source, images = recorded_by(network)
    ((_, (batch,)),) = images.of({"first": [19]})
    if by_bytes:
        monkeypatch.setattr(recorded_images, "LOT_BYTES", 4 * batch.num_bytes)
    else:
        monkeypatch.setattr(recorded_images, "LOT_IMAGES", 4)
    monkeypatch.setattr(recorded_images, "MOST_BYTES", 0)
    groups = {"a": [0, 1], "b": [2, 3], "c": [4, 5, 6, 8, 9], "d": [10]}
    kept = []
    for key, batches in images.of(groups):
        assert indices_of([(key, batches)]) == {key: groups[key]}
        kept.append(set(images._groups))
    assert source.read[1:] == [[0, 1, 2, 3], [4, 5, 6, 8, 9], [10]]  # a group is never cut
    assert kept == [{"a", "b"}, {"a", "b"}, {"c"}, {"d"}]
    assert indices_of(images.of({"a": [0, 1], "d": [10]})) == {"a": [0, 1], "d": [10]}
    assert source.read[4:] == [[0, 1]]  # d stays until it is its turn
    assert indices_of(images.of({"d": [10], "b": [2]})) == {"d": [10], "b": [2]}
    assert set(images._groups) == {"b"}


def test_what_was_not_needed_for_the_longest_time_goes_first(network, monkeypatch):
    source, images = recorded_by(network)
    list(images.of({"a": [0], "b": [1], "c": [2]}))
    (size,) = {batch.num_bytes for batches in images._groups.values() for batch in batches}
    monkeypatch.setattr(recorded_images, "MOST_BYTES", 3 * size)
    list(images.of({"d": [3], "a": [0]}))  # b goes, though a was recorded before it
    assert set(images._groups) == {"a", "c", "d"} and source.read == [[0], [1, 2], [3]]
