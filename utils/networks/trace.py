"""Traces a network: the order in which its modules are called, and the shapes of their inputs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from utils.errors import UserError
from utils.networks.user_code import user_code

FLOAT32 = "but images are torch.float32: convert the network with .float() first"


class Call(NamedTuple):
    """A call of the module ``name`` with an input of this shape, () if it is not a tensor."""

    name: str
    shape: tuple[int, ...]


class ConvolutionMap(NamedTuple):
    """The size (rows, columns) of a convolution's output, and how many calls had begun when it was made."""

    calls_begun: int
    size: tuple[int, ...]


@dataclass
class Trace:
    """What a pass over a noisy and a black image recorded.

    Parameters
    ----------
    image_size : int
        Side of the images in pixels.
    calls : list of Call
        Calls of all modules, in order of execution.
    maps : list of ConvolutionMap
        The maps of all calls of convolutions.
    differ : dict of int -> BoolTensor [N]
        For each number N of tokens ``[B, N, C]``: which of them differed between the two images when a tensor of so
        many tokens was first seen.
    moved : int or None
        How many calls had begun when a module had put tokens in another order; None if no module has.
    num_outputs : int
        The number of logits.
    """

    image_size: int
    calls: list[Call] = field(default_factory=list)
    maps: list[ConvolutionMap] = field(default_factory=list)
    differ: dict[int, Tensor] = field(default_factory=dict)
    moved: int | None = None
    num_outputs: int = 0

    IMAGES = 2  # so that the batch's dimension can be distinguished from one of size 1

    def input_shapes(self, name: str) -> list[tuple[int, ...]]:
        """The shapes of a module's input, one for each call."""
        return [call.shape for call in self.calls if call.name == name]

    def with_weights(self, modules: Mapping[str, nn.Module]) -> list[str]:
        """Names of the modules that have weights and no children, in order of execution; ``modules`` by name."""
        leaves = [call.name for call in self.calls if not list(modules[call.name].children())]
        return [name for name in leaves if _has_weights(modules[name])]

    def map_sizes(self, name: str) -> set[tuple[int, ...]]:
        """Rows and columns of the maps that convolutions have made before a module is called."""
        return {made.size for made in self.maps if made.calls_begun <= self._begins(name)}

    def is_in_order(self, name: str) -> bool:
        """Whether no module has put tokens in another order before a module is called."""
        return self.moved is None or self.moved > self._begins(name)

    def _begins(self, name: str) -> int:
        return [call.name for call in self.calls].index(name)

    def before(self, name: str, inputs: tuple[Any, ...]) -> None:
        """Record the input of a call of a module."""
        x = inputs[0] if inputs else None
        self.calls.append(Call(name, tuple(getattr(x, "shape", ()))))
        self._see(x)

    def after(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """Record the output of a call of a module."""
        if isinstance(module, nn.Conv2d) and isinstance(output, Tensor):
            self.maps.append(ConvolutionMap(len(self.calls), tuple(output.shape[2:])))
        self._see(output)
        if self.moved is None and not _has_weights(module) and inputs and _reorders_tokens(inputs[0], output):
            self.moved = len(self.calls)

    def _see(self, x: Any) -> None:
        if isinstance(x, Tensor) and x.ndim == 3 and len(x) == self.IMAGES:
            self.differ.setdefault(x.shape[1], (x[0] != x[1]).any(-1))


def trace(network: nn.Module, image_size: int) -> Trace:
    """The Trace of a network for square images.

    Raises
    ------
    UserError
        It cannot take such images, or is not a classifier.
    """
    noise = torch.randn(3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    images = torch.stack([noise, torch.zeros_like(noise)])

    def refusal(error: BaseException) -> UserError:
        types = {value.dtype for value in network.parameters()}
        if types and torch.float32 not in types:
            return UserError(f"the network's weights are {types.pop()}, {FLOAT32}")
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        return UserError(f"the network cannot take images of {image_size}x{image_size} pixels: {reason}")

    with torch.no_grad(), user_code(refusal):  # without hooks, so that an error in ours is not taken for the network's
        logits = network(images)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise UserError("the network is no classifier: its output is not one row of logits per image")
    traced = Trace(image_size, num_outputs=logits.shape[1])
    hooks = []
    for name, module in network.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda _, inputs, name=name: traced.before(name, inputs)))
        hooks.append(module.register_forward_hook(traced.after))
    try:
        with torch.no_grad():
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return traced


def _has_weights(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def _reorders_tokens(x: Any, output: Any) -> bool:
    """Whether an output has the input's tokens ``[B, N, C]`` in another order."""
    if not all(isinstance(value, Tensor) and value.ndim == 3 and value.dtype == torch.float32 for value in (x, output)):
        return False
    if x.shape != output.shape or torch.equal(x, output):
        return False
    return torch.equal(digests(x[0]).sort().values, digests(output[0]).sort().values)


def digests(tokens: Tensor) -> Tensor:
    """A number for each of some tokens ``[n, C]``, equal for equal bits."""
    factors = torch.randint(2**62, (tokens.shape[1],), generator=torch.Generator().manual_seed(0))
    return (tokens.contiguous().view(torch.int32).long() * (2 * factors + 1)).sum(1)
