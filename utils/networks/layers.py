"""Layers whose channels can be split: their normal form, the kinds of layer, and how the layer of interest is found.

The rest of the project only uses a layer's normal form. A kind of layer is a subclass of ``Layer`` and an entry in
``KINDS``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from utils.defaults import LAST_LAYERS
from utils.errors import UserError, nearest_hint
from utils.networks.arithmetic import fastest_memory_format
from utils.networks.arrangement import Arrangement, arrangement_of
from utils.networks.module_copies import copy_module, without_hooks
from utils.networks.recording import Record
from utils.networks.trace import FLOAT32, Trace, trace


@dataclass
class Layer(ABC):
    """The layer of interest in its network.

    Channels of the output are C, those of the input C_in. A *tap* is a place in the kernel from which one weight sees
    the input. A *position* is a place in the output: a place of a map, or a token.

    Each kind of layer sets ``channel_dim``, the dimension of the output that has the channels; ``kind`` and
    ``description``, the kind of layer in words; ``plain``, what its module has to compute; and ``module_type``.

    Parameters
    ----------
    module : nn.Module
        The layer itself.
    name : str
        Its dotted name.
    map_size : (rows, columns) or None
        The size of the map that its positions form; None if they form none, and before ``locate``.
    num_outputs : int or None
        The number of the network's logits.
    note : str or None
        A remark on the layer, for the user.
    """

    module: nn.Module
    name: str = ""
    map_size: tuple[int, int] | None = None
    num_outputs: int | None = None
    note: str | None = None

    channel_dim: ClassVar[int]
    kind: ClassVar[str]
    plain: ClassVar[str]
    module_type: ClassVar[type[nn.Module]]
    description: ClassVar[str]

    def refusal(self) -> str | None:
        """Why the module cannot be split, or None. A kind of layer adds its own reasons."""
        tensors: dict[str, Tensor] = dict([*self.module.named_parameters(), *self.module.named_buffers()])
        if parametrize.is_parametrized(self.module) or "weight" not in tensors:
            return "computes its weight anew in each pass: remove the parametrization (weight_norm, pruning) first"
        if self.weight.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            return f"has weights of {self.weight.dtype}: only real ones can be split"
        more = [
            name
            for name, tensor in tensors.items()
            if name not in ("weight", "bias") and self.num_channels in tensor.shape
        ]
        if more:
            listed = f"{type(self.module).__name__}: {', '.join(more)}"
            return f"has more than a weight and a bias for each channel ({listed}): its channels cannot be split"
        return None

    @abstractmethod
    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether the module accepts an input of this shape."""

    @abstractmethod
    def locate(self, network: nn.Module, traced: Trace) -> None:
        """Find where the layer's positions lie; UserError if it is unknown which positions belong to which image."""

    @property
    @abstractmethod
    def weight(self) -> Tensor:
        """The layer's weight, ``[C, C_in, taps]``."""

    @property
    def bias(self) -> Tensor | None:
        """The layer's bias, ``[C]``, or None."""
        bias: Any = self.module.bias  # nn.Module does not declare it
        return None if bias is None else bias.detach()

    @property
    def num_channels(self) -> int:
        return self.weight.shape[0]

    @property
    def num_inputs(self) -> int:
        return self.weight.shape[1]

    @property
    def num_taps(self) -> int:
        return self.weight.shape[2]

    @property
    @abstractmethod
    def num_positions(self) -> int:
        """Number of an image's positions in the output."""

    @abstractmethod
    def tap_sums(self, x: Tensor) -> Tensor:
        """Sum of the layer's input over the positions that each tap visits: ``[B, C_in, taps]``, float32.

        The spatial sum of every channel is linear in them: ``sum_hw a = W . S + b * positions``.
        """

    @abstractmethod
    def by_position(self, output: Tensor) -> Tensor:
        """The layer's output, or its gradient, as ``[B, C, positions]``."""

    def with_positions(self, output: Tensor, values: Tensor) -> Tensor:
        """A tensor of the shape and type of the layer's ``output`` whose ``by_position`` is ``values``
        [B, C, positions]."""
        changed = torch.empty_like(output, memory_format=torch.contiguous_format)
        self.by_position(changed).copy_(values)  # a view, because ``changed`` is contiguous
        return changed

    @abstractmethod
    def with_rows(self, rows: Tensor, bias: Tensor | None) -> nn.Module:
        """A deep copy of the module that computes other channels from the same input, frozen and without hooks.

        Parameters
        ----------
        rows : Tensor [R, C_in, taps]
            Weights of the new output channels.
        bias : Tensor [R] or None
        """

    def maps(self, rows: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
        """A function from the layer's input to the output of channels with these rows, ``[B, R, positions]``, in fp32.

        Make it once a pass, not once a batch: it copies the module.
        """
        module = self.with_rows(rows, bias)
        return lambda x: self.by_position(module(x.float()))

    @abstractmethod
    def places(self, device: torch.device | str = "cpu") -> Tensor | None:
        """The place of each position in the image: ``[positions, 2]``, row and column as fractions of the sides.

        NaN for a position that lies nowhere (a class token); None if all do, or if places are unknown.
        """


def map_places(map_size: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
    """The middles of the places of a map, row by row: ``[rows * columns, 2]``, as fractions of the image's sides."""
    height, width = map_size
    positions = torch.arange(height * width, device=device)
    rows = positions.div(width, rounding_mode="floor")
    return torch.stack([(rows + 0.5) / height, (positions % width + 0.5) / width], dim=-1)


def check_normal_form(layer: Layer, record: Record) -> None:
    """Raise UserError unless ``W S + b * positions`` equals the spatial sum of the layer's real output.

    A subclass may pad by itself or standardise its weight; what is stored would then be wrong.

    ``record`` is of a forward pass in any precision.
    """
    activation = record.activation.float()
    computed = torch.einsum("bit,cit->bc", layer.tap_sums(record.input), layer.weight)
    if layer.bias is not None:
        computed = computed + layer.bias * activation.shape[2]
    scale = activation.abs().sum(-1).max()
    tolerance = 2e-2 if record.activation.dtype == torch.bfloat16 else 1e-3
    if ((computed - activation.sum(-1)).abs() > tolerance * scale).any():
        raise UserError(f"layer {layer.name} ({type(layer.module).__name__}) does not compute {layer.plain}")


# --------------------------------------------------------------------------------------------------------------------
# Convolutions in the normal form. Only this class knows about kernels, strides and padding.


class Convolution(Layer):
    """``nn.Conv2d``, ungrouped: a tap for every place in the kernel, in row-major order; a position for every place of
    the output map, likewise.
    """

    module: nn.Conv2d

    channel_dim = 1
    kind = "convolution"
    plain = "a plain zero-padded convolution"
    module_type = nn.Conv2d
    description = "convolution (Conv2d)"

    def refusal(self) -> str | None:
        if self.module.groups == self.module.in_channels > 1:
            return "is depthwise: each channel has one input, so there is nothing to divide"
        if self.module.groups != 1:
            return f"has groups={self.module.groups}: only ungrouped convolutions can be split"
        if self.module.padding_mode != "zeros":
            return f"pads with padding_mode={self.module.padding_mode}: only zero-padded convolutions can be split"
        return super().refusal()

    def takes(self, shape: tuple[int, ...]) -> bool:
        return len(shape) == 4

    def locate(self, network: nn.Module, traced: Trace) -> None:
        (shape,) = traced.input_shapes(self.name)
        if shape[0] != traced.IMAGES:
            raise UserError(
                f"layer {self.name} is called with {shape[0]} maps for {traced.IMAGES} images: "
                "they cannot be told apart"
            )
        with torch.no_grad():
            self.map_size = tuple(self.module(torch.zeros(shape)).shape[2:])

    @property
    def weight(self) -> Tensor:
        return self.module.weight.detach().flatten(2)

    @property
    def num_positions(self) -> int:
        rows, columns = self._located_map_size()
        return rows * columns

    def tap_sums(self, x: Tensor) -> Tensor:
        layer = self.module
        x = F.pad(x.float(), _padding(layer))
        kernel_h, kernel_w = layer.kernel_size
        step_h, step_w = layer.stride
        gap_h, gap_w = layer.dilation
        reach_h = (x.shape[2] - gap_h * (kernel_h - 1) - 1) // step_h * step_h + 1
        reach_w = (x.shape[3] - gap_w * (kernel_w - 1) - 1) // step_w * step_w + 1
        sums = [
            x[:, :, u * gap_h : u * gap_h + reach_h : step_h, v * gap_w : v * gap_w + reach_w : step_w].sum((2, 3))
            for u in range(kernel_h)
            for v in range(kernel_w)
        ]
        return torch.stack(sums, dim=-1)

    def by_position(self, output: Tensor) -> Tensor:
        return output.flatten(2)

    def with_rows(self, rows: Tensor, bias: Tensor | None) -> nn.Module:
        layer = self.module
        module = copy_module(without_hooks(layer))  # hooks on the layer expect the layer's own channels
        kernels = rows.unflatten(2, layer.kernel_size).to(layer.weight)
        memory_format = fastest_memory_format("fp32", kernels.device)  # as rows are always computed
        module.weight = nn.Parameter(kernels.contiguous(memory_format=memory_format), requires_grad=False)
        module.bias = None if bias is None else nn.Parameter(bias.to(layer.weight), requires_grad=False)
        module.out_channels = len(rows)
        return module

    def places(self, device: torch.device | str = "cpu") -> Tensor:
        return map_places(self._located_map_size(), device)

    def _located_map_size(self) -> tuple[int, int]:
        if self.map_size is None:
            raise ValueError(f"locate() has not been called for layer {self.name}")
        return self.map_size


def _padding(layer: nn.Conv2d) -> tuple[int, int, int, int]:
    """Zero padding as ``F.pad`` takes it: left, right, top, bottom."""
    if not isinstance(layer.padding, str):
        pad_h, pad_w = layer.padding
        return (pad_w, pad_w, pad_h, pad_h)
    if layer.padding == "valid":
        return (0, 0, 0, 0)
    total_h, total_w = (d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
    return (total_w // 2, total_w - total_w // 2, total_h // 2, total_h - total_h // 2)


# --------------------------------------------------------------------------------------------------------------------
# Linear layers over tokens in the normal form. Only this class knows that their channels come last.


@dataclass
class Linear(Layer):
    """``nn.Linear`` of a vector ``[B, C_in]``, tokens ``[B, N, C_in]``, a channels-last map ``[B, H, W, C_in]``, or
    windows of one ``[B * windows, N, C_in]``: one tap, and a position for every token of an image, in their order.
    """

    module: nn.Linear
    arrangement: Arrangement = field(default_factory=Arrangement)

    channel_dim = -1
    kind = "linear layer"
    plain = "a plain linear layer"
    module_type = nn.Linear
    description = "linear layer (Linear)"

    def takes(self, shape: tuple[int, ...]) -> bool:
        return len(shape) >= 2

    def locate(self, network: nn.Module, traced: Trace) -> None:
        self.arrangement = arrangement_of(network, self.name, traced)
        self.map_size = self.arrangement.map_size

    @property
    def weight(self) -> Tensor:
        return self.module.weight.detach()[..., None]

    @property
    def num_positions(self) -> int:
        return self.arrangement.positions

    def tap_sums(self, x: Tensor) -> Tensor:
        return self._tokens_of_images(x.float()).sum(1)[..., None]

    def by_position(self, output: Tensor) -> Tensor:
        return self._tokens_of_images(output).movedim(-1, 1)

    def _tokens_of_images(self, x: Tensor) -> Tensor:
        """``[B, positions, C]``"""
        return x.unflatten(0, (-1, self.arrangement.windows)).flatten(1, -2)

    def with_rows(self, rows: Tensor, bias: Tensor | None) -> nn.Module:
        layer = self.module
        module = copy_module(without_hooks(layer))  # hooks on the layer expect the layer's own channels
        module.weight = nn.Parameter(rows.squeeze(2).to(layer.weight), requires_grad=False)
        new_bias = None if bias is None else nn.Parameter(bias.to(layer.weight), requires_grad=False)
        module.bias = new_bias  # type: ignore[assignment]  # torch declares it as never None
        module.out_features = len(rows)
        return module

    def places(self, device: torch.device | str = "cpu") -> Tensor | None:
        if self.map_size is None or self.arrangement.order is None:
            return None
        nowhere = torch.full((1, 2), torch.nan, device=device)
        return torch.cat([map_places(self.map_size, device), nowhere])[self.arrangement.order.to(device)]


# --------------------------------------------------------------------------------------------------------------------
# Finding the layer of interest in a network, and refusing what cannot be split.


KINDS: tuple[type[Layer], ...] = (Convolution, Linear)
LAST = dict(zip(LAST_LAYERS, KINDS, strict=True))

Modules = dict[str, nn.Module]  # of a network, by dotted name


def find_layer(network: nn.Module, name: str, image_size: int) -> Layer:
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

    Raises
    ------
    UserError
        No such layer, one that cannot be split, executed other than once, or without the images in its first dimension;
        a ``last_conv`` that is the classifier itself, or a last layer that is the patch embedding.
    """
    modules = dict(network.named_modules())
    if name not in LAST and not (name and name in modules):
        hint = nearest_module(name, modules)
        raise UserError(f"--layer_of_interest {name}: the network has no module of that name{hint}")
    traced = trace(network, image_size)
    layer_name = _last(LAST[name], modules, traced) if name in LAST else name
    layer = layer_of(layer_name, modules[layer_name])
    if getattr(layer.module, "groups", 1) != 1:
        raise UserError(f"layer {layer_name} {layer.refusal()}{_instead(modules, traced)}")
    layer = splittable(layer_name, layer.module)
    _check(layer, traced.input_shapes(layer_name))
    layer.locate(network, traced)
    layer.num_outputs = traced.num_outputs
    layer.note = _branch_note(layer, traced) if name == "last_conv" else None
    return layer


def nearest_module(name: str, modules: Iterable[str]) -> str:
    """The modules whose name, or its last part, is most similar to ``name``, as the end of an error message."""
    return nearest_hint(name, {module: (module, module.rpartition(".")[2]) for module in modules if module})


def _last(kind: type[Layer], modules: Modules, traced: Trace) -> str:
    """The name of the last layer of a kind; UserError if it sees the image or is the classifier."""
    with_weights = traced.with_weights(modules)
    classifiers = _classifiers(modules, traced)
    names = [call.name for call in traced.calls if isinstance(modules[call.name], kind.module_type)]
    if not names:
        raise UserError(f"the network has no {kind.kind}: name a layer with --layer_of_interest")
    before = [name for name in names if name not in classifiers]
    name = before[-1] if before and kind is Linear else names[-1]
    if with_weights[0] == name:
        role = "sees the image itself (a patch embedding)"
    elif name in classifiers:
        role = "is the classifier itself"
    else:
        return name
    raise UserError(
        f"the last {kind.kind}, {name}, {role}{_instead(modules, traced)}; "
        f"to split it all the same, name it: --layer_of_interest {name}"
    )


def _classifiers(modules: Modules, traced: Trace) -> list[str]:
    """Names of the heads: the last module with weights if it is a layer that makes the logits, and layers before it
    that make as many outputs and do not lead into it."""
    heads: dict[str, torch.Size] = {}  # shapes of their weights
    for name in reversed(traced.with_weights(modules)):
        if _kind_of(modules[name]) is None:
            if heads:
                continue  # a normalisation between heads
            break
        weight: Any = modules[name].weight
        shape = weight.shape
        leads_into_head = any(len(head) != len(shape) or head[1] == shape[0] for head in heads.values())
        if shape[0] != traced.num_outputs or leads_into_head:
            break
        heads[name] = shape
    return list(heads)


def _instead(modules: Modules, traced: Trace) -> str:
    """The last layer that can be split, as the end of an error message."""
    with_weights = traced.with_weights(modules)
    refused = {*with_weights[:1], *_classifiers(modules, traced)}
    for name in reversed(with_weights):
        kind = _kind_of(modules[name])
        shapes = traced.input_shapes(name)
        if kind is None or name in refused or kind(modules[name]).refusal() or len(shapes) > 1:
            continue
        if kind(modules[name]).takes(shapes[0]) and shapes[0][0] == traced.IMAGES:
            return f": use --layer_of_interest {name} instead"
    return ""


def layer_of(name: str, module: nn.Module) -> Layer:
    """A module as a Layer of its kind; UserError if there is no such kind."""
    kind = _kind_of(module)
    if kind is None:
        kinds = " or ".join(kind.description for kind in KINDS)
        raise UserError(f"--layer_of_interest {name}: {type(module).__name__} is no {kinds}")
    return kind(module, name)


def _kind_of(module: nn.Module) -> type[Layer] | None:
    return next((kind for kind in KINDS if isinstance(module, kind.module_type)), None)


def splittable(name: str, module: nn.Module) -> Layer:
    """A module as a Layer of its kind; UserError if there is no such kind, or if its channels cannot be split."""
    layer = layer_of(name, module)
    reason = layer.refusal()
    if reason:
        raise UserError(f"layer {name} {reason}")
    return layer


def _check(layer: Layer, input_shapes: list[tuple[int, ...]]) -> None:
    """Refuse a layer unless it is called once, with a batch of fp32 inputs that nothing changes before the layer."""
    name = layer.name
    if layer.module._forward_pre_hooks:
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


def _branch_note(layer: Layer, traced: Trace) -> str | None:
    """A note where a later module receives more channels than the layer makes: the layer is one branch of several."""
    last = max(position for position, call in enumerate(traced.calls) if call.name == layer.name)
    widest = max((call.shape[1] for call in traced.calls[last + 1 :] if len(call.shape) == 4), default=0)
    if widest <= layer.num_channels:
        return None
    return f"{layer.name} is one branch of several: it makes {layer.num_channels} of the {widest} channels that follow"
