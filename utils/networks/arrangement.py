"""Positions in the image of the tokens that enter a layer: in a grid, a map, windows of a map, or unknown.

A patch that is cut out at the wrong place would mislead, so positions that are not certain count as unknown.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from utils.errors import UserError
from utils.networks.trace import Trace, digests

Size = tuple[int, ...]  # of a map: rows and columns


@dataclass(frozen=True)
class Arrangement:
    """How the positions of an image are laid out in a layer's input.

    Parameters
    ----------
    windows : int
        How many windows of an image lie in the dimension of the batch, those of the first image first; 1: only the
        images lie there.
    positions : int
        Number of an image's positions, in all windows.
    map_size : (rows, columns) or None
        Size of the map that the positions form; None if they form none, or their order is unknown.
    order : LongTensor [positions] or None
        The place of each position in the map, row by row; -1 for a position that lies nowhere (a class token, padding).
        None if ``map_size`` is.
    """

    windows: int = 1
    positions: int = 1
    map_size: tuple[int, int] | None = None
    order: Tensor | None = None


def arrangement_of(network: nn.Module, name: str, traced: Trace) -> Arrangement:
    """The Arrangement of the input of a layer over tokens, ``[B, ..., C_in]`` or ``[B * windows, ..., C_in]``.

    A single token an image is a vector and lies nowhere. As many tokens as a map has positions are a grid, row by row,
    unless a module has put tokens in another order. If there are more, some lie nowhere (class tokens, registers):
    those that are equal for all images where the network first makes that number of tokens. Other tokens, and inputs
    with two dimensions of tokens, are searched for: a token lies where the last map made before it has an equal one,
    bit for bit.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode, on the CPU.
    name : str
        Name of the layer in the network; it is called once.
    traced : Trace
        Trace of the network.

    Raises
    ------
    UserError
        The images are not the first dimension of the layer's input.
    """
    (shape,) = traced.input_shapes(name)
    windows, rest = divmod(shape[0], Trace.IMAGES)
    if rest or not windows:
        raise _refusal(name, shape, Trace.IMAGES)
    inner = shape[1:-1]
    positions = windows * math.prod(inner)
    if positions == 1:
        return Arrangement(windows, positions)
    sizes = _possible_maps(traced, name)
    if windows == 1 and len(inner) == 1 and traced.is_in_order(name):
        for inside in (torch.arange(positions), traced.differ[positions].nonzero().flatten()):
            fitting = [size for size in sizes if math.prod(size) == len(inside)]
            if len(fitting) == 1:
                order = torch.full((positions,), -1)
                order[inside] = torch.arange(len(inside))
                return Arrangement(windows, positions, _rows_and_columns(fitting[0]), order)
    search = _Search(traced, name, sizes, (_Search.IMAGES * windows, *inner))
    search.run(network)
    if search.order is not None:
        return Arrangement(windows, positions, search.map_size, search.order)
    if windows == 1 and inner in sizes:
        return Arrangement(windows, positions, _rows_and_columns(inner), torch.arange(positions))
    return Arrangement(windows, positions)


def _rows_and_columns(size: Size) -> tuple[int, int]:
    rows, columns = size
    return rows, columns


def _possible_maps(traced: Trace, name: str) -> list[Size]:
    """Sizes that a map can have before a layer: those of convolutions, halved any number of times; without any
    convolution, all squares.

    If there are convolutions, other squares do not count, because a number of channels can also be a square.
    """
    sizes = traced.map_sizes(name)
    if not sizes:
        return [(side, side) for side in range(2, traced.image_size + 1)]
    halved = {tuple(math.ceil(side / 2**times) for side in size) for size in sizes for times in range(8)}
    return sorted(halved - {(1, 1)})


def _refusal(name: str, shape: Size, images: int) -> UserError:
    return UserError(
        f"layer {name} does not have the images in the first dimension of its input ({list(shape)} for {images} "
        "images): its channels cannot be split"
    )


class _Reached(Exception):
    """Raised when the network reaches the layer."""


class _Search:
    """A pass in which a layer's tokens are searched for in the map that was made last: ``order`` and ``map_size``.

    The first and the last of the three images are equal, which shows whether the tokens of an image are contiguous.
    Tokens may have been changed between the rearrangement and the layer. So any input or output of a module that has
    the form of the layer's input is compared; the order holds until the network makes a map again.
    """

    IMAGES = 3

    def __init__(self, traced: Trace, name: str, sizes: list[Size], form: Size) -> None:
        self.name = name
        self.form = form
        self.order: Tensor | None = None
        self.map_size: tuple[int, int] | None = None
        self._sizes = sizes
        noise = torch.randn(3, traced.image_size, traced.image_size, generator=torch.Generator().manual_seed(0))
        self._images = torch.stack([torch.zeros_like(noise), noise, torch.zeros_like(noise)])
        self._maps: list[tuple[Size, Tensor]] = []
        self._last_digests: Tensor | None = None

    def run(self, network: nn.Module) -> None:
        """Search; UserError if the layer's input does not have the images in order."""
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

    def _arrive(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0]
        if tuple(x.shape[:-1]) != self.form:
            raise _refusal(self.name, x.shape, self.IMAGES)
        first, _noise, last = x.unflatten(0, (self.IMAGES, -1))
        if (first - last).abs().max() > 1e-3 * x.abs().max():
            raise _refusal(self.name, x.shape, self.IMAGES)
        self._see(x)
        raise _Reached

    def _see(self, x: Any = None) -> None:
        if not isinstance(x, Tensor) or x.dtype != torch.float32 or x.ndim < 2:
            return
        if tuple(x.shape[:-1]) == self.form:
            self._compare(x.unflatten(0, (self.IMAGES, -1))[1].flatten(0, -2))
        elif x.shape[0] == self.IMAGES and (maps := list(self._as_maps(x[1]))):
            self._maps = maps
            self._last_digests = None
            self.order = None

    def _as_maps(self, x: Tensor) -> Iterator[tuple[Size, Tensor]]:
        """Each map that a tensor of one image can be: its size, and its tokens [places, C]."""
        if x.ndim == 3 and tuple(x.shape[:2]) in self._sizes:
            yield tuple(x.shape[:2]), x.flatten(0, 1).clone()
        if x.ndim == 3 and tuple(x.shape[1:]) in self._sizes:
            yield tuple(x.shape[1:]), x.flatten(1).T.clone()
        if x.ndim == 2:
            yield from ((size, x.clone()) for size in self._sizes if math.prod(size) == len(x))

    def _compare(self, tokens: Tensor) -> None:
        """Take the order if every place of a map has exactly one of the tokens, and the others are padding; else follow
        tokens that were put in another order."""
        token_digests = digests(tokens)
        last = self._last_digests
        self._last_digests = token_digests
        if last is not None and self.order is not None:
            sorted_digests, before = last.sort()
            if torch.equal(token_digests.sort().values, sorted_digests):
                self.order = self.order[before[torch.searchsorted(sorted_digests, token_digests)]]
        for size, places in self._maps:
            if places.shape[1] != tokens.shape[1] or len(places) > len(tokens):
                continue
            map_digests, place_of = digests(places).sort()
            nearest = torch.searchsorted(map_digests, token_digests).clamp(max=len(map_digests) - 1)
            order = place_of[nearest].where(map_digests[nearest] == token_digests, -1)
            inside = order >= 0
            each_place_once = inside.sum() == len(map_digests) == len(order[inside].unique())
            if each_place_once and len(token_digests[~inside].unique()) <= 1:
                self.order = order
                self.map_size = _rows_and_columns(size)
