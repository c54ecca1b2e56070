"""Contributions of the previous layer's channels to a unit in single images, and the images in which it is largest."""

import torch
from torch import Tensor

from utils.method.order import largest_first


def circuits(weight: Tensor, tap_sums: Tensor) -> Tensor:
    """The circuit of an image: input x gradient at the layer's input, towards the unit's spatial sum.

    ``C_i(x) = sum_uv W[i,u,v] S[i,u,v](x)``: the summand of the ARV, which is its mean over a concept's images. With
    ``b * positions`` the entries add up to the unit's spatial sum.

    Parameters
    ----------
    weight : Tensor [..., C_in, taps]
        Weight of one unit, or of a different unit for each image.
    tap_sums : Tensor [n, C_in, taps]

    Returns
    -------
    Tensor [n, C_in]
    """
    return (weight * tap_sums).sum(-1)


def per_norm(features: Tensor) -> Tensor:
    """Features divided by their L1 norm, [..., F]: an image's circuit, independent of the unit's activation."""
    return features / (features.abs().sum(-1, keepdim=True) + 1e-10)


class Strongest:
    """The n images in which each of R units is largest, from batches of any number of images.

    Of equal values, those of smaller indices are kept. ``indices`` and ``values`` [R, n], the largest first; fewer
    columns while fewer images were added.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self.indices = torch.empty(0, 0, dtype=torch.long)
        self.values = torch.empty(0, 0)

    def add(self, values: Tensor, indices: Tensor) -> None:
        """Add images: ``values`` [B, R], and their ``indices`` [B], which are larger than all earlier indices."""
        values = values.T
        indices = indices.expand(len(values), -1)
        if self.values.shape[1] == self._number:
            values, indices = _above(self.values[:, -1:], values, indices)
        if self.values.shape[1]:
            values = torch.cat([self.values, values], 1)
            indices = torch.cat([self.indices, indices], 1)
        order = largest_first(values, self._number, dim=1)
        self.values = values.gather(1, order)
        self.indices = indices.gather(1, order)


def _above(least: Tensor, values: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """The values [R, B] above ``least`` [R, 1] in their order, and their indices; rows are filled up with -inf."""
    above = values > least
    counts = above.sum(1)
    rows, columns = above.nonzero(as_tuple=True)
    slots = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]
    shape = (len(values), max(counts.tolist(), default=0))
    kept = values.new_full(shape, -torch.inf).index_put_((rows, slots), values[rows, columns])
    return kept, indices.new_zeros(shape).index_put_((rows, slots), indices[rows, columns])
