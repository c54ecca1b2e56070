"""The normal form of a layer: all that the rest of the project knows of it, whatever kind of layer it is.

A kind of layer is a subclass of ``Layer`` in a module of its own, and an entry in ``utils.networks.layers.KINDS``.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import parametrize

from utils.errors import UserError


@dataclass
class Layer:
    """The layer of interest in its network.

    ``module`` is the layer itself, ``name`` its dotted name; ``map_size`` is the number of rows and columns of the map
    that its positions are of, or None; ``num_outputs`` is the number of the network's logits; ``note`` is something to
    know about the layer, or None.

    Channels of the output are C, those of the input C_in. A *tap* is a place in the kernel from which one weight sees
    the input, a *position* a place in the output: of a map, or a token. ``channel_dim`` is the dimension of the output
    that has the channels, ``kind`` the kind of layer in words, ``plain`` what its module has to compute.
    """

    module: nn.Module
    name: str = ""
    map_size: tuple | None = None
    num_outputs: int | None = None
    note: str | None = None

    channel_dim = 1
    kind = plain = None

    def refusal(self):
        """Why the module cannot be split, or None. A kind of layer adds its own reasons."""
        own = dict([*self.module.named_parameters(), *self.module.named_buffers()])
        if parametrize.is_parametrized(self.module) or "weight" not in own:
            return "computes its weight anew in each pass: remove the parametrization (weight_norm, pruning) first"
        if self.weight.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            return f"has weights of {self.weight.dtype}: only real ones can be split"
        more = [name for name in own if name not in ("weight", "bias") and self.num_channels in own[name].shape]
        if more:
            what = f"{type(self.module).__name__}: {', '.join(more)}"
            return f"has more than a weight and a bias for each channel ({what}): its channels cannot be split"
        return None

    def takes(self, shape):
        """Whether the module's input may have a shape."""
        raise NotImplementedError

    def locate(self, network, traced):
        """Take in where the layer's positions lie, from a Trace; UserError where an image's cannot be told."""
        raise NotImplementedError

    @property
    def weight(self):
        """The layer's weight, ``[C, C_in, taps]``."""
        raise NotImplementedError

    @property
    def bias(self):
        """The layer's bias, ``[C]``, or None."""
        return None if self.module.bias is None else self.module.bias.detach()

    @property
    def num_channels(self):
        return self.weight.shape[0]

    @property
    def num_inputs(self):
        return self.weight.shape[1]

    @property
    def num_taps(self):
        return self.weight.shape[2]

    @property
    def num_positions(self):
        """Number of an image's positions in the output."""
        raise NotImplementedError

    def tap_sums(self, x):
        """Sum of the layer's input over the positions that each tap visits: ``[B, C_in, taps]``, float32.

        The spatial sum of every channel is linear in them: ``sum_hw a = W . S + b * positions``.
        """
        raise NotImplementedError

    def by_position(self, output):
        """The layer's output, or its gradient, as ``[B, C, positions]``."""
        raise NotImplementedError

    def with_rows(self, rows, bias):
        """A deep copy of the module that computes other channels from the same input, frozen and without hooks.

        Parameters
        ----------
        rows : Tensor [R, C_in, taps]
            Weights of the new output channels.
        bias : Tensor [R] or None
        """
        raise NotImplementedError

    def maps(self, rows, bias):
        """A function from the layer's input to what ``rows`` make of it, ``[B, R, positions]``, in fp32.

        Made once a pass, not once a batch: it copies the module.
        """
        applied = self.with_rows(rows, bias)
        return lambda x: self.by_position(applied(x.float()))

    def places(self, device="cpu"):
        """Where each position lies in the image: ``[positions, 2]``, row and column as fractions of the sides.

        NaN for one that lies nowhere (a class token); None where all do, or nobody knows where.
        """
        raise NotImplementedError


def map_places(map_size, device="cpu"):
    """The middles of the places of a map, row by row: ``[rows * columns, 2]``, as fractions of the image's sides."""
    height, width = map_size
    positions = torch.arange(height * width, device=device)
    rows = positions.div(width, rounding_mode="floor")
    return torch.stack([(rows + 0.5) / height, (positions % width + 0.5) / width], dim=-1)


def check_normal_form(layer, record):
    """Raise UserError unless ``W S + b * positions`` equals the spatial sum of the layer's real output.

    A subclass may pad by itself or standardise its weight; what is stored would then be wrong.

    Parameters
    ----------
    layer : Layer
    record : Record
        Of a forward pass in whatever precision.
    """
    activation = record.activation.float()
    computed = torch.einsum("bit,cit->bc", layer.tap_sums(record.input), layer.weight)
    if layer.bias is not None:
        computed = computed + layer.bias * activation.shape[2]
    scale = activation.abs().sum(-1).max()
    tolerance = 2e-2 if record.activation.dtype == torch.bfloat16 else 1e-3
    if ((computed - activation.sum(-1)).abs() > tolerance * scale).any():
        what = f"layer {layer.name} ({type(layer.module).__name__})"
        raise UserError(f"{what} does not compute {layer.plain}")
