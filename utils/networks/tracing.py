"""What a network does with images, module by module: in which order, and with inputs of which shapes."""

from dataclasses import dataclass

import torch
from torch import nn

from utils.errors import UserError

FLOAT32 = "but images are torch.float32: convert the network with .float() first"


@dataclass
class Trace:
    """What a pass over ``IMAGES`` black images has shown.

    ``calls`` has the name and the input's shape of every module, in order of execution, ``maps`` for every call of a
    convolution how many calls had begun by then and the shape of its output; ``image_size`` is the side of the images
    in pixels, ``num_outputs`` the number of logits.
    """

    calls: list
    maps: list
    image_size: int
    num_outputs: int

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
        begins = [called for called, _ in self.calls].index(name)
        return {tuple(shape[2:]) for number, shape in self.maps if number <= begins}


def trace(network, image_size):
    """The Trace of a network for square images.

    Raises
    ------
    UserError
        It cannot take such images, or is no classifier.
    """
    calls, maps, hooks = [], [], []
    for name, module in network.named_modules():
        hooks.append(
            module.register_forward_pre_hook(
                lambda _, inputs, name=name: calls.append((name, getattr(inputs[0], "shape", ()) if inputs else ()))
            )
        )
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(lambda _, __, output: maps.append((len(calls), output.shape))))
    try:
        with torch.no_grad():
            logits = network(torch.zeros(Trace.IMAGES, 3, image_size, image_size))
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
    return Trace(calls, maps, image_size, logits.shape[1])
