"""Scores of units without labels: similarity of the images that activate a unit, by another network's embeddings."""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

Values = TypeVar("Values", float, Tensor)
BLOCK = 4096  # images or units whose embeddings are in memory in double precision


def unit_vectors(embeddings: Tensor) -> Tensor:
    """``u = e / |e|``, float64: [n, D] -> [n, D]."""
    return torch.nn.functional.normalize(embeddings.double(), dim=-1, eps=0)


def mean_cosine(embeddings: Tensor) -> float:
    """The mean cosine of all pairs of images [N, D], ``m = (|sum u|^2 - N) / (N (N - 1))``; NaN with fewer than two."""
    sums = [unit_vectors(block).sum(0) for block in embeddings.split(BLOCK)]
    return _mean_cosine(torch.stack(sums).sum(0), len(embeddings))


def _mean_cosine(unit_sum: Tensor, count: int) -> float:
    return float(unit_sum.square().sum() - count) / (count * (count - 1)) if count > 1 else float("nan")


def corrected_for_chance(scores: Values, mean_cosine: float) -> Values:
    """Monosemanticity corrected for the similarity of any images, ``(MS - m) / (1 - m)``: 0 is chance, 1 is as before.

    ``mean_cosine`` m is that of all pairs of images.
    """
    return (scores - mean_cosine) / (1 - mean_cosine)


def strongest_alone(activations: Tensor, number: int) -> Tensor:
    """Activations [N, R], where all but each unit's ``number`` largest are set to 0; equal values are all kept.

    If a unit is active in most images, its many weak activations would outweigh the few strong ones.
    """
    least = activations.topk(min(number, len(activations)), dim=0).values[-1]
    return activations.where(activations >= least, 0)


def monosemanticity(activations: Tensor, embeddings: Tensor) -> Tensor:
    """Monosemanticity (Pach et al. 2025) of R units over N images, [R] float64: see ``Monosemanticity``.

    ``activations`` [N, R], ``embeddings`` [N, D].
    """
    running = Monosemanticity(activations.shape[1], embeddings.shape[1], activations.device)
    for of_block, block in zip(activations.split(BLOCK), embeddings.split(BLOCK), strict=True):
        running.add(of_block, block)
    return running.scores()


def monosemanticity_of_strongest(activations: Tensor, embeddings: Tensor, number: int) -> Tensor:
    """``monosemanticity`` of ``strongest_alone(activations, number)``, for activations [N, R] that are not negative.

    Only the images count that are left, and one in which no unit is active if there is one.
    """
    strongest = strongest_alone(activations, number)
    active = strongest.any(1)
    shown = torch.cat([active.nonzero().flatten(), (~active).nonzero().flatten()[:1]])
    return monosemanticity(strongest[shown], embeddings[shown])


