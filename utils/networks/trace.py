"""What a network does with images, module by module: in which order, and with inputs of which shapes."""

from dataclasses import dataclass, field

import torch
from torch import nn

from utils.errors import UserError

FLOAT32 = "but images are torch.float32: convert the network with .float() first"


@dataclass
class Trace:
    """What a pass over a noisy and a black image has shown.

    ``calls`` has the name and the input's shape of every module, in order of execution, ``maps`` for every call of a
    convolution how many calls had begun by then and the shape of its output. ``differ`` has for each number N of tokens
    ``[B, N, C]`` which of them [N] were not the same for both images when so many were first seen; ``moved`` is how
    many calls had begun when a module had put tokens in another order, None if none has. ``image_size`` is the side of
    the images in pixels, ``num_outputs`` the number of logits.
    """

    image_size: int
    calls: list = field(default_factory=list)
    maps: list = field(default_factory=list)
    differ: dict = field(default_factory=dict)
    moved: int | None = None
    num_outputs: int | None = None

    IMAGES = 2  # so that the batch's dimension can be told from one of size 1

    def input_shapes(self, name):
        """The shapes of a module's input, one for each call."""
        return [tuple(shape) for called, shape in self.calls if called == name]

    def with_weights(self, modules):
        """Names of the modules that have weights and no children, in order of execution; ``modules`` by name."""
        leaves = [name for name, _ in self.calls if not list(modules[name].children())]
        return [name for name in leaves if any(True for _ in modules[name].parameters())]

    def map_sizes(self, name):
        """Rows and columns of the maps that convolutions have made before a module is called."""
        return {tuple(shape[2:]) for number, shape in self.maps if number <= self._begins(name)}

    def is_in_order(self, name):
        """Whether no module has put tokens in another order before one is called."""
        return self.moved is None or self.moved > self._begins(name)

    def _begins(self, name):
        return [called for called, _ in self.calls].index(name)

    def before(self, name, inputs):
        """Take in what a module is called with."""
        x = inputs[0] if inputs else None
        self.calls.append((name, getattr(x, "shape", ())))
        self._see(x)

    def behind(self, module, inputs, output):
        """Take in what a module has made."""
        if isinstance(module, nn.Conv2d):
            self.maps.append((len(self.calls), output.shape))
        self._see(output)
        if self.moved is None and not any(True for _ in module.parameters()) and _moves(*inputs[:1], output):
            self.moved = len(self.calls)

    def _see(self, x):
        if isinstance(x, torch.Tensor) and x.ndim == 3 and len(x) == self.IMAGES:
            self.differ.setdefault(x.shape[1], (x[0] != x[1]).any(-1))


def trace(network, image_size):
    """The Trace of a network for square images.

    Raises
    ------
    UserError
        It cannot take such images, or is no classifier.
    """
    traced, hooks = Trace(image_size), []
    noise = torch.randn(3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    for name, module in network.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda _, inputs, name=name: traced.before(name, inputs)))
        hooks.append(module.register_forward_hook(traced.behind))
    try:
        with torch.no_grad():
            logits = network(torch.stack([noise, torch.zeros_like(noise)]))
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
    traced.num_outputs = logits.shape[1]
    return traced


def _moves(x=None, output=None):
    """Whether an output has the input's tokens ``[B, N, C]`` in another order."""
    if not all(isinstance(one, torch.Tensor) and one.ndim == 3 and one.dtype == torch.float32 for one in (x, output)):
        return False
    if x.shape != output.shape or torch.equal(x, output):
        return False
    return torch.equal(digests(x[0]).sort().values, digests(output[0]).sort().values)


def digests(tokens):
    """A number for each of some tokens ``[n, C]``, equal for equal bits."""
    factors = torch.randint(2**62, (tokens.shape[1],), generator=torch.Generator().manual_seed(0))
    return (tokens.contiguous().view(torch.int32).long() * (2 * factors + 1)).sum(1)
