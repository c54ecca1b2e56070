"""Finding the layer of interest in a network, and refusing what cannot be split."""

import torch

from utils.errors import UserError
from utils.networks.convolution import Convolution
from utils.networks.linear import Linear
from utils.networks.tracing import FLOAT32, trace

KINDS = (Convolution, Linear)
LAST = {"last_conv": Convolution, "last_linear": Linear}


def find_layer(network, name, image_size):
    """Find the layer of interest by running two images through ``network``.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode, on the CPU.
    name : str
        A dotted module name; ``last_conv``: the last convolution executed; ``last_linear``: the last linear layer
        executed before the classifier.
    image_size : int
        Side of the square image, in pixels.

    Returns
    -------
    Layer
        Of the kind that the module is of.

    Raises
    ------
    UserError
        No such layer, one that cannot be split, executed other than once, or without the images in its first dimension;
        a ``last_conv`` that is the classifier itself, or a last layer that is the patch embedding.
    """
    modules = dict(network.named_modules())
    if name not in LAST and not (name and name in modules):
        raise UserError(f"--layer_of_interest {name}: the network has no module of that name")
    traced = trace(network, image_size)
    found = _last(LAST[name], modules, traced) if name in LAST else name
    layer = layer_of(found, modules[found])
    if getattr(layer.module, "groups", 1) != 1:
        raise UserError(f"layer {found} {layer.refusal()}{_instead(modules, traced)}")
    layer = splittable(found, layer.module)
    _check(layer, traced.input_shapes(found))
    layer.locate(network, traced)
    layer.num_outputs = traced.num_outputs
    layer.note = _branch_note(layer, traced.calls) if name == "last_conv" else None
    return layer


def _last(kind, modules, traced):
    """The name of the last layer of a kind; UserError for one that nobody would mean: it sees the image, or it is the
    classifier."""
    with_weights, classifiers = traced.with_weights(modules), _classifiers(modules, traced)
    names = [called for called, _ in traced.calls if isinstance(modules[called], kind.module_type)]
    if not names:
        raise UserError(f"the network has no {kind.kind}: name a layer with --layer_of_interest")
    before = [name for name in names if name not in classifiers]
    name = before[-1] if before and kind is Linear else names[-1]
    for is_meant, what in (
        (with_weights[0] != name, "sees the image itself (a patch embedding)"),
        (name not in classifiers, "is the classifier itself"),
    ):
        if not is_meant:
            raise UserError(
                f"the last {kind.kind}, {name}, {what}{_instead(modules, traced)}; "
                f"if it is meant, say so: --layer_of_interest {name}"
            )
    return name


def _classifiers(modules, traced):
    """The last module with weights if it is a layer that makes the logits, and layers before it that make as many and
    do not lead into it: further heads."""
    kinds, found = tuple(kind.module_type for kind in KINDS), []
    for name in reversed(traced.with_weights(modules)):
        if not isinstance(modules[name], kinds):
            if found:
                continue  # a normalisation between heads
            break
        shape, behind = modules[name].weight.shape, [modules[one].weight.shape for one in found]
        if shape[0] != traced.num_outputs or any(len(one) != len(shape) or one[1] == shape[0] for one in behind):
            break
        found.append(name)
    return found


def _instead(modules, traced):
    """Which layer to ask for: the last one that can be split, to go on with a sentence."""
    with_weights = traced.with_weights(modules)
    refused = {*with_weights[:1], *_classifiers(modules, traced)}
    for name in reversed(with_weights):
        kind = next((kind for kind in KINDS if isinstance(modules[name], kind.module_type)), None)
        shapes = traced.input_shapes(name)
        if kind is None or name in refused or kind(modules[name]).refusal() or len(shapes) > 1:
            continue
        if kind(modules[name]).takes(shapes[0]) and shapes[0][0] == traced.IMAGES:
            return f": ask for --layer_of_interest {name} instead"
    return ""


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
    """Refuse a layer that is not called as the method needs it: once, and what it is given as it is."""
    name, module = layer.name, layer.module
    if module._forward_pre_hooks:
        raise UserError(f"layer {name} has a forward pre-hook, which may change its input: remove it first")
    if layer.weight.dtype != torch.float32:
        raise UserError(f"layer {name} has weights of {layer.weight.dtype}, {FLOAT32}")
    if not input_shapes:
        raise UserError(
            f"layer {name} is not called in a forward pass: it is not used, or its weight is used without calling it "
            "(as in MultiheadAttention), which cannot be recorded"
        )
    if len(input_shapes) != 1:
        raise UserError(f"layer {name} is executed {len(input_shapes)} times in one forward pass, not once")
    if not layer.takes(input_shapes[0]):
        raise UserError(f"layer {name} is not called with a batch of inputs alone: its input cannot be recorded")


def _branch_note(layer, calls):
    """A later module that receives more channels than the layer makes: the layer is one branch of several."""
    last = max(position for position, (called, _) in enumerate(calls) if called == layer.name)
    widest = max((shape[1] for _, shape in calls[last + 1 :] if len(shape) == 4), default=0)
    if widest <= layer.num_channels:
        return None
    return f"{layer.name} is one branch of several: it makes {layer.num_channels} of the {widest} channels behind it"
