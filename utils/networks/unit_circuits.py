"""Circuits of single images for units of a layer, as in PURE (Dreyer et al., CVPR workshops 2024).

A unit is a row of weights for the layer's input: one of the layer's channels, or any other row.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from utils.errors import UserError
from utils.method.contributions import per_norm
from utils.networks.arithmetic import upload
from utils.networks.layers import Layer, nearest_module
from utils.networks.precision import network_arithmetic
from utils.networks.recording import layer_input

IMAGES = 2  # run to find a circuit layer, so that the batch's dimension can be distinguished from one of size 1

# A function of the wanted pairs, BoolTensor [B, R] on the CPU, that returns their circuits [P, F] on the device, in the
# order of ``wanted.nonzero()``. It does not wait for the device.
Circuits = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class CircuitLayer:
    """An earlier module whose output circuits consist of: F channels, in dimension ``channel_dim`` of its output."""

    name: str
    module: nn.Module
    channel_dim: int
    num_features: int


def find_circuit_layer(network: nn.Module, layer: Layer, name: str, image_size: int) -> CircuitLayer:
    """Find the circuit layer by running two images through ``network`` up to the layer of interest.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode, all parameters frozen.
    layer : Layer of ``network``
    name : str
        A dotted module name.
    image_size : int
        Side of the square image, in pixels.

    Raises
    ------
    UserError
        No such module, one that does not make exactly one output before the layer or does not lead into it, or an
        output that is neither maps nor tokens of the images.
    """
    modules = dict(network.named_modules())
    if not name or name not in modules:
        hint = nearest_module(name, modules)
        raise UserError(f"--circuit_layer {name}: the network has no module of that name{hint}")
    images = torch.randn(IMAGES, 3, image_size, image_size, generator=torch.Generator().manual_seed(0)).to(
        layer.weight.device
    )
    with _outputs_as_leaves(modules[name]) as leaves, torch.enable_grad():
        x = layer_input(network, layer.module, images)
    if len(leaves) != 1:
        outputs = f"{len(leaves)} outputs" if leaves else "no output"
        raise UserError(f"--circuit_layer {name} makes {outputs} before layer {layer.name} is called, not one")
    shape = tuple(getattr(leaves[0], "shape", ()))
    channel_dim = _channel_dim(shape)
    if channel_dim is None:
        output = f"of shape {list(shape)} for {IMAGES} images" if shape else "no tensor"
        raise UserError(f"--circuit_layer {name}: its output is {output}, neither maps nor tokens")
    if not x.requires_grad:
        raise UserError(f"--circuit_layer {name} does not lead into layer {layer.name}")
    return CircuitLayer(name, modules[name], channel_dim, shape[channel_dim])


def _channel_dim(shape: tuple[int, ...]) -> int | None:
    """The dimension of the channels in tokens ``[B, N, C]``, or in maps of square images: ``[B, C, H, H]`` or
    ``[B, H, H, C]``."""
    if len(shape) not in (3, 4) or shape[0] != IMAGES:
        return None
    if len(shape) == 3:
        return 2
    return 1 if shape[2] == shape[3] else 3 if shape[1] == shape[2] else None


@contextmanager
def _outputs_as_leaves(module: nn.Module) -> Iterator[list[Any]]:
    """While in the block, a graph begins at each output of a module; a list of these leaves, None for no tensor.

    The network continues with a clone, so that an in-place operation after the module does not change the leaf.
    """
    leaves: list[Any] = []

    def begin(_: nn.Module, inputs: Any, output: Any) -> Any:
        if not isinstance(output, torch.Tensor) or not output.is_floating_point():
            leaves.append(None)
            return output
        leaf = output.detach().requires_grad_()
        leaves.append(leaf)
        return leaf.clone()

    handle = module.register_forward_hook(begin)
    try:
        yield leaves
    finally:
        handle.remove()


class UnitCircuits:
    """Largest activations of R units in images, and the images' circuits.

    A circuit is input x gradient at the circuit layer's output ``x``, for the gradient of ``max(a, 0)`` at every
    position, summed over space and divided by its L1 norm: ``R_i = sum_hw x_i * (J^T max(a, 0))_i``. The activation
    ``a`` is the unit's output, before any normalisation or shortcut. The network runs in ``precision``; the units, and
    everything later, are computed in fp32.

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

    def __init__(
        self,
        network: nn.Module,
        layer: Layer,
        rows: Tensor,
        biases: Tensor | None,
        *,
        precision: str = "fp32",
        circuit_layer: CircuitLayer | None = None,
    ) -> None:
        self.network = network
        self.layer = layer
        self.rows = rows
        self.biases = biases
        self.precision = precision
        self.circuit_layer = circuit_layer
        self.num_features = layer.num_inputs if circuit_layer is None else circuit_layer.num_features
        self._units: Any = layer.with_rows(rows, biases)

    @torch.no_grad()
    def maxima(self, pixels: Tensor) -> Tensor:
        """The largest activation over positions of each unit in images [B, 3, H, W]: [B, R]."""
        return self._maps(self._reach(pixels)).amax(-1)

    def measure(self, pixels: Tensor) -> tuple[Tensor, Circuits]:
        """The maxima, and a function that gives circuits from the same pass."""
        if self.circuit_layer is None:
            with torch.no_grad():
                x = self._reach(pixels)
                maps = self._maps(x)
            return maps.amax(-1), partial(self._from_input, x)
        with torch.enable_grad(), _outputs_as_leaves(self.circuit_layer.module) as leaves:
            maps = self._maps(self._reach(pixels))
        return maps.detach().amax(-1), partial(self._from_leaf, leaves[0], self.circuit_layer.channel_dim, maps)

    def _reach(self, pixels: Tensor) -> Tensor:
        with network_arithmetic(self.precision, pixels.device):
            return layer_input(self.network, self.layer.module, pixels)

    def _maps(self, x: Tensor) -> Tensor:
        return self.layer.by_position(self._units(x.float()))

    @torch.enable_grad()
    def _from_input(self, x: Tensor, wanted: Tensor) -> Tensor:
        """Circuits at the layer's own input, image by image.

        A unit is linear in it, so that input times gradient is weight times gradient, added up over taps: one backward
        pass serves all wanted units of an image.
        """
        _images, units = wanted.nonzero(as_tuple=True)
        units_by_image = upload(units, x.device).split(wanted.sum(1).tolist())
        inputs = x.split(len(x) // len(wanted))
        circuits = [
            self._of_image(image_input, image_units)
            for image_input, image_units in zip(inputs, units_by_image, strict=True)
            if len(image_units)
        ]
        return per_norm(torch.cat(circuits)) if circuits else x.new_empty(0, self.num_features, dtype=torch.float32)

    def _of_image(self, x: Tensor, units: Tensor) -> Tensor:
        """Circuits of some units in one image, not divided by their norm."""
        tensors = {"weight": self._units.weight.detach()[units].requires_grad_()}
        if self._units.bias is not None:
            tensors["bias"] = self._units.bias[units]
        maps = self.layer.by_position(torch.func.functional_call(self._units, tensors, x.float()))
        (gradient,) = torch.autograd.grad(maps, tensors["weight"], maps.detach().clamp(min=0))
        return (tensors["weight"].detach() * gradient).reshape(len(units), *self.rows.shape[1:]).sum(-1)

    @torch.enable_grad()
    def _from_leaf(self, leaf: Tensor, channel_dim: int, maps: Tensor, wanted: Tensor) -> Tensor:
        """Circuits at an earlier module's output: a backward pass through the network serves one unit of each image."""
        images, units = wanted.nonzero(as_tuple=True)
        turns = (wanted.long().cumsum(1) - 1)[images, units]
        order = turns.argsort(stable=True)
        pairs = upload(torch.stack([order, images[order], units[order]]), leaf.device)
        circuits = torch.empty(len(images), self.num_features, device=leaf.device)
        for rows, images_of_turn, units_of_turn in pairs.split(turns.bincount().tolist(), dim=1):
            start = torch.zeros_like(maps)
            start[images_of_turn, units_of_turn] = maps.detach()[images_of_turn, units_of_turn].clamp(min=0)
            (gradient,) = torch.autograd.grad(maps, leaf, start, retain_graph=True)
            product = leaf.detach().float() * gradient.float()
            circuits[rows] = product.movedim(channel_dim, 1).flatten(2).sum(2)[images_of_turn]
        return per_norm(circuits)
