"""Edited networks: concepts are weakened in, or taken out of, the weights of the original architecture."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from utils.errors import UserError
from utils.method.disentangling import Split
from utils.method.weakening import constant_in_place, weakened_row
from utils.networks.ablation import replacement
from utils.networks.layers import Layer, splittable
from utils.networks.loading import fingerprint
from utils.networks.module_copies import copy_module
from utils.networks.reads import batch_norm_after
from utils.networks.state_dicts import EDIT_RECORD


@dataclass(frozen=True)
class ChannelEdit:
    """The concepts of a split channel that are weakened.

    Parameters
    ----------
    layer : str
        The layer's dotted name.
    split : Split
    rho : float or None
    concepts : tuple of int
        Numbers of the concepts, from 0.
    """

    layer: str
    split: Split
    rho: float | None
    concepts: tuple[int, ...]

    def shares(self) -> Tensor:
        """The concepts' own shares of the inputs, ``[n, C_in]`` float64."""
        return self.split.shares(self.rho)[[*self.concepts]].double()

    def description(self) -> dict[str, Any]:
        """Which concepts of which channel, as plain values."""
        names = [self.split.concepts[k].name for k in self.concepts]
        return {"layer": self.layer, "channel": self.split.channel, "concepts": names}

    def constants(self, to: str | float) -> Tensor:
        """What the parts of the concepts become if nothing is left of them, ``[n]`` float64."""
        means = self.split.exclusive_means(self.rho)
        return torch.tensor([replacement(to, float(means[k])) for k in self.concepts], dtype=torch.float64)


def with_edits(
    network: nn.Module, edits: Sequence[ChannelEdit], *, factor: float, to: str | float, image_size: int
) -> nn.Module:
    """A copy of ``network`` with edited weights: of each chosen concept's part only ``factor`` times is left.

    Rows and constants are computed in float64 and rounded once, to the type of the tensor that holds them. A constant
    goes into the layer's bias. Where the layer has none, it is subtracted from the ``running_mean`` of a BatchNorm that
    alone reads the layer's output; where there is none either, the layer gets a bias.

    Parameters
    ----------
    network : nn.Module
    edits : list of ChannelEdit
        Of different channels.
    factor : float
        0 takes the parts out, 1 changes nothing.
    to : "mean", "zero" or float
        As for ``ablated``.
    image_size : int
        Side of the square image, in pixels, with which it is found out what reads the layer's output.

    Returns
    -------
    nn.Module
        Its attribute ``concept_edits`` says what was edited: ``channels`` (``layer``, ``channel`` and names of the
        ``concepts`` of each), ``factor``, ``to``; the fingerprint of ``network`` (``weights_sha256``); the number of
        channels of each layer that got a bias (``new_biases``), and the tensor that has a layer's constants
        (``running_means``).

    Raises
    ------
    ValueError
        The same channel twice, a ``factor`` or ``to`` that is not finite, or no such ``to``.
    UserError
        A module that cannot be split, or that shares its weight or bias with another one.
    """
    if not math.isfinite(factor):
        raise ValueError(f"factor={factor} is not a finite number")
    channels = [(edit.layer, edit.split.channel) for edit in edits]
    if len(set(channels)) < len(channels):
        raise ValueError(f"a channel can be edited only once, these are {channels}")
    record: dict[str, Any] = {"channels": [edit.description() for edit in edits], "factor": factor, "to": to}
    record |= {"weights_sha256": fingerprint(network), "new_biases": {}, "running_means": {}}
    network = copy_module(network)
    by_layer = sorted(edits, key=lambda edit: edit.layer)
    for name, edits_of_layer in groupby(by_layer, key=lambda edit: edit.layer):
        layer = splittable(name, network.get_submodule(name))
        _refuse_shared_tensors(network, layer)
        batch_norm = None if layer.bias is not None else batch_norm_after(network, layer, image_size)
        constants = _edit_rows(layer, list(edits_of_layer), factor, to)
        if not constants.any():
            continue
        if batch_norm is not None:
            record["running_means"][name] = f"{batch_norm}.running_mean"
            mean: Any = network.get_submodule(batch_norm).running_mean
            mean.copy_(mean.double() - constants)
        else:
            if layer.bias is None:
                record["new_biases"][name] = layer.num_channels
            _add_to_bias(layer, constants)
    setattr(network, EDIT_RECORD, record)
    return network


def _edit_rows(layer: Layer, edits: Sequence[ChannelEdit], factor: float, to: str | float) -> Tensor:
    """Replace the rows of edited channels of a layer; returns the constant of every channel, ``[C]`` float64."""
    rows = layer.weight.double().clone()
    constants = torch.zeros(layer.num_channels, dtype=torch.float64, device=rows.device)
    for edit in edits:
        channel = edit.split.channel
        rows[channel] = weakened_row(rows[channel], edit.shares().to(rows.device), factor)
        constants[channel] = constant_in_place(edit.constants(to), factor)
    weight: Any = layer.module.weight
    with torch.no_grad():
        weight.copy_(layer.with_rows(rows, None).weight)
    return constants


def _add_to_bias(layer: Layer, constants: Tensor) -> None:
    """Add a constant to every channel of a layer, which gets a bias if it has none."""
    module: Any = layer.module
    if module.bias is None:
        bias = constants.to(module.weight.dtype)
        module.bias = nn.Parameter(bias, requires_grad=module.weight.requires_grad)
        return
    with torch.no_grad():
        module.bias.copy_(module.bias.double() + constants)


def _refuse_shared_tensors(network: nn.Module, layer: Layer) -> None:
    """Raise UserError if a weight or bias of the layer is also one of another module: both would be edited."""
    parameters = {id(parameter) for parameter in layer.module.parameters()}
    for name, module in network.named_modules():
        if module is not layer.module:
            for parameter_name, parameter in module.named_parameters(recurse=False):
                if id(parameter) in parameters:
                    raise UserError(
                        f"layer {layer.name} shares its weights with {name}.{parameter_name}: an edit would change both"
                    )


# --------------------------------------------------------------------------------------------------------------------
# Loading an edited state dict into a plain network


def loading_lines(make: Sequence[str], record: Mapping[str, Any], file: str) -> list[str]:
    """The lines of Python that load an edited state dict into the plain network, without this project.

    Parameters
    ----------
    make : list of str
        Lines that set ``network``.
    record : dict
        ``concept_edits`` of the edited network.
    file : str
        Path of the state dict.
    """
    biases = [
        f"network.get_submodule({name!r}).bias = torch.nn.Parameter(torch.zeros({size}))"
        for name, size in record["new_biases"].items()
    ]
    load = f"network.load_state_dict(torch.load({file!r}, weights_only=True))"
    return ["import torch", *make, *biases, load, "network.eval()"]
