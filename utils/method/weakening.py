"""Weakening concepts in a channel's own weights: its new row, and the constant that takes the place of what is gone."""

import torch
from torch import Tensor


def weakened_row(weight: Tensor, shares: Tensor, factor: float) -> Tensor:
    """The row of a channel in which parts are scaled: ``W[c] (1 - (1 - factor) sum_k share_k)``.

    The exclusive part of concept k is ``c'_k - r``, with row ``share_k W[c]`` and without bias; so this row computes
    the channel with ``factor`` times the part of each chosen concept, and everything else as it was.

    Parameters
    ----------
    weight : Tensor [C_in, taps], float64
        ``W[c]``.
    shares : Tensor [n, C_in]
        The chosen concepts' own shares of each input.
    factor : float

    Returns
    -------
    Tensor [C_in, taps], float64
    """
    return weight * (1 - (1 - factor) * shares.double().sum(0))[:, None]


def constant_in_place(constants: Tensor, factor: float) -> Tensor:
    """What is added to the channel at every position: ``(1 - factor) sum_k m_k``.

    The part of concept k becomes ``factor (c'_k - r) + (1 - factor) m_k``.

    Parameters
    ----------
    constants : Tensor [n], float64
        ``m_k``, for example the mean of ``c'_k - r`` over all positions of the training images.
    factor : float

    Returns
    -------
    Tensor [], float64
    """
    return (1 - factor) * torch.as_tensor(constants).double().sum()
