"""Disentangling a channel: its concepts, the division of its inputs among them (Ineq. 5), and the merge."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Protocol

import torch
from torch import Tensor

GroupKey = int | tuple[int | str, int]  # a class, or (name, number of the concept) of a set of images without a label


@dataclass
class Concept:
    """A concept that a new channel is to serve.

    ``classes`` are network outputs; ``images`` are indices of training images, where the concept has no label; ``kind``
    is ``classes``, ``images`` or ``background``.
    """

    name: str
    classes: list[int]
    images: list[int] | None = None
    kind: str = "classes"


class HasKeys(Protocol):
    """A candidate, a split or its measurements: ``keys`` are the groups of images of its concepts, in their order."""

    @property
    def keys(self) -> list[GroupKey]: ...


def image_groups(concepts: list[Concept], name: int | str) -> list[list[GroupKey]]:
    """The groups of images of each concept, as keys: its classes, or (``name``, number) where it has no label."""
    return [
        [(name, k)] if concept.kind == "images" else list(concept.classes)
        for k, concept in enumerate(concepts, start=1)
    ]


def in_order(keys: Iterable[GroupKey]) -> list[GroupKey]:
    """Groups of images in the order in which they are read: classes ascending, then image sets; each once."""
    return sorted(set(keys), key=lambda key: (isinstance(key, tuple), key))


@dataclass
class ChannelConcepts:
    """A channel and its K concepts, in the order that decides Ineq. 5; a background is the last one.

    ``weight`` [C_in, taps] and ``bias`` ([] or None) are the channel's; ``positions`` is the number of positions of the
    layer's output. ``arvs`` [K, C_in] are those of the concepts, ``mean_arv`` [C_in] is that of all training images.
    """

    channel: int
    concepts: list[Concept]
    weight: Tensor
    bias: Tensor | None
    positions: int
    arvs: Tensor
    mean_arv: Tensor

    @property
    def own_concepts(self) -> list[Concept]:
        """The concepts that have images of their own: all but a background."""
        return [concept for concept in self.concepts if concept.kind != "background"]


@dataclass
class Candidate(ChannelConcepts):
    """A channel to split.

    ``named_by`` names it in files, in addition to its channel: the classes of each concept, or text. ``source`` says
    where the concepts came from: ``name``, and ``state``, plain values and tensors.
    """

    named_by: list[list[int]] | str
    source: dict[str, Any]

    @cached_property
    def groups(self) -> list[list[GroupKey]]:
        """The groups of images of each concept that has images of its own."""
        return image_groups(self.own_concepts, self.channel)

    @cached_property
    def keys(self) -> list[GroupKey]:
        """All groups of images of all concepts, in the order in which they are read."""
        return in_order(chain.from_iterable(self.groups))

    def concept_of(self, key: GroupKey) -> int:
        """The concept (from 0) to which a group of images belongs."""
        return next(k for k, group in enumerate(self.groups) if key in group)

    def split(self, division: Any) -> "Split":
        """The Split that a Division of the inputs makes."""
        return Split(
            channel=self.channel,
            concepts=self.concepts,
            weight=self.weight,
            bias=self.bias,
            positions=self.positions,
            arvs=self.arvs,
            mean_arv=self.mean_arv,
            division=division,
        )


@dataclass
class Split(ChannelConcepts):
    """One channel of a layer, divided among K concepts.

    ``division`` is a Division (``utils.divisions``): the share of each input that each concept has.
    """

    division: Any

    @property
    def rho(self) -> float | None:
        """The chosen rho; None if there is none to choose."""
        return self.division.rho

    @property
    def has_background(self) -> bool:
        """Whether the last concept is a background."""
        return len(self.own_concepts) < len(self.concepts)

    @property
    def classes(self) -> list[list[int]]:
        """The network outputs of each concept that has images of its own."""
        return [concept.classes for concept in self.own_concepts]

    def shares(self, rho: float | None = None) -> Tensor:
        """Each concept's share of each input, and last the residual's, [K + 1, C_in] float64.

        Columns sum to 1. ``rho``: default the chosen one; ignored if there is none to choose.
        """
        return self.division.shares(rho)

    def rows(self, rho: float | None = None) -> Tensor:
        """Weights of ``c'_1 .. c'_K`` and the residual at ``rho``, [K + 1, C_in, taps] float64."""
        return disentangled_rows(self.weight, self.shares(rho))

    def biases(self) -> Tensor | None:
        """Each row carries the whole bias of the channel: [K + 1], or None."""
        return None if self.bias is None else self.bias.expand(len(self.concepts) + 1)

    def shown_rows(self, rho: float | None = None) -> Tensor:
        """Weights of the original channel and of ``c'_1 .. c'_K``, which figures show: [K + 1, C_in, taps]."""
        rows = self.rows(rho)
        return torch.cat([self.weight[None].to(rows), rows[:-1]])

    def exclusive_means(self, rho: float | None = None) -> Tensor:
        """Mean over all training images and positions of the exclusive parts, ``c'_k - r``: [K], float64."""
        return (self.shares(rho)[:-1] * self.mean_arv).sum(-1) / self.positions


