"""Where in the image the tokens lie that enter a layer: in a grid, a map or windows of one, or nobody knows where.

A patch that is cut out at the wrong place would mislead: what is not certain is not known.
"""

import math
from dataclasses import dataclass

import torch

from utils.errors import UserError
from utils.networks.trace import Trace, digests


@dataclass
class Arrangement:
    """How the positions of an image are laid out in a layer's input.

    ``windows`` of them lie in the dimension of the batch, those of the first image first (1: it has the images alone);
    ``positions`` is their number in all. ``map_size`` is the number of rows and columns of the map that they are of,
    and ``order`` [positions] the place of each in it, row by row, -1 for one that lies nowhere (a class token,
    padding). Both are None where positions lie nowhere, or in no known order.
    """

    windows: int = 1
    positions: int | None = None
    map_size: tuple | None = None
    order: torch.Tensor | None = None


def arrangement_of(network, name, traced):
    """The Arrangement of the input of a layer over tokens, ``[B, ..., C_in]`` or ``[B * windows, ..., C_in]``.

    One token an image is a vector and lies nowhere. As many tokens as a map has places are a grid, row by row, unless a
    module has put tokens in another order; if there are more, those that are equal for all images where the network
    first makes so many lie nowhere (class tokens, registers). Others, and what has two dimensions of tokens, are looked
    for: where each of an image's tokens equals one of the map that the network had made last, bit for bit, that is
    where it lies.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode, on the CPU.
    name : str
        Of the layer in the network, called once.
    traced : Trace
        Of the network.

    Raises
    ------
    UserError
        The images are not the first dimension of the layer's input.
    """
    (shape,) = traced.input_shapes(name)
    windows, left = divmod(shape[0], Trace.IMAGES)
    if left or not windows:
        _refuse(name, shape, Trace.IMAGES)
    inner, sizes = shape[1:-1], _possible_maps(traced, name)
    found = Arrangement(windows, windows * math.prod(inner))
    if found.positions == 1:
        return found
    if windows == 1 and len(inner) == 1 and traced.is_in_order(name):
        for inside in (torch.arange(found.positions), traced.differ[found.positions].nonzero().flatten()):
            if _lay_out(found, sizes, inside):
                return found
    search = _Search(traced, name, sizes, (_Search.IMAGES * windows, *inner))
    search.run(network)
    if search.order is not None:
        found.order, found.map_size = search.order, search.map_size
    elif windows == 1 and inner in sizes:
        found.order, found.map_size = torch.arange(found.positions), inner
    return found


def _lay_out(found, sizes, inside):
    """Lay the positions ``inside`` out as a grid, row by row, if their number is that of one: whether it is."""
    fitting = [size for size in sizes if math.prod(size) == len(inside)]
    if len(fitting) == 1:
        found.map_size, found.order = fitting[0], torch.full((found.positions,), -1)
        found.order[inside] = torch.arange(len(inside))
    return len(fitting) == 1


def _possible_maps(traced, name):
    """Sizes that a map can have before a layer: those of convolutions, halved any number of times; without any
    convolution, all squares.

    A number of channels can be a square, too: nothing is taken for a grid that no convolution has made.
    """
    sizes = traced.map_sizes(name)
    if not sizes:
        return [(side, side) for side in range(2, traced.image_size + 1)]
    halved = {tuple(math.ceil(side / 2**times) for side in size) for size in sizes for times in range(8)}
    return sorted(halved - {(1, 1)})


def _refuse(name, shape, images):
    raise UserError(
        f"layer {name} does not have the images in the first dimension of its input ({list(shape)} for {images} "
        "images): its channels cannot be split"
    )


class _Reached(Exception):
    """The network has come to the layer."""


class _Search:
    """A pass in which a layer's tokens are looked for in the map that was made last.

    Three images, of which the first and the last are equal: so it shows whether what belongs to an image lies together.
    Tokens may have been changed between the rearrangement and the layer. So any input or output of a module that has
    the form of the layer's input is compared; what is found holds until the network is back at a map.
    """

    IMAGES = 3

    def __init__(self, traced, name, sizes, form):
        self.name, self.form, self._sizes = name, form, set(sizes)
        size = traced.image_size
        noise = torch.randn(3, size, size, generator=torch.Generator().manual_seed(0))
        self._images = torch.stack([torch.zeros_like(noise), noise, torch.zeros_like(noise)])
        self._maps, self._last, self.order, self.map_size = [], None, None, None

    def run(self, network):
        """Look for ``order`` and ``map_size``; UserError where the layer's input is not in order of the images."""
        hooks = [network.get_submodule(self.name).register_forward_pre_hook(self._arrive)]
        for name, module in network.named_modules():
            if name != self.name:
                hooks.append(module.register_forward_pre_hook(lambda _, inputs: self._see(*inputs[:1])))
                hooks.append(module.register_forward_hook(lambda _, __, output: self._see(output)))
        try:
            with torch.no_grad():
                network(self._images)
        except _Reached:
            pass
        finally:
            for hook in hooks:
                hook.remove()

    def _arrive(self, _, inputs):
        (x, *_) = inputs
        if tuple(x.shape[:-1]) != self.form:
            _refuse(self.name, x.shape, self.IMAGES)
        first, _, last = x.unflatten(0, (self.IMAGES, -1))
        if (first - last).abs().max() > 1e-3 * x.abs().max():
            _refuse(self.name, x.shape, self.IMAGES)
        self._see(x)
        raise _Reached

    def _see(self, x=None, *_):
        if not isinstance(x, torch.Tensor) or x.dtype != torch.float32 or x.ndim < 2:
            return
        if tuple(x.shape[:-1]) == self.form:
            self._compare(x.unflatten(0, (self.IMAGES, -1))[1].flatten(0, -2))
        elif x.shape[0] == self.IMAGES and (maps := list(self._as_maps(x[1]))):
            self._maps, self._last, self.order = maps, None, None

    def _as_maps(self, x):
        """What a tensor of one image can be as a map: its size, and its tokens [places, C]."""
        if x.ndim == 3 and tuple(x.shape[:2]) in self._sizes:
            yield tuple(x.shape[:2]), x.flatten(0, 1).clone()
        if x.ndim == 3 and tuple(x.shape[1:]) in self._sizes:
            yield tuple(x.shape[1:]), x.flatten(1).T.clone()
        if x.ndim == 2:
            yield from ((size, x.clone()) for size in self._sizes if math.prod(size) == len(x))

    def _compare(self, tokens):
        """Take the order if every place of a map has exactly one of the tokens, and the others are padding; else follow
        tokens that were put in another order."""
        own, last = digests(tokens), self._last
        self._last = own
        if last is not None and self.order is not None and torch.equal(own.sort().values, last.sort().values):
            known, before = last.sort()
            self.order = self.order[before[torch.searchsorted(known, own)]]
        for size, places in self._maps:
            if places.shape[1] != tokens.shape[1] or len(places) > len(tokens):
                continue
            known, order = digests(places).sort()
            at = torch.searchsorted(known, own).clamp(max=len(known) - 1)
            found = order[at].where(known[at] == own, -1)
            inside = found >= 0
            if inside.sum() == len(known) == len(found[inside].unique()) and len(own[~inside].unique()) <= 1:
                self.order, self.map_size = found, size
