"""Circuits against plain autograd; the strongest images against sorting all of them."""

import pytest
import torch
from torch import nn

from utils.method.contributions import Strongest, circuits, per_norm


def test_circuits_are_input_times_gradient_and_add_up_to_the_sum():
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 5, 3, padding=1, stride=2)
    x = torch.randn(4, 3, 7, 7, requires_grad=True)
    (gradient,) = torch.autograd.grad(convolution(x)[:, 2].sum(), x)
    expected = (x * gradient).sum((2, 3)).detach()
    columns = nn.functional.unfold(x.detach(), 3, padding=1, stride=2)
    found = circuits(convolution.weight[2].detach().flatten(1), columns.sum(-1).view(4, 3, 9))
    assert torch.allclose(found, expected, atol=1e-5)
    sums = convolution(x)[:, 2].sum((1, 2))
    assert torch.allclose(found.sum(1) + columns.shape[-1] * convolution.bias[2], sums, atol=1e-4)


def test_a_norm_of_zero_is_no_nan():
    assert per_norm(torch.tensor([[1.0, -3.0], [0.0, 0.0]])).tolist() == [[0.25, -0.75], [0.0, 0.0]]


@pytest.mark.parametrize("number", [7, 20])
def test_the_strongest_images_are_those_of_a_sort(number):
    values = torch.randint(6, (50, 3), generator=torch.Generator().manual_seed(1)).float()
    strongest = Strongest(number)
    for batch in torch.arange(100, 150).split(8):
        strongest.add(values[batch - 100], batch)
    for unit in range(3):
        order = sorted(range(50), key=lambda image: (-values[image, unit], image))[:number]
        assert (strongest.indices[unit] - 100).tolist() == order
        assert torch.equal(strongest.values[unit], values[order, unit])
    few = Strongest(7)
    few.add(values[:3], torch.arange(3))
    assert few.indices.shape == (3, 3)
    none = Strongest(2)
    for batch in torch.arange(6).split(3):
        none.add(torch.empty(3, 0), batch)
    assert none.indices.shape == (0, 2)
