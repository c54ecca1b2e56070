"""Splits against brute force, and split networks against the originals."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests import factories
from tests.helpers import as_layer, forward
from utils.divisions.arv import Arv
from utils.method.disentangling import (
    Concept,
    Split,
    disentangled_rows,
    merge,
    shares_of_owners,
    split_sources,
)
from utils.method.equality import EqualityCheck
from utils.method.rho import RHOS
from utils.networks.layers import find_layer, layer_of
from utils.networks.splitting import DisentangledLayer, in_place_of, with_splits


def random_split(layer, channel, num_concepts=2, seed=0, rho=0.7):
    torch.manual_seed(seed)
    arvs = torch.randn(num_concepts, layer.in_channels)
    owners = torch.stack([split_sources(arvs, value) for value in RHOS]).to(torch.uint8)
    bias = None if layer.bias is None else layer.bias[channel].clone()
    concepts = [Concept(f"concept {k}", [k]) for k in range(num_concepts)]
    weight = as_layer(layer).weight[channel].clone()
    division = Arv(owners, torch.zeros(20, 3), "positive", rho, num_concepts)
    return Split(channel, concepts, weight, bias, 4, arvs, arvs.mean(0), division)


@settings(max_examples=60)
@given(num_concepts=st.integers(2, 4), rho=st.sampled_from(RHOS), seed=st.integers(0, 10_000))
def test_sources_equal_a_loop_over_inputs(num_concepts, rho, seed):
    torch.manual_seed(seed)
    arvs = torch.randn(num_concepts, 12)  # signed, as ARVs are
    owners = split_sources(arvs, rho)
    for i in range(12):
        expected = 0
        for k in range(num_concepts):
            if all(rho * arvs[k, i] > arvs[j, i] for j in range(num_concepts) if j != k):
                expected = k + 1
                break
        assert owners[i] == expected


def test_sources_of_a_hand_worked_case():
    arvs = torch.tensor([[4.0, 1.0, 2.0, 0.0, -3.0], [1.0, 4.0, 2.0, 0.0, -4.0]])
    assert split_sources(arvs, 0.5).tolist() == [1, 2, 0, 0, 1]
    assert split_sources(arvs, 1.0).tolist() == [1, 2, 0, 0, 1]


def test_where_both_concepts_qualify_the_first_one_gets_the_input():
    arvs = torch.tensor([[-3.0], [-4.0]])  # 0.5 * -3 > -4 and 0.5 * -4 > -3
    assert split_sources(arvs, 0.5).tolist() == [1]
    assert split_sources(arvs.flip(0), 0.5).tolist() == [1]


@pytest.mark.parametrize("num_concepts", [2, 3])
def test_rows_drop_the_inputs_of_the_other_concepts(num_concepts):
    torch.manual_seed(0)
    weight, owners = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 2, 0][:6]).clamp(max=num_concepts)
    rows = disentangled_rows(weight, shares_of_owners(owners, num_concepts))
    for k, i in itertools.product(range(num_concepts + 1), range(6)):
        kept = owners[i] in (0, k + 1 if k < num_concepts else 0)
        assert torch.equal(rows[k, i], weight[i] if kept else torch.zeros(4))
    torch.testing.assert_close(merge(rows, dim=0), weight)


def test_the_same_channel_cannot_be_split_twice():
    network = factories.small()
    splits = [random_split(network.last, 2), random_split(network.last, 2, seed=1)]
    with pytest.raises(ValueError, match="only once"):
        with_splits(network, "last", splits)


def test_a_split_network_leaves_the_original_alone():
    network = factories.small()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    split_network = with_splits(network, "last", [random_split(network.last, 1)], rhos=[0.05])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert isinstance(network.last, nn.Conv2d)
    assert split_network.last.layer.weight.shape[0] == 12
    assert split_network.last.parts.weight.shape[0] == 3


def test_a_split_network_can_be_saved_whole_and_as_a_state_dict(tmp_path):
    network, x = factories.small(), torch.randn(2, 3, 24, 24)
    saved = with_splits(network, "last", [random_split(network.last, 1)], rhos=[0.05])
    torch.save(saved, tmp_path / "whole.pt")
    torch.save(saved.state_dict(), tmp_path / "state.pt")
    whole = torch.load(tmp_path / "whole.pt", weights_only=False)
    network = factories.other_weights()  # split otherwise, until the state dict is loaded
    filled = with_splits(network, "last", [random_split(network.last, 1, seed=1)])
    assert not torch.allclose(filled(x), saved(x))
    filled.load_state_dict(torch.load(tmp_path / "state.pt"))
    for loaded in (whole, filled):
        assert torch.equal(loaded(x), saved(x))
        assert torch.equal(loaded.last.layer(loaded.stem(x)), saved.last.layer(saved.stem(x)))
        assert loaded.last.rows_of == saved.last.rows_of


def test_hooks_on_the_original_layer_see_and_change_the_merged_channels():
    network, x = factories.small(), torch.randn(2, 3, 16, 16)
    network.last.register_forward_hook(lambda _, __, output: output.index_fill(1, torch.tensor([4]), 0.0))
    split_network = with_splits(network, "last", [random_split(network.last, 4)])
    assert not split_network.last.layer._forward_hooks
    torch.testing.assert_close(split_network(x), network(x))
    seen = []
    network.last.register_forward_hook(lambda _, inputs, kwargs, output: seen.append(output.shape[1]), with_kwargs=True)
    network.last.register_full_backward_hook(lambda _, __, gradients: seen.append(gradients[0].shape[1]))
    with_splits(network, "last", [random_split(network.last, 4)])(x.requires_grad_()).sum().backward()
    assert seen == [12, 12]
    x = x.detach()
    del network.last._forward_hooks[next(iter(network.last._forward_hooks))]
    assert not torch.allclose(split_network(x), network(x))  # the hook does something


@pytest.mark.parametrize(
    ("name", "image_size"),
    [
        *[("resnet18", 32), ("resnet50", 32), ("vgg11", 32), ("alexnet", 64)],
        *[("vgg11_bn", 32), ("densenet121", 32), ("googlenet", 32), ("mobilenet_v3_small", 32)],
    ],
)
def test_split_networks_equal_the_originals_and_a_wrong_split_is_noticed(name, image_size):
    torch.manual_seed(0)
    options = {"init_weights": False} if name == "googlenet" else {}
    network = torchvision.models.get_model(name, num_classes=10, **options).eval().requires_grad_(False)
    layer = find_layer(network, "last_conv", image_size)
    images = torch.randn(4, 3, image_size, image_size)
    # the channel that moves the logits most, so that a wrong split must be seen in them
    channel = int(layer.module.weight.flatten(1).norm(dim=1).argmax())
    split = random_split(layer.module, channel)
    small = errors(network, layer, split, images)
    assert max(small) < 1e-5
    split.weight = split.weight * 1.5
    channel_error, _ = errors(network, layer, split, images)
    assert channel_error > 1e-3


def errors(network, layer, split, batches):
    check = EqualityCheck()
    for images in batches.split(2):
        original = forward(network, layer, images)
        with in_place_of(network, layer, DisentangledLayer(layer, [split])) as changed:
            merged = forward(network, replace(layer, module=changed), images)
        assert network.get_submodule(layer.name) is layer.module
        maps = original.activation[:, [split.channel]], merged.activation[:, [split.channel]]
        check.add(*maps, original.logits, merged.logits)
    return check.errors()


def test_errors_are_relative_to_the_original_and_the_largest_of_all_batches():
    check = EqualityCheck()
    check.add(
        torch.tensor([[[-8.0, 2.0]]]), torch.tensor([[[-8.0, 1.0]]]), torch.tensor([[1.0]]), torch.tensor([[1.0]])
    )
    assert check.errors() == (0.125, 0.0)
    check.add(torch.tensor([[[1.0]]]), torch.tensor([[[3.0]]]), torch.tensor([[5.0]]), torch.tensor([[4.5]]))
    assert check.errors() == (0.25, 0.125)
    check.add(torch.tensor([[[torch.nan]]]), torch.tensor([[[3.0]]]), torch.tensor([[5.0]]), torch.tensor([[4.5]]))
    assert math.isnan(check.errors()[0])


def test_a_layer_is_itself_again_after_a_failure():
    network = factories.small()
    layer = network.last
    changed = DisentangledLayer(as_layer(layer), [random_split(layer, 2)])
    with pytest.raises(ZeroDivisionError), in_place_of(network, layer_of("last", layer), changed):
        assert network.last is changed
        1 / 0  # noqa: B018
    assert network.last is layer


def test_a_wrong_split_is_noticed_in_the_logits():
    network = factories.small()
    split = random_split(network.last, 2)
    split.weight = split.weight + 10
    channel_error, logit_error = errors(network, layer_of("last", network.last), split, torch.randn(4, 3, 16, 16))
    assert channel_error > 1e-2
    assert logit_error > 1e-2


def test_a_constant_channel_is_no_division_by_zero():
    network = factories.small()
    network.last.weight[2] = 0
    split = random_split(network.last, 2)
    assert errors(network, layer_of("last", network.last), split, torch.randn(2, 3, 16, 16)) == (0.0, 0.0)
    check, zeros = EqualityCheck(), torch.zeros(1, 2, 2)
    check.add(zeros, zeros + 1e-9, zeros[0], zeros[0])
    assert check.errors() == (math.inf, 0.0)
