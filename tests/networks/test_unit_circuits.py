"""Circuits of images against plain autograd, one image and one unit at a time, and layers that they cannot be about."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from tests import factories
from tests.layers import IMAGE_SIZE, LAYERS, by_position, images, passed_through
from utils.errors import UserError
from utils.networks import unit_circuits
from utils.networks.layers import find_layer
from utils.networks.unit_circuits import UnitCircuits, find_circuit_layer

CLOSE = {"rtol": 1e-4, "atol": 1e-6}
ROWS = 5


def random_units(layer, count=ROWS):
    """Rows and biases of units that are no channels; the last one is active nowhere."""
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(count, *layer.weight.shape[1:], generator=generator)
    rows[-1] = 0
    biases = None if layer.bias is None else torch.randn(count, generator=generator)
    if biases is not None:
        biases[-1] = -1
    return rows, biases


def measured(units, pixels, wanted):
    """Maxima, and the circuits of wanted pairs: {(image, unit): [F]}."""
    maxima, circuits_of = units.measure(pixels)
    circuits = circuits_of(wanted)
    assert not circuits.requires_grad
    found = dict(zip(map(tuple, wanted.nonzero().tolist()), circuits, strict=True))
    assert torch.equal(maxima, units.maxima(pixels)) and not maxima.requires_grad
    return maxima, found


def half_of_the_pairs(num_images, num_units=ROWS):
    return torch.rand(num_images, num_units, generator=torch.Generator().manual_seed(0)) < 0.5


@pytest.mark.parametrize("case", LAYERS, ids=lambda case: case.name)
def test_circuits_at_the_layers_input_are_input_times_gradient_of_each_unit(case):
    network = case.make()
    layer = find_layer(network, case.layer, IMAGE_SIZE)
    rows, biases = random_units(layer)
    pixels, targets = images()
    wanted = half_of_the_pairs(len(pixels))
    maxima, found = measured(UnitCircuits(network, layer, rows, biases), pixels, wanted)

    layer_input, *_ = passed_through(case, network, pixels, targets)
    module = copy.deepcopy(layer.with_rows(rows, biases)).double()
    for image, x in enumerate(layer_input.split(case.rows_per_image)):
        for unit in range(ROWS):
            x = x.detach().clone().requires_grad_()
            a = by_position(case, module(x))[0, unit]
            torch.testing.assert_close(maxima[image, unit].double(), a.max().detach(), **CLOSE)
            if wanted[image, unit]:
                (gradient,) = torch.autograd.grad(a, x, a.detach().clamp(min=0))
                product = (x * gradient).detach().movedim(case.channel_dim, 0).flatten(1).sum(1)
                expected = product / (product.abs().sum() + 1e-10)
                torch.testing.assert_close(found[image, unit].double(), expected, **CLOSE)


class Deep(nn.Module):
    """Two stages of residual blocks, of which the second one is changed in place, a layer, and a classifier."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.Tanh())
        self.middle, self.batch_norm = nn.Conv2d(5, 5, 3, padding=1, groups=5), nn.BatchNorm2d(5)
        self.relu, self.beside = nn.ReLU(inplace=True), nn.Conv2d(5, 5, 1)
        self.last, self.classifier = nn.Conv2d(5, 6, 3, padding=1), nn.Linear(6, 4)

    def upper(self, x):
        """From the stem's output to the layer's input."""
        self.beside(x)
        return self.relu(self.batch_norm(self.middle(x))) + x

    def forward(self, x):
        return self.classifier(self.last(self.upper(self.stem(x))).mean((2, 3)))


class OverTokens(nn.Module):
    """A stem, tokens that are normalised, an attention between them, and a linear layer of interest."""

    def __init__(self, channels_last_map=False):
        super().__init__()
        self.stem, self.norm, self.classifier = nn.Conv2d(3, 4, 2, stride=2), nn.LayerNorm(4), nn.Linear(7, 4)
        self.before, self.last, self.as_map = nn.Linear(4, 4), nn.Linear(4, 7), channels_last_map

    def upper(self, x):
        """From the normalisation's output to the layer's input."""
        x = self.before(x).relu()
        tokens = x.flatten(1, -2)
        return (torch.softmax(tokens @ tokens.mT, -1) @ tokens).view_as(x)

    def forward(self, x):
        x = self.stem(x).movedim(1, -1)
        tokens = self.norm(x if self.as_map else x.flatten(1, 2))
        return self.classifier(self.last(self.upper(tokens)).flatten(1, -2).mean(1))


