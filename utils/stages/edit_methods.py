"""Methods of taking a concept out of a channel, which ``--get_edit`` compares.

A method says how the channel's map changes where the edit is made in full. A new method is a class, and a line of
METHODS.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from utils.divisions.division import Rule
from utils.divisions.nulls import SHARES, Null
from utils.method.disentangling import Split
from utils.method.selectivity import drawn_half
from utils.method.significance import permutation
from utils.plugins import Registry

PART = "part"  # what all others are compared with
METHODS = Registry(
    "method of editing",
    {
        PART: "utils.stages.edit_methods:Part",
        "whole_channel": "utils.stages.edit_methods:WholeChannel",
        "shares_permuted": "utils.stages.edit_methods:PermutedShares",
        "weights_permuted": "utils.stages.edit_methods:PermutedWeights",
        "random_half": "utils.stages.edit_methods:RandomHalf",
        "range": "utils.stages.edit_methods:Range",
        "pure_gate": "utils.stages.edit_methods:GatedByPure",
    },
)
CENTRAL_SHARE = 0.95  # of the values of a concept's training images, which a range has


@dataclass(frozen=True)
class EditedConcept:
    """Concept ``k`` (from 0) of a split at ``rho``; ``rule`` returns the Rule that has divided the split."""

    split: Split
    rho: float | None
    k: int
    rule: Callable[[], Rule]


@dataclass(frozen=True)
class EditFacts:
    """What an edit of B images depends on besides the channel's map.

    Parameters
    ----------
    mean
        The channel's mean over all training images and positions.
    part_mean
        That of the contribution that the method holds; NaN if it holds none.
    low, high
        The central range of the channel's values at all positions of the concept's training images.
    is_gated : BoolTensor [B] or None
        Images that PURE assigns to the concept, where this is known.
    """

    mean: float
    part_mean: float
    low: float
    high: float
    is_gated: Tensor | None = None


class EditMethod(ABC):
    """A method of editing. ``name`` is in tables, ``words`` in sentences and figures; ``needs_pure``: only with PURE's
    clusters."""

    name: str
    words: str
    needs_pure = False

    def shares(self, concept: EditedConcept) -> Tensor | None:
        """The share of each input whose contribution the method holds, [C_in]; None if it holds the channel itself."""
        return None

    @abstractmethod
    def edited(self, original: Tensor, part: Tensor | None, facts: EditFacts) -> Tensor:
        """The channel's map after the edit.

        Parameters
        ----------
        original : Tensor [B, ...]
            The channel's map in B images.
        part : Tensor [B, ...] or None
            The contribution of the inputs of ``shares``, without bias.
        facts
        """


class SharesHeld(EditMethod):
    """Holds the contribution of some shares of the inputs at its training mean: ``a - (part - mean of part)``."""

    def edited(self, original: Tensor, part: Tensor | None, facts: EditFacts) -> Tensor:
        assert part is not None
        return original - (part - facts.part_mean)


class Part(SharesHeld):
    """Holds the concept's exclusive part, ``c'_k - r``."""

    name = PART
    words = "part"

    def shares(self, concept: EditedConcept) -> Tensor:
        return concept.split.shares(concept.rho)[concept.k].double()


class PermutedShares(SharesHeld):
    """Holds the concept's own shares, permuted over the inputs."""

    name = "shares_permuted"
    words = "permuted shares"

    def shares(self, concept: EditedConcept) -> Tensor:
        return _shares_of(SHARES, concept)


class PermutedWeights(SharesHeld):
    """Holds the shares of the division's primary null, multiplied into the real row.

    For least squares they are fitted for permuted weights so that these give the real channel.
    """

    name = "weights_permuted"
    words = "permuted weights"

    def shares(self, concept: EditedConcept) -> Tensor:
        return _shares_of(concept.split.division.primary_null, concept)


class RandomHalf(SharesHeld):
    """Holds half of the inputs, drawn at random for each concept."""

    name = "random_half"
    words = "a random half"

    def shares(self, concept: EditedConcept) -> Tensor:
        split = concept.split
        return drawn_half(permutation(len(split.weight), "edit half", *_named(split), concept.k))


class WholeChannel(EditMethod):
    """Holds the whole channel at its training mean, whatever the concept."""

    name = "whole_channel"
    words = "whole channel"

    def edited(self, original: Tensor, part: Tensor | None, facts: EditFacts) -> Tensor:
        return torch.full_like(original, facts.mean)


class Range(EditMethod):
    """Holds the channel at its training mean at positions whose value is usual for the concept.

    Usual is the central 95 % of the values in the concept's training images (NeuronLens, arXiv 2502.06809).
    """

    name = "range"
    words = "range"

    def edited(self, original: Tensor, part: Tensor | None, facts: EditFacts) -> Tensor:
        is_usual = (original >= facts.low) & (original <= facts.high)
        return original.masked_fill(is_usual, facts.mean)


class GatedByPure(EditMethod):
    """Holds the channel at its training mean in images whose nearest centroid by PURE is the concept's."""

    name = "pure_gate"
    words = "PURE's gate"
    needs_pure = True

    def edited(self, original: Tensor, part: Tensor | None, facts: EditFacts) -> Tensor:
        assert facts.is_gated is not None
        rows = len(original) // len(facts.is_gated)  # windows of an image, one after the other
        is_gated = facts.is_gated.to(original.device).repeat_interleave(rows)
        return original.masked_fill(is_gated.view(-1, *[1] * (original.ndim - 1)), facts.mean)


def methods(*, with_pure: bool) -> list[EditMethod]:
    """All methods, in the order of tables; those that need PURE's clusters only if asked."""
    kinds: list[type[EditMethod]] = METHODS.all()
    return [kind() for kind in kinds if with_pure or not kind.needs_pure]


def _shares_of(null: Null, concept: EditedConcept) -> Tensor:
    """The concept's shares by the first draw of a null, as ``--get_separation`` draws it."""
    split = concept.split
    order = permutation(len(split.weight), null.permuted, *_named(split), 0)
    shares = null.shares(concept.rule(), split.weight.double(), split.shares(concept.rho), order[None])
    return shares[concept.k, 0].double()


def _named(split: Split) -> tuple[Any, ...]:
    """What names a split in seeds."""
    return split.channel, split.classes
