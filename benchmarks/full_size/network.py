"""A network that is right without training: inputs that detect parts, channels of one or two inputs, and a classifier.

The weights follow from the parts of the made images. An input detects two or three parts and a channel has one or two
inputs, so a channel serves classes that have nothing in common: it is polysemantic.
"""

import os
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.full_size.data import CELL, CONTRAST, MARGIN, Parts, Size, make_parts
from utils.images.transform import Transform

MODEL = "benchmarks.full_size.network:network"
EMBEDDER = "benchmarks.full_size.network:embedder"
FOLDER_VARIABLE = "FULL_SIZE"  # environment variable: the folder of the weights, for the factories below
WEIGHTS, EMBEDDER_WEIGHTS = "network.pth", "embedder.pth"
RIDGE = 0.6  # of the detectors
THRESHOLD = 0.25  # of a part's own response, below which its detector is 0
STRENGTHS = 0.7, 1.3  # of weights
CHANNEL_NOISE, CHANNEL_BIAS = 0.01, -0.05
CLASSIFIER_NOISE, CLASSIFIER_SCALE = 0.002, 12
TAKEN = 0.25  # the share of a part's channels that a class uses


class Network(nn.Module):
    """Two convolutions and a classifier; ``layer``, the second convolution, is the layer of interest."""

    def __init__(self, inputs: int, channels: int, classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, inputs, CELL, CELL)
        self.layer = nn.Conv2d(inputs, channels, 1)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.layer(self.first(images).relu()).relu().mean((2, 3)))


def network() -> Network:
    """The factory of ``--model``: the network whose weights are in the folder ``$FULL_SIZE``."""
    return _load(WEIGHTS)


def embedder() -> Network:
    """The factory of ``--embedding``: another network of the same kind, with detectors and channels of its own."""
    loaded = _load(EMBEDDER_WEIGHTS)
    loaded.transform = Transform(2 * CELL, 2 * CELL)
    return loaded


def _load(name: str) -> Network:
    weights = torch.load(Path(os.environ[FOLDER_VARIABLE]) / name, weights_only=True)
    classes, channels = weights["classifier.weight"].shape
    loaded = Network(len(weights["first.weight"]), channels, classes)
    loaded.load_state_dict(weights)
    return loaded


def make_networks(folder: Path, size: Size) -> None:
    """Write the weights of the network and of the embedder."""
    parts = make_parts(size)
    for name, seed in ((WEIGHTS, 11), (EMBEDDER_WEIGHTS, 12)):
        torch.save(build_network(parts, size, seed).state_dict(), folder / name)


def build_network(parts: Parts, size: Size, seed: int) -> Network:
    """The network for images of these parts."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    built = Network(size.inputs, size.channels, size.classes).eval().requires_grad_(False)
    input_of = _shuffled(random, size.inputs, size.parts)
    inputs_of = _inputs_of_channels(random, size)

    detectors = torch.zeros(size.inputs, 3 * CELL * CELL)
    detectors.index_add_(0, torch.from_numpy(input_of), torch.from_numpy(_detectors(parts)))
    detectors = detectors.reshape(size.inputs, 3, CELL, CELL)
    transform = Transform()
    mean, std = (torch.tensor(values)[:, None, None] for values in (transform.mean, transform.std))
    built.first.weight.copy_(detectors * std / CONTRAST)  # of pixels (0.5 + CONTRAST part - mean) / std
    built.first.bias.copy_((detectors * (mean - 0.5)).sum((1, 2, 3)) / CONTRAST - THRESHOLD)

    weight = CHANNEL_NOISE * torch.randn(size.channels, size.inputs)
    for channel, inputs in enumerate(inputs_of):
        for index in inputs:
            weight[channel, index] += random.uniform(*STRENGTHS)
    built.layer.weight.copy_(weight[:, :, None, None])
    built.layer.bias.fill_(CHANNEL_BIAS)

    classifier = CLASSIFIER_NOISE * torch.randn(size.classes, size.channels)
    channels_of = [[channel for channel, inputs in enumerate(inputs_of) if index in inputs]
                   for index in range(size.inputs)]  # fmt: skip
    for class_, own_parts in enumerate(parts.of_class):
        for part in own_parts:
            channels = channels_of[input_of[part]]
            chosen = [channel for channel in channels if random.random() < TAKEN]
            for channel in chosen or [channels[random.integers(len(channels))]]:
                classifier[class_, channel] += random.uniform(*STRENGTHS) / max(len(chosen), 1)
    built.classifier.weight.copy_(CLASSIFIER_SCALE * classifier)
    built.classifier.bias.zero_()
    return built


def _shuffled(random: np.random.Generator, number: int, count: int) -> np.ndarray:
    """``count`` indices below ``number``, each of them equally often."""
    return np.concatenate([random.permutation(number) for _ in range(-(-count // number))])[:count]


def _inputs_of_channels(random: np.random.Generator, size: Size) -> list[list[int]]:
    """The inputs of each channel: one, and another one for the first channels."""
    inputs = [[int(index)] for index in _shuffled(random, size.inputs, size.channels)]
    for own in inputs[: size.with_two_inputs]:
        own.append(int(random.choice([index for index in range(size.inputs) if index != own[0]])))
    return inputs


def _detectors(parts: Parts) -> np.ndarray:
    """A linear detector of each part [parts, 192], by ridge regression on all parts: 1 on its own part."""
    edge = MARGIN // 2
    centred = parts.templates[..., edge : edge + CELL, edge : edge + CELL].reshape(len(parts.templates), -1)
    covariance = centred.T @ centred / len(centred) + RIDGE * np.eye(centred.shape[1])
    detectors = np.linalg.solve(covariance, centred.T).T
    return (detectors / (detectors * centred).sum(1, keepdims=True)).astype(np.float32)
