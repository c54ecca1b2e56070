"""Least squares: shares of each input. A new channel equals the channel on its own images and is 0 on others.

Shares are computed from the tap sums in the store; stage 3 reads images only to verify that the output is unchanged.
The problem and its solution are in ``utils.method.shares``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from utils.defaults import BACKGROUND_SAMPLE, BACKGROUND_WEIGHT
from utils.divisions.division import ConceptInputs, Divider, Division, InputsOf, Rule
from utils.divisions.nulls import FITTED, SHARES, WEIGHTS
from utils.plugins import later

if TYPE_CHECKING:
    from torch import Tensor

    from utils.method.disentangling import Candidate
    from utils.networks.opened_network import OpenedNetwork

FAST_TOLERANCE = 10  # times that of a split

torch = later("torch")
least_squares = later("utils.method.shares")


class LeastSquares(Division):
    """Shares of the inputs, ``fitted`` [K, C_in] float64. Columns sum to 1, so the residual has no inputs.

    ``ridge`` and ``sample`` (the number of images that represent everything else) are the settings of the fit.
    """

    name = "least_squares"
    words = "least squares"
    report_words = "by least squares"
    summary = (
        "least_squares (each input is divided into shares, fitted so that a new channel equals the old one on images "
        "of its concept and is zero on others)"
    )
    usual_background = BACKGROUND_WEIGHT
    weighs_background = True
    usual_irrelevant = 0  # permuted weights decide, and dividing each takes milliseconds
    background_note = " except those of the other concepts, or a sample of the rest"
    suffix_pattern = "_least_squares"
    nulls = (WEIGHTS, FITTED, SHARES)
    primary_null = FITTED  # on permuted weights the fit finds little unless its target is the real channel

    def __init__(self, fitted: Tensor, ridge: float, sample: int) -> None:
        self.fitted = fitted
        self.ridge = ridge
        self.sample = sample

    @classmethod
    def settings_from(cls, given: dict[str, Any]) -> dict[str, Any]:
        return {"ridge": least_squares.RIDGE, "sample": BACKGROUND_SAMPLE}

    @classmethod
    def suffix_of(cls, settings: dict[str, Any]) -> str:
        return f"_{cls.name}"

    @classmethod
    def describe(cls, settings: dict[str, Any]) -> str:
        return "shares of inputs by least squares"

    @classmethod
    def divider(
        cls,
        settings: dict[str, Any],
        network: OpenedNetwork,
        *,
        inputs_of: InputsOf,
        background: float | None,
    ) -> LeastSquaresDivider:
        return LeastSquaresDivider(inputs_of, background, settings)

    @classmethod
    def rule(cls, settings: dict[str, Any], inputs: ConceptInputs, rho: float | None = None) -> LeastSquaresRule:
        moments, concept_weights = inputs.second_moments()
        return LeastSquaresRule(moments, concept_weights, settings["ridge"])

    def shares(self, rho: float | None = None) -> Tensor:
        return torch.cat([self.fitted, torch.zeros_like(self.fitted[:1])])

    def permuted(self, order: Tensor) -> LeastSquares:
        return LeastSquares(self.fitted[:, order], self.ridge, self.sample)

    def settings(self) -> dict[str, Any]:
        return {"ridge": self.ridge, "sample": self.sample}

    def state(self) -> dict[str, Any]:
        return {"fitted": self.fitted, **self.settings()}

    @classmethod
    def from_state(cls, state: dict[str, Any], arvs: Tensor) -> LeastSquares:
        return cls(state["fitted"], state["ridge"], state["sample"])

    def kept_apart(self) -> dict[str, Any]:
        return self.settings()

    def text(self) -> str:
        parts = ", ".join(f"{k}: {share:.1f}" for k, share in enumerate(self.fitted.sum(1).tolist(), start=1))
        return f"sum of each concept's shares of {self.fitted.shape[1]} inputs: {parts}"


class LeastSquaresDivider(Divider):
    """Divides by least squares; ``inputs_of`` and ``background`` are those of ``Division.divider``."""

    def __init__(self, inputs_of: InputsOf, background: float | None, settings: dict[str, Any]) -> None:
        self.inputs_of = inputs_of
        self.background = background
        self.settings = settings

    def divide(self, candidate: Candidate) -> LeastSquares:
        moments, concept_weights = self.inputs_of(candidate.own_concepts, self.background).second_moments()
        weights = candidate.weight[None].double()
        fitted = least_squares.least_squares_shares(weights, moments, concept_weights, ridge=self.settings["ridge"])[0]
        return LeastSquares(fitted / fitted.sum(0), **self.settings)


class LeastSquaresRule(Rule):
    """Least squares for many units at once, from the two values of ``ConceptInputs.second_moments``."""

    def __init__(self, moments: Sequence[Tensor], concept_weights: list[float], ridge: float) -> None:
        self.moments = moments
        self.concept_weights = concept_weights
        self.ridge = ridge

    def shares(self, weights: Tensor, targets: Tensor | None = None) -> Tensor:
        """Tensor [K + 1, B, C_in], float32; the residual has no inputs.

        Uses float32 and a ten times larger tolerance, which changes average precisions by about 1e-4.
        """
        fitted = least_squares.least_squares_shares(
            weights.float(),
            self.moments,
            self.concept_weights,
            None if targets is None else targets.float(),
            ridge=self.ridge,
            tolerance=FAST_TOLERANCE * least_squares.TOLERANCE,
        )
        return _with_residual(fitted)

    def shares_of_each(self, following: Iterable[Any], weights: Tensor) -> Tensor:
        """As of ``Rule``, in one search: many small steps take as long as one of the same size."""
        fitted = least_squares.least_squares_shares_of_each(
            weights.float(),
            (rule.moments for rule in chain([self], following)),
            self.concept_weights,
            ridge=self.ridge,
            tolerance=FAST_TOLERANCE * least_squares.TOLERANCE,
        )
        return _with_residual(fitted)


def _with_residual(fitted: Tensor) -> Tensor:
    """Shares [B, K, C_in] as those of a Rule, [K + 1, B, C_in]: they sum to 1, so that the residual has no inputs."""
    shares = fitted.transpose(0, 1)
    return torch.cat([shares / shares.sum(0), torch.zeros_like(shares[:1])])
