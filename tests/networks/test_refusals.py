"""What cannot be split is refused when the layer is looked for, in one line that is true."""

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrizations, prune

from tests import factories
from utils.errors import UserError
from utils.networks.layers import find_layer


class WithGain(nn.Conv2d):
    """A weight-standardised convolution with a gain for each channel, as timm's ScaledStdConv2d."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))

    def forward(self, x):
        weight = (self.weight - self.weight.mean((1, 2, 3), keepdim=True)) * self.gain
        return nn.functional.conv2d(x, weight, self.bias)


class WithMask(nn.Conv2d):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.register_buffer("mask", torch.ones(1, self.out_channels, 1, 1))

    def forward(self, x):
        return super().forward(x) * self.mask


class WithScale(nn.Conv2d):
    """Has a further parameter, but none for each channel."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return super().forward(x) * self.scale


def with_last(last):
    return factories.Small(last).eval()


def changed(change):
    network = factories.small()
    change(network.last)
    return network


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated", "ignore:Complex modules")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: with_last(WithGain(8, 12, 1)), r"more than a weight and a bias for each channel \(WithGain: gain\)"),
        (lambda: with_last(WithMask(8, 12, 1)), r"more than a weight and a bias for each channel \(WithMask: mask\)"),
        (lambda: with_last(nn.Conv2d(8, 12, 3, padding=1, padding_mode="reflect")), "padding_mode=reflect"),
        (lambda: changed(parametrizations.weight_norm), "weight anew in each pass: remove the parametrization"),
        (lambda: changed(nn.utils.weight_norm), "weight anew in each pass: remove the parametrization"),
        (lambda: changed(lambda last: prune.l1_unstructured(last, "weight", 3)), "weight anew in each pass"),
        (lambda: changed(lambda last: last.register_forward_pre_hook(lambda *_: None)), "has a forward pre-hook"),
        (
            lambda: factories.small().half(),
            r"weights are torch.float16, but images are torch.float32: convert.*float\(\)",
        ),
        (lambda: factories.small().double(), "weights are torch.float64, but images are torch.float32"),
        (lambda: factories.small().to(torch.complex64), "weights are torch.complex64, but images are torch.float32"),
    ],
)
def test_what_cannot_be_split_is_refused_with_its_reason(make, message):
    with pytest.raises(UserError, match=message) as raised:
        find_layer(make(), "last", 32)
    assert "\n" not in str(raised.value)
    assert "cannot take images" not in str(raised.value)


class HalfInside(factories.Small):
    """Converts its images itself."""

    def forward(self, x):
        return super().forward(x.half()).float()


def test_a_layer_in_half_precision_is_refused_where_the_network_converts_images_itself():
    network = HalfInside(nn.Conv2d(8, 12, 1)).eval().half()
    with pytest.raises(UserError, match=r"layer last has weights of torch.float16.*\.float\(\)"):
        find_layer(network, "last", 32)


def test_a_further_parameter_that_is_not_one_for_each_channel_is_no_hindrance():
    assert find_layer(with_last(WithScale(8, 12, 1)), "last", 32).num_channels == 12


def test_only_a_layer_nobody_named_is_noted_to_be_one_branch_of_several():
    network = torchvision.models.resnet50(num_classes=4).eval()
    assert find_layer(network, "layer4.2.conv2", 32).note is None
    network = torchvision.models.googlenet(num_classes=4, init_weights=False).eval()
    found = find_layer(network, "last_conv", 64)
    assert "one branch of several" in found.note
    assert find_layer(network, found.name, 64).note is None