def split_sources(arvs: Tensor, rho: float) -> Tensor:
    """Ineq. 5: divide the previous layer's channels among the concepts.

    Input ``i`` belongs to concept ``k`` if ``rho * ARV_k[i] > ARV_j[i]`` for every other ``j``. Where entries are
    negative several concepts can qualify: the first one gets the input, so the order of the concepts matters.

    Parameters
    ----------
    arvs : Tensor [K, ..., C_in]
        ARVs of the concepts, for one unit or for many.
    rho : float, in (0, 1]

    Returns
    -------
    LongTensor [..., C_in]: 0 for shared inputs, k (from 1) for those of concept k
    """
    owners = torch.zeros(arvs.shape[1:], dtype=torch.long)
    for k in reversed(range(len(arvs))):
        others = torch.cat([arvs[:k], arvs[k + 1 :]])
        owners[(rho * arvs[k] > others).all(0)] = k + 1
    return owners


def shares_of_owners(owners: Tensor, num_concepts: int) -> Tensor:
    """Whole inputs as shares: owners [..., C_in] (0: shared) -> BoolTensor [K + 1, ..., C_in], the residual last."""
    return torch.stack([owners == k for k in [*range(1, num_concepts + 1), 0]])


def disentangled_rows(weight: Tensor, shares: Tensor) -> Tensor:
    """The disentangled channels: weights of ``c'_1 .. c'_K`` and of the residual.

    ``c'_k`` has its own share and the residual's share of each input, and nothing of the other concepts' shares.

    Parameters
    ----------
    weight : Tensor [..., C_in, taps]
    shares : Tensor [K + 1, ..., C_in]
        Shares of the concepts, and last of the residual.

    Returns
    -------
    Tensor [K + 1, ..., C_in, taps], the residual last
    """
    exclusive = weight * shares[..., None]
    return torch.cat([exclusive[:-1] + exclusive[-1], exclusive[-1:]])


def merge(channels: Tensor, dim: int) -> Tensor:
    """The merge: the original channel, ``a_c = sum_k c'_k - (K - 1) r``, with ``r`` last along ``dim``."""
    num_concepts = channels.shape[dim] - 1
    disentangled = channels.narrow(dim, 0, num_concepts).sum(dim)
    return disentangled - (num_concepts - 1) * channels.select(dim, num_concepts)


def spatial_sums(rows: Tensor, biases: Tensor | None, tap_sums: Tensor, positions: int) -> Tensor:
    """Spatial sums of the channels with weights ``rows``, from the tap sums of the layer's input.

    Parameters
    ----------
    rows : Tensor [R, C_in, taps], float64
    biases : Tensor [R] or None
    tap_sums : Tensor [B, C_in, taps], float64
    positions : int
        Number of positions of the layer's output.

    Returns
    -------
    Tensor [B, R], float64
    """
    sums = torch.einsum("bit,kit->bk", tap_sums, rows)
    return sums if biases is None else sums + biases.double() * positions
