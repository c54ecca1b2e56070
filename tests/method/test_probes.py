"""Linear readouts against plain loops and scipy's general-purpose minimiser."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from utils.method.probes import ProbedConcept, Standardisation, linear_probe, logistic_regressions, mean_difference


def concept_of(seed=0, own=9, others=21, size=3, shift=1.0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(own + others, size, generator=generator, dtype=torch.float64)
    inputs[:own, 0] += shift
    weights = torch.rand(own + others, generator=generator, dtype=torch.float64) + 0.5
    return ProbedConcept(inputs, torch.arange(own + others) < own, weights)


def mean_loss(parameters, concept, rows, weights):
    """The weighted mean logistic loss of some rows, image by image."""
    total = 0.0
    for row in rows:
        margin = (parameters[:-1] @ concept.inputs[row].numpy() + parameters[-1]) * (1 if concept.is_own[row] else -1)
        total += weights[row] * np.log1p(np.exp(-margin))
    return total / sum(weights[row] for row in rows)


def by_scipy(concept, rows, penalty):
    weights = concept.weights.numpy()

    def objective(parameters):
        return mean_loss(parameters, concept, rows, weights) + penalty / 2 * (parameters[:-1] ** 2).sum()

    return minimize(objective, np.zeros(concept.inputs.shape[1] + 1), method="BFGS", options={"gtol": 1e-8}).x


@pytest.mark.parametrize("penalty", [0.001, 0.1])
def test_regressions_solved_together_are_those_that_scipy_finds(penalty):
    concept = concept_of()
    rows = [range(30), range(0, 30, 2)]
    image_weights = torch.stack([torch.isin(torch.arange(30), torch.tensor(list(of))) * concept.weights for of in rows])
    fitted = logistic_regressions(concept, image_weights, penalty)
    assert fitted.shape == (2, 4)
    for of_rows, parameters in zip(rows, fitted, strict=True):
        np.testing.assert_allclose(parameters, by_scipy(concept, of_rows, penalty), atol=2e-3)


def test_an_image_that_stands_for_three_counts_as_three_equal_ones():
    concept = concept_of(own=4, others=6)
    times = torch.tensor([3, 1, 1, 2, 1, 1, 4, 1, 1, 1])
    repeated = ProbedConcept(
        concept.inputs.repeat_interleave(times, 0),
        concept.is_own.repeat_interleave(times),
        torch.ones(int(times.sum())),
    )
    weighted = logistic_regressions(concept, times[None], 0.01)
    torch.testing.assert_close(weighted, logistic_regressions(repeated, torch.ones(1, 16), 0.01), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_the_penalty_is_that_of_the_least_loss_on_the_other_half(seed):
    penalties = (0.001, 0.03, 1.0)
    concept = concept_of(seed, shift=0.5)
    own, others = range(9), range(9, 30)
    halves = [*own[::2], *others[::2]], [*own[1::2], *others[1::2]]
    losses = []
    for penalty in penalties:
        fitted = [by_scipy(concept, half, penalty) for half in halves]
        weights = concept.weights.numpy()
        losses.append(sum(mean_loss(fitted[k], concept, halves[1 - k], weights) for k in range(2)))
    expected = by_scipy(concept, range(30), penalties[int(np.argmin(losses))])[:-1]
    np.testing.assert_allclose(linear_probe(concept, penalties), expected, atol=2e-3)


def test_the_mean_difference_is_that_of_standardised_inputs():
    inputs = torch.tensor([[1.0, 7.0, 2.0], [3.0, 7.0, 4.0], [5.0, 7.0, 0.0], [7.0, 7.0, 2.0]])
    standardisation = Standardisation.of(inputs)
    standardised = standardisation.apply(inputs)
    np.testing.assert_allclose(standardised[:, 0], [-3 / 5**0.5, -1 / 5**0.5, 1 / 5**0.5, 3 / 5**0.5])
    assert (standardised[:, 1] == 0).all()  # an input that never changes
    concept = ProbedConcept(standardised, torch.tensor([True, True, False, False]), torch.ones(4))
    np.testing.assert_allclose(mean_difference(concept), [-4 / 5**0.5, 0, 2 / 2**0.5])
