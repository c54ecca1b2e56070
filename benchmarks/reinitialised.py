"""Networks whose weights, or those of one layer, are drawn anew, with BatchNorm statistics of real images."""

from collections.abc import Iterable
from enum import Enum

import torch
from torch import nn

from utils.errors import UserError
from utils.images.batches import ImageBatches
from utils.networks.opened_network import OpenedNetwork
from utils.networks.trace import trace


class Part(Enum):
    """What of a network is drawn anew."""

    LAYER = "layer of interest"
    CLASSIFIER = "classifier"
    EVERYTHING = "everything"


def executed_modules(network: nn.Module, image_size: int) -> list[str]:
    """Names of the modules that have weights and no children, in the order in which they are first executed."""
    modules = dict(network.named_modules())
    return list(dict.fromkeys(trace(network, image_size).with_weights(modules)))


def modules_of(part: Part, network: nn.Module, layer: str, order: list[str]) -> list[str]:
    """Names of the modules that are drawn anew.

    Parameters
    ----------
    part
    network
    layer : str
        The layer of interest.
    order : list of str
        Of ``executed_modules``. The classifier is the last linear layer or convolution of it.

    Raises
    ------
    UserError
        A module has weights and no ``reset_parameters``, or the network is not to be told apart from its classifier.
    """
    modules = dict(network.named_modules())
    if part is Part.LAYER:
        names = [layer]
    elif part is Part.CLASSIFIER:
        names = [name for name in order if isinstance(modules[name], (nn.Linear, nn.Conv2d))][-1:]
    else:
        names = [name for name, module in modules.items() if any(True for _ in module.parameters(recurse=False))]
    for name in names:
        if not hasattr(modules[name], "reset_parameters"):
            kind = type(modules[name]).__name__
            raise UserError(f"{name} ({kind}) has weights but no reset_parameters: it cannot be re-initialised")
    return names


def reinitialise(network: nn.Module, names: Iterable[str], seed: int) -> None:
    """Draw the weights of some modules anew, by their own ``reset_parameters``; equal seeds make equal weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name in names:
            network.get_submodule(name).reset_parameters()


def norms_behind(network: nn.Module, names: Iterable[str], order: list[str]) -> list[nn.Module]:
    """The BatchNorms with running statistics that are executed from the first of some modules on."""
    drawn = set(names)
    first = min((number for number, name in enumerate(order) if name in drawn), default=len(order))
    norms = [network.get_submodule(name) for name in order[first:]]
    return [norm for norm in norms if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.track_running_stats]


def estimate_statistics(opened: OpenedNetwork, norms: list[nn.Module], batches: ImageBatches) -> None:
    """Estimate the running statistics of BatchNorms anew: the means of those of all batches, each with equal weight.

    Only these BatchNorms are in training mode meanwhile: each one sees what those before it give in training.
    """
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad(), opened.arithmetic():
        for batch in batches.readable():
            opened.module(batch.pixels)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
