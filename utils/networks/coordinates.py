"""Orthonormal coordinates of a layer's output at single positions, as few as the layer's rank can be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from utils.networks.layers import Layer
from utils.networks.precision import full_precision


@dataclass(frozen=True)
class LayerCoordinates:
    """``a = Q t + b``: the output a [C] of a layer at a position has coordinates t [D], D = min(C, C_in * taps).

    A layer from 320 to 1280 channels fills 320 dimensions of its output alone. Distances between positions are those
    between their coordinates.

    Parameters
    ----------
    layer : Layer
    basis : Tensor [C, D]
        Q, with orthonormal columns that span the columns of the layer's weight; the identity if they span everything.
    bias : Tensor [C]
        b, the layer's bias; 0 without one.
    """

    layer: Layer
    basis: Tensor
    bias: Tensor

    @classmethod
    def of(cls, layer: Layer) -> LayerCoordinates:
        weight = layer.weight.flatten(1)
        num_channels, num_weights = weight.shape
        if num_weights < num_channels:
            # on the CPU, so that every device has the same basis
            basis = torch.linalg.qr(weight.cpu().double())[0].to(weight)
        else:
            basis = torch.eye(num_channels).to(weight)
        bias = torch.zeros(num_channels).to(weight) if layer.bias is None else layer.bias
        return cls(layer, basis, bias)

    @property
    def number(self) -> int:
        """D."""
        return self.basis.shape[1]

    @cached_property
    def _maps(self) -> Callable[[Tensor], Tensor]:
        rows = torch.einsum("cd,cit->dit", self.basis.double(), self.layer.weight.double()).float()
        return self.layer.maps(rows, None)

    def of_input(self, x: Tensor) -> Tensor:
        """t at each position of what enters the layer: [B, positions, D], float32."""
        with torch.no_grad(), full_precision(x.device):
            return self._maps(x).movedim(1, 2)

    def values(self, coordinates: Tensor) -> Tensor:
        """a [..., C] of t [..., D]."""
        return coordinates @ self.basis.T + self.bias
