"""Coordinates of a layer's output: as few as its rank can be, and the same output and distances again."""

import pytest
import torch
from torch import nn

from utils.networks.coordinates import LayerCoordinates
from utils.networks.layers import Convolution


@pytest.mark.parametrize(
    ("module", "number"),
    [
        (nn.Conv2d(3, 20, 1, bias=False), 3),
        (nn.Conv2d(3, 40, 3, padding=1), 27),
        (nn.Conv2d(16, 5, 1), 5),
    ],
)
def test_coordinates_give_the_layers_output_and_its_distances(module, number):
    torch.manual_seed(0)
    module.requires_grad_(False)
    x = torch.randn(4, module.in_channels, 6, 6)
    coordinates = LayerCoordinates.of(Convolution(module))
    at_positions = coordinates.of_input(x)
    output = module(x).flatten(2).movedim(1, 2)
    assert coordinates.number == number and at_positions.shape == (4, 36, number)
    torch.testing.assert_close(coordinates.values(at_positions), output, atol=1e-5, rtol=1e-4)
    distances = [(values[:, 1:] - values[:, :1]).norm(dim=-1) for values in (at_positions, output)]
    torch.testing.assert_close(*distances, atol=1e-4, rtol=1e-3)


def test_the_basis_is_orthonormal():
    basis = LayerCoordinates.of(Convolution(nn.Conv2d(3, 20, 1).requires_grad_(False))).basis
    torch.testing.assert_close(basis.T @ basis, torch.eye(3), atol=1e-6, rtol=0)
