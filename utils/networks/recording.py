"""Input x gradient at the layer of interest, from one forward pass (Eq. 1 and Ineq. 2 of the paper)."""

from contextlib import contextmanager
from dataclasses import dataclass

import torch

from utils.errors import UserError


@dataclass
class Record:
    """What a forward pass leaves of the layer of interest.

    ``input`` [B, C_in, H, W], ``activation`` [B, C, H', W'] (the layer's output, before anything later),
    ``gradient`` of the images' own logits at the activation (same shape) or None, ``logits`` [B, outputs].
    """

    input: torch.Tensor = None
    activation: torch.Tensor = None
    gradient: torch.Tensor = None
    logits: torch.Tensor = None


@contextmanager
def recorded(layer):
    """Record the layer's input and output while in the block, and start the graph at its output.

    All parameters are frozen, so nothing before the layer needs a graph: it begins at the leaf kept here. What
    goes on is a clone, so that an in-place operation behind the layer spoils neither the leaf nor its gradient.
    """
    record = Record()

    def hook(_, inputs, output):
        record.input = inputs[0].detach().clone()  # the network may go on to change it in place
        record.activation = output.detach().requires_grad_(torch.is_grad_enabled())
        return record.activation.clone()

    handle = layer.register_forward_hook(hook)
    try:
        yield record
    finally:
        handle.remove()


def forward(network, layer, images):
    """One forward pass without a graph: a Record without gradient."""
    with torch.no_grad(), recorded(layer) as record:
        record.logits = network(images)
    return record


def forward_with_gradient(network, layer, images, targets):
    """One forward pass, and the gradient of each image's own logit at the layer's output.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode, all parameters frozen.
    layer : nn.Module of ``network``
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
    with torch.enable_grad(), recorded(layer) as record:
        record.logits = network(images)
        own_logits = record.logits.gather(1, targets[:, None]).sum()
        if not own_logits.requires_grad:
            raise UserError("the logits have no gradient at the layer of interest: does anything behind it reach them?")
        (record.gradient,) = torch.autograd.grad(own_logits, record.activation)
    record.activation, record.logits = record.activation.detach(), record.logits.detach()
    return record
