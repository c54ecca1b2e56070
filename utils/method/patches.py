"""The patches that activate a channel most (supplement, A): where they are, and which of them are shown."""

import math

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from utils.method.order import largest_first

TOP_IMAGES = 16
SHOWN = 6
STRIDES = 3


def peaks(maps: Tensor, places: Tensor | None) -> tuple[Tensor, Tensor]:
    """The largest activation of each channel in each image, and its place.

    Parameters
    ----------
    maps : Tensor [B, C, positions]
    places : Tensor [positions, 2]
        Row and column of each position's centre, as fractions of the image's sides; NaN for a position that has no
        place (a class token), which is left out. None if no position has one: then an image's largest activation is
        that of the whole image.

    Returns
    -------
    values : Tensor [B, C]
    centres : Tensor [B, C, 2]
        The places of the largest activations; the image's centre without ``places``.
    """
    if places is None:
        places = maps.new_full((maps.shape[-1], 2), 0.5)
    nowhere = places.isnan().any(1)
    # filled rather than left out: how many there are is not known without waiting for the device
    values, positions = maps.masked_fill(nowhere, -torch.inf).max(-1)
    return values, places[positions]


def default_patch_size(image_size: int, map_size: int) -> int:
    """Three strides of the layer, in pixels of the image: 96 of 224 for a map of 7x7. At most the whole image.

    The stride is the power of two that is nearest to the image's size over the map's, which padding makes inexact.
    """
    return min(STRIDES * 2 ** max(round(math.log2(image_size / map_size)), 0), image_size)


def patch(image: np.ndarray, centre: tuple[float, float], size: int) -> np.ndarray:
    """The square of ``size`` pixels around ``centre``, shifted to lie inside: [H, W, 3] -> [size, size, 3]."""
    corners = [round(float(at) * side - size / 2) for at, side in zip(centre, image.shape, strict=False)]
    top, left = (min(max(corner, 0), side - size) for corner, side in zip(corners, image.shape, strict=False))
    return image[top : top + size, left : left + size]


def most_activating(values: np.ndarray, groups: np.ndarray | None = None) -> list[int]:
    """The images that are shown for a channel: the six most activating ones.

    With ``groups`` by the paper's rule: six of the sixteen most activating, of all groups as equally as they occur.

    Parameters
    ----------
    values : array [n]
        The channel's largest activation in each image.
    groups : array [n], optional
        The concept of each image, or -1.

    Returns
    -------
    list of at most six image numbers, most activating first; of equal ones the first
    """
    top = largest_first(torch.from_numpy(values.copy()), TOP_IMAGES).tolist()
    if groups is None:
        return top[:SHOWN]
    waiting = {group: [image for image in top if groups[image] == group] for group in dict.fromkeys(groups[top])}
    shown: list[int] = []
    while len(shown) < min(SHOWN, len(top)):
        for images in waiting.values():
            if images and len(shown) < SHOWN:
                shown.append(images.pop(0))
    return sorted(shown, key=top.index)


def ranks(values: np.ndarray) -> np.ndarray:
    """The rank of each image, from 1 for the most activating: [n] -> [n]; of equal ones the first is before."""
    return rankdata(-np.asarray(values), method="ordinal")
