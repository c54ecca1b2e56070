"""Splitting a channel into channels that serve one concept each (Ineq. 5), and choosing rho (Eq. 6)."""

import copy
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from utils.layers import HOOKS, with_rows

RHOS = tuple(round(0.05 * step, 2) for step in range(1, 21))
OBJECTIVES = ("positive", "absolute", "contrast")
DENOMINATOR_OFFSET = 1e-5


@dataclass
class Split:
    """One channel of a layer, divided among K concepts, for every rho of the grid.

    ``weight`` [C_in, taps] and ``bias`` ([] or None) are the channel's own; ``arvs`` [K, C_in] are the concepts'.
    ``owners`` [20, C_in] says for each rho whose input a channel of the previous layer is: 0 shared, k concept k.
    ``objectives`` [20, 3] float64 are the values that choose rho, in the order of ``OBJECTIVES``; ``objective`` and
    ``rho`` are the chosen ones. ``concepts`` are lists of network outputs.
    """

    channel: int
    concepts: list
    weight: torch.Tensor
    bias: torch.Tensor | None
    arvs: torch.Tensor
    owners: torch.Tensor
    objectives: torch.Tensor
    objective: str
    rho: float

    def rows(self, rho=None):
        """Weights of ``c'_1 .. c'_K`` and the residual at ``rho`` (default: the chosen one), [K + 1, C_in, taps]."""
        index = RHOS.index(self.rho if rho is None else rho)
        return disentangled_rows(self.weight, self.owners[index], len(self.concepts))

    def biases(self):
        """Each row carries the whole bias of the channel: [K + 1], or None."""
        return None if self.bias is None else self.bias.expand(len(self.concepts) + 1)


def split_sources(arvs, rho):
    """Divide the previous layer's channels among the concepts (Ineq. 5).

    Input ``i`` belongs to concept ``k`` if ``rho * ARV_k[i] > ARV_j[i]`` for every other ``j``. Where entries are
    negative several concepts can qualify: the first one gets the input, so the order of the concepts matters.

    Parameters
    ----------
    arvs : Tensor [K, C_in]
    rho : float, in (0, 1]

    Returns
    -------
    LongTensor [C_in]: 0 for shared inputs, k (from 1) for those of concept k
    """
    owners = torch.zeros(arvs.shape[1], dtype=torch.long)
    for k in reversed(range(len(arvs))):
        others = torch.cat([arvs[:k], arvs[k + 1 :]])
        owners[(rho * arvs[k] > others).all(0)] = k + 1
    return owners


def disentangled_rows(weight, owners, num_concepts):
    """Weights of ``c'_1 .. c'_K`` and of the residual.

    ``c'_k`` has the inputs of every other concept set to zero, the residual has those of all concepts set to zero.

    Parameters
    ----------
    weight : Tensor [C_in, taps]
    owners : LongTensor [C_in]
    num_concepts : int, K

    Returns
    -------
    Tensor [K + 1, C_in, taps], the residual last
    """
    return torch.stack([weight * ((owners == 0) | (owners == k))[:, None] for k in [*range(1, num_concepts + 1), 0]])


def original_and_disentangled(layer, split, rho=None):
    """A copy of ``layer`` that computes the original channel, ``c'_1 .. c'_K`` from its input: K + 1 channels."""
    rows = torch.cat([split.weight[None], split.rows(rho)[:-1]])
    return with_rows(layer, rows, None if split.bias is None else split.bias.expand(len(rows)))


def merge(channels, dim):
    """Put the original channel together again: ``a_c = sum_k c'_k - (K - 1) r``, with ``r`` last along ``dim``."""
    num_concepts = channels.shape[dim] - 1
    disentangled = channels.narrow(dim, 0, num_concepts).sum(dim)
    return disentangled - (num_concepts - 1) * channels.select(dim, num_concepts)


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


