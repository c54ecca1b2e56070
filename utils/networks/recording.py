"""Forward passes: what happens at the layer of interest."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from utils.errors import UserError
from utils.images.folders import ImageList

if TYPE_CHECKING:
    from utils.networks.layers import Layer  # which imports this module


@dataclass(frozen=True)
class Record:
    """Values recorded at the layer of interest in a forward pass.

    Parameters
    ----------
    input : Tensor
        The layer's input, unchanged.
    activation : Tensor [B, C, positions]
        The layer's output, before any later operation.
    gradient : Tensor [B, C, positions] or None
        Gradient of each image's own logit at the activation.
    logits : Tensor [B, outputs]
    """

    input: Tensor
    activation: Tensor
    gradient: Tensor | None
    logits: Tensor


class Recorder:
    """Calls a network and returns a Record of each pass; its hook is on the layer while in the ``with`` block.

    All parameters are frozen, so nothing before the layer needs a graph: it begins at the leaf that the hook keeps.
    The network continues with a clone, so that an in-place operation after the layer changes neither the leaf nor its
    gradient.

    Parameters
    ----------
    network : nn.Module, or function that calls it
        In evaluation mode, all parameters frozen.
    layer : Layer of ``network``
    """

    _input: Tensor | None
    _leaf: Tensor | None

    def __init__(self, network: Callable[[Any], Tensor], layer: "Layer") -> None:
        self.network = network
        self.layer = layer

    def __enter__(self) -> "Recorder":
        self._input = None
        self._leaf = None
        self._handle = self.layer.module.register_forward_hook(self._keep)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _keep(self, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        self._input = inputs[0].detach().clone()  # the network may change it in place later
        self._leaf = output.detach().requires_grad_(torch.is_grad_enabled())
        return self._leaf.clone()

    def forward(self, images: Tensor | None) -> Record:
        """A pass without a graph: a Record without gradient. ``images`` [B, 3, H, W]."""
        with torch.no_grad():
            logits = self.network(images)
        return self._record(None, logits)

    def forward_with_gradient(self, images: Tensor, targets: Tensor) -> Record:
        """A pass, and the gradient of each image's own logit at the layer's output.

        Parameters
        ----------
        images : Tensor [B, 3, H, W]
        targets : LongTensor [B]
            The network output that is each image's own class.

        Raises
        ------
        UserError
            The logits do not depend on the layer, or the network forbids gradients.
        """
        with torch.enable_grad():
            logits = self.network(images)
            target_logits = logits.gather(1, targets[:, None]).sum()
            if self._leaf is None or not target_logits.requires_grad:
                raise UserError(
                    "the logits have no gradient at the layer of interest: does anything after it reach them?"
                )
            (gradient,) = torch.autograd.grad(target_logits, self._leaf)
        return self._record(self.layer.by_position(gradient), logits.detach())

    def _record(self, gradient: Tensor | None, logits: Tensor) -> Record:
        if self._input is None or self._leaf is None:
            raise UserError(
                f"the network does not call layer {self.layer.name} by its name: it also keeps this layer elsewhere"
            )
        record = Record(self._input, self.layer.by_position(self._leaf.detach()), gradient, logits)
        self._input = None  # otherwise the last batch of a pass would stay in memory
        self._leaf = None
        return record


class _Reached(Exception):
    """Raised when the network reaches the layer; carries the layer's input."""


def layer_input(network: Callable[[Any], Tensor], module: nn.Module, images: Tensor | None) -> Tensor:
    """The input of ``module``, with its graph. The network is stopped there, before it can change it in place.

    ``network`` may be any function that calls it.
    """

    def stop(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        raise _Reached(inputs[0])

    handle = module.register_forward_pre_hook(stop)
    try:
        network(images)
    except _Reached as reached:
        return reached.args[0]
    finally:
        handle.remove()
    raise UserError("the network does not execute the layer of interest")


def require_finite(record: Record, indices: Tensor, images: ImageList) -> None:
    """Raise a UserError that names an image for which the network gives NaN or infinite values."""
    values = (record.input, record.activation, record.logits, record.gradient)
    require_finite_values([value for value in values if value is not None], indices, images)


def require_finite_values(values: Sequence[Tensor], indices: Tensor, images: ImageList) -> None:
    """As ``require_finite``, for tensors that have a part of equal size for each of the images at ``indices``."""
    finite = torch.stack([value.reshape(len(indices), -1).isfinite().all(1) for value in values]).all(0).cpu()
    if not finite.all():
        path = images.path(int(indices[~finite][0]))
        raise UserError(f"the network gives NaN or infinite values for {path}: it cannot be measured")
