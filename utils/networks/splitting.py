"""The layer of interest with some channels split: it takes the place of the original layer and has the same output."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from utils.method.disentangling import Concept, Split, merge
from utils.networks.layers import Layer, splittable
from utils.networks.module_copies import copy_module, share_hooks, without_hooks
from utils.networks.precision import full_precision
from utils.networks.state_dicts import EDIT_RECORD

ALL_IN_ONE_CALL = "give all files in one call, with the original network"
EDITS_IN_ONE_CALL = "give all edits in one call with the original network"
WRAPPERS = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put in front of names


class DisentangledLayer(nn.Module):
    """A layer with some channels split, with the same output as before.

    ``layer`` is the original layer as it is. Beside it ``parts``, one layer of the same kind, computes
    ``c'_1 .. c'_K, r`` of every split in turn; ``rows_of[n]`` lists the channels of split ``n`` in its output,
    ``concepts_of[n]`` its Concepts and ``means_of[n]`` the means of ``c'_k - r`` over the training images. Merged, the
    parts take the place of the original channels. So a forward hook on ``parts`` sees the disentangled channels, and
    what it changes reaches the network. Hooks of the layer see the merged output. All other attributes are those of the
    layer.

    The parts are computed and merged in fp32 (fp64 where the layer's output is), from weights and input rounded as the
    layer rounds its own, to the type of its output. So the merged channel is rounded once, as the original is.

    Parameters
    ----------
    layer : Layer
    splits : list of Split
        Splits of different channels.
    rhos : list of float or None, optional
        One for each split; default: the chosen ones.

    Raises
    ------
    ValueError
        The same channel twice, a rho that is not stored, or not as many rhos as splits.
    """

    parts: Any  # a module of the kind of the layer

    def __init__(self, layer: Layer, splits: Sequence[Split], rhos: Sequence[float | None] | None = None) -> None:
        super().__init__()
        self.__module__ = "torch.nn"  # torch.fx then treats it as one operation, as it treats the layer itself
        self.channels = [split.channel for split in splits]
        self.channel_dim = layer.channel_dim
        if len(set(self.channels)) < len(self.channels):
            raise ValueError(f"a channel can be split only once, these are {self.channels} of {layer.name}")
        rhos = stored_rhos(splits, rhos)
        self.concepts_of: list[list[Concept]] = [split.concepts for split in splits]
        self.means_of = [split.exclusive_means(rho).tolist() for split, rho in zip(splits, rhos, strict=True)]
        rows = [
            stored_together(split.rows(rho).double()[None], layer.weight.dtype)[0]
            for split, rho in zip(splits, rhos, strict=True)
        ]
        self.rows_of: list[list[int]] = []
        for rows_of_split in rows:
            start = sum(map(len, self.rows_of))
            self.rows_of.append([*range(start, start + len(rows_of_split))])
        self._num_rows = sorted({len(rows_of_split) for rows_of_split in rows})
        self._register_indices(layer.weight.device)
        share_hooks(layer.module, self)
        self.layer = without_hooks(layer.module)
        biases = [bias for bias in (split.biases() for split in splits) if bias is not None]
        self.parts = layer.with_rows(torch.cat(rows), torch.cat(biases) if layer.bias is not None else None)

    def _register_indices(self, device: torch.device) -> None:
        """Register buffers of the rows and channels of splits with equally many concepts, which are merged together."""
        for size in self._num_rows:
            splits = [n for n, rows in enumerate(self.rows_of) if len(rows) == size]
            rows = torch.tensor([self.rows_of[n] for n in splits], device=device).flatten()
            channels = torch.tensor([self.channels[n] for n in splits], device=device)
            self.register_buffer(f"_channels_{size}", channels, persistent=False)
            self.register_buffer(f"_rows_{size}", rows, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        output = self.layer(input)
        with full_precision(input.device):
            parts = self._compute_parts(input, output.dtype)
            dim = self.channel_dim % parts.ndim
            for size in self._num_rows:
                rows = getattr(self, f"_rows_{size}")
                channels = getattr(self, f"_channels_{size}")
                merged = merge(parts.index_select(dim, rows).unflatten(dim, (-1, size)), dim + 1)
                output = output.index_copy(dim, channels, merged.to(output.dtype))
        return output

    def _compute_parts(self, input: Tensor, dtype: torch.dtype) -> Tensor:
        """``parts`` of the input, in at least fp32, with weight, bias and input rounded to ``dtype`` first."""
        wide = torch.promote_types(dtype, torch.float32)
        weight = self.parts.weight
        bias = self.parts.bias
        if input.dtype == weight.dtype == dtype == wide:
            return self.parts(input)
        if torch.promote_types(weight.dtype, dtype) == dtype:
            tensors = {"weight": weight.to(wide)}
        else:
            tensors = {"weight": self._split_by_split(weight, rounded_together, dtype)}
        if bias is not None:
            tensors["bias"] = rounded(bias, dtype)
        return torch.func.functional_call(self.parts, tensors, rounded(input, dtype))

    def _split_by_split(
        self, weight: Tensor, function: Callable[[Tensor, torch.dtype], Tensor], dtype: torch.dtype
    ) -> Tensor:
        """The parts' weight after a function of (rows [n, K + 1, ...], dtype), of the rows of n splits at once."""
        result = torch.empty_like(weight, dtype=torch.promote_types(dtype, torch.float32))
        for size in self._num_rows:
            rows = getattr(self, f"_rows_{size}")
            changed = function(weight[rows].unflatten(0, (-1, size)), dtype).flatten(0, 1)
            result = result.index_copy(0, rows, changed.to(result))
        return result

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> "DisentangledLayer":
        """Called by ``.half()``, ``.to(...)`` and the like: converted parts still merge to the converted channel."""
        before = self.parts.weight.detach()
        super()._apply(fn, *args, **kwargs)
        weight = self.parts.weight
        if weight.dtype != before.dtype:
            with torch.no_grad():
                weight.copy_(self._split_by_split(before.to(weight.device), stored_together, weight.dtype))
        return self

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__"):  # copying and pickling ask for methods that must not be the layer's
                raise
            return getattr(super().__getattr__("layer"), name)


def stored_rhos(splits: Sequence[Split], rhos: Sequence[float | None] | None) -> list[float | None]:
    """The rho of each split, default: the chosen ones; ValueError if they do not fit the splits.

    None for a split whose division has no rho.
    """
    rhos = [split.rho for split in splits] if rhos is None else list(rhos)
    if len(rhos) != len(splits):
        raise ValueError(f"{len(rhos)} rhos were given for {len(splits)} splits")
    for split, rho in zip(splits, rhos, strict=True):
        stored = split.division.rhos
        if not stored and rho is not None:
            raise ValueError(f"channel {split.channel} was split by {split.division.words}, which has no rho {rho}")
        if stored and rho not in stored:
            raise ValueError(f"rho {rho} is not one of the stored values {', '.join(map(str, stored))}")
    return rhos


def replace_module(network: nn.Module, module: nn.Module, replacement: nn.Module) -> None:
    """Put ``replacement`` in place of ``module`` under every name that it has in the network."""
    names = [name for name, candidate in network.named_modules(remove_duplicate=False) if candidate is module]
    for name in names:
        network.set_submodule(name, replacement)


@contextmanager
def in_place_of(network: nn.Module, layer: Layer, module: nn.Module) -> Iterator[nn.Module]:
    """While in the block, ``module`` is in the network where the layer was."""
    replace_module(network, layer.module, module)
    try:
        yield module
    finally:
        replace_module(network, module, layer.module)


def parts_table(module: DisentangledLayer) -> list[dict[str, Any]]:
    """A table of the channels of the ``parts`` of a DisentangledLayer: as ``network_concepts``, without ``layer``."""
    table = []
    for channel, rows, concepts in zip(module.channels, module.rows_of, module.concepts_of, strict=True):
        named = [(k, concept.name, concept.classes) for k, concept in enumerate(concepts, start=1)]
        for row, (part, name, classes) in zip(rows, [*named, (0, "residual", [])], strict=True):
            table.append({"row": row, "channel": channel, "part": part, "name": name, "classes": classes})
    return table


def network_concepts(network: nn.Module) -> list[dict[str, Any]]:
    """A table of the channels of the ``parts`` of a split network, by which they can be found by name.

    Returns
    -------
    list of dict
        ``layer``, ``row`` (channel of the output of ``parts``), ``channel`` (the one that was split), ``part`` (1 .. K;
        0 for the residual), ``name`` and ``classes`` (network outputs) of the concept.
    """
    layers = [(name, module) for name, module in network.named_modules() if isinstance(module, DisentangledLayer)]
    return [{"layer": name, **row} for name, module in layers for row in parts_table(module)]


def is_split(network: nn.Module) -> bool:
    return any(isinstance(module, DisentangledLayer) for module in network.modules())


def why_other_weights(network: nn.Module) -> str:
    """How this network differs from the one that a split was made for, if it is known: the end of a sentence."""
    types = {value.dtype for value in network.parameters()}
    if is_split(network):
        return f", which is split already: {ALL_IN_ONE_CALL}"
    if all(name.startswith(WRAPPERS) for name in network.state_dict()):
        return f", which is wrapped ({type(network).__name__}): split it first, then wrap it"
    if torch.float32 not in types:
        return f", which was converted to {', '.join(map(str, types))}: split it first, then .half()"
    if hasattr(network, EDIT_RECORD):
        return f", and this is an edited network: {EDITS_IN_ONE_CALL}"
    return f" with other weights (if these were edited: {EDITS_IN_ONE_CALL})"


def with_splits(
    network: nn.Module,
    layer_names: str | Sequence[str],
    splits: Sequence[Split],
    rhos: Sequence[float | None] | None = None,
) -> nn.Module:
    """A copy of ``network`` that has the channels of ``splits`` disentangled.

    Parameters
    ----------
    network : nn.Module
    layer_names : str, or list of str
        The layer of all splits, or of each split.
    splits : list of Split
    rhos : list of float or None, optional
        One for each split; default: the chosen ones.

    Returns
    -------
    nn.Module
        It has the outputs of ``network``.

    Raises
    ------
    ValueError
        A network that is split already or cannot be copied, the same channel twice, a rho that is not stored, or not
        as many rhos as splits.
    UserError
        A module that cannot be split.
    """
    if is_split(network):
        raise ValueError(f"the network is split already: {ALL_IN_ONE_CALL}")
    names = [layer_names] * len(splits) if isinstance(layer_names, str) else layer_names
    splits_of: dict[str, list[Split]] = {}
    rhos_of: dict[str, list[float | None]] = {}
    for name, split, rho in zip(names, splits, stored_rhos(splits, rhos), strict=True):
        splits_of.setdefault(name, []).append(split)
        rhos_of.setdefault(name, []).append(rho)
    network = copy_module(network)
    for name in splits_of:
        module = network.get_submodule(name)
        split_layer = DisentangledLayer(splittable(name, module), splits_of[name], rhos_of[name])
        replace_module(network, module, split_layer)
    return network


# --------------------------------------------------------------------------------------------------------------------
# Rounding rows of weights so that their merge is the rounded weight of the original channel.


def rounded(values: Tensor, dtype: torch.dtype) -> Tensor:
    """``values`` rounded to ``dtype``, but in at least fp32, with the gradient of ``values``."""
    wide = torch.promote_types(dtype, torch.float32)
    if torch.promote_types(values.dtype, dtype) == dtype:  # nothing to round
        return values.to(wide)
    exact = values.detach()
    bits = exact.to(dtype).view(torch.int16) | 0  # computing with them keeps a compiler from leaving out the rounding
    return values + (bits.view(dtype).to(wide) - exact)


def rounded_together(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows scaled so that their merge is rounded to ``dtype``, in at least fp32, with the gradient of ``rows``.

    Whole inputs are rounded as the original's weight is. Shares of a weight, each rounded by itself, would not add up
    to the rounded weight. So they are scaled by its ratio to the exact weight.

    Parameters
    ----------
    rows : Tensor [n, K + 1, ...]
        Weights of ``c'_1 .. c'_K`` and the residual of n splits.
    dtype : torch.dtype

    Returns
    -------
    Tensor [n, K + 1, ...]
    """
    exact = rows.detach()
    whole = merge(exact, dim=1)[:, None]
    target = rounded(whole, dtype)
    scaled = exact * (target / whole.where(whole != 0, 1))
    return rows + (torch.where(exact == whole, target, scaled) - exact)


def stored_together(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows in ``dtype`` whose merge is exactly their merge rounded to ``dtype``, in this and any wider type.

    Every row but the last concept's is a multiple of the last binary place of the merged weight; the last concept's row
    is the rest. Rows with whole inputs stay as they are.

    Parameters
    ----------
    rows : Tensor [n, K + 1, ...]
        Weights of ``c'_1 .. c'_K`` and the residual of n splits, in ``dtype`` or wider.
    dtype : torch.dtype

    Returns
    -------
    Tensor [n, K + 1, ...]
    """
    rows = rows.detach().double()
    whole = merge(rows, dim=1).to(dtype)
    info = torch.finfo(dtype)
    exponent = torch.frexp(whole.float() if dtype != torch.float64 else whole).exponent
    last_places = torch.ldexp(torch.full_like(rows[:, 0], info.eps / 2), exponent)
    last_places = last_places.clamp(min=info.smallest_normal * info.eps)
    rows = (rows / last_places[:, None]).round() * last_places[:, None]
    without_last = merge(torch.cat([rows[:, :-2], rows[:, -1:]], dim=1), dim=1)
    last = whole.double() - without_last + rows[:, -1]
    return torch.cat([rows[:, :-2], last[:, None], rows[:, -1:]], dim=1).to(dtype)
