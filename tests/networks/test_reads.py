"""What follows a layer: the activation that was found equals what the network's own modules compute."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests import factories
from utils.networks.layers import layer_of
from utils.networks.reads import following_activation


class Follows(nn.Module):
    """A convolution, and a function of its output; the BatchNorm's statistics and weights are at random."""

    def __init__(self, function, norm):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.last, self.norm, self.classifier = nn.Conv2d(3, 6, 3), norm, nn.Linear(6, 4)
        if isinstance(norm, nn.BatchNorm2d):
            for values in (norm.running_mean, norm.running_var, *norm.parameters()):
                values.data.copy_(torch.rand(6, generator=generator) + 0.5)
        self.function = function

    def forward(self, x):
        return self.classifier(self.function(self.norm(self.last(x))).mean((2, 3)))


FOUND = {
    "BatchNorm and ReLU": (torch.relu, nn.BatchNorm2d(6)),
    "in place": (lambda y: F.relu_(y) + y.sum(), nn.BatchNorm2d(6)),
    "ReLU6": (F.relu6, nn.BatchNorm2d(6)),
    "ReLU6 in place": (nn.ReLU6(inplace=True), nn.BatchNorm2d(6)),
    "without weights": (torch.relu, nn.BatchNorm2d(6, affine=False)),
    "ReLU alone": (torch.relu, nn.Identity()),
}
NONE = {
    "a shortcut between": (lambda y: torch.relu(y + y.mean()), nn.BatchNorm2d(6)),
    "something else reads it": (lambda y: torch.relu(y) + y.mean(), nn.BatchNorm2d(6)),
    "negative values pass": (F.silu, nn.BatchNorm2d(6)),
    "negative values pass a cut": (lambda y: F.hardtanh(y, -1, 1), nn.BatchNorm2d(6)),
    "no activation": (lambda y: y, nn.BatchNorm2d(6)),
}


@pytest.mark.parametrize("function, norm", FOUND.values(), ids=FOUND)
def test_the_activation_is_what_the_network_computes(function, norm):
    network = Follows(function, norm).eval().requires_grad_(False)
    found = following_activation(network, layer_of("last", network.last), 12)
    pixels = 6 * torch.randn(5, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    values = network.last(pixels)
    expected = F.relu(network.norm(values)).clamp(max=found.highest).movedim(1, -1)
    values = values.movedim(1, -1)
    torch.testing.assert_close(found(values), expected)
    torch.testing.assert_close(found(found.before(expected, values)), expected)
    assert (expected.max() > 6) == (found.highest > 6) and (expected == 0).any()
    assert ("BatchNorm" in found.words) == isinstance(norm, nn.BatchNorm2d)
    assert ("ReLU6" in found.words) == (found.highest == 6)


@pytest.mark.parametrize("function, norm", NONE.values(), ids=NONE)
def test_what_is_no_activation_of_the_output_alone_is_none(function, norm):
    network = Follows(function, norm).eval().requires_grad_(False)
    assert following_activation(network, layer_of("last", network.last), 12) is None


def test_a_channel_of_scale_0_keeps_its_values():
    network = Follows(torch.relu, nn.BatchNorm2d(6)).eval().requires_grad_(False)
    network.norm.weight[2] = 0
    found = following_activation(network, layer_of("last", network.last), 12)
    values = torch.randn(7, 6, generator=torch.Generator().manual_seed(1))
    before = found.before(found(values), values)
    assert torch.equal(before[:, 2], values[:, 2])
    torch.testing.assert_close(found(before), found(values))


def test_the_tests_network_has_a_batch_norm_and_a_relu():
    network = factories.small()
    assert following_activation(network, layer_of("last", network.last), 24).words == "the layer's BatchNorm and ReLU"
