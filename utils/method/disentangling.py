"""Splitting a channel into channels that serve one concept each (Ineq. 5), and merging them."""

from dataclasses import dataclass

import torch

RHOS = tuple(round(0.05 * step, 2) for step in range(1, 21))


@dataclass
class Concept:
    """What a new channel is to serve: ``classes`` are network outputs; ``images``, indices of training images, where
    the concept has no label; ``kind`` is ``classes``, ``images`` or ``background``."""

    name: str
    classes: list
    images: list | None = None
    kind: str = "classes"


@dataclass
class Split:
    """One channel of a layer, divided among K concepts, for every rho of the grid.

    ``weight`` [C_in, taps] and ``bias`` ([] or None) are the channel's own; ``arvs`` [K, C_in] are the concepts'.
    ``owners`` [20, C_in] says for each rho whose input a channel of the previous layer is: 0 shared, k concept k.
    ``objectives`` [20, 3] float64 are the values that choose rho, in the order of ``OBJECTIVES``; ``objective`` and
    ``rho`` are the chosen ones. ``concepts`` are Concepts, in the order that decides Ineq. 5.
    """

    channel: int
    concepts: list
    weight: torch.Tensor
    bias: torch.Tensor | None
    arvs: torch.Tensor
    owners: torch.Tensor
    objectives: torch.Tensor
    objective: str
    rho: float

    @property
    def classes(self):
        """The classes of each concept: lists of network outputs."""
        return [concept.classes for concept in self.concepts]

    def rows(self, rho=None):
        """Weights of ``c'_1 .. c'_K`` and the residual at ``rho`` (default: the chosen one), [K + 1, C_in, taps]."""
        index = RHOS.index(self.rho if rho is None else rho)
        return disentangled_rows(self.weight, self.owners[index], len(self.concepts))

    def biases(self):
        """Each row carries the whole bias of the channel: [K + 1], or None."""
        return None if self.bias is None else self.bias.expand(len(self.concepts) + 1)

    def shown_rows(self, rho=None):
        """Weights of the original channel and of ``c'_1 .. c'_K``, which figures show: [K + 1, C_in, taps]."""
        return torch.cat([self.weight[None], self.rows(rho)[:-1]])


def split_sources(arvs, rho):
    """Ineq. 5: divide the previous layer's channels among the concepts.

    Input ``i`` belongs to concept ``k`` if ``rho * ARV_k[i] > ARV_j[i]`` for every other ``j``. Where entries are
    negative several concepts can qualify: the first one gets the input, so the order of the concepts matters.

    Parameters
    ----------
    arvs : Tensor [K, C_in]
    rho : float, in (0, 1]

    Returns
    -------
    LongTensor [C_in]: 0 for shared inputs, k (from 1) for those of concept k
    """
    owners = torch.zeros(arvs.shape[1], dtype=torch.long)
    for k in reversed(range(len(arvs))):
        others = torch.cat([arvs[:k], arvs[k + 1 :]])
        owners[(rho * arvs[k] > others).all(0)] = k + 1
    return owners


def disentangled_rows(weight, owners, num_concepts):
    """The disentangled channels: weights of ``c'_1 .. c'_K`` and of the residual.

    ``c'_k`` has the inputs of every other concept set to zero, the residual has those of all concepts set to zero.

    Parameters
    ----------
    weight : Tensor [C_in, taps]
    owners : LongTensor [C_in]
    num_concepts : int, K

    Returns
    -------
    Tensor [K + 1, C_in, taps], the residual last
    """
    return torch.stack([weight * ((owners == 0) | (owners == k))[:, None] for k in [*range(1, num_concepts + 1), 0]])


def merge(channels, dim):
    """The merge: the original channel, ``a_c = sum_k c'_k - (K - 1) r``, with ``r`` last along ``dim``."""
    num_concepts = channels.shape[dim] - 1
    disentangled = channels.narrow(dim, 0, num_concepts).sum(dim)
    return disentangled - (num_concepts - 1) * channels.select(dim, num_concepts)
