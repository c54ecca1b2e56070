"""Layers whose channels can be split: their normal form, the kinds of layer, and how the layer of interest is found.

The rest of the project knows a layer by its normal form alone. A kind of layer is a subclass of ``Layer`` and an entry
in ``KINDS``.
"""

from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from utils.defaults import LAST_LAYERS
from utils.errors import UserError
from utils.networks.arrangement import Arrangement, arrangement_of
from utils.networks.loading import copy_module, without_hooks
from utils.networks.trace import FLOAT32, trace


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


# --------------------------------------------------------------------------------------------------------------------
# Convolutions in the normal form. Only this class knows about kernels, strides and padding.


class Convolution(Layer):
    """``nn.Conv2d``, ungrouped: a tap for every place in the kernel, in row-major order; a position for every place of
    the output map, likewise.
    """

    kind = "convolution"
    plain = "a plain zero-padded convolution"
    module_type = nn.Conv2d
    description = "convolution (Conv2d)"

    def refusal(self):
        if self.module.groups == self.module.in_channels > 1:
            return "is depthwise: one input a channel, nothing to divide"
        if self.module.groups != 1:
            return f"has groups={self.module.groups}: only ungrouped convolutions can be split"
        if self.module.padding_mode != "zeros":
            return f"pads with padding_mode={self.module.padding_mode}: only zero-padded convolutions can be split"
        return super().refusal()

    def takes(self, shape):
        return len(shape) == 4

    def locate(self, network, traced):
        (shape,) = traced.input_shapes(self.name)
        if shape[0] != traced.IMAGES:
            raise UserError(
                f"layer {self.name} is called with {shape[0]} maps for {traced.IMAGES} images: "
                "they cannot be told apart"
            )
        with torch.no_grad():
            self.map_size = tuple(self.module(torch.zeros(shape)).shape[2:])

    @property
    def weight(self):
        return self.module.weight.detach().flatten(2)

    @property
    def num_positions(self):
        return self.map_size[0] * self.map_size[1]

    def tap_sums(self, x):
        layer = self.module
        x = F.pad(x.float(), _padding(layer))
        (kernel_h, kernel_w), (step_h, step_w), (gap_h, gap_w) = layer.kernel_size, layer.stride, layer.dilation
        reach_h = (x.shape[2] - gap_h * (kernel_h - 1) - 1) // step_h * step_h + 1
        reach_w = (x.shape[3] - gap_w * (kernel_w - 1) - 1) // step_w * step_w + 1
        sums = [
            x[:, :, u * gap_h : u * gap_h + reach_h : step_h, v * gap_w : v * gap_w + reach_w : step_w].sum((2, 3))
            for u in range(kernel_h)
            for v in range(kernel_w)
        ]
        return torch.stack(sums, dim=-1)

    def by_position(self, output):
        return output.flatten(2)

    def with_rows(self, rows, bias):
        layer = self.module
        other = copy_module(without_hooks(layer))  # what hooks on the layer expect are its own channels
        kernels = rows.unflatten(2, layer.kernel_size).to(layer.weight)
        other.weight = nn.Parameter(kernels.contiguous(memory_format=torch.channels_last), requires_grad=False)
        other.bias = None if bias is None else nn.Parameter(bias.to(layer.weight), requires_grad=False)
        other.out_channels = rows.shape[0]
        return other

    def places(self, device="cpu"):
        return map_places(self.map_size, device)


def _padding(layer):
    """Zero padding as ``F.pad`` takes it: left, right, top, bottom."""
    if layer.padding == "valid":
        return (0, 0, 0, 0)
    if layer.padding == "same":
        total_h, total_w = (d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
        return (total_w // 2, total_w - total_w // 2, total_h // 2, total_h - total_h // 2)
    (pad_h, pad_w) = layer.padding
    return (pad_w, pad_w, pad_h, pad_h)


# --------------------------------------------------------------------------------------------------------------------
# Linear layers over tokens in the normal form. Only this class knows that their channels come last.


@dataclass
class Linear(Layer):
    """``nn.Linear`` of a vector ``[B, C_in]``, tokens ``[B, N, C_in]``, a channels-last map ``[B, H, W, C_in]``, or
    windows of one ``[B * windows, N, C_in]``: one tap, and a position for every token of an image, in their order.
    """

    arrangement: Arrangement = field(default_factory=Arrangement)

    channel_dim = -1
    kind = "linear layer"
    plain = "a plain linear layer"
    module_type = nn.Linear
    description = "linear layer (Linear)"

    def takes(self, shape):
        return len(shape) >= 2

    def locate(self, network, traced):
        self.arrangement = arrangement_of(network, self.name, traced)
        self.map_size = self.arrangement.map_size

    @property
    def weight(self):
        return self.module.weight.detach()[..., None]

    @property
    def num_positions(self):
        return self.arrangement.positions

    def tap_sums(self, x):
        return self._of_images(x.float()).sum(1)[..., None]

    def by_position(self, output):
        return self._of_images(output).movedim(-1, 1)

    def _of_images(self, x):
        """``[B, positions, C]``"""
        return x.unflatten(0, (-1, self.arrangement.windows)).flatten(1, -2)

    def with_rows(self, rows, bias):
        layer = self.module
        other = copy_module(without_hooks(layer))  # what hooks on the layer expect are its own channels
        other.weight = nn.Parameter(rows.squeeze(2).to(layer.weight), requires_grad=False)
        other.bias = None if bias is None else nn.Parameter(bias.to(layer.weight), requires_grad=False)
        other.out_features = len(rows)
        return other

    def places(self, device="cpu"):
        if self.map_size is None:
            return None
        nowhere = torch.full((1, 2), torch.nan, device=device)
        return torch.cat([map_places(self.map_size, device), nowhere])[self.arrangement.order.to(device)]


# --------------------------------------------------------------------------------------------------------------------
# Finding the layer of interest in a network, and refusing what cannot be split.


KINDS = (Convolution, Linear)
LAST = dict(zip(LAST_LAYERS, KINDS, strict=True))


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
