"""Tap sums, rows and the search for the layer of interest."""

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests import factories
from tests.helpers import as_layer
from tests.layers import small_convnext, small_swin, vision_transformer
from utils.errors import UserError
from utils.networks.layers import check_normal_form, find_layer, layer_of
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
    ("make", "layer", "map_size"),
    [
        (vision_transformer, "encoder.layers.encoder_layer_1.mlp.3", (4, 4)),
        (small_convnext, "features.3.1.block.5", (4, 4)),
        (small_swin, "features.3.1.mlp.3", (8, 8)),
        (lambda: torchvision.models.mobilenet_v3_small(num_classes=10).eval(), "classifier.0", None),
        (factories.TwoHeads, "last", (16, 16)),
    ],
)
def test_last_linear_is_the_last_one_before_the_classifier(make, layer, map_size):
    found = find_layer(make(), "last_linear", 32)
    assert (found.name, found.map_size, found.note) == (layer, map_size, None)
    assert find_layer(make(), layer, 32).arrangement.positions == found.num_positions


@pytest.mark.parametrize(
    ("make", "name", "what", "instead"),
    [
        (
            lambda: torchvision.models.squeezenet1_1(num_classes=10).eval(),
            *("last_conv", "the last convolution, classifier.1, is the classifier itself", "features.12.expand3x3"),
        ),
        (
            *(vision_transformer, "last_conv", "the last convolution, conv_proj, sees the image itself"),
            "encoder.layers.encoder_layer_1.mlp.3",
        ),
        (factories.small, "last_linear", "the last linear layer, classifier, is the classifier itself", "last"),
        (factories.LinearPatches, "last_linear", "the last linear layer, embed, sees the image itself", None),
    ],
)
def test_a_last_layer_nobody_means_is_refused_unless_named(make, name, what, instead):
    network, named = make(), what.split(", ")[1]
    with pytest.raises(UserError) as raised:
        find_layer(network, name, 32)
    message = str(raised.value)
    assert message.startswith(what) and message.endswith(
        f"; to split it all the same, name it: --layer_of_interest {named}"
    )
    assert ("use --layer_of_interest" in message) == (instead is not None)
    if instead is not None:
        assert f": use --layer_of_interest {instead} instead;" in message
        assert find_layer(network, instead, 32).name == instead
    assert find_layer(network, named, 32).name == named


def test_a_layer_that_a_normalisation_follows_is_no_classifier():
    behind = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6))
    network = nn.Sequential(nn.Conv2d(3, 4, 1), *behind, nn.LayerNorm(6)).eval()
    assert find_layer(network, "last_linear", 8).name == "5"
    assert find_layer(network[:-1], "last_linear", 8).name == "3"  # its six channels lead into the six logits


def test_a_network_without_a_linear_layer_says_so():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(UserError, match="no linear layer: name a layer with --layer_of_interest"):
        find_layer(network, "last_linear", 8)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("nowhere", "no module"),
        ("", "no module"),
        ("head", r"Sequential is no convolution \(Conv2d\) or linear layer \(Linear\)"),
    ],
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
    behind = (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1, groups=2), *behind)
    for name in ("last_conv", "2"):
        message = "layer 2 has groups=2: only ungrouped convolutions can be split: use --layer_of_interest 1 instead"
        with pytest.raises(UserError, match=message):
            find_layer(network, name, 32)
    network[2] = nn.Conv2d(8, 16, 3, groups=8)
    network[6] = nn.Linear(16, 4)
    with pytest.raises(
        UserError, match="layer 2 is depthwise: each channel has one input, so there is nothing to divide: use"
    ):
        find_layer(network, "last_conv", 32)
    with pytest.raises(UserError, match=r"groups=2: only ungrouped convolutions can be split$"):
        find_layer(factories.grouped(), "last_conv", 32)  # there is no other
    with pytest.raises(UserError, match="32x32"):
        find_layer(torchvision.models.alexnet(num_classes=2).eval(), "last_conv", 32)
