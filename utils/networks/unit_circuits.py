"""Circuits of single images for units of a layer, as PURE has them (Dreyer et al., CVPR workshops 2024).

A unit is a row of weights for the layer's input: one of the layer's channels, or any other.
"""

from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from utils.errors import UserError
from utils.method.contributions import per_norm
from utils.networks.precision import network_arithmetic
from utils.networks.recording import layer_input

IMAGES = 2  # that a circuit layer is looked at with, so that the batch's dimension can be told from one of size 1


@dataclass
class CircuitLayer:
    """An earlier module whose output circuits are about: F channels, in dimension ``channel_dim`` of its output."""

    name: str
    module: nn.Module
    channel_dim: int
    num_features: int


def find_circuit_layer(network, layer, name, image_size):
    """Find the module that circuits are about by running two images through ``network`` up to the layer of interest.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode, all parameters frozen.
    layer : Layer of ``network``
    name : str
        A dotted module name.
    image_size : int
        Side of the square image, in pixels.

    Returns
    -------
    CircuitLayer

    Raises
    ------
    UserError
        No such module, one that does not make exactly one output before the layer or does not lead into it, or an
        output that is neither maps nor tokens of the images.
    """
    modules = dict(network.named_modules())
    if not name or name not in modules:
        raise UserError(f"--circuit_layer {name}: the network has no module of that name")
    images = torch.randn(IMAGES, 3, image_size, image_size, generator=torch.Generator().manual_seed(0)).to(
        layer.weight.device
    )
    with _outputs_as_leaves(modules[name]) as leaves, torch.enable_grad():
        x = layer_input(network, layer.module, images)
    if len(leaves) != 1:
        how_many = f"{len(leaves)} outputs" if leaves else "no output"
        raise UserError(f"--circuit_layer {name} makes {how_many} before layer {layer.name} is called, not one")
    shape = tuple(getattr(leaves[0], "shape", ()))
    channel_dim = _channel_dim(shape)
    if channel_dim is None:
        what = f"of shape {list(shape)} for {IMAGES} images" if shape else "no tensor"
        raise UserError(f"--circuit_layer {name}: its output is {what}, neither maps nor tokens")
    if not x.requires_grad:
        raise UserError(f"--circuit_layer {name} does not lead into layer {layer.name}")
    return CircuitLayer(name, modules[name], channel_dim, shape[channel_dim])


def _channel_dim(shape):
    """The dimension of the channels in tokens ``[B, N, C]``, or in maps of square images: ``[B, C, H, H]`` or
    ``[B, H, H, C]``."""
    if len(shape) not in (3, 4) or shape[0] != IMAGES:
        return None
    if len(shape) == 3:
        return 2
    return 1 if shape[2] == shape[3] else 3 if shape[1] == shape[2] else None


@contextmanager
def _outputs_as_leaves(module):
    """While in the block, a graph begins at each output of a module; a list of what it has made.

    What goes on is a clone, so that an in-place operation behind the module does not spoil the leaf.
    """
    leaves = []

    def begin(_, inputs, output):
        if not isinstance(output, torch.Tensor) or not output.is_floating_point():
            leaves.append(None)
            return output
        leaves.append(output.detach().requires_grad_())
        return leaves[-1].clone()

    handle = module.register_forward_hook(begin)
    try:
        yield leaves
    finally:
        handle.remove()


class UnitCircuits:
    """Largest activations of R units in images, and the images' circuits.

    From ``max(a, 0)`` at every position one plain gradient goes back to the circuit layer's output ``x``, times that,
    summed over space, over its L1 norm: ``R_i = sum_hw x_i * (J^T max(a, 0))_i``. The activation ``a`` is that of the
    layer's own output, before any normalisation or shortcut. The network runs in ``precision``; what units make of the
    layer's input, and everything later, is fp32.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode, all parameters frozen, on its device.
    layer : Layer of ``network``
    rows : Tensor [R, C_in, taps]
    biases : Tensor [R] or None
    precision : str
    circuit_layer : CircuitLayer, optional
        Default: the layer's own input, F = C_in.
    """

    def __init__(self, network, layer, rows, biases, *, precision="fp32", circuit_layer=None):
        self.network, self.layer, self.rows, self.biases = network, layer, rows, biases
        self.precision, self.circuit_layer = precision, circuit_layer
        self.num_features = layer.num_inputs if circuit_layer is None else circuit_layer.num_features
        self._units = layer.with_rows(rows, biases)
        self._units.weight.requires_grad_(circuit_layer is None)

    @torch.no_grad()
    def maxima(self, pixels):
        """The largest activation over positions of each unit in images [B, 3, H, W]: [B, R]."""
        return self._maps(self._reach(pixels)).amax(-1)

    def measure(self, pixels):
        """The same, and a function that gives circuits from the same pass.

        Returns
        -------
        maxima : Tensor [B, R]
        circuits : function of ``wanted``, BoolTensor [B, R]
            Yields blocks of P pairs, each wanted one once: (images [P], units [P], circuits [P, F]).
        """
        if self.circuit_layer is None:
            with torch.no_grad():
                x = self._reach(pixels)
                maps = self._maps(x)
            return maps.amax(-1), partial(self._from_input, x)
        with torch.enable_grad(), _outputs_as_leaves(self.circuit_layer.module) as leaves:
            maps = self._maps(self._reach(pixels))
        return maps.detach().amax(-1), partial(self._from_leaf, leaves[0], maps)

    def _reach(self, pixels):
        with network_arithmetic(self.precision, pixels.device):
            return layer_input(self.network, self.layer.module, pixels)

    def _maps(self, x):
        return self.layer.by_position(self._units(x.float()))

    @torch.enable_grad()
    def _from_input(self, x, wanted):
        """At the layer's own input, image by image.

        A unit is linear in it, so that input times gradient is weight times gradient, added up over taps: one backward
        pass serves all units of an image.
        """
        weight = self._units.weight
        for image, (own, of_image) in enumerate(zip(x.split(len(x) // len(wanted)), wanted, strict=True)):
            (units,) = of_image.nonzero(as_tuple=True)
            if not len(units):
                continue
            maps = self._maps(own)
            (gradient,) = torch.autograd.grad(maps, weight, maps.detach().clamp(min=0))
            circuits = (weight.detach() * gradient).reshape(self.rows.shape).sum(-1)
            yield torch.full_like(units, image), units, per_norm(circuits[units])

    @torch.enable_grad()
    def _from_leaf(self, leaf, maps, wanted):
        """At an earlier module's output: a backward pass through the network serves one unit of each image."""
        images, units = wanted.nonzero(as_tuple=True)
        turns = (wanted.long().cumsum(1) - 1)[images, units]
        for turn in range(int(wanted.sum(1).max())):
            own, of_image = images[turns == turn], units[turns == turn]
            start = torch.zeros_like(maps)
            start[own, of_image] = maps.detach()[own, of_image].clamp(min=0)
            (gradient,) = torch.autograd.grad(maps, leaf, start, retain_graph=True)
            product = leaf.detach().float() * gradient.float()
            circuits = product.movedim(self.circuit_layer.channel_dim, 1).flatten(2).sum(2)
            yield own, of_image, per_norm(circuits[own])
