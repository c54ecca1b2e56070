"""Nulls of a division: its rule on permuted weights, or its own shares permuted.

A Division lists the nulls that apply to it, and names the primary one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from utils.plugins import later

if TYPE_CHECKING:
    from torch import Tensor

    from utils.divisions.division import Rule

disentangling = later("utils.method.disentangling")


@dataclass(frozen=True)
class Null(ABC):
    """A null. Ways of dividing choose among those below. A separation has a column for each of them.

    Parameters
    ----------
    column
        Its column in the table of separations.
    words
        Its name in tables.
    phrase
        What it is, in sentences.
    meaning
        How it is made, in one clause.
    permuted
        The seed of its permutations: nulls with the same name share them.
    draws_column
        The end of the name of its column with the scores of single draws; empty if these are not kept.
    """

    column: str
    words: str
    phrase: str
    meaning: str
    permuted: str = "weights"
    draws_column: str = ""

    @abstractmethod
    def rows(self, rule: Rule, weight: Tensor, shares: Tensor, orders: Tensor) -> Tensor:
        """``c'_1 .. c'_K`` of B draws, [K, B, C_in, taps].

        Parameters
        ----------
        rule
            For the concepts of the split.
        weight : Tensor [C_in, taps], float64
            Weight of the channel.
        shares : Tensor [K + 1, C_in]
            Shares of the split.
        orders : LongTensor [B, C_in]
            A permutation of the inputs for each draw.
        """

    @abstractmethod
    def shares(self, rule: Rule, weight: Tensor, shares: Tensor, orders: Tensor) -> Tensor:
        """The shares of each input that B draws give to the concepts, and last the residual: [K + 1, B, C_in].

        Parameters as of ``rows``.
        """


class PermutedWeights(Null):
    """The split's rule, applied to the channel's weights permuted over its inputs."""

    def rows(self, rule: Rule, weight: Tensor, shares: Tensor, orders: Tensor) -> Tensor:
        return rule.rows(weight[orders])

    def shares(self, rule: Rule, weight: Tensor, shares: Tensor, orders: Tensor) -> Tensor:
        return rule.shares(weight[orders])


class FittedWeights(Null):
    """As PermutedWeights, fitted so that the new channels of the permuted weights add up to the real channel."""

    def rows(self, rule: Rule, weight: Tensor, shares: Tensor, orders: Tensor) -> Tensor:
        permuted = weight[orders]
        return rule.rows(permuted, weight.expand_as(permuted))

    def shares(self, rule: Rule, weight: Tensor, shares: Tensor, orders: Tensor) -> Tensor:
        permuted = weight[orders]
        return rule.shares(permuted, weight.expand_as(permuted))


class PermutedShares(Null):
    """The split's own shares, permuted over the inputs."""

    def rows(self, rule: Rule, weight: Tensor, shares: Tensor, orders: Tensor) -> Tensor:
        return disentangling.disentangled_rows(weight, self.shares(rule, weight, shares, orders))[:-1]

    def shares(self, rule: Rule, weight: Tensor, shares: Tensor, orders: Tensor) -> Tensor:
        return shares[:, orders]


WEIGHTS = PermutedWeights(
    "weights_permuted",
    "permuted weights",
    "permuted weights",
    "the same rule on the channel's weights shuffled over its inputs",
    draws_column="draws",
)
FITTED = FittedWeights(
    "real_target",
    "permuted weights, fitted",
    "permuted weights fitted to the real channel",
    "shares of shuffled weights, fitted so that the new channels give the real channel",
    draws_column="draws_real_target",
)
SHARES = PermutedShares(
    "owners_permuted",
    "owners permuted",
    "permuted shares",
    "the split's own shares of inputs, assigned to inputs at random",
    permuted="owners",
)
NULLS = (WEIGHTS, FITTED, SHARES)  # in the order of the columns of separations
