"""Splitting a channel into channels that serve one concept each (Ineq. 5), choosing rho (Eq. 6), and merging."""

from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

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


def image_groups(concepts, name):
    """The groups of images of each concept, as keys: its classes (int); or, without labels, itself: (name, number)."""
    return [[(name, k)] if one.kind == "images" else one.classes for k, one in enumerate(concepts, start=1)]


def in_order(keys):
    """Groups of images in the order in which they are read: classes ascending, then image sets; each once."""
    return sorted(set(keys), key=lambda key: (isinstance(key, tuple), key))


@dataclass
class Candidate:
    """A channel to split, and its K concepts in the order that decides Ineq. 5; a background is the last one.

    ``weight`` [C_in, taps] and ``bias`` ([] or None) are the channel's own; ``positions`` are those of the layer's
    output. ``arvs`` [K, C_in] are the concepts', ``mean_arv`` [C_in] is that of all training images. ``named_by`` names
    it in files, beside its channel: the classes of each concept, or text; ``source`` says where the concepts came from:
    ``name``, and ``state``, plain values and tensors.
    """

    channel: int
    concepts: list
    weight: torch.Tensor
    bias: torch.Tensor | None
    positions: int
    arvs: torch.Tensor
    mean_arv: torch.Tensor
    named_by: list | str
    source: dict

    @cached_property
    def groups(self):
        return image_groups(self.own_concepts, self.channel)

    @cached_property
    def keys(self):
        """All groups of images of all concepts, in the order in which they are read."""
        return in_order(chain.from_iterable(self.groups))

    @property
    def own_concepts(self):
        """The concepts that have images of their own."""
        return [concept for concept in self.concepts if concept.kind != "background"]

    def concept_of(self, key):
        """Which concept (from 0) a group of images is of."""
        return next(k for k, own in enumerate(self.groups) if key in own)

    def split(self, division):
        """The Split with its inputs divided."""
        names = ("channel", "concepts", "weight", "bias", "positions", "arvs", "mean_arv")
        return Split(**{name: getattr(self, name) for name in names}, division=division)


@dataclass
class Split:
    """One channel of a layer, divided among K concepts: a Candidate's values, and how its inputs are divided.

    ``division`` is a Division (``utils.divisions``): what share of each input each concept has.
    """

    channel: int
    concepts: list
    weight: torch.Tensor
    bias: torch.Tensor | None
    positions: int
    arvs: torch.Tensor
    mean_arv: torch.Tensor
    division: Any

    @property
    def rho(self):
        """The chosen rho; None where there is none to choose."""
        return self.division.rho

    @property
    def own_concepts(self):
        """The concepts that have images of their own: all but a background."""
        return [concept for concept in self.concepts if concept.kind != "background"]

    @property
    def has_background(self):
        return len(self.own_concepts) < len(self.concepts)

    @property
    def classes(self):
        """The classes of each concept that has images of its own: lists of network outputs."""
        return [concept.classes for concept in self.own_concepts]

    def shares(self, rho=None):
        """What share of each input is a concept's alone, and last the residual's, [K + 1, C_in] float64.

        Columns sum to 1. ``rho``: default the chosen one; without meaning where there is none to choose.
        """
        return self.division.shares(rho)

    def rows(self, rho=None):
        """Weights of ``c'_1 .. c'_K`` and the residual at ``rho``, [K + 1, C_in, taps] float64."""
        return disentangled_rows(self.weight, self.shares(rho))

    def biases(self):
        """Each row carries the whole bias of the channel: [K + 1], or None."""
        return None if self.bias is None else self.bias.expand(len(self.concepts) + 1)

    def shown_rows(self, rho=None):
        """Weights of the original channel and of ``c'_1 .. c'_K``, which figures show: [K + 1, C_in, taps]."""
        rows = self.rows(rho)
        return torch.cat([self.weight[None].to(rows), rows[:-1]])

    def exclusive_means(self, rho=None):
        """Mean over all training images and positions of what is a concept's alone, ``c'_k - r``: [K], float64."""
        return (self.shares(rho)[:-1] * self.mean_arv).sum(-1) / self.positions