def frozen(make, *args):
    torch.manual_seed(0)
    network = make(*args).eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return network


@pytest.mark.parametrize(
    ("network", "name", "lower", "channel_dim"),
    [
        (frozen(Deep), "stem", lambda network, x: network.stem(x), 1),
        (frozen(OverTokens), "norm", lambda network, x: network.norm(network.stem(x).movedim(1, -1).flatten(1, 2)), 2),
        (frozen(OverTokens, True), "norm", lambda network, x: network.norm(network.stem(x).movedim(1, -1)), 3),
    ],
    ids=["maps", "tokens", "channels-last maps"],
)
def test_circuits_at_an_earlier_module_are_those_of_a_loop(network, name, lower, channel_dim):
    layer = find_layer(network, "last", IMAGE_SIZE)
    circuit_layer = find_circuit_layer(network, layer, name, IMAGE_SIZE)
    assert (circuit_layer.channel_dim, circuit_layer.module) == (channel_dim, network.get_submodule(name))
    pixels, _ = images()
    rows, biases = layer.weight[[0, 3]], layer.bias[[0, 3]]
    rows = torch.cat([rows, random_units(layer, 3)[0]])
    biases = torch.cat([biases, torch.tensor([0.1, -0.2, -1.0])])
    units = UnitCircuits(network, layer, rows, biases, circuit_layer=circuit_layer)
    wanted = half_of_the_pairs(len(pixels), 5)
    maxima, found = measured(units, pixels, wanted)
    assert circuit_layer.num_features == units.num_features == (5 if name == "stem" else 4)
    assert not network.get_submodule(name)._forward_hooks and not layer.module._forward_pre_hooks

    twin = copy.deepcopy(network).double()
    applied = copy.deepcopy(layer.with_rows(rows, biases)).double()
    for image, unit in wanted.nonzero().tolist():
        leaf = lower(twin, pixels[[image]].double()).detach().clone().requires_grad_()
        output = applied(twin.upper(leaf.clone()))
        a = output[0, unit] if name == "stem" else output[0, ..., unit]
        torch.testing.assert_close(maxima[image, unit].double(), a.max().detach(), **CLOSE)
        a.backward(a.detach().clamp(min=0))
        product = (leaf * leaf.grad).detach()[0].movedim(channel_dim - 1, 0).flatten(1).sum(1)
        expected = product / (product.abs().sum() + 1e-10)
        torch.testing.assert_close(found[image, unit].double(), expected, rtol=1e-4, atol=1e-5)


