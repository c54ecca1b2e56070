"""Splits of any layer, as stage 3 makes them, with owners at random, and layers with such splits."""

import torch
from torch import nn

from utils.divisions.arv import Arv
from utils.divisions.least_squares import LeastSquares
from utils.method.disentangling import Concept, Split, split_sources
from utils.method.rho import RHOS
from utils.networks.layers import layer_of
from utils.networks.splitting import DisentangledLayer


def random_split(module, channel, num_concepts=2, seed=0, rho=0.9):
    layer, generator = layer_of("", module), torch.Generator().manual_seed(seed)
    arvs = torch.randn(num_concepts, layer.num_inputs, generator=generator)
    owners = torch.stack([split_sources(arvs, value) for value in RHOS]).to(torch.uint8)
    objectives = torch.zeros(len(RHOS), 3, dtype=torch.float64)
    return Split(
        channel=channel,
        concepts=[Concept(f"concept {k}", [k]) for k in range(num_concepts)],
        weight=layer.weight[channel].clone(),
        bias=None if layer.bias is None else layer.bias[channel].clone(),
        positions=4,
        arvs=arvs,
        mean_arv=arvs.mean(0),
        division=Arv(owners, objectives, "positive", rho, num_concepts),
    )


def fitted_split(module, channel, num_concepts=2, seed=0):
    """The same, with shares of inputs at random; the last concept is everything else."""
    split, generator = random_split(module, channel, num_concepts, seed), torch.Generator().manual_seed(seed)
    split.concepts[-1] = Concept("everything else", [], kind="background")
    shares = torch.rand(num_concepts, split.arvs.shape[1], generator=generator, dtype=torch.float64) ** 4
    split.division = LeastSquares(shares / shares.sum(0), **LeastSquares.settings_from({}))
    return split


def wrapped(module, *splits):
    return DisentangledLayer(layer_of("layer", module), splits)


def frozen_conv(*args, **kwargs):
    torch.manual_seed(0)
    return nn.Conv2d(*args, **kwargs).requires_grad_(False)


def frozen_linear(*args):
    torch.manual_seed(0)
    return nn.Linear(*args).requires_grad_(False)


def ulps(found, expected):
    """How many steps of its type each value is off, those near zero counting as fp32's roundings of the largest."""
    step = torch.nextafter(expected.abs(), torch.full_like(expected, torch.inf)) - expected.abs()
    noise = 1e-5 if expected.dtype != torch.float64 else 1e-14
    return (found.double() - expected.double()).abs() / (step.double() + noise * expected.abs().max())
