"""The choice of rho: the objectives against loops, and the whole choice against the published procedure."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.helpers import as_layer
from tests.oracles import objective_loop
from utils.divisions.arv import OBJECTIVES, Arv
from utils.method.disentangling import Concept, Split, spatial_sums
from utils.method.evaluation import fractions_of_original
from utils.method.rho import RHOS, RhoSearch, objective_terms


def test_the_grid_of_rho():
    assert pytest.approx([step / 20 for step in range(1, 21)], abs=0) == RHOS


@settings(max_examples=25)
@given(num_concepts=st.integers(2, 4), seed=st.integers(0, 1000))
def test_objectives_equal_a_loop(num_concepts, seed):
    torch.manual_seed(seed)
    maps = torch.randn(5, 3, num_concepts, 6)
    maps[0, 0] = -1  # nothing positive: 0/0 counts as 0
    concepts = torch.randint(0, num_concepts, (5,))
    terms = objective_terms(maps, concepts)
    for image, split in itertools.product(range(5), range(3)):
        expected = objective_loop(maps[image, split].tolist(), concepts[image].item())
        assert terms[image, split].tolist() == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_of_equal_values_the_smallest_rho_is_chosen():
    layer = as_layer(nn.Conv2d(4, 3, 1, bias=False).requires_grad_(False))
    arvs = torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]])  # every rho splits alike
    search = RhoSearch(layer.weight[0], None, arvs)
    search.add(layer.maps(search.rows, None)(torch.rand(4, 4, 3, 3)), torch.tensor([0, 1, 0, 1]))
    assert len(search.objectives().unique(dim=0)) == 1
    assert search.best()[OBJECTIVES.index("positive")] == 0.05


# --------------------------------------------------------------------------------------------------------------------
# The published procedure, for two classes


def published_filters(kernel, arv1, arv2, rho):
    """The kernels [1, C_in, kh, kw] of both new channels and of what they share: masked copies of the channel's."""
    first, second, shared = kernel.clone(), kernel.clone(), kernel.clone()
    for i in range(kernel.shape[1]):
        if rho * arv1[i] > arv2[i]:
            second[:, i] = 0
            shared[:, i] = 0
        elif rho * arv2[i] > arv1[i]:
            first[:, i] = 0
            shared[:, i] = 0
    return first, second, shared


def published_choice(forward, kernel, arvs, images1, images2):
    """The objective at every rho, and the first rho of the largest one."""
    objectives, best_objective, best_rho = [], float("-inf"), None
    for step in range(1, 21):
        first, second, _ = published_filters(kernel, *arvs, 0.05 * step)
        ratios1 = [torch.relu(forward(x, first)).sum() / (torch.relu(forward(x, second)).sum() + 1e-5) for x in images1]
        ratios2 = [torch.relu(forward(x, second)).sum() / (torch.relu(forward(x, first)).sum() + 1e-5) for x in images2]
        objectives.append(float(sum(ratios1) / len(ratios1) + sum(ratios2) / len(ratios2)))
        if objectives[-1] > best_objective:
            best_objective, best_rho = objectives[-1], round(0.05 * step, 2)
    return objectives, best_rho


def tap_sums(convolution, x):
    """What ``S`` is: the padded input that each tap of the kernel visits, summed over positions, [1, C_in, taps]."""
    columns = nn.functional.unfold(x, convolution.kernel_size, padding=convolution.padding, stride=convolution.stride)
    return columns.sum(-1).view(1, convolution.in_channels, -1)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("kernel_size", "bias"), [(1, False), (3, True)])
def test_rho_and_the_fractions_are_those_of_the_published_procedure(kernel_size, bias, seed):
    torch.manual_seed(seed)
    options = {"padding": kernel_size // 2, "stride": 2, "bias": bias}
    convolution = nn.Conv2d(8, 5, kernel_size, **options).requires_grad_(False)
    channel_bias = convolution.bias[2:3] if bias else None
    first_mean, second_mean = 3 * torch.rand(2, 8, 1, 1)
    images1 = first_mean + torch.randn(7, 1, 8, 6, 6)
    images2 = second_mean + torch.randn(4, 1, 8, 6, 6)
    kernel = convolution.weight[2:3]

    def forward(x, masked):
        return nn.functional.conv2d(x, masked, channel_bias, convolution.stride, convolution.padding)

    arvs = []
    for images in (images1, images2):  # input times gradient, by autograd
        summed = torch.zeros(8)
        for x in images:
            x = x.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(forward(x, kernel).sum(), x)
            summed += (x.detach() * gradient).sum((0, 2, 3))
        arvs.append(summed / len(images))
    objectives, best_rho = published_choice(forward, kernel, arvs, images1, images2)

    layer = as_layer(convolution)
    weight, own_bias = layer.weight[2], convolution.bias[2] if bias else None
    search = RhoSearch(weight, own_bias, torch.stack(arvs))
    for k, images in enumerate((images1, images2)):
        batch = images.flatten(0, 1)
        search.add(layer.maps(search.rows, search.biases)(batch), torch.full((len(batch),), k))
    column = OBJECTIVES.index("positive")
    assert search.objectives()[:, column].tolist() == pytest.approx(objectives, rel=1e-4)
    assert search.best()[column] == best_rho
    assert len(set(objectives)) > 2

    concepts = [Concept("a", [0]), Concept("b", [1])]
    division = Arv(search.owners, search.objectives(), "positive", best_rho, 2)
    positions = forward(images1[0], kernel).numel()
    split = Split(2, concepts, weight, own_bias, positions, torch.stack(arvs), torch.zeros(8), division)
    filters = published_filters(kernel, *arvs, best_rho)
    for x in [*images1, *images2]:
        original = forward(x, kernel).sum()
        expected = [float(forward(x, masked).sum() / original) for masked in filters]
        sums = spatial_sums(split.rows(), split.biases(), tap_sums(convolution, x).double(), positions)
        found = fractions_of_original(original.reshape(1).numpy(), sums.numpy())
        assert found[0].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)
