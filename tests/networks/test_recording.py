"""Importances from a graph that begins at the layer, against plain autograd through the whole network."""

import pytest
import torch
import torchvision

from tests import factories
from tests.helpers import forward, forward_with_gradient
from utils.method.importance import attribution_shares, channel_importances, relative_importances
from utils.networks.recording import layer_input

NETWORKS = [
    (factories.small, "last"),
    (factories.with_kernel, "last"),
    (lambda: torchvision.models.vgg11(num_classes=4), "features.18"),  # an in-place ReLU follows the layer
    (lambda: torchvision.models.resnet18(num_classes=4), "layer4.0.conv1"),
]


def plain_autograd(network, layer, images, targets):
    """Activation and gradient with ordinary hooks and a graph through everything."""
    kept = {}

    def hook(_, inputs, output):
        kept["input"] = inputs[0]
        kept["copy"] = output.detach().clone()  # an in-place operation may change the output itself
        output.register_hook(lambda gradient: kept.update(gradient=gradient.clone()))

    handle = layer.register_forward_hook(hook)
    logits = network(images.requires_grad_())
    logits[torch.arange(len(targets)), targets].sum().backward()
    handle.remove()
    return kept["input"].detach(), kept["copy"], kept["gradient"], logits.detach()


@pytest.mark.parametrize(("make", "name"), NETWORKS)
def test_one_forward_pass_gives_what_autograd_through_the_network_gives(make, name):
    torch.manual_seed(0)
    network = make().eval().requires_grad_(False)
    layer = network.get_submodule(name)
    images, targets = torch.randn(3, 3, 32, 32), torch.tensor([1, 0, 3])
    record = forward_with_gradient(network, layer, images, targets)
    layer_input, activation, gradient, logits = plain_autograd(network, layer, images.clone(), targets)
    torch.testing.assert_close(record.input, layer_input)
    torch.testing.assert_close(record.activation, activation.flatten(2))
    torch.testing.assert_close(record.gradient, gradient.flatten(2), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(record.logits, logits)
    expected = torch.zeros(3, activation.shape[1])
    for image, channel in torch.cartesian_prod(torch.arange(3), torch.arange(activation.shape[1])).tolist():
        expected[image, channel] = (activation[image, channel] * gradient[image, channel]).sum()
    torch.testing.assert_close(channel_importances(record.activation, record.gradient), expected, rtol=1e-3, atol=1e-6)


def test_the_input_is_recorded_as_the_layer_saw_it_whatever_the_network_does_with_it_later():
    network, images = factories.changes_its_input(), torch.randn(2, 3, 16, 16)
    network.requires_grad_(False)
    record = forward_with_gradient(network, network.last, images, torch.tensor([0, 1]))
    torch.testing.assert_close(record.input, network.stem(images))


def test_the_network_is_stopped_at_the_layer():
    network, images = factories.changes_its_input().requires_grad_(False), torch.randn(2, 3, 8, 8)
    later = []
    network.last.register_forward_hook(lambda *_: later.append("last"))
    torch.testing.assert_close(layer_input(network, network.last, images), network.stem(images))
    assert not later and not network.last._forward_pre_hooks


def test_nothing_before_the_layer_has_a_graph():
    network = factories.small()
    seen = []
    network.stem.register_forward_hook(lambda _, __, output: seen.append(output.requires_grad))
    network.head.register_forward_hook(lambda _, __, output: seen.append(output.requires_grad))
    forward_with_gradient(network, network.last, torch.randn(1, 3, 8, 8), torch.tensor([0]))
    assert seen == [False, True]
    assert not forward(network, network.last, torch.randn(1, 3, 8, 8)).logits.requires_grad
    assert not network.last._forward_hooks


def test_relative_importances_are_over_the_positive_sum():
    relative, positive = relative_importances(torch.tensor([[3.0, 1.0, -2.0], [-1.0, 0.0, -3.0], [0.0, 0.0, 0.0]]))
    assert relative.tolist() == [[0.75, 0.25, -0.5], [0, 0, 0], [0, 0, 0]]
    assert positive.tolist() == [4, 0, 0]
    assert relative.dtype == torch.float16


def test_relative_importances_of_tiny_and_of_very_unequal_values_stay_finite():
    relative, positive = relative_importances(torch.tensor([[2e-12, 2e-12], [1e-8, -1.0]]))
    assert relative[0].tolist() == [0.5, 0.5]
    assert positive[0] > 0
    assert relative[1].isfinite().all()


def test_importances_of_half_precision_are_summed_in_fp32():
    activation, gradient = (torch.randn(2, 3, 1600).bfloat16() for _ in range(2))
    expected = (activation.double() * gradient.double()).sum(2).float()
    torch.testing.assert_close(channel_importances(activation, gradient), expected, rtol=1e-4, atol=1e-3)


def test_attribution_shares_drop_negative_positions_before_the_sum():
    activation = torch.tensor([[[1.0, 1.0], [2.0, 1.0]]])
    gradient = torch.tensor([[[3.0, -1.0], [0.5, 0.0]]])
    assert attribution_shares(activation, gradient).tolist() == [[0.75, 0.25]]
    assert attribution_shares(activation, -gradient.abs()).tolist() == [[0, 0]]
