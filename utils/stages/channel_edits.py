"""The edits of a channel's concepts by several methods, as changes of the channel's map in a batch of images."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.divisions.division import Rule
from utils.method.selectivity import central_range
from utils.networks.layers import Layer
from utils.networks.tails import ChannelMaps
from utils.stages.edit_methods import CENTRAL_SHARE, EditedConcept, EditFacts, EditMethod
from utils.store.opened_splits import OpenedSplit


class MapEdits(NamedTuple):
    """The edits of a concept by M methods in B images: the channel's map ``original`` [B, ...], and what each method
    adds to it where it is applied in full, ``additions`` [M, B, ...]."""

    original: Tensor
    additions: Tensor

    def at(self, strengths: Tensor) -> Tensor:
        """The maps ``original + s (edited - original)``, [M * S, B, ...], for strengths [M, S]."""
        factors = strengths.to(self.original).view(*strengths.shape, *[1] * self.original.ndim)
        return (self.original + factors * self.additions[:, None]).flatten(0, 1)


class ChannelEdits:
    """What is needed to edit the concepts of a split by some methods.

    Parameters
    ----------
    layer : Layer
    opened : OpenedSplit
    methods : list of EditMethod
    rule : function
        Returns the Rule that has divided the split.
    """

    def __init__(
        self, layer: Layer, opened: OpenedSplit, methods: Sequence[EditMethod], rule: Callable[[], Rule]
    ) -> None:
        split = opened.file.split
        self.split = split
        self.methods = methods
        means = split.mean_arv.double() / split.positions  # of each input's contribution
        bias = None if split.bias is None else split.bias.double()
        self._mean = float(means.sum() + (0 if bias is None else bias))
        rows = [split.weight.double()]
        self._part_means: list[float] = [self._mean]
        self._row_of: dict[tuple[int, str], int] = {}
        for k in range(len(split.own_concepts)):
            concept = EditedConcept(split, opened.rho, k, rule)
            for method in methods:
                shares = method.shares(concept)
                if shares is not None:
                    self._row_of[k, method.name] = len(rows)
                    rows.append(shares[:, None] * split.weight.double())
                    self._part_means.append(float((shares * means).sum()))
        biases = None
        if layer.bias is not None and bias is not None:
            biases = torch.zeros(len(rows), dtype=torch.float64)
            biases[0] = bias
        self._maps = ChannelMaps(layer, torch.stack(rows), biases)

    def maps(self, x: Tensor) -> Tensor:
        """The maps of the channel, and of all contributions that methods hold, of the layer's input: [R, B, ...]."""
        return self._maps(x)

    def facts(self, training_maps: Sequence[Tensor]) -> EditFacts:
        """The EditFacts of a concept, from the ``maps`` of batches of its training images."""
        values = torch.cat([torch.empty(0), *(maps[0].flatten().cpu() for maps in training_maps)])
        return EditFacts(self._mean, np.nan, *central_range(values, CENTRAL_SHARE))

    def edits(self, k: int, maps: Tensor, facts: EditFacts) -> MapEdits:
        """The edits of concept ``k`` in a batch, of its ``maps``."""
        original = maps[0]
        additions = []
        for method in self.methods:
            row = self._row_of.get((k, method.name))
            part = None if row is None else maps[row]
            part_mean = np.nan if row is None else self._part_means[row]
            additions.append(method.edited(original, part, replace(facts, part_mean=part_mean)) - original)
        return MapEdits(original, torch.stack(additions))