class Monosemanticity:
    """Monosemanticity (Pach et al. 2025) of R units over images that come in batches, from running sums.

    The mean cosine of the embeddings of all pairs of images, weighted by how much both activate the unit. With an
    image's activation ``a_i`` scaled to 0..1 over all images and its embedding ``u_i`` over its norm:

    ``MS = sum_i<j a_i a_j u_i . u_j / sum_i<j a_i a_j = (|sum a_i u_i|^2 - q) / ((sum a_i)^2 - q)``, ``q = sum a_i^2``

    Sums of unscaled activations x give those of ``a = (x - low) / (high - low)`` exactly, as all of them are of the
    first or second degree. So the memory, R x D, does not depend on the number of images.

    Parameters
    ----------
    num_units : int
    size : int
        D, of an embedding.
    device : torch.device
        Where the sums are kept.

    ``images`` is the number of images that were added.
    """

    def __init__(self, num_units: int, size: int, device: torch.device | str = "cpu") -> None:
        empty = torch.empty(0, dtype=torch.float64, device=device)
        self.images = 0
        self._unit_sum = empty.new_zeros(size)
        self._weighted = empty.new_zeros(num_units, size)
        self._sum = empty.new_zeros(num_units)
        self._squares = empty.new_zeros(num_units)
        self._low = empty.new_full((num_units,), torch.inf)
        self._high = empty.new_full((num_units,), -torch.inf)

    def add(self, activations: Tensor, embeddings: Tensor, first: int = 0) -> None:
        """Add images: ``embeddings`` [B, D], and ``activations`` [B, n] of the units from ``first``.

        Units that come in several blocks, one after the other, all need the same images; these are counted with the
        first block.
        """
        activations = activations.double()
        units = unit_vectors(embeddings)
        block = slice(first, first + activations.shape[1])
        if first == 0:
            self.images += len(units)
            self._unit_sum += units.sum(0)
        self._weighted[block] += activations.T @ units
        self._sum[block] += activations.sum(0)
        self._squares[block] += activations.square().sum(0)
        if len(units):
            self._low[block] = torch.minimum(self._low[block], activations.amin(0))
            self._high[block] = torch.maximum(self._high[block], activations.amax(0))

    def scores(self) -> Tensor:
        """Monosemanticity of each unit: [R] float64, on the CPU.

        NaN if all activations are equal, or if only one image is above the lowest: then there is no pair.
        """
        if not self.images:
            return torch.full_like(self._sum, torch.nan).cpu()
        low = self._low
        span = self._high - low
        total = (self._sum - self.images * low) / span
        squares = (self._squares - 2 * low * self._sum + self.images * low**2) / span**2
        blocks = zip(self._weighted.split(BLOCK), low[:, None].split(BLOCK), strict=True)
        weighted = torch.cat([(sums - least * self._unit_sum).square().sum(1) for sums, least in blocks]) / span**2
        pairs = total**2 - squares  # twice the sum of a_i a_j; a remainder of rounding is not a pair
        scores = (weighted - squares) / pairs
        return scores.where((span > 0) & (pairs > 1e-9 * squares), torch.nan).cpu()

    def state(self) -> dict[str, np.ndarray]:
        """The running sums as arrays, to go on from them later; ``units`` [R, D + 4] is one row a unit."""
        sums = (self._sum, self._squares, self._low, self._high)
        units = torch.cat([self._weighted, *(values[:, None] for values in sums)], 1)
        return {
            "images": np.array([self.images]),
            "unit_sum": self._unit_sum.cpu().numpy(),
            "units": units.cpu().numpy(),
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from a ``state`` of as many units."""
        self.images = int(state["images"][0])
        self._unit_sum.copy_(torch.from_numpy(state["unit_sum"]))
        units = torch.from_numpy(state["units"])
        self._weighted.copy_(units[:, :-4])
        for running_sums, values in zip(
            (self._sum, self._squares, self._low, self._high), units[:, -4:].T, strict=True
        ):
            running_sums.copy_(values)

    def mean_cosine(self) -> float:
        """The mean cosine of all pairs of the images that were added."""
        return _mean_cosine(self._unit_sum, self.images)


class PatchDistances(NamedTuple):
    """Mean Euclidean distances of embeddings: within clusters, between clusters, of any two; numbers or arrays."""

    intra: float
    inter: float
    any: float

    @property
    def gap(self) -> float:
        """``(inter - intra) / any``: 0 where the clusters are independent of the embeddings.

        For a unit, or for averages over units, as published (5.85, 6.40 and 6.08: 0.090); not an average of gaps.
        """
        return (self.inter - self.intra) / self.any


def patch_distances(embeddings: Tensor, labels: ArrayLike, num_clusters: int) -> PatchDistances:
    """PURE's distances of the reference patches of one unit (Dreyer et al. 2024).

    A mean is over pairs of different patches, each with the same weight: within, the pairs of all clusters together (a
    cluster of one patch has none); between, all pairs of patches of different clusters.

    Parameters
    ----------
    embeddings : Tensor [n, D]
        As they are, not normalised.
    labels : LongTensor [n]
        The cluster of each patch, 0 .. ``num_clusters`` - 1.
    num_clusters : int

    Returns
    -------
    PatchDistances
        Of floats; ``intra`` and ``inter`` are NaN where a cluster is empty or there is only one, ``intra`` where none
        has two patches, ``any`` if there is only one patch.
    """
    labels = torch.as_tensor(labels)
    first, second = torch.triu_indices(len(embeddings), len(embeddings), offset=1)
    distances = torch.pdist(embeddings.double())
    any_mean = float(distances.mean())
    if num_clusters < 2 or len(labels.unique()) != num_clusters:
        return PatchDistances(float("nan"), float("nan"), any_mean)
    within = labels[first] == labels[second]
    return PatchDistances(float(distances[within].mean()), float(distances[~within].mean()), any_mean)


def mean_distances(units: Sequence[tuple[float, ...]]) -> PatchDistances:
    """PatchDistances averaged over the units of which all three are known; NaN without any."""
    values = torch.tensor(units, dtype=torch.float64).reshape(-1, 3)
    return PatchDistances(*values[values.isfinite().all(1)].mean(0).tolist())
