"""Finding the layer of interest in a network, and refusing what cannot be split."""

import torch

from utils.errors import UserError
from utils.networks.convolution import Convolution

KINDS = (Convolution,)
FLOAT32 = "but images are torch.float32: convert the network with .float() first"


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
    Layer
        Of the kind that the module is of.

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
    convolutions = [called for called, _ in calls if isinstance(modules[called], Convolution.module_type)]
    if name == "last_conv":
        if not convolutions:
            raise UserError("the network has no convolution: name a layer with --layer_of_interest")
        found = convolutions[-1]
        _refuse_unnamed(found, modules, calls, logits.shape[1])
    else:
        found = name
    input_shapes = [shape for called, shape in calls if called == found]
    layer = splittable(found, modules[found])
    _check(layer, input_shapes)
    with torch.no_grad():
        layer.map_size = tuple(layer.module(torch.zeros(input_shapes[0])).shape[2:])
    layer.num_outputs = logits.shape[1]
    layer.note = _branch_note(layer, calls) if name == "last_conv" else None
    return layer


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
        types = {value.dtype for value in network.parameters()}
        if types and torch.float32 not in types:
            raise UserError(f"the network's weights are {types.pop()}, {FLOAT32}") from error
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


def layer_of(name, module):
    """A module as a Layer of its kind; UserError where there is none."""
    for kind in KINDS:
        if isinstance(module, kind.module_type):
            return kind(module, name)
    kinds = " or ".join(kind.description for kind in KINDS)
    raise UserError(f"--layer_of_interest {name}: {type(module).__name__} is no {kinds}")


def splittable(name, module):
    """A module as a Layer of its kind; UserError where there is none, or where its channels cannot be split."""
    layer = layer_of(name, module)
    reason = layer.refusal()
    if reason:
        raise UserError(f"layer {name} {reason}")
    return layer


def _check(layer, input_shapes):
    """Refuse a layer that is not called as the method needs it: once, with images, and what it is given as it is."""
    name, module = layer.name, layer.module
    if module._forward_pre_hooks:
        raise UserError(f"layer {name} has a forward pre-hook, which may change its input: remove it first")
    if layer.weight.dtype != torch.float32:
        raise UserError(f"layer {name} has weights of {layer.weight.dtype}, {FLOAT32}")
    if len(input_shapes) != 1:
        raise UserError(f"layer {name} is executed {len(input_shapes)} times in one forward pass, not once")
    if len(input_shapes[0]) != 4:
        raise UserError(f"layer {name} is not called with images alone: its input cannot be recorded")


def _branch_note(layer, calls):
    """A later module that receives more channels than the layer makes: the layer is one branch of several."""
    last = max(position for position, (called, _) in enumerate(calls) if called == layer.name)
    widest = max((shape[1] for _, shape in calls[last + 1 :] if len(shape) == 4), default=0)
    if widest <= layer.num_channels:
        return None
    return f"{layer.name} is one branch of several: it makes {layer.num_channels} of the {widest} channels behind it"
