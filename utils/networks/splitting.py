"""Splitting a channel into channels that serve one concept each (Ineq. 5), and choosing rho (Eq. 6)."""

import copy
from contextlib import contextmanager

import torch
from torch import nn

from utils.method.disentangling import merge
from utils.networks.kinds import HOOKS, with_rows


def original_and_disentangled(layer, split, rho=None):
    """A copy of ``layer`` that computes the original channel, ``c'_1 .. c'_K`` from its input: K + 1 channels."""
    rows = torch.cat([split.weight[None], split.rows(rho)[:-1]])
    return with_rows(layer, rows, None if split.bias is None else split.bias.expand(len(rows)))


class DisentangledLayer(nn.Module):
    """A layer some channels of which are split, with the same output as before.

    ``layer`` computes C + sum(K) channels: ``c'_1`` in the place of ``c``, then ``c'_2 .. c'_K, r`` of each split
    in turn. ``forward`` merges them. ``rows_of[n]`` lists where split ``n`` has its rows in ``layer``'s output, so a
    forward hook on ``layer`` sees the disentangled channels; hooks on the original layer see the merged ones.
    """

    def __init__(self, layer, splits, rhos=None):
        """``layer``: nn.Conv2d, ``splits``: Splits of different channels, ``rhos``: None for the chosen ones."""
        super().__init__()
        self.channels = [split.channel for split in splits]
        if len(set(self.channels)) < len(self.channels):
            raise ValueError("a channel can be split only once")
        weights, biases = [layer.weight.detach().flatten(2).clone()], [layer.bias]
        self.rows_of, next_row = [], layer.out_channels
        for split, rho in zip(splits, rhos or [None] * len(splits), strict=True):
            rows = split.rows(rho).to(weights[0])
            weights[0][split.channel] = rows[0]
            weights.append(rows[1:])
            biases.append(None if layer.bias is None else layer.bias[split.channel].expand(len(rows) - 1))
            self.rows_of.append([split.channel, *range(next_row, next_row + len(rows) - 1)])
            next_row += len(rows) - 1
        self.out_channels = layer.out_channels
        for hooks in HOOKS:
            getattr(self, hooks).update(getattr(layer, hooks))
        self._is_full_backward_hook = layer._is_full_backward_hook
        self.layer = with_rows(layer, torch.cat(weights), None if layer.bias is None else torch.cat(biases))

    def forward(self, x):
        wide = self.layer(x)
        merged = wide[:, : self.out_channels].clone()
        for channel, rows in zip(self.channels, self.rows_of, strict=True):
            merged[:, channel] = merge(wide[:, rows], dim=1)
        return merged


@contextmanager
def channels_split(network, layer_name, splits, rhos=None):
    """While in the block, the layer of ``network`` itself has the channels of ``splits`` disentangled."""
    layer = network.get_submodule(layer_name)
    network.set_submodule(layer_name, DisentangledLayer(layer, splits, rhos))
    try:
        yield network.get_submodule(layer_name)
    finally:
        network.set_submodule(layer_name, layer)


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
    network.set_submodule(layer_name, DisentangledLayer(network.get_submodule(layer_name), splits, rhos))
    return network
