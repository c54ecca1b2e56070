"""Linear readouts of the layer's input for a concept: what any combination of its inputs can tell, not one channel's.

They are compared with the new channels of a split, which must add up to one channel. They bound nothing: a new channel
may rank images better than either.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)  # of the squared norm, for inputs of unit variance
TOLERANCE = 1e-5  # of the gradient; average precisions no longer change
MOST_STEPS = 300


class Standardisation(NamedTuple):
    """Mean and standard deviation of each of D inputs over the training images, [D] float64; inputs that are the same
    in all images have a deviation of infinity, so that nothing depends on them."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, inputs: Tensor) -> "Standardisation":
        """Those of inputs [n, D]."""
        inputs = inputs.double()
        deviation = inputs.std(0, correction=0)
        return cls(inputs.mean(0), deviation.where(deviation > 0, torch.inf))

    def apply(self, inputs: Tensor) -> Tensor:
        """Standardised inputs, [n, D] float64."""
        return (inputs.double() - self.mean) / self.deviation


class ProbedConcept(NamedTuple):
    """The training images of a concept and of others, standardised: ``inputs`` [n, D], ``is_own`` [n], and the number
    of images that each of them stands for, ``weights`` [n]."""

    inputs: Tensor
    is_own: Tensor
    weights: Tensor

    @property
    def signs(self) -> np.ndarray:
        """1 in the concept's images and -1 in others, [n]."""
        return np.where(self.is_own, 1.0, -1.0)


def mean_difference(concept: ProbedConcept) -> Tensor:
    """The mean of a concept's standardised inputs minus that of the others: [D]."""
    own, others = (concept.inputs[rows].mean(0) for rows in (concept.is_own, ~concept.is_own))
    return own - others


def linear_probe(concept: ProbedConcept, penalties: Sequence[float] = PENALTIES) -> Tensor:
    """The weights [D] of a logistic regression of a concept on the standardised inputs.

    With the penalty whose regressions on each half of the images have the least mean loss on the other half, fitted to
    all images. Halves are every other image of the concept and of the others.
    """
    descending = sorted(penalties, reverse=True)
    half = _halves(concept.is_own)
    on_halves = torch.stack([half, ~half]) * concept.weights
    shares_of_other_half = (on_halves / on_halves.sum(1, keepdim=True)).flip(0)
    held_out = []
    fitted = None
    for penalty in descending:
        fitted = logistic_regressions(concept, on_halves, penalty, start=fitted)  # near that of the next penalty
        held_out.append((_losses(concept, fitted) * shares_of_other_half).sum().item())
    penalty = descending[held_out.index(min(held_out))]
    return logistic_regressions(concept, concept.weights[None], penalty)[0, :-1]


def logistic_regressions(
    concept: ProbedConcept, image_weights: Tensor, penalty: float, start: Tensor | None = None
) -> Tensor:
    """The weights and last the bias of M logistic regressions of a concept, [M, D + 1] float64.

    Each minimises, over v and b, with y_i = 1 in the concept's images and -1 in others::

        sum_i w_i log(1 + exp(-y_i (v . x_i + b))) / sum_i w_i + penalty / 2 |v|^2

    They are solved as one problem of M independent parts.

    Parameters
    ----------
    concept
    image_weights : Tensor [M, n]
        w, of each regression.
    penalty
    start : Tensor [M, D + 1], optional
        Where the search starts; default: at 0.
    """
    shares = (image_weights.double() / image_weights.sum(1, keepdim=True)).numpy()
    signs = concept.signs
    shape = (len(shares), concept.inputs.shape[1] + 1)

    def loss_and_gradient(values: np.ndarray) -> tuple[float, np.ndarray]:
        parameters = values.reshape(shape)
        weights = parameters[:, :-1]
        margins = _margins(concept, parameters)
        loss = penalty / 2 * (weights**2).sum() + (shares * _logistic_loss(margins)).sum()
        slopes = -shares * expit(-margins) * signs
        of_inputs = (torch.from_numpy(slopes) @ concept.inputs).numpy()
        gradient = np.column_stack([of_inputs + penalty * weights, slopes.sum(1)])
        return loss, gradient.ravel()

    first = np.zeros(shape) if start is None else start.numpy()
    options = {"maxiter": MOST_STEPS, "gtol": TOLERANCE, "ftol": 0.0}
    solution = minimize(loss_and_gradient, first.ravel(), jac=True, method="L-BFGS-B", options=options)
    return torch.from_numpy(solution.x.reshape(shape))


def _margins(concept: ProbedConcept, parameters: np.ndarray) -> np.ndarray:
    """``y_i (v . x_i + b)`` of each image by each of M regressions [M, D + 1]: [M, n]."""
    weights = torch.from_numpy(parameters[:, :-1])
    return ((weights @ concept.inputs.T).numpy() + parameters[:, -1:]) * concept.signs


def _losses(concept: ProbedConcept, parameters: Tensor) -> Tensor:
    """The logistic loss of each image by each of M regressions [M, D + 1]: [M, n]."""
    return torch.from_numpy(_logistic_loss(_margins(concept, parameters.numpy())))


def _logistic_loss(margins: np.ndarray) -> np.ndarray:
    """``log(1 + exp(-margin))``; three times as fast as scipy's ``log_expit``."""
    return np.maximum(-margins, 0) + np.log(1 + np.exp(-np.abs(margins)))


def _halves(is_own: Tensor) -> Tensor:
    """Every other image of a concept and every other one of the others: BoolTensor [n]."""
    ranks = torch.where(is_own, is_own.cumsum(0), (~is_own).cumsum(0))
    return ranks % 2 == 1
