"""A demonstration that needs no download: pictures drawn by code, and a network whose channels are polysemantic.

    python -m examples.demo demo_output            draw the pictures: 100 a class for training, 40 for validation
    python -m examples.demo demo_output --train    make the weights again, from nothing (half a minute on 2 cores)
    python -m examples.demo demo_output --show     figures and a table of what has been split

``demo.sh`` runs the four scripts on them, with ``--model examples.demo:demo_network``.
"""

from pathlib import Path

import torch
from torch import nn

from examples.demo.pictures import CONCEPTS, SIZE
from utils.images.transform import Transform

WEIGHTS = Path(__file__).with_name("demo_weights.pth")
TRANSFORM = Transform(resize_size=SIZE, crop_size=SIZE)


def convolution(num_inputs, num_outputs, kernel_size, stride=1):
    layer = nn.Conv2d(num_inputs, num_outputs, kernel_size, stride, kernel_size // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(num_outputs), nn.ReLU())


class DemoNetwork(nn.Module):
    """Four convolutions and one bottleneck block; twelve channels have to serve thirty classes.

    ``expand[-1][-1]``'s output is what enters the last convolution, ``last`` (1x1, 96 -> 12, no bias).
    """

    def __init__(self, channels=12):
        super().__init__()
        self.stem = nn.Sequential(
            convolution(3, 24, 5, 2), convolution(24, 48, 3, 2), convolution(48, 96, 3, 2), convolution(96, channels, 1)
        )
        self.expand = nn.Sequential(convolution(channels, 96, 1), convolution(96, 96, 3))
        self.last = nn.Conv2d(96, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, len(CONCEPTS))

    def forward(self, x):
        x = self.stem(x)
        return self.head(x, self.last(self.expand(x)))

    def head(self, skipped, output):
        """The logits, from what goes past the block (the output of ``stem``) and the output of ``last``."""
        return self.classifier(torch.relu(skipped + self.norm(output)).mean((2, 3)))


def demo_network():
    """The network with the weights beside this file, as ``--model examples.demo:demo_network`` makes it."""
    network = DemoNetwork()
    network.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    network.transform = TRANSFORM
    return network
