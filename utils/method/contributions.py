"""What the previous layer's channels contribute to a unit in a single image, and the images in which it is largest."""

import torch


def circuits(weight, tap_sums):
    """The circuit of an image: input x gradient at the layer's input, towards the unit's spatial sum.

    ``C_i(x) = sum_uv W[i,u,v] S[i,u,v](x)``: the summand of the ARV, which is its mean over a concept's images. With
    ``b * positions`` the entries add up to the unit's spatial sum.

    Parameters
    ----------
    weight : Tensor [..., C_in, taps]
        Of one unit; or of each image's own.
    tap_sums : Tensor [n, C_in, taps]

    Returns
    -------
    Tensor [n, C_in]
    """
    return (weight * tap_sums).sum(-1)


def per_norm(features):
    """Features over their L1 norm, [..., F]: what an image's circuit is made of, however strong the unit is in it."""
    return features / (features.abs().sum(-1, keepdim=True) + 1e-10)


class Strongest:
    """The n images in which each of R units is largest, from batches of any number of images.

    Of equal values those of smaller index count. ``indices`` and ``values`` [R, n], the largest first.
    """

    def __init__(self, number):
        self._number, self.indices, self.values = number, None, None

    def add(self, values, indices):
        """Add images: ``values`` [B, R], and their ``indices`` [B], above all those before."""
        values, indices = values.T, indices.expand(values.shape[1], -1)
        if self.values is not None:
            values, indices = torch.cat([self.values, values], 1), torch.cat([self.indices, indices], 1)
        order = values.argsort(dim=1, descending=True, stable=True)[:, : self._number]
        self.values, self.indices = values.gather(1, order), indices.gather(1, order)
