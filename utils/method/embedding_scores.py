"""Scores of units without labels, from embeddings of another network: how alike are the images that activate one?"""

from typing import NamedTuple

import torch


def unit_vectors(embeddings):
    """``u = e / |e|``, float64: [n, D] -> [n, D]."""
    return torch.nn.functional.normalize(embeddings.double(), dim=-1, eps=0)


def mean_cosine(embeddings):
    """The mean cosine of all pairs of images, ``m = (|sum u|^2 - N) / (N (N - 1))``; NaN with fewer than two.

    Parameters
    ----------
    embeddings : Tensor [N, D]

    Returns
    -------
    float
    """
    return _mean_cosine(unit_vectors(embeddings).sum(0), len(embeddings))


def _mean_cosine(unit_sum, count):
    return float(unit_sum.square().sum() - count) / (count * (count - 1)) if count > 1 else float("nan")


def corrected_for_chance(scores, mean_cosine):
    """Monosemanticity without what any images have in common, ``(MS - m) / (1 - m)``: 0 is chance, 1 is as before.

    ``mean_cosine`` m is that of all pairs of images; ``scores`` a number or Tensor, and so is what returns.
    """
    return (scores - mean_cosine) / (1 - mean_cosine)


def strongest_alone(activations, number):
    """Activations [N, R] with all images but each unit's ``number`` largest set to 0, the largest counting alike.

    Where a unit is active in most images, these outweigh by far the few in which it is strong.
    """
    least = activations.topk(min(number, len(activations)), dim=0).values[-1]
    return activations.where(activations >= least, 0)


def monosemanticity(activations, embeddings):
    """Monosemanticity (Pach et al. 2025) of R units over N images, [R] float64: see ``Monosemanticity``.

    ``activations`` [N, R], ``embeddings`` [N, D].
    """
    running = Monosemanticity(activations.shape[1], embeddings.shape[1], activations.device)
    running.add(activations, embeddings)
    return running.scores()


class Monosemanticity:
    """Monosemanticity (Pach et al. 2025) of R units over images that come in batches, from running sums.

    The mean cosine of the embeddings of all pairs of images, weighted by how much both activate the unit. With an
    image's activation ``a_i`` scaled to 0..1 over all images and its embedding ``u_i`` over its norm:

    ``MS = sum_i<j a_i a_j u_i . u_j / sum_i<j a_i a_j = (|sum a_i u_i|^2 - q) / ((sum a_i)^2 - q)``, ``q = sum a_i^2``

    Sums of unscaled activations x give those of ``a = (x - low) / (high - low)`` exactly, as all of them are of the
    first or second degree; so what is kept, R x D, does not depend on the number of images.

    Parameters
    ----------
    num_units : int
    size : int
        D, of an embedding.
    device : torch.device
        Where the sums are kept.
    """

    def __init__(self, num_units, size, device="cpu"):
        kept = {"dtype": torch.float64, "device": device}
        self._images = 0
        self._unit_sum, self._weighted = torch.zeros(size, **kept), torch.zeros(num_units, size, **kept)
        self._sum, self._squares = torch.zeros(2, num_units, **kept)
        self._low, self._high = (torch.full((num_units,), end, **kept) for end in (torch.inf, -torch.inf))

    def add(self, activations, embeddings, first=0):
        """Add images: ``embeddings`` [B, D], and ``activations`` [B, n] of the units from ``first``.

        Units that come in several blocks, one after the other, all need the same images; these are counted with the
        first block.
        """
        activations, units = activations.double(), unit_vectors(embeddings)
        own = slice(first, first + activations.shape[1])
        if first == 0:
            self._images += len(units)
            self._unit_sum += units.sum(0)
        self._weighted[own] += activations.T @ units
        self._sum[own] += activations.sum(0)
        self._squares[own] += activations.square().sum(0)
        if len(units):
            self._low[own] = torch.minimum(self._low[own], activations.amin(0))
            self._high[own] = torch.maximum(self._high[own], activations.amax(0))

    def scores(self):
        """Monosemanticity of each unit: [R] float64, on the CPU.

        NaN where all activations are equal, or where one image alone is above the lowest: then there is no pair.
        """
        if not self._images:
            return torch.full_like(self._sum, torch.nan).cpu()
        low, span = self._low, self._high - self._low
        total = (self._sum - self._images * low) / span
        squares = (self._squares - 2 * low * self._sum + self._images * low**2) / span**2
        weighted = (self._weighted - low[:, None] * self._unit_sum).square().sum(1) / span**2
        pairs = total**2 - squares  # twice the sum of a_i a_j; what rounding leaves of 0 is no pair
        scores = (weighted - squares) / pairs
        return scores.where((span > 0) & (pairs > 1e-9 * squares), torch.nan).cpu()

    def mean_cosine(self):
        """The mean cosine of all pairs of the images that were added."""
        return _mean_cosine(self._unit_sum, self._images)


class PatchDistances(NamedTuple):
    """Mean Euclidean distances of embeddings: within clusters, between clusters, of any two; numbers or arrays."""

    intra: float
    inter: float
    any: float

    @property
    def gap(self):
        """``(inter - intra) / all``: 0 where the clusters have nothing to do with the embeddings.

        Of a unit, or of averages over units, as published (5.85, 6.40 and 6.08: 0.090); not an average of gaps.
        """
        return (self.inter - self.intra) / self.any


def patch_distances(embeddings, labels, num_clusters):
    """PURE's distances of the reference patches of one unit (Dreyer et al. 2024).

    A mean is over pairs of different patches, all pairs alike: within, the pairs of all clusters together (a cluster of
    one patch has none); between, all pairs of patches of different clusters.

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
        Of floats; ``intra`` and ``inter`` are NaN where a cluster is empty or there is but one, ``intra`` where none
        has two patches, ``any`` where there is but one patch.
    """
    labels = torch.as_tensor(labels)
    first, second = torch.triu_indices(len(embeddings), len(embeddings), offset=1)
    distances, within = torch.pdist(embeddings.double()), labels[first] == labels[second]
    whole = num_clusters > 1 and len(labels.unique()) == num_clusters
    intra, inter = (float(distances[own].mean()) if whole else float("nan") for own in (within, ~within))
    return PatchDistances(intra, inter, float(distances.mean()))


def mean_distances(units):
    """PatchDistances averaged over units; those of which one of the three is not known do not count.

    ``units`` : list of PatchDistances. NaN without any.
    """
    values = torch.tensor(units, dtype=torch.float64).reshape(-1, 3)
    return PatchDistances(*values[values.isfinite().all(1)].mean(0).tolist())