def test_a_layers_input_as_an_earlier_modules_output_is_the_same_thing():
    network = frozen(factories.with_kernel)
    layer = find_layer(network, "last", 24)
    pixels = torch.randn(4, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    wanted = torch.ones(4, 12, dtype=torch.bool)
    _, own = measured(UnitCircuits(network, layer, layer.weight, layer.bias), pixels, wanted)
    stem = find_circuit_layer(network, layer, "stem", 24)
    _, other = measured(UnitCircuits(network, layer, layer.weight, layer.bias, circuit_layer=stem), pixels, wanted)
    for pair, circuit in own.items():
        torch.testing.assert_close(other[pair], circuit, rtol=1e-4, atol=1e-6)


def test_a_unit_that_is_active_nowhere_has_no_circuit():
    network = frozen(factories.small)
    layer = find_layer(network, "last", 24)
    units = UnitCircuits(network, layer, torch.zeros(1, 8, 1), torch.tensor([-2.0]))
    maxima, found = measured(units, torch.randn(2, 3, 24, 24), torch.ones(2, 1, dtype=torch.bool))
    assert maxima.tolist() == [[-2], [-2]] and not torch.stack(list(found.values())).any()


@pytest.mark.parametrize("circuit_layer", [None, "stem"])
def test_nothing_waits_for_the_device(circuit_layer, monkeypatch):
    """On the meta device tensors have no values: what needs them on the CPU fails."""
    monkeypatch.setattr(unit_circuits, "network_arithmetic", lambda *_: nullcontext())  # it has no autocast
    network = frozen(factories.with_kernel)
    layer = find_layer(network, "last", 24)
    start = None if circuit_layer is None else find_circuit_layer(network, layer, circuit_layer, 24)
    network.to("meta")
    units = UnitCircuits(network, layer, layer.weight, layer.bias, circuit_layer=start)
    maxima, circuits_of = units.measure(torch.empty(3, 3, 24, 24, device="meta"))
    wanted = half_of_the_pairs(3, 12)
    assert maxima.is_meta and maxima.shape == (3, 12)
    circuits = circuits_of(wanted)
    assert circuits.is_meta and circuits.shape == (wanted.sum(), units.num_features)
    assert circuits_of(torch.zeros(3, 12, dtype=torch.bool)).shape == (0, units.num_features)


@pytest.mark.parametrize("circuit_layer", [None, "stem"])
def test_autocast_is_the_networks_alone(circuit_layer):
    """Units and gradients are fp32, of an input of the layer that is bfloat16."""
    network = frozen(factories.with_kernel)
    layer = find_layer(network, "last", 24)
    start = None if circuit_layer is None else find_circuit_layer(network, layer, circuit_layer, 24)
    pixels = torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    wanted = torch.ones(3, 12, dtype=torch.bool)
    units = [
        UnitCircuits(network, layer, layer.weight, layer.bias, precision=precision, circuit_layer=start)
        for precision in ("fp32", "bf16")
    ]
    (maxima, _), (half, found) = (measured(one, pixels, wanted) for one in units)
    assert half.dtype == torch.float32 and all(one.dtype == torch.float32 for one in found.values())
    assert not torch.equal(half, maxima)
    torch.testing.assert_close(half, maxima, rtol=0.05, atol=0.02)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        x = network.stem(pixels)
    assert torch.equal(half, layer.maps(layer.weight, layer.bias)(x).amax(-1))


class ManyWays(nn.Module):
    """Modules that circuits cannot be about."""

    def __init__(self):
        super().__init__()
        self.stem, self.twice, self.beside = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 1)
        self.vector, self.pair, self.last = nn.Flatten(), nn.LSTM(4, 4, batch_first=True), nn.Conv2d(4, 4, 1)
        self.rectangular, self.rows = nn.AvgPool2d((4, 1)), nn.Flatten(0, 1)
        self.after = nn.ReLU()

    def forward(self, x):
        x = self.twice(self.twice(self.stem(x)))
        self.beside(x)
        sums = self.vector(x).sum() + self.pair(x.flatten(2).mT)[0].sum()
        sums = sums + self.rectangular(x).sum() + self.rows(x).sum()
        return self.after(self.last(x + sums)).mean((2, 3))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "--circuit_layer nowhere: the network has no module of that name"),
        ("", "--circuit_layer : the network has no module of that name"),
        ("twice", "--circuit_layer twice makes 2 outputs before layer last is called, not one"),
        ("after", "--circuit_layer after makes no output before layer last is called, not one"),
        ("last", "--circuit_layer last makes no output before layer last is called, not one"),
        ("beside", "--circuit_layer beside does not lead into layer last"),
        ("vector", r"vector: its output is of shape \[2, 256\] for 2 images, neither maps nor tokens"),
        ("rectangular", r"rectangular: its output is of shape \[2, 4, 2, 8\] for 2 images, neither maps nor tokens"),
        ("rows", r"rows: its output is of shape \[8, 8, 8\] for 2 images, neither maps nor tokens"),
        ("pair", "--circuit_layer pair: its output is no tensor, neither maps nor tokens"),
    ],
)
def test_a_layer_that_circuits_cannot_be_about_is_refused(name, message):
    network = frozen(ManyWays)
    with pytest.raises(UserError, match=message):
        find_circuit_layer(network, find_layer(network, "last", 8), name, 8)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
