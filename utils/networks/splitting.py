"""The layer of interest with some channels split: in place of the original one, with the same output."""

import copy
from contextlib import contextmanager

import torch
from torch import nn

from utils.method.disentangling import merge
from utils.networks.hooks import share_hooks
from utils.networks.layers import layer_of


class DisentangledLayer(nn.Module):
    """A layer some channels of which are split, with the same output as before.

    ``layer`` computes C + sum(K) channels: ``c'_1`` in the place of ``c``, then ``c'_2 .. c'_K, r`` of each split
    in turn. ``forward`` merges them. ``rows_of[n]`` lists where split ``n`` has its rows in ``layer``'s output, so a
    forward hook on ``layer`` sees the disentangled channels; hooks on the original layer see the merged ones.
    """

    def __init__(self, layer, splits, rhos=None):
        """``layer``: Layer, ``splits``: Splits of different channels, ``rhos``: None for the chosen ones."""
        super().__init__()
        self.channels = [split.channel for split in splits]
        if len(set(self.channels)) < len(self.channels):
            raise ValueError("a channel can be split only once")
        weights, biases = [layer.weight.clone()], [layer.bias]
        self.rows_of, next_row = [], layer.num_channels
        for split, rho in zip(splits, rhos or [None] * len(splits), strict=True):
            rows = split.rows(rho).to(weights[0])
            weights[0][split.channel] = rows[0]
            weights.append(rows[1:])
            biases.append(None if layer.bias is None else layer.bias[split.channel].expand(len(rows) - 1))
            self.rows_of.append([split.channel, *range(next_row, next_row + len(rows) - 1)])
            next_row += len(rows) - 1
        self.out_channels, self.channel_dim = layer.num_channels, layer.channel_dim
        share_hooks(layer.module, self)
        self.layer = layer.with_rows(torch.cat(weights), None if layer.bias is None else torch.cat(biases))

    def forward(self, x):
        wide = self.layer(x)
        merged = wide.narrow(self.channel_dim, 0, self.out_channels).clone()
        for channel, rows in zip(self.channels, self.rows_of, strict=True):
            parts = wide.index_select(self.channel_dim, torch.tensor(rows, device=wide.device))
            merged.select(self.channel_dim, channel).copy_(merge(parts, self.channel_dim))
        return merged


@contextmanager
def in_place_of(network, layer, module):
    """While in the block, ``module`` stands in the network where the layer is."""
    network.set_submodule(layer.name, module)
    try:
        yield module
    finally:
        network.set_submodule(layer.name, layer.module)


def with_splits(network, layer_name, splits, rhos=None):
    """A copy of ``network`` whose layer ``layer_name`` has the channels of ``splits`` disentangled.

    Parameters
    ----------
    network : nn.Module
    layer_name : str
    splits : list of Split
        Of different channels of that layer.
    rhos : list of float, optional
        One a split; default: the chosen ones.

    Returns
    -------
    nn.Module with the outputs of ``network``

    Raises
    ------
    ValueError
        The same channel twice.
    """
    network = copy.deepcopy(network)
    layer = layer_of(layer_name, network.get_submodule(layer_name))
    network.set_submodule(layer_name, DisentangledLayer(layer, splits, rhos))
    return network
