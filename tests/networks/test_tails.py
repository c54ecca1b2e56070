"""What a network computes after the layer for many edits of a channel, against hooks on the whole network."""

import pytest
import torch
import torchvision
from torch import nn

from tests import factories
from utils.networks.layers import find_layer
from utils.networks.opened_network import OpenedNetwork
from utils.networks.tails import ChannelMaps, GatheredTail, RecordedBatch, WholeTail, tail_of

CHANNEL = 3
LABELS = (2, 0, 3)


class NormalisesChannels(nn.Module):
    """Divides each channel by the mean of all: channels meet, in whatever order they are."""

    def forward(self, x):
        return x / x.mean(1, keepdim=True).clamp(min=0.01)


def mixing():
    return factories.with_after_pooling(NormalisesChannels())


class Shortcut(nn.Module):
    """A shortcut around the layer, which is added after normalisation; its input has as many channels."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.last, self.norm = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.relu, self.classifier = nn.ReLU(inplace=True), nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x)
        return self.classifier(self.relu(self.norm(self.last(x)) + x).mean((2, 3)))


def with_shortcut():
    return Shortcut().eval().requires_grad_(False)


def two_classifiers():
    network = factories.small()
    network.classifier = nn.Sequential(nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 4)).requires_grad_(False)
    return network


def resnet():
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=5).eval().requires_grad_(False)


GATHERED = {  # factory and layer
    "convolution": (factories.small, "last"),
    "kernel, bias and padding": (factories.with_kernel, "last"),
    "tokens": (factories.tokens, "last"),
    "windows": (factories.windows, "last"),
    "vector": (factories.vector, "last"),
    "shortcut": (with_shortcut, "last"),
    "resnet": (resnet, "layer4.1.conv2"),
}
WHOLE = {
    "channels meet": (mixing, "last"),
    "two linear layers": (two_classifiers, "last"),
    "inner layer": (resnet, "layer3.0.conv1"),
}


def opened(kind, number=3):
    factory, name = {**GATHERED, **WHOLE}[kind]
    module = factory()
    size = 32 if factory is resnet else 24
    network = OpenedNetwork(module, find_layer(module, name, size), "fp32")
    images = torch.randn(number, 3, size, size, generator=torch.Generator().manual_seed(0))
    batch = RecordedBatch(network, images, torch.arange(number), torch.tensor(LABELS[:number]))
    return network, images, batch


def maps_of_channel(network, batch):
    layer = network.layer
    bias = None if layer.bias is None else layer.bias[[CHANNEL]]
    (original,) = ChannelMaps(layer, layer.weight[[CHANNEL]], bias)(batch.input())
    return original, torch.stack([torch.zeros_like(original), original * 1.5 + 0.3, original.roll(1, 0), original])


def by_hook(network, images, edit):
    """Logits with the channel's map replaced, of the whole network."""

    def replace(module, inputs, output):
        output = output.clone()
        dim = network.layer.channel_dim % output.ndim
        output.select(dim, CHANNEL).copy_(edit(output.select(dim, CHANNEL)))
        return output

    handle = network.layer.module.register_forward_hook(replace)
    with torch.no_grad():
        logits = network.module(images)
    handle.remove()
    return logits


@pytest.mark.parametrize("kind", [*GATHERED, *WHOLE])
def test_edits_change_logits_as_a_hook_does(kind):
    network, images, batch = opened(kind)
    original, edited = maps_of_channel(network, batch)
    torch.testing.assert_close(original, batch.output().select(network.layer.channel_dim, CHANNEL))
    tail = tail_of(network, batch)
    assert isinstance(tail, GatheredTail if kind in GATHERED else WholeTail)
    before = by_hook(network, images, lambda channel: channel)
    torch.testing.assert_close(batch.logits, before)
    expected = torch.stack([by_hook(network, images, lambda _, values=values: values) - before for values in edited])
    found = tail.differences(batch, CHANNEL, original, edited)
    assert found.shape == (4, 3, before.shape[1]) and expected[:3].abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert found[3].abs().max() < 1e-6
    own = tail.own_differences(batch, CHANNEL, original, edited)
    torch.testing.assert_close(own, torch.stack([found[:, image, label] for image, label in enumerate(LABELS)], 1))
    torch.testing.assert_close(network.module(images), before)  # nothing stays behind


def test_both_tails_agree_and_a_batch_knows_its_size():
    network, _, batch = opened("kernel, bias and padding", number=2)
    original, edited = maps_of_channel(network, batch)
    tails = GatheredTail.of(network, batch), WholeTail(network.layer)
    found, expected = (tail.differences(batch, CHANNEL, original, edited) for tail in tails)
    torch.testing.assert_close(found, expected)
    assert len(batch) == 2 and batch.num_bytes >= batch.logits.nbytes + batch.replay.num_bytes > batch.logits.nbytes
