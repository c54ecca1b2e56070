"""A sample of the positions of a layer's output, evenly over images."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from utils.method.significance import permutation

SHARE = 4  # neighbouring positions are similar: of an image, one in four is enough where there are many images


class PositionSample(NamedTuple):
    """``images`` LongTensor [I], ascending, and the number of positions of each, ``counts`` LongTensor [I]."""

    images: Tensor
    counts: Tensor


def sample_positions(images: Tensor, positions: int, number: int) -> PositionSample:
    """At most ``number`` positions, as many of one image as of another, to within one.

    Images are drawn at random, as few as have ``number`` positions if a quarter of an image's positions are used; where
    there are fewer, more positions of each are used.

    Parameters
    ----------
    images : LongTensor [N]
        Indices of the images that are drawn from, ascending.
    positions : int
        Number of positions of an image.
    number : int
    """
    of_image = -(-positions // SHARE)
    num_images = min(len(images), -(-number // of_image))
    drawn = images[permutation(len(images), "images of positions")[:num_images]].sort().values
    total = min(number, num_images * positions)
    counts = torch.full((num_images,), total // num_images)
    counts[: total % num_images] += 1
    return PositionSample(drawn, counts)


def drawn_positions(image: int, positions: int, count: int) -> Tensor:
    """The positions that are drawn of an image, given by its index: LongTensor [count], ascending."""
    return permutation(positions, "positions", image)[:count].sort().values
