"""A map of points of many dimensions: their principal components, and which of them have room for a picture."""

import torch


def principal_components(features, number=2):
    """The largest principal components of points: ``X V`` of the singular vectors V of the centred points X.

    Parameters
    ----------
    features : Tensor [n, F]
    number : int

    Returns
    -------
    scores : Tensor [n, number], float64
        The points' coordinates, around 0; 0 beyond the dimensions that there are. The sign of a component is that for
        which its largest loading is positive, so that the same points always give the same ones.
    shares : Tensor [number], float64
        What share of the variance each component explains; 0 where all points are equal.
    """
    centred = features.double() - features.double().mean(0)
    _, values, directions = torch.linalg.svd(centred, full_matrices=False)
    directions = directions[:number]
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    found = centred @ (directions * largest.sign()).T
    scores, shares = centred.new_zeros(len(centred), number), centred.new_zeros(number)
    scores[:, : len(directions)] = found
    variance = values.square().sum()
    if variance > 0:
        shares[: len(directions)] = values[:number].square() / variance
    return scores, shares


def in_unit_square(scores):
    """Points [n, 2], stretched so that each of their coordinates goes from 0 to 1; 0.5 where it is constant."""
    low, span = scores.amin(0), scores.amax(0) - scores.amin(0)
    return torch.where(span > 0, (scores - low) / span.where(span > 0, 1), 0.5)


def with_room(places, order, side, most):
    """Which points have room for a square picture around them: each that hides none of those before it.

    Parameters
    ----------
    places : Tensor [n, 2]
    order : list of int
        In which the points are asked.
    side : float
        Of a picture.
    most : int

    Returns
    -------
    list of at most ``most`` points, in that order
    """
    chosen = []
    for one in order:
        if len(chosen) < most and ((places[chosen] - places[one]).abs().amax(1) >= side).all():
            chosen.append(one)
    return chosen
