"""A small vision transformer for the demonstration's pictures, whose last linear layer has to serve thirty classes."""

import torch
from torch import nn

from examples.demo.network import convolution
from examples.demo.pictures import CONCEPTS

WIDTH, HEADS, BLOCKS, TOKENS = 48, 4, 2, 8 * 8


class Block(nn.Module):
    """Attention and a multilayer perceptron, each behind a normalisation and beside a shortcut."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.mlp = nn.Sequential(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)
        )

    def forward(self, x):
        tokens = self.norm(x)
        x = x + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return x + self.mlp(x)


class SmallViT(nn.Module):
    """Patches of 8x8 pixels by three convolutions, two blocks, and ``last``, a linear layer over tokens (96 -> 12).

    What enters ``last`` is the output of ``expand``, as in the demonstration's network.
    """

    def __init__(self, channels=12):
        super().__init__()
        self.patches = nn.Sequential(convolution(3, 24, 5, 2), convolution(24, 48, 3, 2), convolution(48, WIDTH, 3, 2))
        self.position = nn.Parameter(torch.zeros(1, TOKENS, WIDTH))
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.expand = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 96), nn.ReLU())
        self.last = nn.Linear(96, channels, bias=False)
        self.norm = nn.LayerNorm(channels)
        self.classifier = nn.Linear(channels, len(CONCEPTS))

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2) + self.position
        x = self.last(self.expand(self.blocks(x)))
        return self.classifier(torch.relu(self.norm(x)).mean(1))
