"""Diagnostics for choosing gamma: how similar ARVs of one class are, and which splits are clean on held-out images."""

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.cluster.vq import kmeans2
from torch import Tensor

from utils.method.disentangling import disentangled_rows, merge, shares_of_owners, spatial_sums, split_sources
from utils.method.evaluation import CLEAN_OTHER, CLEAN_OWN, fractions_of_original
from utils.method.polysemanticity import averaged_relevance_vectors

STEPS = 10  # of k-means, without stopping earlier


def cosines_of_halves(weight: Tensor, even: Tensor, odd: Tensor) -> Tensor:
    """Cosine of a channel's ARVs from two halves of each class's images: how low it is by chance alone.

    Parameters
    ----------
    weight : Tensor [C_in, taps]
        The channel's row of the layer's weight.
    even, odd : Tensor [n, C_in, taps]
        Class means of the tap sums over either half.

    Returns
    -------
    Tensor [n], float64; 0 where an ARV is zero
    """
    even_arvs = averaged_relevance_vectors(weight, even)
    odd_arvs = averaged_relevance_vectors(weight, odd)
    return torch.nn.functional.cosine_similarity(even_arvs, odd_arvs, dim=1)


def cosine_of_modes(circuits: ArrayLike, random: np.random.Generator) -> float:
    """Cosine of the two k-means centroids of a channel's relevance vectors in the images of one class.

    Parameters
    ----------
    circuits : array [n, C_in]
        An image's summands of the ARV.
    random : Generator
        Draws the two images that k-means begins with: the second one in proportion to its squared distance from the
        first (k-means++).

    Returns
    -------
    float; NaN where all images are equal
    """
    circuits = np.asarray(circuits, dtype=np.float64)
    first = circuits[random.integers(len(circuits))]
    distances = ((circuits - first) ** 2).sum(1)
    if not distances.sum() > 0:
        return np.nan
    second = circuits[random.choice(len(circuits), p=distances / distances.sum())]
    # With two clusters none can become empty: the images of a centroid are nearer to it than to the other, on average
    centroids, _ = kmeans2(circuits, np.stack([first, second]), iter=STEPS, minit="matrix", check_finite=False)
    norms = np.linalg.norm(centroids, axis=1).prod()
    return float(centroids[0] @ centroids[1] / norms) if norms > 0 else 0.0


def held_out_fractions(
    weight: Tensor, bias: Tensor | None, positions: int, fitted: Tensor, held_out: Tensor
) -> np.ndarray:
    """Fractions of the channel's sum that ``c'_1 .. c'_K`` carry, of concepts divided on other images (Ineq. 5, rho 1).

    Parameters
    ----------
    weight : Tensor [C_in, taps]
    bias : Tensor [] or None
    positions : int
    fitted, held_out : Tensor [K, C_in, taps], float64
        The concepts' means of the tap sums over the images that divide the inputs, and over others.

    Returns
    -------
    array [K, K]: of each concept's images, the fraction of each new channel
        NaN where the channel's sum is not positive.
    """
    owners = split_sources(averaged_relevance_vectors(weight, fitted), 1.0)
    rows = disentangled_rows(weight.double(), shares_of_owners(owners, len(fitted)).double())
    sums = spatial_sums(rows, None if bias is None else bias.expand(len(rows)), held_out, positions)
    original = merge(sums, dim=1)
    return fractions_of_original(original.where(original > 0, torch.nan).numpy(), sums[:, :-1].numpy())


def clean_concepts(fractions: np.ndarray) -> np.ndarray:
    """For each concept, whether its own channel keeps at least 0.8 of the original, and every other one at most 0.2.

    ``fractions`` [K, K] has a row for each concept's images, a column for each new channel: array [K] of bool.
    """
    is_own = np.eye(len(fractions), dtype=bool)
    return np.all(np.where(is_own, fractions >= CLEAN_OWN, fractions <= CLEAN_OTHER), axis=1)
