"""Least squares: shares of each input. A new channel equals the channel on its own images and is 0 on others.

Shares follow from what the store has of the training images; stage 3 reads images only to show that nothing changes.
The problem and its solution stand in ``utils.method.shares``.
"""

from utils.defaults import BACKGROUND_SAMPLE, BACKGROUND_WEIGHT
from utils.divisions.division import Divider, Division, Rule
from utils.divisions.nulls import FITTED, SHARES, WEIGHTS
from utils.plugins import later

torch = later("torch")
least_squares = later("utils.method.shares")


class LeastSquares(Division):
    """Shares of the inputs, ``fitted`` [K, C_in] float64 with columns of sum 1: nothing is left for the residual.

    ``ridge`` and ``sample`` (images that everything else is judged by) are what they were fitted with.
    """

    name = "least_squares"
    words = "least squares"
    report_words = "by least squares"
    summary = "least_squares (shares, so that each new channel is the channel on its own images, and nothing on others)"
    usual_background = BACKGROUND_WEIGHT
    weighs_background = True
    usual_irrelevant = 200  # each of which takes milliseconds
    background_note = " but these, or a sample"
    suffix_pattern = "_least_squares"
    nulls = (WEIGHTS, FITTED, SHARES)
    primary_null = FITTED  # it invents little in permuted weights, unless it is asked for what the real channel does

    def __init__(self, fitted, ridge, sample):
        self.fitted, self.ridge, self.sample = fitted, ridge, sample

    @classmethod
    def settings_from(cls, given):
        return {"ridge": least_squares.RIDGE, "sample": BACKGROUND_SAMPLE}

    @classmethod
    def suffix_of(cls, settings):
        return f"_{cls.name}"

    @classmethod
    def describe(cls, settings):
        return "shares of inputs by least squares"

    @classmethod
    def divider(cls, settings, *, network, layer, precision, inputs_of, background):
        return LeastSquaresDivider(inputs_of, background, settings)

    @classmethod
    def rule(cls, settings, inputs, rho=None):
        return LeastSquaresRule(*inputs.groups(), ridge=settings["ridge"])

    def shares(self, rho=None):
        return torch.cat([self.fitted, torch.zeros_like(self.fitted[:1])])

    def permuted(self, order):
        return LeastSquares(self.fitted[:, order], self.ridge, self.sample)

    def settings(self):
        return {"ridge": self.ridge, "sample": self.sample}

    def state(self):
        return {"fitted": self.fitted, **self.settings()}

    @classmethod
    def from_state(cls, state, arvs):
        fitted = state["fitted"]
        on_simplex = (fitted >= 0).all() and ((fitted.sum(0) - 1).abs() < 1e-9).all()  # which NaN is not
        if fitted.shape != arvs.shape or not on_simplex:
            raise ValueError("its shares are impossible")
        return cls(fitted, state["ridge"], state["sample"])

    def kept_apart(self):
        return self.settings()

    def text(self):
        parts = ", ".join(f"{k}: {share:.1f}" for k, share in enumerate(self.fitted.sum(1).tolist(), start=1))
        return f"shares of {self.fitted.shape[1]} inputs, added up: {parts}"


class LeastSquaresDivider(Divider):
    """Divides by least squares; ``inputs_of`` and ``background`` are those of Divider."""

    def __init__(self, inputs_of, background, settings):
        self.inputs_of, self.background, self.settings = inputs_of, background, settings

    def divide(self, candidate):
        groups, weights = self.inputs_of(candidate.own_concepts, self.background).groups()
        unit, ridge = candidate.weight[None].double(), self.settings["ridge"]
        fitted = least_squares.least_squares_shares(unit, groups, weights, ridge=ridge)[0]
        return LeastSquares(fitted / fitted.sum(0), **self.settings)


class LeastSquaresRule(Rule):
    """Least squares for many units at once; ``groups`` and ``weights`` are those of ``ConceptInputs.groups``."""

    def __init__(self, groups, weights, ridge):
        self.groups, self.weights, self.ridge = groups, weights, ridge

    def shares(self, weights, targets=None):
        """Tensor [K + 1, B, C_in], float32; the residual has nothing.

        Uses float32 and a ten times larger tolerance. That changes average precisions by about 1e-4, up or down.
        """
        targets = None if targets is None else targets.float()
        how = {"ridge": self.ridge, "tolerance": 10 * least_squares.TOLERANCE}
        fitted = least_squares.least_squares_shares(weights.float(), self.groups, self.weights, targets, **how)
        shares = fitted.transpose(0, 1)
        return torch.cat([shares / shares.sum(0), torch.zeros_like(shares[:1])])
