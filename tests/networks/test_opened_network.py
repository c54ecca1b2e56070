"""Passes over images that record the layer of interest: each batch of the plan, with what the network gives."""

import pytest
import torch

from tests import factories
from tests.helpers import forward, forward_with_gradient
from tests.pictures import CPU, write_images
from utils.errors import UserError
from utils.images.batches import ImageSource, Loading, batches_by_group
from utils.images.folders import list_images
from utils.images.transform import Transform
from utils.networks.layers import find_layer
from utils.networks.opened_network import OpenedNetwork

PLAN = [[0, 1, 2], [3], [4, 5]]
TARGETS = torch.tensor([0, 0, 1, 1, 2, 3])


@pytest.fixture
def source(tmp_path):
    """Six images, of which the fourth cannot be read."""
    images = list_images(write_images(tmp_path, train=3, val=1, folders=("ant", "bee")) / "train")
    images.path(3).write_bytes(b"no image")
    return ImageSource(images, Transform(24, 24), 4, Loading(CPU, skip_unreadable=True))


@pytest.fixture
def network():
    module = factories.small()
    return OpenedNetwork(module, find_layer(module, "last", 24), "fp32")


def hooks_of(network):
    return len(network.layer.module._forward_hooks) + len(network.layer.module._forward_pre_hooks)


@pytest.mark.parametrize("targets", [None, TARGETS])
def test_every_batch_of_the_plan_has_its_record_or_none(source, network, targets):
    passed = list(network.records_in_step(source.batches(PLAN, None), targets))
    assert [batch.indices.tolist() for batch, _ in passed] == [[0, 1, 2], [], [4, 5]]
    assert [record is None for _, record in passed] == [False, True, False]
    batch, record = passed[2]
    if targets is None:
        expected = forward(network.module, network.layer, batch.pixels)
        assert record.gradient is None
    else:
        expected = forward_with_gradient(network.module, network.layer, batch.pixels, torch.tensor([2, 3]))
        assert torch.equal(record.gradient, expected.gradient)
    assert torch.equal(record.input, expected.input) and torch.equal(record.logits, expected.logits)
    assert hooks_of(network) == 0


def test_batches_without_readable_images_are_left_out(source, network):
    assert [batch.indices.tolist() for batch in source.batches(PLAN, None).readable()] == [[0, 1, 2], [4, 5]]
    assert [batch.indices.tolist() for batch, _ in network.records(source.batches(PLAN, None))] == [[0, 1, 2], [4, 5]]


def test_the_layer_s_input_comes_without_the_rest_of_the_network(source, network):
    def too_far(*_):
        raise AssertionError("the network goes on after the layer's input")

    network.layer.module.forward = too_far
    inputs = dict((tuple(batch.indices.tolist()), x) for batch, x in network.layer_inputs(source.batches(PLAN, None)))
    assert list(inputs) == [(0, 1, 2), (4, 5)] and hooks_of(network) == 0
    (batch,) = source.batches([[4, 5]], None)
    assert torch.equal(inputs[4, 5], network.module.stem(batch.pixels))


def test_an_image_of_nan_is_named_and_the_hook_is_gone(source, network):
    network.module.last.weight.fill_(torch.nan)
    with pytest.raises(UserError, match=r"NaN or infinite values for .*ant/0\.png"):
        list(network.records(source.in_order([0, 1, 2], None)))
    assert hooks_of(network) == 0
    ((_, record),) = network.records_in_step(source.batches([[0]], None), check_finite=False)
    assert record.logits.isnan().all()


def test_a_batch_is_of_one_group_and_the_last_one_of_it_is_marked():
    planned = batches_by_group({"a": range(5), "nothing": [], "b": [7, 6]}, 2)
    assert [(batch.group, batch.indices, batch.is_last) for batch in planned] == [
        ("a", [0, 1], False),
        ("a", [2, 3], False),
        ("a", [4], True),
        ("b", [7, 6], True),
    ]
