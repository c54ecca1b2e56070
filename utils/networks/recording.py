"""Forward passes: what happens at the layer of interest."""

from dataclasses import dataclass

import torch

from utils.errors import UserError


@dataclass
class Record:
    """What a forward pass leaves of the layer of interest.

    ``input`` is the layer's input as it is; ``activation`` [B, C, positions] its output, before anything later,
    ``gradient`` of the images' own logits at the activation (same shape) or None, ``logits`` [B, outputs].
    """

    input: torch.Tensor
    activation: torch.Tensor
    gradient: torch.Tensor | None
    logits: torch.Tensor


class Recorder:
    """Calls a network and gives a Record of each pass; its hook is on the layer while in the ``with`` block.

    All parameters are frozen, so nothing before the layer needs a graph: it begins at the leaf that the hook keeps.
    What goes on is a clone, so that an in-place operation behind the layer spoils neither the leaf nor its gradient.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode, all parameters frozen.
    layer : Layer of ``network``
    """

    def __init__(self, network, layer):
        self.network, self.layer = network, layer

    def __enter__(self):
        self._input = self._leaf = None
        self._handle = self.layer.module.register_forward_hook(self._keep)
        return self

    def __exit__(self, *_):
        self._handle.remove()

    def _keep(self, _, inputs, output):
        self._input = inputs[0].detach().clone()  # the network may go on to change it in place
        self._leaf = output.detach().requires_grad_(torch.is_grad_enabled())
        return self._leaf.clone()

    def forward(self, images):
        """A pass without a graph: a Record without gradient. ``images`` [B, 3, H, W]."""
        with torch.no_grad():
            logits = self.network(images)
        return self._record(None, logits)

    def forward_with_gradient(self, images, targets):
        """A pass, and the gradient of each image's own logit at the layer's output.

        Parameters
        ----------
        images : Tensor [B, 3, H, W]
        targets : LongTensor [B]
            The network output that is each image's own class.

        Returns
        -------
        Record

        Raises
        ------
        UserError
            The logits do not depend on the layer, or the network forbids gradients.
        """
        with torch.enable_grad():
            logits = self.network(images)
            own = logits.gather(1, targets[:, None]).sum()
            if not own.requires_grad:
                raise UserError(
                    "the logits have no gradient at the layer of interest: does anything behind it reach them?"
                )
            (gradient,) = torch.autograd.grad(own, self._leaf)
        return self._record(self.layer.by_position(gradient), logits.detach())

    def _record(self, gradient, logits):
        if self._leaf is None:
            raise UserError(f"the network does not call layer {self.layer.name} by its name: it is kept elsewhere, too")
        record = Record(self._input, self.layer.by_position(self._leaf.detach()), gradient, logits)
        self._input = self._leaf = None  # or the last batch of a pass would stay in memory
        return record


class _Reached(Exception):
    """The network has come to the layer; carries what enters it."""


def layer_input(network, module, images):
    """What enters ``module``, with its graph. The network is stopped there, before it can change it in place."""

    def stop(_, inputs):
        raise _Reached(inputs[0])

    handle = module.register_forward_pre_hook(stop)
    try:
        network(images)
    except _Reached as reached:
        return reached.args[0]
    finally:
        handle.remove()
    raise UserError("the network does not execute the layer of interest")


def require_finite(record, indices, images):
    """Raise a UserError that names an image for which the network gives NaN or infinite values."""
    values = [record.input, record.activation, record.logits, *([] if record.gradient is None else [record.gradient])]
    require_finite_values(values, indices, images)


def require_finite_values(values, indices, images):
    """The same, of tensors that have an equal part for each of the images at ``indices``."""
    finite = torch.stack([value.reshape(len(indices), -1).isfinite().all(1) for value in values]).all(0).cpu()
    if not finite.all():
        path = images.path(int(indices[~finite][0]))
        raise UserError(f"the network gives NaN or infinite values for {path}: it cannot be measured")
