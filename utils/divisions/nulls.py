"""What a division is compared with: its rule on shuffled weights, or its own shares shuffled.

A Division lists the nulls that mean something for it, and names the one that decides.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from utils.plugins import later

disentangling = later("utils.method.disentangling")


@dataclass(frozen=True)
class Null(ABC):
    """A null. Ways of dividing choose among those below: a separation has a column for each, which tables and figures
    know.

    ``column`` is its column in the table of separations, ``words`` its name in tables, ``short`` a heading, ``phrase``
    goes on after "0.41 by". ``permuted`` names what its permutations are of: nulls with the same name share them.
    ``draws_column`` has the share of its draws that reach the new channel; empty where that is not counted.
    """

    column: str
    words: str
    phrase: str
    permuted: str = "weights"
    draws_column: str = ""
    short: str = ""

    @abstractmethod
    def rows(self, rule, weight, shares, orders):
        """``c'_1 .. c'_K`` of B draws, [K, B, C_in, taps].

        Parameters
        ----------
        rule : Rule
            For the concepts of the split.
        weight : Tensor [C_in, taps], float64
            Of the channel.
        shares : Tensor [K + 1, C_in]
            Of the split.
        orders : LongTensor [B, C_in]
            A permutation of the inputs for each draw.
        """


class PermutedWeights(Null):
    """The same rule on the channel's weights shuffled over its inputs."""

    def rows(self, rule, weight, shares, orders):
        return rule.rows(weight[orders])


class FittedWeights(Null):
    """The same, fitted so that the new channels of the shuffled weights add up to the real channel."""

    def rows(self, rule, weight, shares, orders):
        permuted = weight[orders]
        return rule.rows(permuted, weight.expand_as(permuted))


class PermutedShares(Null):
    """The split's own shares, shuffled over the inputs."""

    def rows(self, rule, weight, shares, orders):
        return disentangling.disentangled_rows(weight, shares[:, orders])[:-1]


WEIGHTS = PermutedWeights(
    "weights_permuted", "weights permuted", "permuted weights", draws_column="draws", short="permuted"
)
FITTED = FittedWeights(
    "real_target",
    "weights permuted, real target",
    "permuted weights, fitted to the real channel",
    draws_column="draws_real_target",
    short="permuted, fitted",
)
SHARES = PermutedShares("owners_permuted", "owners permuted", "permuted shares", permuted="owners")
NULLS = (WEIGHTS, FITTED, SHARES)  # in the order of the columns of separations
