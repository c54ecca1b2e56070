"""A map of high-dimensional points: their principal components, and the points that have room for a picture."""

import torch
from torch import Tensor


def principal_components(features: Tensor, number: int = 2) -> tuple[Tensor, Tensor]:
    """The largest principal components of points: ``X V`` of the singular vectors V of the centred points X.

    Parameters
    ----------
    features : Tensor [n, F]
    number : int

    Returns
    -------
    scores : Tensor [n, number], float64
        The points' coordinates, around 0; 0 beyond the rank of the points. The sign of a component is that for which
        its largest loading is positive, so that the same points always give the same ones.
    shares : Tensor [number], float64
        The share of the variance that each component explains; 0 where all points are equal.
    """
    centred = features.double() - features.double().mean(0)
    _, values, directions = torch.linalg.svd(centred, full_matrices=False)
    directions = directions[:number]
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    scores = centred.new_zeros(len(centred), number)
    scores[:, : len(directions)] = centred @ (directions * largest.sign()).T
    shares = centred.new_zeros(number)
    variance = values.square().sum()
    if variance > 0:
        shares[: len(directions)] = values[:number].square() / variance
    return scores, shares


def in_unit_square(scores: Tensor) -> Tensor:
    """Points [n, 2], stretched so that each of their coordinates goes from 0 to 1; 0.5 where it is constant."""
    low = scores.amin(0)
    span = scores.amax(0) - low
    return torch.where(span > 0, (scores - low) / span.where(span > 0, 1), 0.5)


def with_room(places: Tensor, order: list[int], side: float, most: int) -> list[int]:
    """Points with room for a square picture: each is chosen if its picture overlaps none of those chosen before.

    Parameters
    ----------
    places : Tensor [n, 2]
    order : list of int
        Order in which points are chosen.
    side : float
        Side of a picture.
    most : int

    Returns
    -------
    list of at most ``most`` points, in that order
    """
    chosen: list[int] = []
    for point in order:
        if len(chosen) < most and ((places[chosen] - places[point]).abs().amax(1) >= side).all():
            chosen.append(point)
    return chosen
