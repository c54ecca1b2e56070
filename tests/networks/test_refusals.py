"""What cannot be split is refused when the layer is looked for, in one line that is true."""

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrizations, prune

from tests import factories
from tests.helpers import forward
from utils.errors import UserError
from utils.networks.layers import check_normal_form, find_layer


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


class WithAttention(factories.Small):
    """Attention over what would be the last layer's input; it uses ``out_proj``'s weight without calling it."""

    def __init__(self, last):
        super().__init__(last)
        self.attention, self.unused = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(3, 4)

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        return self.classifier(self.last(self.attention(x, x, x, need_weights=False)[0]).mean(1))


@pytest.mark.parametrize("name", ["attention.out_proj", "unused"])
def test_a_layer_that_is_not_called_is_refused_in_one_line(name):
    network = WithAttention(nn.Conv2d(8, 12, 1)).eval()
    network.last = nn.Linear(8, 12)
    with pytest.raises(
        UserError, match=rf"layer {name} is not called in a forward pass: .* \(as in MultiheadAttention"
    ):
        find_layer(network, name, 32)
    assert find_layer(network, "last_linear", 32).name == "last"


class Lora(nn.Linear):
    """A linear layer with a further parameter for each channel."""

    def __init__(self, *args):
        super().__init__(*args)
        self.up = nn.Parameter(torch.ones(self.out_features, 2))


def test_linear_layers_that_are_more_than_that_are_refused():
    def with_linear(last):
        network = factories.tokens()
        network.last = last
        return network

    for last, message in (
        (Lora(8, 12), r"more than a weight and a bias for each channel \(Lora: up\)"),
        (parametrizations.weight_norm(nn.Linear(8, 12)), "weight anew in each pass: remove the parametrization"),
    ):
        with pytest.raises(UserError, match=message):
            find_layer(with_linear(last), "last", 32)
    with pytest.raises(UserError, match=r"layer last\.0 is executed 2 times"):
        find_layer(with_linear(nn.Sequential(shared := nn.Linear(8, 8), shared, nn.Linear(8, 12))), "last.0", 32)


def test_a_linear_layer_that_computes_something_else_is_refused_on_images():
    class Squared(nn.Linear):
        def forward(self, x):
            return super().forward(x).square()

    network = factories.tokens()
    network.last = Squared(8, 12)
    layer, pixels = find_layer(network, "last", 32), torch.randn(2, 3, 32, 32)
    with pytest.raises(UserError, match=r"layer last \(Squared\) does not compute a plain linear layer"):
        check_normal_form(layer, forward(network, layer, pixels))


def test_a_further_parameter_that_is_not_one_for_each_channel_is_no_hindrance():
    assert find_layer(with_last(WithScale(8, 12, 1)), "last", 32).num_channels == 12


def test_only_a_layer_nobody_named_is_noted_to_be_one_branch_of_several():
    network = torchvision.models.resnet50(num_classes=4).eval()
    assert find_layer(network, "layer4.2.conv2", 32).note is None
    network = torchvision.models.googlenet(num_classes=4, init_weights=False).eval()
    found = find_layer(network, "last_conv", 64)
    assert "one branch of several" in found.note
    assert find_layer(network, found.name, 64).note is None