def objective_terms(maps, concepts):
    """What each image adds to the three readings of Eq. 6: its own channel over the mean of the other ones.

    ``positive``: s = sum max(c', 0), ``absolute``: s = sum |c'|, both s_own / (s_others + 1e-5);
    ``contrast``: (s_own - s_others) / (s_own + s_others) with the s of ``positive``, 0/0 counting as 0.

    Parameters
    ----------
    maps : Tensor [B, R, K, P]
        ``c'_k`` at every position, for R splits.
    concepts : LongTensor [B]
        Which concept (from 0) an image is of.

    Returns
    -------
    Tensor [B, R, 3]
    """
    own_mask = torch.nn.functional.one_hot(concepts, maps.shape[2]).to(maps)[:, None]

    def own_and_others(activations):
        own = (activations * own_mask).sum(-1)
        return own, (activations * (1 - own_mask)).sum(-1) / (maps.shape[2] - 1)

    own, others = own_and_others(maps.clamp(min=0).sum(-1))
    own_absolute, others_absolute = own_and_others(maps.abs().sum(-1))
    both = own + others
    return torch.stack(
        [
            own / (others + DENOMINATOR_OFFSET),
            own_absolute / (others_absolute + DENOMINATOR_OFFSET),
            (own - others) / both.where(both > 0, torch.inf),
        ],
        dim=-1,
    )


class RhoSearch:
    """The three objectives for every rho of the grid, from one pass over the concepts' images.

    The layer's input is what all splits share, so one network evaluation an image serves the whole grid. Factors
    with equal splits share their values exactly: of equal ones, the smallest rho wins.
    """

    def __init__(self, layer, channel, arvs):
        """``layer``: nn.Conv2d, ``channel``: int, ``arvs``: Tensor [K, C_in]."""
        self.num_concepts = len(arvs)
        self.owners = torch.stack([split_sources(arvs, rho) for rho in RHOS])
        distinct, self._which = self.owners.unique(dim=0, return_inverse=True)
        weight = layer.weight.detach()[channel].flatten(1).cpu()
        rows = torch.cat([disentangled_rows(weight, owners, self.num_concepts)[:-1] for owners in distinct])
        bias = None if layer.bias is None else layer.bias.detach()[channel].expand(len(rows))
        self._layer = with_rows(layer, rows, bias)
        self._sums = torch.zeros(self.num_concepts, len(distinct), len(OBJECTIVES), dtype=torch.float64)
        self._images = torch.zeros(self.num_concepts, dtype=torch.float64)

    def add(self, x, concepts):
        """Add a batch: ``x`` [B, C_in, H, W], the layer's input, and ``concepts`` [B], from 0."""
        with torch.no_grad():
            maps = self._layer(x.float()).flatten(2).unflatten(1, (-1, self.num_concepts))
        terms, concepts = objective_terms(maps, concepts.to(x.device)).double().cpu(), concepts.cpu()
        self._sums.index_add_(0, concepts, terms)
        self._images += concepts.bincount(minlength=self.num_concepts)

    def has_images(self):
        """Whether there was an image of every concept."""
        return bool((self._images > 0).all())

    def objectives(self):
        """The sum over concepts of the mean over their images, [20, 3] float64."""
        return (self._sums / self._images[:, None, None]).sum(0)[self._which]

    def best(self, objective):
        """The rho of the largest value; of equal ones, the smallest."""
        values = self.objectives()[:, OBJECTIVES.index(objective)]
        return RHOS[int((values == values.max()).nonzero()[0])]


class EqualityCheck:
    """How far a split network is from the original, over batches of real images."""

    def __init__(self):
        self._channel, self._logits, self.images = _Difference(), _Difference(), 0

    def add(self, channel, merged, logits, split_logits):
        """Add a batch: the channel and the merged one [B, H, W], both networks' logits [B, outputs]."""
        self.images += len(channel)
        self._channel.add(channel, merged)
        self._logits.add(logits, split_logits)

    def errors(self):
        """Largest difference of the channel over its largest magnitude, and of the logits over the original's range."""
        channel, logits = self._channel, self._logits
        return channel.over(torch.maximum(channel.highest, -channel.lowest)), logits.over(
            logits.highest - logits.lowest
        )


class _Difference:
    """The largest difference from a reference so far, and the reference's range; NaN where there was one."""

    def __init__(self):
        self.largest, self.lowest, self.highest = torch.tensor(0.0), torch.tensor(torch.inf), torch.tensor(-torch.inf)

    def add(self, reference, values):
        reference, values = reference.float(), values.float()
        self.largest = torch.maximum(self.largest, (values - reference).abs().max().cpu())
        self.lowest = torch.minimum(self.lowest, reference.min().cpu())
        self.highest = torch.maximum(self.highest, reference.max().cpu())

    def over(self, scale):
        return 0.0 if self.largest == 0 else float(self.largest / scale)
