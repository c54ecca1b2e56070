"""What an embedding is of which network, with which transform, and which networks are refused."""

import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch
import torchvision
from torch import nn

from tests import factories
from utils.errors import UserError
from utils.images.transform import Transform
from utils.networks import embedder as embedder_module
from utils.networks.embedder import Embedder, load_embedder
from utils.networks.loading import LoadedNetwork, fingerprint

SEEN = Transform(32, 24, "bicubic")
OWN = {"resize_size": 30, "crop_size": 28, "interpolation": "nearest", "mean": [0.5, 0.4, 0.3], "std": (0.2, 0.2, 1)}


class Then(nn.Module):
    """A network, and a function of its output."""

    def __init__(self, network, function):
        super().__init__()
        self.network, self.function = network, function

    def forward(self, x):
        return self.function(self.network(x))


class ByKeyword(nn.Linear):
    def __call__(self, x):
        return super().__call__(input=x)


def embedder(module, transform=SEEN):
    return Embedder("m", LoadedNetwork(module.eval(), "w", fingerprint(module), transform), transform)


def images(count=3, size=24):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def features(network, x):
    """What enters the classifier of a Small."""
    return network.head(network.last(network.stem(x))).flatten(1)


@pytest.mark.parametrize("behind", [lambda y: y, lambda y: y.softmax(1), lambda y: nn.functional.normalize(y) * 30])
def test_of_a_classifier_it_is_what_enters_its_last_linear_layer(behind):
    network = factories.small()
    found = embedder(Then(network, behind))
    assert (found.size, found.features) == (12, "what enters network.classifier")
    torch.testing.assert_close(found.embed(images()), features(network, images()))


@pytest.mark.parametrize(("make", "size"), [("resnet18", 512), ("mobilenet_v3_small", 1024), ("convnext_tiny", 768)])
def test_of_torchvisions_networks_it_is_what_enters_the_last_layer(make, size):
    with torch.device("cpu"):
        network = torchvision.models.get_model(make, weights=None)
    assert embedder(network, Transform(64, 64)).size == size


def test_a_layer_that_is_called_by_keyword_is_seen():
    network = factories.small()
    by_keyword = ByKeyword(12, 4)
    by_keyword.load_state_dict(network.classifier.state_dict())
    network.classifier = by_keyword
    torch.testing.assert_close(embedder(network).embed(images()), features(network, images()))


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Conv2d(3, 5, 3, stride=3), lambda y: y.mean((2, 3))),  # a map
        (nn.Sequential(nn.Conv2d(3, 5, 3, stride=3), nn.Flatten(2)), lambda y: y.mean(1)),  # what may be tokens
        (nn.Sequential(nn.Linear(24, 7), nn.Flatten(1, 2)), lambda y: y.mean(1)),  # tokens that a linear layer makes
        (nn.Sequential(nn.Linear(24, 7), nn.AdaptiveAvgPool2d(2), nn.Flatten()), lambda y: y),  # one that makes no rows
        (nn.Sequential(nn.Flatten(), nn.Linear(1728, 9), nn.Unflatten(1, (3, 3)), nn.AvgPool1d(3), nn.Flatten()),
         lambda y: y),  # rows that the output is not made of
    ],
)  # fmt: skip
def test_of_any_other_network_it_is_its_output(module, expected):
    found = embedder(module.requires_grad_(False))
    assert found.features == "its own output"
    result = found.embed(images())
    torch.testing.assert_close(result, expected(module(images())))
    assert result.shape == (3, found.size)


def test_of_two_heads_the_later_one_counts():
    network = factories.TwoHeads()
    found = embedder(network)
    assert found.features == "what enters distilled.1"
    assert found.embed(images()).shape == (3, 12)


def test_an_embedding_is_float32_and_leaves_no_hooks():
    network = factories.small()
    found = embedder(network)
    with torch.autocast("cpu", torch.bfloat16):
        assert found.embed(images()).dtype == torch.float32
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Then(nn.Flatten(), lambda y: (y, y)), "gives tuple for two images"),
        (Then(nn.Flatten(), lambda y: y.sum()), r"gives \(\) for two images"),
        (Then(nn.Flatten(), lambda y: y[:1]), r"gives \(1, 1728\) for two images"),
        (nn.Linear(5, 5), "cannot take images of 24x24 pixels: .*mat1 and mat2"),
    ],
)
def test_networks_that_give_no_embedding_are_refused(module, message):
    with pytest.raises(UserError, match=message) as error:
        embedder(module)
    assert "\n" not in str(error.value)


