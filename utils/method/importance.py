"""How important a channel is for an image (Eq. 1), and which channels are relevant for a class (Ineq. 2)."""

import torch
from torch import Tensor

FLOAT16_MAX = torch.finfo(torch.float16).max


def channel_importances(activation: Tensor, gradient: Tensor) -> Tensor:
    """Eq. 1: importance of each channel for an image's own class, ``R_c(x) = sum_hw a_c * d y_t / d a_c``.

    Input x gradient at the layer's output, towards the logit of the image's own class, summed over positions.

    Parameters
    ----------
    activation, gradient : Tensor [B, C, positions]

    Returns
    -------
    Tensor [B, C], float32
    """
    return (activation.float() * gradient.float()).sum(-1)


def relative_importances(importances: Tensor) -> tuple[Tensor, Tensor]:
    """Importances (Eq. 1) divided by the image's positive sum, as they are stored.

    Raw importances underflow in float16, so the sum is kept next to them. An image whose positive sum is 0 gets
    zeros: no channel is relevant for it.

    Parameters
    ----------
    importances : Tensor [B, C]

    Returns
    -------
    relative : Tensor [B, C], float16
    positive_sums : Tensor [B], float32; ``sum_c max(R_c, 0)``
    """
    positive_sums = importances.clamp(min=0).sum(1)
    relative = importances / positive_sums.where(positive_sums > 0, torch.inf)[:, None]
    return relative.clamp(-FLOAT16_MAX, FLOAT16_MAX).half(), positive_sums


def attribution_shares(activation: Tensor, gradient: Tensor) -> Tensor:
    """Each channel's share of an image's positive attribution, as the evaluation counts it: [B, C], float32.

    ``sum_hw max(a_c * d y_t / d a_c, 0)`` over its sum over all channels: negative positions are dropped before
    the sum over space, which is what the published evaluation does. 0 where nothing is positive.
    """
    positive = (activation.float() * gradient.float()).clamp(min=0).sum(-1)
    total = positive.sum(1, keepdim=True)
    return positive / total.where(total > 0, torch.inf)


def relevant_in_images(relative: Tensor, positive_sums: Tensor, tau: float) -> Tensor:
    """The condition of Ineq. 2 on an image: ``R_c >= tau * sum_c' max(R_c', 0)``.

    Relevance is defined on the stored float16 values; an image without positive importance makes none relevant.

    Parameters
    ----------
    relative : Tensor [n, C], float16
    positive_sums : Tensor [n]
    tau : float, in (0, 1]

    Returns
    -------
    BoolTensor [n, C]
    """
    smallest = torch.tensor(tau).half()  # of the values that are relevant
    if smallest.float() < torch.tensor(tau):
        smallest = smallest.nextafter(torch.tensor(torch.inf).half())
    # Halves of one sign are ordered as their bits are, and those below zero have negative ones: comparing bits saves
    # the conversion, which is most of the time.
    relevant = relative.view(torch.int16) >= smallest.view(torch.int16)
    relevant[positive_sums <= 0] = False
    return relevant


def relevant_shares(counts: Tensor, images: Tensor) -> Tensor:
    """Ineq. 2: in which share of a class's images a channel is relevant, float64 [T, C]; 0 for a class without images.

    ``counts`` [T, C] and ``images`` [T] are those of ``relevant_classes``.
    """
    return counts.double() / images.clamp(min=1).double()[:, None]


def relevant_classes(counts: Tensor, images: Tensor, p: float, min_images: int = 1) -> Tensor:
    """Ineq. 2: a channel is relevant for a class if it is in at least a fraction ``p`` of the class's images.

    Parameters
    ----------
    counts : Tensor [T, C]
        Images of the class in which the channel is relevant, ``relevant_in_images`` summed over them.
    images : Tensor [T]
    p : float, in (0, 1]
    min_images : int, from 1

    Returns
    -------
    BoolTensor [T, C]; False for classes with fewer images than ``min_images``
    """
    return (relevant_shares(counts, images) >= p) & (images >= min_images)[:, None]
