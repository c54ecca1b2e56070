"""Linear readouts of the layer's input for a concept: what any combination of its inputs can tell, not one channel's.

They are compared with the new channels of a split, which must add up to one channel. They bound nothing: a new channel
may rank images better than either.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn.functional import logsigmoid

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
    def signs(self) -> Tensor:
        """1 in the concept's images and -1 in others, [n] float64."""
        return self.is_own.double() * 2 - 1


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
    shares = image_weights.double() / image_weights.sum(1, keepdim=True)
    shape = (len(shares), concept.inputs.shape[1] + 1)
    signs = concept.signs

    def loss_and_gradient(values: np.ndarray) -> tuple[float, np.ndarray]:
        parameters = torch.from_numpy(values).view(shape)
        weights = parameters[:, :-1]
        of_images = logsigmoid(_margins(concept, parameters))
        loss = (penalty * weights**2).sum() / 2 - (shares * of_images).sum()
        slopes = -shares * (1 - of_images.exp()) * signs
        gradient = torch.cat([slopes @ concept.inputs + penalty * weights, slopes.sum(1, keepdim=True)], 1)
        return loss.item(), gradient.flatten().numpy()

    first = torch.zeros(shape, dtype=torch.float64) if start is None else start
    options = {"maxiter": MOST_STEPS, "gtol": TOLERANCE, "ftol": 0.0}
    solution = minimize(loss_and_gradient, first.flatten().numpy(), jac=True, method="L-BFGS-B", options=options)
    return torch.from_numpy(solution.x).view(shape)


def _margins(concept: ProbedConcept, parameters: Tensor) -> Tensor:
    """``y_i (v . x_i + b)`` of each image by each of M regressions [M, D + 1]: [M, n]."""
    return torch.addmm(parameters[:, -1:], parameters[:, :-1], concept.inputs.T) * concept.signs


def _losses(concept: ProbedConcept, parameters: Tensor) -> Tensor:
    """The logistic loss of each image by each of M regressions [M, D + 1]: [M, n]."""
    return -logsigmoid(_margins(concept, parameters))


def _halves(is_own: Tensor) -> Tensor:
    """Every other image of a concept and every other one of the others: BoolTensor [n]."""
    ranks = torch.where(is_own, is_own.cumsum(0), (~is_own).cumsum(0))
    return ranks % 2 == 1
