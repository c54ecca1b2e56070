"""Taking concepts out of a split network."""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from utils.images.folders import imagenet_classes, spelling
from utils.method.disentangling import Concept
from utils.networks.splitting import DisentangledLayer


@contextmanager
def ablated(
    network: nn.Module, channel: int, concept: int | str, to: str | float = "mean", layer: str | None = None
) -> Iterator[nn.Module]:
    """While in the block, the exclusive part of a concept in a split channel, ``c'_k - r``, is a constant everywhere.

        with ablated(network, 1660, "cauliflower"):
            logits = network(images)

    The weights stay as they are: a network without the concept, whose weights can be saved, is made by
    ``utils.store.edited_network``.

    Parameters
    ----------
    network : nn.Module
        From ``split_network``.
    channel : int
        The channel that was split.
    concept : int or str
        Number of the concept, from 1, or its name, as ``network_concepts`` lists them; or one of its classes, named as
        on the command line: ``"digital clock"``, ``"Digital_Clock"``, ``"n03196217"``, ``"530"``.
    to : "mean", "zero" or float
        The mean of ``c'_k - r`` over all positions of the training images (default), 0, or any value, of the layer's
        output (if a BatchNorm follows, 0 has no special meaning).
    layer : str, optional
        Name of the layer, where a channel of this number is split in several layers.

    Raises
    ------
    ValueError
        There is no such channel, concept or value, or the value is not finite.
    """
    module = _split_layer(network, channel, layer)
    number = module.channels.index(channel)
    k = number_of_concept(concept, module.concepts_of[number], channel)
    not_in_weights = network.register_state_dict_pre_hook(_warn_of_state_dict)
    try:
        with held(module, number, {k: replacement(to, module.means_of[number][k])}):
            yield network
    finally:
        not_in_weights.remove()


def replacement(to: str | float, mean: float) -> float:
    """The constant that takes a part's place: its ``mean``, 0 for "zero", or a number.

    ValueError for other text, and for a number that is not finite, which would make all logits NaN.
    """
    constants = {"mean": mean, "zero": 0.0}
    if isinstance(to, str) and to not in constants:
        raise ValueError(f"to={to!r} is not 'mean', 'zero' or a number")
    if not isinstance(to, str) and not math.isfinite(to):
        raise ValueError(f"to={to} is not a finite number")
    return constants[to] if isinstance(to, str) else float(to)


def _warn_of_state_dict(*_: object) -> None:
    warnings.warn(
        "this state dict does not hold the ablation, which lasts only while in the block; for weights without the "
        "concept: from utils.store import edited_network; edited_network(original_network, splits, {channel: concept})",
        stacklevel=4,
    )


@contextmanager
def held(module: DisentangledLayer, number: int, constants: Mapping[int, float]) -> Iterator[None]:
    """While in the block, parts of split ``number`` of a DisentangledLayer are constants at every position.

    ``constants``: {part: value}; part k (from 0) is the exclusive part of concept k, ``c'_k - r``; part K is ``r``
    itself, which every ``c'_k`` includes.
    """
    rows = module.rows_of[number]
    residual = len(rows) - 1
    indices = torch.tensor(rows, device=module.parts.weight.device)  # not in each call: the copy would wait

    def hold(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        dim = module.channel_dim % output.ndim
        channels = output.index_select(dim, indices).movedim(dim, 0)
        new_residual = channels[residual]
        if residual in constants:
            new_residual = torch.full_like(new_residual, constants[residual])
        exclusive = [
            torch.full_like(new_residual, constants[k]) if k in constants else channels[k] - channels[residual]
            for k in range(residual)
        ]
        changed = torch.stack([*(part + new_residual for part in exclusive), new_residual]).movedim(0, dim)
        return output.index_copy(dim, indices, changed)

    handle = module.parts.register_forward_hook(hold)
    try:
        yield
    finally:
        handle.remove()


def _split_layer(network: nn.Module, channel: int, layer: str | None) -> DisentangledLayer:
    """The DisentangledLayer of which a channel is split."""
    candidates = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, DisentangledLayer) and channel in module.channels and layer in (None, name)
    }
    if not candidates:
        raise ValueError(f"channel {channel} is not split" + (f" in {layer}" if layer else ""))
    if len(candidates) > 1:
        raise ValueError(f"channel {channel} is split in {', '.join(candidates)}: say which layer")
    (module,) = candidates.values()
    return module


def number_of_concept(concept: int | str, concepts: Sequence[Concept], channel: int) -> int:
    """The number of a concept, from 0.

    It is given by its whole name, the name of one of its classes, its name up to "(", or its number from 1. Classes are
    given as on the command line: by name in any case and with ``_`` or ``-`` for a space, by the WordNet id of an
    ImageNet class, or by network output, as text.
    """
    text = str(concept)
    whole = [[candidate.name] for candidate in concepts]
    parts = [[*name.split(" + "), name.partition(" (")[0]] for (name,) in whole]
    outputs = [list(map(str, candidate.classes)) for candidate in concepts]
    given = imagenet_classes().get(text, text)
    for accepted, normalised in ((whole, str), (parts, str), (whole, spelling), (parts, spelling), (outputs, str)):
        matches = [k for k, names in enumerate(accepted) if normalised(given) in map(normalised, names)]
        if len(matches) == 1 and isinstance(concept, str):
            return matches[0]
    if isinstance(concept, int) and 1 <= concept <= len(concepts):
        return concept - 1
    names = [candidate.name for candidate in concepts]
    raise ValueError(f"channel {channel} has no concept {concept!r}: it has 1 to {len(names)}, {', '.join(names)}")