# --------------------------------------------------------------------------------------------------------------------
# Loading


@pytest.fixture
def factory(monkeypatch):
    """A function that makes a network that carries a transform reachable as ``--embedding``."""
    module = ModuleType("of_this_test")
    monkeypatch.setitem(sys.modules, "of_this_test", module)

    def reachable(**attributes):
        def make():
            network = factories.small()
            for name, value in attributes.items():
                setattr(network, name, value)
            return network

        module.make = make
        return "of_this_test:make"

    return reachable


def test_a_module_carries_its_transform_and_flags_replace_its_colours(factory):
    own = Transform(30, 28, "nearest", (0.5, 0.4, 0.3), (0.2, 0.2, 1.0))
    assert load_embedder(factory(transform=OWN), "0", SEEN).transform == own
    assert load_embedder(factory(transform=own), "0", SEEN).transform == own
    found = load_embedder(factory(transform=OWN), "0", SEEN, std=[0.1, 0.2, 0.3])
    assert found.transform == Transform(30, 28, "nearest", (0.5, 0.4, 0.3), (0.1, 0.2, 0.3))


def test_a_module_without_one_takes_sizes_of_the_studied_and_colours_of_the_flags(factory):
    found = load_embedder(factory(), "0", SEEN, [0.1, 0.2, 0.3], [1, 1, 1])
    assert found.transform == Transform(32, 24, "bicubic", (0.1, 0.2, 0.3), (1, 1, 1))
    assert str(found) == "of_this_test:make with weights the factory's own: what enters classifier, 12 numbers"
    assert (
        load_embedder(factory(transform=torch.relu), "0", SEEN, [0.1, 0.2, 0.3], [1, 1, 1]).transform == found.transform
    )
    for colours in ((None, None), ([0.1, 0.2, 0.3], None), (None, [1, 1, 1])):
        with pytest.raises(UserError, match="has no transform: give --embedding_mean and --embedding_std"):
            load_embedder(factory(), "0", SEEN, *colours)


def test_named_weights_have_their_own_transform(monkeypatch):
    named = Transform(26, 22, "bicubic", (0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    module = factories.small()
    loaded = LoadedNetwork(module, "IMAGENET1K_V1", fingerprint(module), named)
    monkeypatch.setattr(embedder_module, "load_network", lambda model: loaded)
    assert load_embedder("resnet18", "0", SEEN).transform == named
    assert load_embedder("resnet18", "0", SEEN, mean=[0, 0, 0]).transform == replace(named, mean=(0, 0, 0))


@pytest.mark.parametrize(
    "wrong",
    [
        {key: value for key, value in OWN.items() if key != "mean"},
        {**OWN, "more": 1},
        {**OWN, "crop_size": 31},
        {**OWN, "crop_size": 0},
        {**OWN, "resize_size": 30.5},
        {**OWN, "interpolation": "lanczos"},
        {**OWN, "interpolation": ["nearest"]},
        {**OWN, "mean": [0.5, 0.5]},
        {**OWN, "mean": 0.5},
        {**OWN, "mean": [0.5, 0.5, float("nan")]},
        {**OWN, "std": [1, 1, 0]},
    ],
)
def test_a_transform_that_cannot_be_one_is_refused(factory, wrong):
    with pytest.raises(UserError, match="its transform must be a dictionary of resize_size, crop_size, "):
        load_embedder(factory(transform=wrong), "0", SEEN)


def test_the_network_studied_is_no_judge_of_itself(factory):
    studied = fingerprint(factories.small())
    with pytest.raises(UserError, match=r"^--embedding of_this_test:make is the network studied: "):
        load_embedder(factory(transform=OWN), studied, SEEN)


@pytest.mark.parametrize("model", ["resnet5000", "tests.factories:missing", "tests.factories:not_a_module"])
def test_unknown_networks_are_refused_by_the_flag_that_names_them(model):
    with pytest.raises(UserError, match=f"^--embedding {model}"):
        load_embedder(model, "0", SEEN)
