"""The layer of interest: everything that depends on what kind of layer it is.

The rest of the project sees a layer as a weight ``[C, C_in, taps]``, an input that is summed tap by tap to
``[B, C_in, taps]``, and an output with the channels in dimension 1. Only this module knows about kernels.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import parametrize

from utils.errors import UserError


@dataclass
class LayerOfInterest:
    """A layer in its network: dotted ``name``, ``module``, the network's ``num_outputs``, and a ``note`` or None.

    ``map_size`` is the number of rows and columns of its output.
    """

    name: str
    module: nn.Conv2d
    map_size: tuple
    num_outputs: int
    note: str | None

    @property
    def num_channels(self):
        return self.module.out_channels

    @property
    def num_inputs(self):
        return self.module.in_channels

    @property
    def num_taps(self):
        return self.module.kernel_size[0] * self.module.kernel_size[1]


def find_layer(network, name, image_size):
    """Find the layer of interest by running one black image through ``network``.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode, on the CPU.
    name : str
        A dotted module name, or ``last_conv``: the last convolution executed.
    image_size : int
        Side of the square image, in pixels.

    Returns
    -------
    LayerOfInterest

    Raises
    ------
    UserError
        No such layer, not an ungrouped convolution, executed other than once, or a ``last_conv`` that is the
        classifier itself or the patch embedding.
    """
    modules = dict(network.named_modules())
    if name != "last_conv" and not (name and name in modules):
        raise UserError(f"--layer_of_interest {name}: the network has no module of that name")
    calls, logits = _trace(network, image_size)
    convolutions = [called for called, _ in calls if isinstance(modules[called], nn.Conv2d)]
    if name == "last_conv":
        if not convolutions:
            raise UserError("the network has no convolution: name a layer with --layer_of_interest")
        found = convolutions[-1]
        _refuse_unnamed(found, modules, calls, logits.shape[1])
    else:
        found = name
    input_shapes = [shape for called, shape in calls if called == found]
    _check(found, modules[found], input_shapes)
    with torch.no_grad():
        map_size = tuple(modules[found](torch.zeros(input_shapes[0])).shape[2:])
    return LayerOfInterest(found, modules[found], map_size, logits.shape[1], _branch_note(found, modules[found], calls))


def _trace(network, image_size):
    """Names and input shapes of the modules in order of execution, and the logits, for one black image."""
    calls, hooks = [], []
    for name, module in network.named_modules():
        hooks.append(
            module.register_forward_pre_hook(
                lambda _, inputs, name=name: calls.append((name, getattr(inputs[0], "shape", ()) if inputs else ()))
            )
        )
    try:
        with torch.no_grad():
            logits = network(torch.zeros(1, 3, image_size, image_size))
    except Exception as error:  # whatever somebody else's network raises
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(f"the network cannot take images of {image_size}x{image_size} pixels: {reason}") from error
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        raise UserError("the network is no classifier: its output is not one row of logits an image")
    return calls, logits


def _refuse_unnamed(name, modules, calls, num_outputs):
    """Refuse a last convolution that nobody would mean: it sees the image, or it is the classifier."""
    leaves = [called for called, _ in calls if not list(modules[called].children())]
    with_weights = [called for called in leaves if any(True for _ in modules[called].parameters())]
    how = f"; if it is meant, say so: --layer_of_interest {name}"
    if with_weights[0] == name:
        raise UserError(f"the last convolution, {name}, sees the image itself (a patch embedding){how}")
    if with_weights[-1] == name and modules[name].out_channels == num_outputs:
        raise UserError(f"the last convolution, {name}, is the classifier itself{how}")


def _check(name, module, input_shapes):
    if not isinstance(module, nn.Conv2d):
        raise UserError(f"--layer_of_interest {name}: {type(module).__name__} is no convolution (Conv2d)")
    if module.groups != 1:
        raise UserError(f"layer {name} has groups={module.groups}: only ungrouped convolutions can be split")
    if parametrize.is_parametrized(module) or module._forward_pre_hooks:
        raise UserError(f"layer {name} computes its weight anew in each pass: remove the parametrization first")
    if len(input_shapes) != 1:
        raise UserError(f"layer {name} is executed {len(input_shapes)} times in one forward pass, not once")
    if len(input_shapes[0]) != 4:
        raise UserError(f"layer {name} is not called with images alone: its input cannot be recorded")


def _branch_note(name, module, calls):
    """A later module that receives more channels than the layer makes: the layer is one branch of several."""
    last = max(position for position, (called, _) in enumerate(calls) if called == name)
    widest = max((shape[1] for _, shape in calls[last + 1 :] if len(shape) == 4), default=0)
    if widest <= module.out_channels:
        return None
    return f"{name} is one branch of several: it makes {module.out_channels} of the {widest} channels behind it"
