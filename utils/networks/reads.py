"""What reads a layer's output in its network: the BatchNorm that alone does, and the activation after it."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from utils.errors import UserError
from utils.networks.layers import Layer
from utils.networks.user_code import in_one_line, user_code

HARDTANH_LIMITS = (-1.0, 1.0)  # which torch leaves out of the arguments


def batch_norm_after(network: nn.Module, layer: Layer, image_size: int) -> str | None:
    """The name of the BatchNorm that alone reads the layer's output, or None.

    It has to read the output as it is, with the layer's channels as its own, with running statistics, and once in a
    pass. A constant in a channel and a ``running_mean`` that is larger by it then cancel. This is found out in a pass
    over noise, in evaluation mode, of every operation that reads the output.
    """
    norms = {name: module for name, module in network.named_modules() if isinstance(module, _BatchNorm)}
    if not norms:
        return None
    reads = _reads_of(network, layer.module, image_size)
    if len(reads.outputs) != 1 or layer.channel_dim % reads.outputs[0].ndim != 1:
        return None
    return next((name for name, module in norms.items() if reads.are_of(module)), None)


@dataclass(frozen=True)
class FollowingActivation:
    """What a network makes of each value of a layer's output: ``y_c = min(max(scale_c a_c + shift_c, 0), highest)``.

    Parameters
    ----------
    scale, shift : Tensor [C]
        1 and 0 where no BatchNorm follows.
    highest : float
        Infinity for a ReLU, 6 for a ReLU6.
    words : str
        The modules in words.
    """

    scale: Tensor
    shift: Tensor
    highest: float
    words: str

    def __call__(self, values: Tensor) -> Tensor:
        """y of values a [..., C]."""
        return (values * self.scale + self.shift).clamp(0, self.highest)

    def before(self, activated: Tensor, values: Tensor) -> Tensor:
        """Values a from which y = ``activated`` [..., C] follows; a channel of scale 0 keeps its ``values``."""
        return ((activated - self.shift) / self.scale).where(self.scale != 0, values)


def following_activation(network: nn.Module, layer: Layer, image_size: int) -> FollowingActivation | None:
    """The ReLU (or another activation that cuts values below 0) that alone reads the layer's output, or that of the
    BatchNorm which alone reads the layer's output; None if there is none, for example where a shortcut comes between.
    """
    name = batch_norm_after(network, layer, image_size)
    norm: Any = None if name is None else network.get_submodule(name)
    highest = _reads_of(network, layer.module if norm is None else norm, image_size).rectified_at()
    if highest is None:
        return None
    rectifier = "ReLU" if math.isinf(highest) else f"ReLU{highest:g}"
    ones = torch.ones(layer.num_channels, device=layer.weight.device)
    if norm is None:
        return FollowingActivation(ones, torch.zeros_like(ones), highest, f"the layer's {rectifier}")
    scale = (ones if norm.weight is None else norm.weight.detach().float()) / (
        norm.running_var + norm.eps
    ).float().sqrt()
    shift = -norm.running_mean.float() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.detach().float()
    return FollowingActivation(scale, shift, highest, f"the layer's BatchNorm and {rectifier}")


def _reads_of(network: nn.Module, module: nn.Module, image_size: int) -> "_Reads":
    """The operations that read the output of a module, in a pass over noise in evaluation mode."""
    weight: Any = next(network.parameters())
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, image_size, image_size, generator=generator).to(weight.device, weight.dtype)
    reads = _Reads()
    handle = module.register_forward_hook(reads.keep, prepend=True)  # sees the output before other hooks do

    def refusal(error: BaseException) -> UserError:
        size = f"{image_size}x{image_size}"
        return UserError(f"the network cannot take images of {size} pixels: {in_one_line(error)}")

    try:
        with torch.no_grad(), _in_evaluation_mode(network), user_code(refusal), reads:
            network(images)
    finally:
        handle.remove()
    return reads


@contextmanager
def _in_evaluation_mode(network: nn.Module) -> Iterator[None]:
    """While in the block, a network is in evaluation mode; then each module is in its own mode again."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


class _Reads(TorchDispatchMode):
    """Records the operations that read a module's output, or a view of it, and all operations of BatchNorms.

    ``outputs`` are the module's outputs; they are kept, so that no other tensor can take their memory in the pass.
    """

    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[Tensor] = []
        self.operations: list[tuple[str, list[Any]]] = []  # that read an output: the name, and all arguments
        self.normalised: list[list[Any]] = []  # arguments of all batch normalisations

    def keep(self, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.outputs.append(output)

    def are_of(self, module: _BatchNorm) -> bool:
        """Whether the only operation that reads the output is the normalisation of this BatchNorm, called once."""
        mean = module.running_mean
        if mean is None or len(self.operations) != 1:
            return False
        ((name, arguments),) = self.operations
        of_module = [values for values in self.normalised if _is_among(mean, values)]
        in_training = any(value is True for value in arguments)
        return "batch_norm" in name and _is_among(mean, arguments) and len(of_module) == 1 and not in_training

    def rectified_at(self) -> float | None:
        """The highest value of the ReLU that alone reads the output, and cuts it at 0; None if there is none.

        What reads the output after it was changed in place reads the result.
        """
        if len(self.outputs) != 1 or not self.operations:
            return None
        name, arguments = self.operations[0]
        kind = name.removeprefix("aten::")
        if not kind.endswith("_") and len(self.operations) > 1:
            return None
        if kind in ("relu", "relu_"):
            return math.inf
        if kind in ("hardtanh", "hardtanh_"):
            limits = [*arguments[1:], *HARDTANH_LIMITS[len(arguments) - 1 :]]
            return float(limits[1]) if limits[0] == 0 else None
        return None

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        arguments = tree_leaves((args, kwargs or {}))
        tensors = [value for value in arguments if isinstance(value, Tensor)]
        if "batch_norm" in operation.name():
            self.normalised.append(arguments)
        if any(_memory(tensor) == _memory(output) for tensor in tensors for output in self.outputs):
            self.operations.append((operation.name(), arguments))
        return operation(*args, **(kwargs or {}))


def _memory(tensor: Tensor) -> int:
    """What identifies a tensor's storage, also where that has no address (subclasses of tensors on a device)."""
    return tensor.untyped_storage()._cdata


def _is_among(tensor: Tensor, values: Sequence[Any]) -> bool:
    return any(value is tensor for value in values)
