"""Rules: inputs of many units divided against one unit at a time, and the identity behind Ineq. 5."""

import pytest
import torch

from tests.oracles import least_squares_by_scipy
from utils.divisions.arv import ArvRule
from utils.divisions.least_squares import LeastSquaresRule
from utils.method.disentangling import shares_of_owners, split_sources
from utils.method.ranking import rank_images
from utils.method.shares import RIDGE, least_squares_shares, second_moments


def units(num_units=5, num_inputs=7, taps=2, num_concepts=3):
    torch.manual_seed(0)
    weights = torch.randn(num_units, num_inputs, taps, dtype=torch.float64)
    return weights, torch.randn(num_concepts, num_inputs, taps, dtype=torch.float64)


@pytest.mark.parametrize("rho", [0.3, 0.7, 1.0])
def test_the_rule_on_many_units_is_the_rule_on_each(rho):
    weights, means = units()
    rows = ArvRule(means, rho).rows(weights)
    assert rows.shape == (3, 5, 7, 2)
    for unit, weight in enumerate(weights):
        arvs = torch.stack([(weight * mean).sum(1) for mean in means])
        owners = [
            next((k + 1 for k in range(3) if all(rho * arvs[k, i] > arvs[j, i] for j in range(3) if j != k)), 0)
            for i in range(7)
        ]
        for k in range(3):
            kept = torch.tensor([owner in (0, k + 1) for owner in owners])
            assert torch.equal(rows[k, unit], weight * kept[:, None])


def test_owners_of_many_units_are_those_of_each():
    arvs = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))
    together = split_sources(arvs, 0.8)
    assert all(torch.equal(together[unit], split_sources(arvs[:, unit], 0.8)) for unit in range(4))
    assert torch.equal(shares_of_owners(together, 3)[:, 2], shares_of_owners(together[2], 3))


@pytest.mark.parametrize("ties", [False, True])
def test_a_split_of_two_at_rho_1_is_half_the_channel_and_half_a_sign_linear_discriminant(ties):
    """``c'_1 = (a + d) / 2`` with ``d = sum_i |W_i| sgn(M_1i - M_2i) S_i``, and ``c'_2 = (a - d) / 2``.

    One tap, no bias, and class means that differ for every input of weight other than 0. The inputs of equal ones, with
    or without a weight, are the residual r, and on top of both: ``(a + d + r) / 2``.
    """
    random = torch.Generator().manual_seed(1)
    weight, inputs = (torch.randn(*shape, dtype=torch.float64, generator=random) for shape in ((9,), (30, 9)))
    means = torch.randn(2, 9, dtype=torch.float64, generator=random)
    weight[4] = 0
    if ties:
        means[0, :3] = means[1, :3]
    assert (weight < 0).any() and (means < 0).any() and (weight * (means[0] - means[1]) < 0).any()
    rule = ArvRule(means[..., None], 1.0)
    first, second = rule.rows(weight[None, :, None])[:, 0, :, 0] @ inputs.T
    channel = inputs @ weight
    discriminant = sum(weight[i].abs() * (means[0, i] - means[1, i]).sign() * inputs[:, i] for i in range(9))
    residual = sum(weight[i] * inputs[:, i] for i in range(9) if means[0, i] == means[1, i])
    torch.testing.assert_close(first, (channel + discriminant + residual) / 2)
    torch.testing.assert_close(second, (channel - discriminant + residual) / 2)
    if not ties:
        torch.testing.assert_close(first, (channel + discriminant) / 2)


def test_least_squares_on_many_units_is_that_on_each_and_shares_everything_out():
    weights, _ = units()
    groups = [torch.randn(n, 7, 2, generator=torch.Generator().manual_seed(n)) for n in (6, 8, 20)]
    moments = [second_moments(group) for group in groups]
    targets = weights.flip(0)
    for target in (None, targets):
        rows = LeastSquaresRule(moments, [1.0, 1.0, 0.5], RIDGE).rows(weights, target)
        torch.testing.assert_close(rows.sum(0), weights)
        for unit, weight in enumerate(weights.numpy()):
            wanted = weight if target is None else target[unit].numpy()
            shares = torch.from_numpy(least_squares_by_scipy(weight, groups, [1.0, 1.0, 0.5], wanted))
            torch.testing.assert_close(rows[:, unit], shares[..., None] * weights[unit], atol=0.02, rtol=0)


@pytest.mark.parametrize("real_target", [False, True])
def test_the_tolerance_of_null_units_changes_average_precisions_by_less_than_a_thousandth(real_target):
    """Inputs that are never negative and correlated, as behind a ReLU; three concepts, two of them with own images."""
    random = torch.Generator().manual_seed(0)
    classes = torch.arange(1200) % 20
    prototypes = torch.randn(20, 64, generator=random)
    common = torch.randn(1200, 4, generator=random) @ torch.randn(4, 64, generator=random)
    inputs = (prototypes[classes] + common + torch.randn(1200, 64, generator=random)).relu()
    inputs = inputs[..., None]
    weight = torch.randn(64, 1, generator=random, dtype=torch.float64) + 0.4
    units = torch.stack([weight[torch.randperm(64, generator=random)] for _ in range(20)])
    targets = weight.expand_as(units) if real_target else None
    training, validation = torch.arange(1200) < 600, torch.arange(1200) >= 600
    members = [classes == 3, classes == 8, (classes != 3) & (classes != 8)]
    moments = [second_moments(inputs[training & of_concept]) for of_concept in members]
    weights = [1.0, 1.0, 1.0]
    tight = least_squares_shares(units, moments, weights, targets, tolerance=1e-9).transpose(0, 1)
    loose = LeastSquaresRule(moments, weights, RIDGE).shares(units, targets)[:-1]
    precisions = []
    for shares in (tight, loose):
        scores = (shares[..., None] * units).flatten(2).float() @ inputs[validation].flatten(1).T
        own = [of_concept[validation] for of_concept in members[:2]]
        precisions.append(torch.stack([rank_images(scores[k], own[k]).ap for k in range(2)]))
    assert 0.05 < float(precisions[0].mean()) < 0.9
    assert float((precisions[1] - precisions[0]).abs().mean()) < 1e-3
    assert float((precisions[1].mean(1) - precisions[0].mean(1)).abs().max()) < 1e-3
