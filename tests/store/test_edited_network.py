"""``edited_network``: split files and manifests, channels by number and concepts by name, and what it refuses."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests import factories
from tests.splits import fitted_split, random_split
from tests.stores import split_file
from utils.networks.ablation import ablated
from utils.networks.edits import ChannelEdit, with_edits
from utils.networks.loading import fingerprint
from utils.store import edited_network, split_network
from utils.store.splits import write_manifest, write_split


@pytest.fixture
def files(tmp_path):
    """A network, and the paths of splits of it by layer and channel."""
    network = factories.make(8, 12, 3, padding=1, bias=False)
    paths = {}
    for name, channel in (("last", 3), ("last", 5), ("stem.0", 3), ("stem.0", 1)):
        layer = network.get_submodule(name)
        file = split_file(layer, channel, layer=name, weights_sha256=fingerprint(network), num_channels=12)
        make = random_split if name == "last" else fitted_split
        file = replace(file, split=make(layer, channel, 3, seed=channel))
        paths[name, channel] = tmp_path / f"m_{name}_channel{channel}_0_1.pt"
        write_split(paths[name, channel], file)
    return network, paths


def same_as_held(edited, network, path, channel, concept):
    pixels = torch.randn(2, 3, 24, 24)
    with ablated(split_network(network, path), channel, concept) as split:
        torch.testing.assert_close(edited(pixels), split(pixels), rtol=1e-4, atol=1e-5)


def test_a_concept_is_given_by_number_name_or_list(files):
    network, paths = files
    path = paths["last", 3]
    edited = edited_network(network, path, {3: "concept 1"})
    same_as_held(edited, network, path, 3, 2)
    assert set(edited.state_dict()) == set(network.state_dict())  # a BatchNorm follows the layer
    for concepts in (2, [2], ("concept_1",), [2, "concept 1"], "1"):  # "1" is an output
        other = edited_network(network, [path], {3: concepts})
        assert fingerprint(other) == fingerprint(edited)
    both = edited_network(network, str(path), {3: [3, "concept 1"]}, factor=0.5, to=0.25)
    split = random_split(network.last, 3, 3, seed=3)
    chosen = ChannelEdit("last", split, split.rho, (2, 1))
    assert fingerprint(both) == fingerprint(with_edits(network, [chosen], factor=0.5, to=0.25, image_size=8))


def test_channels_of_several_layers_and_files(files, tmp_path):
    network, paths = files
    every = list(paths.values())
    edited = edited_network(network, every, {("last", 3): 1, ("stem.0", 3): 2, 5: 1})
    pixels = torch.randn(2, 3, 24, 24)
    split = split_network(network, *every)
    with ablated(split, 3, 1, layer="last"), ablated(split, 3, 2, layer="stem.0"), ablated(split, 5, 1):
        torch.testing.assert_close(edited(pixels), split(pixels), rtol=1e-4, atol=1e-5)
    for layer, channel in (("last", 3), ("stem.0", 3), ("last", 5)):
        assert (edited.get_submodule(layer).weight[channel] != network.get_submodule(layer).weight[channel]).any()
    assert torch.equal(edited.stem[0].weight[1], network.stem[0].weight[1])  # split, not edited
    assert edited.concept_edits["running_means"] == {"last": "head.0.running_mean"}
    assert edited.concept_edits["weights_sha256"] == fingerprint(network) != fingerprint(edited)
    with pytest.raises(ValueError, match=r"channel 3 is split in last, stem\.0: give \('last', 3\)"):
        edited_network(network, every, {3: 1})


def test_the_rho_of_a_manifest_or_of_the_call_is_used(files, tmp_path):
    network, paths = files
    path = paths["last", 3]
    split = random_split(network.last, 3, 3, seed=3, rho=0.3)
    file = split_file(network.last, 3, layer="last", weights_sha256=fingerprint(network), num_channels=12)
    file = replace(file, split=split)
    write_split(path, file)
    write_manifest(tmp_path / "m_layer.json", {path: file}, {})
    edited = {rho: edited_network(network, tmp_path / "m_layer.json", {3: 1}, rhos=rho) for rho in (None, (0.8,))}
    for rho, chosen in ((None, 0.3), ((0.8,), 0.8)):
        expected = split.weight.double() * (1 - split.shares(chosen)[0].double())[:, None]
        assert torch.equal(edited[rho].last.weight[3].flatten(1), expected.float())
    assert (edited[None].last.weight != edited[(0.8,)].last.weight).any()


def test_what_is_wrong_is_said(files):
    network, paths = files
    path = paths["last", 3]
    for splits, edits, options, message in (
        (path, {4: 1}, {}, "channel 4 is not split"),
        (path, {("stem.0", 3): 1}, {}, r"channel 3 is not split in stem\.0"),
        (path, {3: 4}, {}, "channel 3 has no concept 4: it has 1 to 3"),
        (path, {3: "dog"}, {}, "has no concept 'dog'"),
        (path, {3: []}, {}, "no concept of channel 3 was given"),
        (path, {}, {}, "no channel to edit was given"),
        ([], {3: 1}, {}, "no split file was given"),
        ([path, path], {3: 1}, {}, "channel 3 of last is split in 2 of the files: give one of them"),
        (path, {3: 1, ("last", 3): 2}, {}, "a channel can be edited only once"),
        (path, {3: 1}, {"rhos": [0.33]}, "rho 0.33 is not one of the stored values"),
        (path, {3: 1}, {"rhos": [0.5, 0.5]}, "2 rhos were given for 1 splits"),
        (path, {3: 1}, {"factor": float("nan")}, "factor=nan is not a finite number"),
        (path, {3: 1}, {"to": "median"}, "to='median' is not 'mean'"),
    ):
        with pytest.raises(ValueError, match=message):
            edited_network(network, splits, edits, **options)


def test_an_edited_network_is_not_edited_or_split_again(files):
    network, paths = files
    edited = edited_network(network, paths["last", 3], {3: 1})
    saved = factories.make(8, 12, 3, padding=1, bias=False)
    saved.load_state_dict(edited.state_dict())
    advice = "give all edits in one call with the original network"
    for again in (
        lambda one: edited_network(one, paths["last", 5], {5: 1}),
        lambda one: split_network(one, paths["last", 5]),
    ):
        with pytest.raises(ValueError, match=f"was made for m, and this is an edited network: {advice}"):
            again(edited)
        with pytest.raises(ValueError, match=f"was made for m, and this is an edited network: {advice}"):
            again(copy.deepcopy(edited))
        with pytest.raises(ValueError, match=rf"made for m with other weights \(if these were edited: {advice}\)"):
            again(saved)
    with pytest.raises(ValueError, match="split already"):
        edited_network(split_network(network, paths["last", 5]), paths["last", 3], {3: 1})


def test_a_layer_that_gets_a_bias_lists_it(files, tmp_path):
    network, _ = files
    network.head[0] = nn.Identity()
    file = split_file(network.last, 3, layer="last", weights_sha256=fingerprint(network), num_channels=12)
    write_split(tmp_path / "m_channel3_0_1.pt", file)
    edited = edited_network(network, tmp_path / "m_channel3_0_1.pt", {3: 1}, to=1)
    assert edited.concept_edits["new_biases"] == {"last": 12}
    assert edited.last.bias.nonzero().tolist() == [[3]] and edited.last.bias[3] == 1
