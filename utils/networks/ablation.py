"""Taking one concept out of a split network."""

from contextlib import contextmanager

import torch

from utils.networks.splitting import DisentangledLayer


@contextmanager
def ablated(network, channel, concept, to="mean", layer=None):
    """While in the block, what is one concept's alone in a split channel, ``c'_k - r``, is a constant everywhere.

        with ablated(network, 1660, "corn"):
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
    with replaced(module, {module.rows_of[number][k]: (module.rows_of[number][-1], values.get(to, to))}):
        yield network


@contextmanager
def replaced(module, rows):
    """While in the block, rows of the parts of a DisentangledLayer are the residual's and a constant.

    ``rows``: {row: (row of its residual, constant)}.
    """

    own = list(rows)
    residuals, constants = zip(*rows.values(), strict=True)

    def hook(parts, inputs, output):
        dim = module.channel_dim % output.ndim
        indices = [torch.tensor(numbers, device=output.device) for numbers in (own, residuals)]
        shape = [-1 if d == dim else 1 for d in range(output.ndim)]
        values = output.index_select(dim, indices[1]) + output.new_tensor(constants).view(shape)
        return output.index_copy(dim, indices[0], values)

    handle = module.parts.register_forward_hook(hook)
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
    """Which concept is meant, from 0."""
    names = [one.name for one in concepts]
    if names.count(concept) == 1:
        return names.index(concept)
    if isinstance(concept, int) and 1 <= concept <= len(names):
        return concept - 1
    raise ValueError(f"channel {channel} has no concept {concept!r}: it has 1 to {len(names)}, {', '.join(names)}")
