"""How well a dictionary, an autoencoder or components of NMF, describes positions of a layer's output."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

ROWS = 4096  # whose codes are in memory at once


class Dictionary(Protocol):
    """U units that describe values [n, D] by codes [n, U], which are nowhere negative."""

    @property
    def atoms(self) -> Tensor:
        """What a code of 1 of each unit adds to the values: [U, D]."""

    def codes(self, values: Tensor) -> Tensor:
        """The codes of values [n, D]: [n, U]."""

    def reconstruct(self, codes: Tensor) -> Tensor:
        """The values [n, D] that codes [n, U] stand for."""


class Fit(NamedTuple):
    """``explained``, the share of the variance of positions that a dictionary reconstructs; ``active`` BoolTensor [U],
    the units that are above 0 at any of them; ``units_at_position``, the mean number of units above 0 at one."""

    explained: float
    active: Tensor
    units_at_position: float


def fit_of(dictionary: Dictionary, values: Tensor) -> Fit:
    """The Fit of a dictionary to values [n, D] of positions."""
    mean = values.mean(0)
    error = total = count = 0.0
    active = []
    for block in values.split(ROWS):
        codes = dictionary.codes(block)
        error += float((block - dictionary.reconstruct(codes)).square().sum())
        total += float((block - mean).square().sum())
        count += float((codes > 0).sum())
        active.append((codes > 0).any(0))
    return Fit(1 - error / total if total else 1.0, torch.stack(active).any(0), count / len(values))