def split_sources(arvs, rho):
    """Ineq. 5: divide the previous layer's channels among the concepts.

    Input ``i`` belongs to concept ``k`` if ``rho * ARV_k[i] > ARV_j[i]`` for every other ``j``. Where entries are
    negative several concepts can qualify: the first one gets the input, so the order of the concepts matters.

    Parameters
    ----------
    arvs : Tensor [K, ..., C_in]
        Of one unit or of many.
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


def shares_of_owners(owners, num_concepts):
    """Whole inputs as shares: owners [..., C_in] (0: nobody's) -> BoolTensor [K + 1, ..., C_in], the residual last."""
    return torch.stack([owners == k for k in [*range(1, num_concepts + 1), 0]])


def disentangled_rows(weight, shares):
    """The disentangled channels: weights of ``c'_1 .. c'_K`` and of the residual.

    ``c'_k`` has its own share of each input and the residual's, but nothing of the other concepts'.

    Parameters
    ----------
    weight : Tensor [..., C_in, taps]
    shares : Tensor [K + 1, ..., C_in]
        Of the concepts, and last of the residual.

    Returns
    -------
    Tensor [K + 1, ..., C_in, taps], the residual last
    """
    exclusive = weight * shares[..., None]
    return torch.cat([exclusive[:-1] + exclusive[-1], exclusive[-1:]])


def merge(channels, dim):
    """The merge: the original channel, ``a_c = sum_k c'_k - (K - 1) r``, with ``r`` last along ``dim``."""
    num_concepts = channels.shape[dim] - 1
    disentangled = channels.narrow(dim, 0, num_concepts).sum(dim)
    return disentangled - (num_concepts - 1) * channels.select(dim, num_concepts)


def spatial_sums(rows, biases, tap_sums, positions):
    """Spatial sums of the channels that ``rows`` are, from the tap sums of the layer's input.

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


# --------------------------------------------------------------------------------------------------------------------
# Choosing rho (Eq. 6).


NUM_OBJECTIVES, DENOMINATOR_OFFSET = 3, 1e-5


def objective_terms(maps, concepts):
    """Eq. 6: what each image adds to its three readings, the image's own channel over the mean of the other ones.

    ``positive``: s = sum max(c', 0), ``absolute``: s = sum |c'|, both s_own / (s_others + 1e-5);
    ``contrast``: (s_own - s_others) / (s_own + s_others) with the s of ``positive``, 0/0 counting as 0.

    Parameters
    ----------
    maps : Tensor [B, R, K, P]
        ``c'_k`` at every position, for R splits.
    concepts : LongTensor [B]
        Which concept (from 0) an image is of.

    Returns
    -------
    Tensor [B, R, 3]
    """
    own_mask = torch.nn.functional.one_hot(concepts, maps.shape[2]).to(maps)[:, None]

    def own_and_others(activations):
        own = (activations * own_mask).sum(-1)
        return own, (activations * (1 - own_mask)).sum(-1) / (maps.shape[2] - 1)

    own, others = own_and_others(maps.clamp(min=0).sum(-1))
    own_absolute, others_absolute = own_and_others(maps.abs().sum(-1))
    both = own + others
    return torch.stack(
        [
            own / (others + DENOMINATOR_OFFSET),
            own_absolute / (others_absolute + DENOMINATOR_OFFSET),
            (own - others) / both.where(both > 0, torch.inf),
        ],
        dim=-1,
    )


def best_rhos(objectives):
    """Eq. 6: the rho of the largest value, by each of n objectives [20, n]; of equal ones, the smallest: a list."""
    largest = (objectives == objectives.max(0).values).T
    return [RHOS[int(own.nonzero()[0])] for own in largest]


class RhoSearch:
    """The three objectives for every rho of the grid, from one pass over the concepts' images.

    The layer's input is what all splits share, so one network evaluation an image serves the whole grid: ``rows``
    [R * K, C_in, taps] and ``biases`` are those of ``c'_1 .. c'_K`` for the R splits that differ. Factors with equal
    splits share their values exactly: of equal ones, the smallest rho wins. ``owners`` [20, C_in] is for all rho.
    """

    def __init__(self, weight, bias, arvs, num_own=None):
        """``weight`` [C_in, taps] and ``bias`` ([] or None) of the channel, ``arvs`` [K, C_in] of the concepts.

        Only the first ``num_own`` (default: all) have images of their own; a background is one of the others alone.
        """
        self.num_concepts = len(arvs)
        self._own = slice(num_own)
        self.owners = torch.stack([split_sources(arvs, rho) for rho in RHOS])
        distinct, self._which = self.owners.unique(dim=0, return_inverse=True)
        shares = [shares_of_owners(owners, self.num_concepts) for owners in distinct]
        self.rows = torch.cat([disentangled_rows(weight, one)[:-1] for one in shares])
        self.biases = None if bias is None else bias.expand(len(self.rows))
        self._sums = torch.zeros(self.num_concepts, len(distinct), NUM_OBJECTIVES, dtype=torch.float64)
        self._images = torch.zeros(self.num_concepts, dtype=torch.float64)

    def add(self, maps, concepts):
        """Add a batch: ``maps`` [B, rows, positions] of ``rows`` and ``biases``, and ``concepts`` [B], from 0."""
        maps = maps.unflatten(1, (-1, self.num_concepts))
        terms, concepts = objective_terms(maps, concepts.to(maps.device)).double().cpu(), concepts.cpu()
        self._sums.index_add_(0, concepts, terms)
        self._images += concepts.bincount(minlength=self.num_concepts)

    def has_images(self):
        """Whether there was an image of every concept."""
        return bool((self._images[self._own] > 0).all())

    def objectives(self):
        """The sum over concepts of the mean over their images, [20, 3] float64."""
        return (self._sums / self._images[:, None, None])[self._own].sum(0)[self._which]

    def best(self):
        """The rho that each of the three objectives chooses."""
        return best_rhos(self.objectives())
