"""Choosing rho, the factor of Ineq. 5, by the training images of the concepts (Eq. 6)."""

import torch
from torch import Tensor

from utils.method.disentangling import GroupKey, disentangled_rows, in_order, shares_of_owners, split_sources

RHOS = tuple(round(0.05 * step, 2) for step in range(1, 21))
NUM_OBJECTIVES = 3
DENOMINATOR_OFFSET = 1e-5


def objective_terms(maps: Tensor, concepts: Tensor) -> Tensor:
    """Eq. 6: each image's three objective terms, which compare its own channel with the mean of the others.

    ``positive``: s = sum max(c', 0), ``absolute``: s = sum |c'|, both s_own / (s_others + 1e-5);
    ``contrast``: (s_own - s_others) / (s_own + s_others) with the s of ``positive``, 0/0 counting as 0.

    Parameters
    ----------
    maps : Tensor [B, R, K, P]
        ``c'_k`` at every position, for R splits.
    concepts : LongTensor [B]
        The concept (from 0) of each image.

    Returns
    -------
    Tensor [B, R, 3]
    """
    own_mask = torch.nn.functional.one_hot(concepts, maps.shape[2]).to(maps)[:, None]

    def own_and_others(activations: Tensor) -> tuple[Tensor, Tensor]:
        own_sums = (activations * own_mask).sum(-1)
        return own_sums, (activations * (1 - own_mask)).sum(-1) / (maps.shape[2] - 1)

    own_sums, other_sums = own_and_others(maps.clamp(min=0).sum(-1))
    own_absolute, others_absolute = own_and_others(maps.abs().sum(-1))
    both = own_sums + other_sums
    return torch.stack(
        [
            own_sums / (other_sums + DENOMINATOR_OFFSET),
            own_absolute / (others_absolute + DENOMINATOR_OFFSET),
            (own_sums - other_sums) / both.where(both > 0, torch.inf),
        ],
        dim=-1,
    )


def best_rhos(objectives: Tensor) -> list[float]:
    """Eq. 6: the rho with the largest value of each of n objectives, [20, n]; of equal values, the smallest rho."""
    largest = (objectives == objectives.max(0).values).T
    return [RHOS[int(at_largest.nonzero()[0])] for at_largest in largest]


class RhoSearch:
    """Eq. 6: the three objectives for every rho of the grid, from one pass over the concepts' images.

    All splits share the layer's input, so one network evaluation an image serves the whole grid: ``rows``
    [R * K, C_in, taps] and ``biases`` are those of ``c'_1 .. c'_K`` for the R splits that differ. Factors with equal
    splits share their values exactly, so the smallest of them wins. ``owners`` [20, C_in] is for all rho.

    The terms are summed for each group of images (a class or an image set) on its own, and these sums are added in the
    order of their keys: the objectives do not depend on the order in which the groups are read.

    Parameters
    ----------
    weight : Tensor [C_in, taps]
        Weight of the channel.
    bias : Tensor [] or None
    arvs : Tensor [K, C_in]
        ARVs of the concepts.
    num_own : int, optional
        Only the first ``num_own`` concepts (default: all) have images of their own; a background only counts among the
        other ones.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, arvs: Tensor, num_own: int | None = None) -> None:
        self.num_concepts = len(arvs)
        self._weight = weight
        self._bias = bias
        self._own = slice(num_own)
        owners = torch.stack([split_sources(arvs, rho) for rho in RHOS])
        distinct, self._which = owners.to(torch.uint8).unique(dim=0, return_inverse=True)
        self._distinct = distinct  # rows take 100 times the memory, so they are made when they are needed
        self._sums: dict[GroupKey, Tensor] = {}  # [K, R, 3] each
        self._images = torch.zeros(self.num_concepts, dtype=torch.float64)

    @property
    def owners(self) -> Tensor:
        return self._distinct[self._which].long()

    @property
    def rows(self) -> Tensor:
        shares = [shares_of_owners(owners, self.num_concepts) for owners in self._distinct]
        return torch.cat([disentangled_rows(self._weight, of_split)[:-1] for of_split in shares])

    @property
    def biases(self) -> Tensor | None:
        return None if self._bias is None else self._bias.expand(len(self._distinct) * self.num_concepts)

    def terms(self, maps: Tensor, concepts: Tensor) -> Tensor:
        """The terms [B, R, 3] of a batch: ``maps`` [B, rows, positions] of ``rows`` and ``biases``; concepts [B]."""
        return objective_terms(maps.unflatten(1, (-1, self.num_concepts)), concepts.to(maps.device))

    def add(self, maps: Tensor, concepts: Tensor, group: GroupKey = 0) -> None:
        """Add a batch of images of one group; concepts are counted from 0."""
        self.add_terms(self.terms(maps, concepts), concepts, group)

    def add_terms(self, terms: Tensor, concepts: Tensor, group: GroupKey = 0) -> None:
        """As ``add``, from the ``terms`` of the batch."""
        concepts = concepts.cpu()
        self._sums.setdefault(group, self._zeros()).index_add_(0, concepts, terms.double().cpu())
        self._images += concepts.bincount(minlength=self.num_concepts)

    def _zeros(self) -> Tensor:
        return torch.zeros(self.num_concepts, len(self._distinct), NUM_OBJECTIVES, dtype=torch.float64)

    def has_images(self) -> bool:
        """Whether there was an image of every concept."""
        return bool((self._images[self._own] > 0).all())

    def objectives(self) -> Tensor:
        """The sum over concepts of the mean over their images, [20, 3] float64."""
        sums = self._zeros()
        for group in in_order(self._sums):
            sums += self._sums[group]
        return (sums / self._images[:, None, None])[self._own].sum(0)[self._which]

    def best(self) -> list[float]:
        """The rho that each of the three objectives chooses."""
        return best_rhos(self.objectives())
