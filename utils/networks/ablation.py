"""Taking concepts out of a split network."""

from contextlib import contextmanager

import torch

from utils.networks.splitting import DisentangledLayer


@contextmanager
def ablated(network, channel, concept, to="mean", layer=None):
    """While in the block, what is one concept's alone in a split channel, ``c'_k - r``, is a constant everywhere.

        with ablated(network, 1660, "cauliflower"):
            logits = network(images)

    Parameters
    ----------
    network : nn.Module
        Of ``split_network``.
    channel : int
        The channel that was split.
    concept : int or str
        Number of the concept, from 1, or its name, as ``network_concepts`` lists them.
    to : "mean", "zero" or float
        The mean of ``c'_k - r`` over all positions of the training images (default), 0, or any value, before whatever
        follows the layer (with a BatchNorm behind the layer, 0 is nothing special).
    layer : str, optional
        Name of the layer, where a channel of this number is split in several.

    Raises
    ------
    ValueError
        There is no such channel, concept or value.
    """
    module, number = _find(network, channel, layer)
    k = _number_of(concept, module.concepts_of[number], channel)
    values = {"mean": module.means_of[number][k], "zero": 0.0}
    if isinstance(to, str) and to not in values:
        raise ValueError(f"to={to!r} is not 'mean', 'zero' or a number")
    with held(module, number, {k: values[to] if isinstance(to, str) else float(to)}):
        yield network


@contextmanager
def held(module, number, constants):
    """While in the block, parts of split ``number`` of a DisentangledLayer are constants at every position.

    ``constants``: {part: value}; part k (from 0) is what is concept k's alone, ``c'_k - r``; part K is ``r`` itself,
    which every ``c'_k`` has a copy of.
    """
    rows, residual = module.rows_of[number], len(module.rows_of[number]) - 1

    def hold(_, inputs, output):
        dim = module.channel_dim % output.ndim
        own = output.index_select(dim, torch.tensor(rows, device=output.device)).movedim(dim, 0)
        kept = own[residual] if residual not in constants else torch.full_like(own[residual], constants[residual])
        exclusive = [
            torch.full_like(kept, constants[k]) if k in constants else own[k] - own[residual] for k in range(residual)
        ]
        changed = torch.stack([*(one + kept for one in exclusive), kept]).movedim(0, dim)
        return output.index_copy(dim, torch.tensor(rows, device=output.device), changed)

    handle = module.parts.register_forward_hook(hold)
    try:
        yield
    finally:
        handle.remove()


def _find(network, channel, layer):
    """The DisentangledLayer that has the channel, and which of its splits that is."""
    found = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, DisentangledLayer) and channel in module.channels and layer in (None, name)
    ]
    if not found:
        raise ValueError(f"channel {channel} is not split" + (f" in {layer}" if layer else ""))
    if len(found) > 1:
        raise ValueError(f"channel {channel} is split in {', '.join(name for name, _ in found)}: say which layer")
    return found[0][1], found[0][1].channels.index(channel)


def _number_of(concept, concepts, channel):
    """Which concept is meant, from 0: by its whole name, one of its classes', what stands before "(", or its number."""
    names = [one.name for one in concepts]
    for parts in ([[name] for name in names], [[*name.split(" + "), name.partition(" (")[0]] for name in names]):
        if sum(concept in own for own in parts) == 1:
            return next(k for k, own in enumerate(parts) if concept in own)
    if isinstance(concept, int) and 1 <= concept <= len(names):
        return concept - 1
    raise ValueError(f"channel {channel} has no concept {concept!r}: it has 1 to {len(names)}, {', '.join(names)}")
