"""Tap sums, rows and the search for the layer of interest."""

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests import factories
from tests.helpers import as_layer
from utils.errors import UserError
from utils.networks.layers import find_layer, layer_of
from utils.networks.normal_form import check_normal_form
from utils.networks.recording import Record

size = st.tuples(st.integers(1, 3), st.integers(1, 3))


@settings(max_examples=60)
@given(
    kernel=size, stride=size, dilation=size, padding=st.tuples(st.integers(0, 2), st.integers(0, 2)), bias=st.booleans()
)
def test_tap_sums_give_the_spatial_sum_of_every_output_channel(kernel, stride, dilation, padding, bias):
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, kernel, stride, padding, dilation, bias=bias).double()
    x = torch.randn(2, 3, 8, 9)
    output = layer(x.double())
    sums = torch.einsum("bit,cit->bc", as_layer(layer).tap_sums(x).double(), as_layer(layer).weight)
    if bias:
        sums = sums + layer.bias * output[0, 0].numel()
    torch.testing.assert_close(sums, output.sum((2, 3)), rtol=1e-4, atol=1e-4)


def test_a_layer_that_pads_by_itself_is_refused():
    def check(layer, x, output):
        check_normal_form(layer_of("last", layer), Record(x, output.flatten(2), None, None))

    layer, x = factories.pads_by_itself().last, torch.randn(2, 8, 6, 6)
    with pytest.raises(UserError, match=r"layer last \(ReflectingConv2d\).*zero-padded"):
        check(layer, x, layer(x))
    layer = factories.with_kernel().last
    check(layer, x, layer(x))
    check(layer, x, layer(x).bfloat16())
    with pytest.raises(UserError, match="zero-padded"):
        check(layer, x + 0.5, layer(x))


@pytest.mark.parametrize("bias", [False, True])
def test_rows_are_computed_by_a_copy_of_the_same_class(bias):
    layer = factories.ReflectingConv2d(4, 5, 3, bias=bias)
    rows, biases = torch.randn(7, 4, 9), torch.randn(7) if bias else None
    x = torch.randn(2, 4, 6, 6)
    before = layer.weight.clone()
    wider = as_layer(layer).with_rows(rows, biases)
    assert type(wider) is factories.ReflectingConv2d
    padded = nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")
    torch.testing.assert_close(wider(x), nn.functional.conv2d(padded, rows.view(7, 4, 3, 3), biases))
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet18", "layer4.1.conv2"),
        ("resnet50", "layer4.2.conv3"),
        ("vgg11", "features.18"),
        ("densenet121", "features.denseblock4.denselayer16.conv2"),
        ("googlenet", "inception5b.branch4.1.conv"),
        ("mobilenet_v3_small", "features.12.0"),
    ],
)
def test_last_conv_is_the_last_convolution_executed(name, layer):
    network = torchvision.models.get_model(name, num_classes=10, **_no_init(name)).eval()
    found = find_layer(network, "last_conv", 64)
    assert found.name == layer
    assert found.num_outputs == 10
    assert (found.note is not None) == (name in ("densenet121", "googlenet"))


def _no_init(name):
    return {"init_weights": False} if name == "googlenet" else {}


@pytest.mark.parametrize(
    ("name", "image_size", "message"),
    [("squeezenet1_1", 64, "classifier itself.*classifier.1"), ("vit_b_16", 224, "patch embedding.*conv_proj")],
)
def test_a_last_conv_nobody_means_is_refused_unless_named(name, image_size, message):
    network = torchvision.models.get_model(name, num_classes=10).eval()
    with pytest.raises(UserError, match=message):
        find_layer(network, "last_conv", image_size)
    named = "classifier.1" if name == "squeezenet1_1" else "conv_proj"
    assert find_layer(network, named, image_size).name == named


@pytest.mark.parametrize(
    ("layer", "message"),
    [("nowhere", "no module"), ("", "no module"), ("classifier", "no convolution"), ("head", "no convolution")],
)
def test_a_layer_that_is_none_is_refused(layer, message):
    with pytest.raises(UserError, match=message):
        find_layer(factories.small(), layer, 32)


def test_a_layer_executed_twice_or_parametrized_is_refused():
    shared = nn.Conv2d(3, 3, 1)
    network = nn.Sequential(shared, nn.ReLU(), shared, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(UserError, match="2 times"):
        find_layer(network, "0", 8)
    network = factories.small()
    nn.utils.parametrizations.weight_norm(network.last)
    with pytest.raises(UserError, match="parametrization"):
        find_layer(network, "last", 32)


def test_groups_and_a_network_that_cannot_take_the_image_are_refused():
    with pytest.raises(UserError, match="groups=2"):
        find_layer(factories.grouped(), "last_conv", 32)
    with pytest.raises(UserError, match="32x32"):
        find_layer(torchvision.models.alexnet(num_classes=2).eval(), "last_conv", 32)
