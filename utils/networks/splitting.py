"""The layer of interest with some channels split: in place of the original one, with the same output."""

from contextlib import contextmanager

import torch
from torch import nn

from utils.method.disentangling import merge
from utils.networks.layers import splittable
from utils.networks.loading import copy_module, share_hooks, without_hooks
from utils.networks.precision import full_precision

ALL_IN_ONE_CALL = "give all files in one call, with the original network"
WRAPPERS = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put in front of names


class DisentangledLayer(nn.Module):
    """A layer some channels of which are split, with the same output as before.

    ``layer`` is the original layer as it is. Beside it ``parts``, one layer of the same kind, computes
    ``c'_1 .. c'_K, r`` of every split in turn; ``rows_of[n]`` lists the channels of split ``n`` in its output,
    ``concepts_of[n]`` its Concepts and ``means_of[n]`` the means of ``c'_k - r`` over the training images. Merged, the
    parts take the place of the original channels, so a forward hook on ``parts`` sees the disentangled channels, and
    what it changes reaches the network. Hooks of the layer see the merged output. Other attributes are the layer's.

    The parts are computed and merged in fp32 (fp64 where the layer's output is), from weights and input rounded as the
    layer rounds its own, to the type of its output. So the merged channel is rounded once, as the original is.
    """

    def __init__(self, layer, splits, rhos=None):
        """``layer``: Layer, ``splits``: Splits of different channels, ``rhos``: None for the chosen ones.

        ValueError: the same channel twice, a rho that is not stored, or not as many as splits.
        """
        super().__init__()
        self.__module__ = "torch.nn"  # torch.fx takes it for one operation then, as it takes the layer itself
        self.channels, self.channel_dim = [split.channel for split in splits], layer.channel_dim
        self.concepts_of = [split.concepts for split in splits]
        if len(set(self.channels)) < len(self.channels):
            raise ValueError(f"a channel can be split only once, these are {self.channels} of {layer.name}")
        rhos = stored_rhos(splits, rhos)
        rows = [split.rows(rho).double()[None] for split, rho in zip(splits, rhos, strict=True)]
        rows = [stored_together(own, layer.weight.dtype)[0] for own in rows]
        self.means_of = [split.exclusive_means(rho).tolist() for split, rho in zip(splits, rhos, strict=True)]
        ends = torch.tensor([len(own) for own in rows]).cumsum(0).tolist()
        self.rows_of = [[*range(end - len(own), end)] for own, end in zip(rows, ends, strict=True)]
        self._num_rows = sorted({len(own) for own in rows})
        for size in self._num_rows:  # splits of equally many concepts are merged together
            alike = [n for n, own in enumerate(self.rows_of) if len(own) == size]
            for name, values in (("channels", self.channels), ("rows", self.rows_of)):
                indices = torch.tensor([values[n] for n in alike], device=layer.weight.device).flatten()
                self.register_buffer(f"_{name}_{size}", indices, persistent=False)
        share_hooks(layer.module, self)
        self.layer = without_hooks(layer.module)
        biases = None if layer.bias is None else torch.cat([split.biases() for split in splits])
        self.parts = layer.with_rows(torch.cat(rows), biases)

    def forward(self, input):
        output = self.layer(input)
        with full_precision(input.device):
            parts = self._compute_parts(input, output.dtype)
            dim = self.channel_dim % parts.ndim
            for size in self._num_rows:
                rows, channels = getattr(self, f"_rows_{size}"), getattr(self, f"_channels_{size}")
                merged = merge(parts.index_select(dim, rows).unflatten(dim, (-1, size)), dim + 1)
                output = output.index_copy(dim, channels, merged.to(output.dtype))
        return output

    def _compute_parts(self, input, dtype):
        """``parts`` of the input, in at least fp32, with weight, bias and input rounded to ``dtype`` first."""
        wide, weight, bias = torch.promote_types(dtype, torch.float32), self.parts.weight, self.parts.bias
        if input.dtype == weight.dtype == dtype == wide:
            return self.parts(input)
        if torch.promote_types(weight.dtype, dtype) == dtype:
            given = {"weight": weight.to(wide)}
        else:
            given = {"weight": self._split_by_split(weight, rounded_together, dtype)}
        given |= {} if bias is None else {"bias": rounded(bias, dtype)}
        return torch.func.functional_call(self.parts, given, rounded(input, dtype))

    def _split_by_split(self, weight, function, dtype):
        """The parts' weight after a function of (rows [n, K + 1, ...], dtype), of the rows of n splits at once."""
        found = torch.empty_like(weight, dtype=torch.promote_types(dtype, torch.float32))
        for size in self._num_rows:
            rows = getattr(self, f"_rows_{size}")
            found = found.index_copy(
                0, rows, function(weight[rows].unflatten(0, (-1, size)), dtype).flatten(0, 1).to(found)
            )
        return found

    def _apply(self, fn, *args, **kwargs):
        """What ``.half()``, ``.to(...)`` and the like come to: converted parts still merge to the converted channel."""
        before = self.parts.weight.detach()
        super()._apply(fn, *args, **kwargs)
        weight = self.parts.weight
        if weight.dtype != before.dtype:
            with torch.no_grad():
                weight.copy_(self._split_by_split(before.to(weight.device), stored_together, weight.dtype))
        return self

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__"):  # what copying and pickling ask for is not the layer's to answer
                raise
            return getattr(super().__getattr__("layer"), name)


def stored_rhos(splits, rhos):
    """The rho of each split, of those asked for or chosen; ValueError where they do not fit the splits.

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


def replace_module(network, module, other):
    """Put ``other`` wherever ``module`` hangs in the network, under whatever names."""
    names = [name for name, one in network.named_modules(remove_duplicate=False) if one is module]
    for name in names:
        network.set_submodule(name, other)


@contextmanager
def in_place_of(network, layer, module):
    """While in the block, ``module`` stands in the network where the layer is."""
    replace_module(network, layer.module, module)
    try:
        yield module
    finally:
        replace_module(network, module, layer.module)


def parts_table(module):
    """What each channel of the ``parts`` of a DisentangledLayer is: see ``network_concepts``, without ``layer``."""
    table = []
    for channel, rows, concepts in zip(module.channels, module.rows_of, module.concepts_of, strict=True):
        named = [(k, concept.name, concept.classes) for k, concept in enumerate(concepts, start=1)]
        for row, (part, name, classes) in zip(rows, [*named, (0, "residual", [])], strict=True):
            table.append({"row": row, "channel": channel, "part": part, "name": name, "classes": classes})
    return table


def network_concepts(network):
    """What each channel of the ``parts`` of a split network is: a table to address channels by meaning.

    Returns
    -------
    list of dict
        ``layer``, ``row`` (channel of the output of ``parts``), ``channel`` (the one that was split), ``part`` (1 .. K;
        0 for the residual), ``name`` and ``classes`` (network outputs) of the concept.
    """
    layers = [(name, module) for name, module in network.named_modules() if isinstance(module, DisentangledLayer)]
    return [{"layer": name, **row} for name, module in layers for row in parts_table(module)]


def is_split(network):
    return any(isinstance(module, DisentangledLayer) for module in network.modules())


def why_other_weights(network):
    """How the network that a split was made for differs from this one, as far as it can be told, to end a sentence."""
    types = {value.dtype for value in network.parameters()}
    if is_split(network):
        return f", which is split already: {ALL_IN_ONE_CALL}"
    if all(name.startswith(WRAPPERS) for name in network.state_dict()):
        return f", which is wrapped ({type(network).__name__}): split it first, then wrap it"
    if torch.float32 not in types:
        return f", which was converted to {', '.join(map(str, types))}: split it first, then .half()"
    return " with other weights"


def with_splits(network, layer_names, splits, rhos=None):
    """A copy of ``network`` that has the channels of ``splits`` disentangled.

    Parameters
    ----------
    network : nn.Module
    layer_names : str, or list of str
        The layer of all splits, or of each one.
    splits : list of Split
    rhos : list of float, optional
        One a split; default: the chosen ones.

    Returns
    -------
    nn.Module with the outputs of ``network``

    Raises
    ------
    ValueError
        A network that is split already or cannot be copied, the same channel twice, a rho that is not stored, or not
        as many as splits.
    UserError
        A module that is no layer which can be split.
    """
    if is_split(network):
        raise ValueError(f"the network is split already: {ALL_IN_ONE_CALL}")
    names = [layer_names] * len(splits) if isinstance(layer_names, str) else layer_names
    chosen = list(zip(names, splits, stored_rhos(splits, rhos), strict=True))
    network = copy_module(network)
    for name in dict.fromkeys(names):
        module = network.get_submodule(name)
        own, own_rhos = zip(*((split, rho) for other, split, rho in chosen if other == name), strict=True)
        replace_module(network, module, DisentangledLayer(splittable(name, module), own, own_rhos))
    return network


# --------------------------------------------------------------------------------------------------------------------
# Rounding rows of weights so that what they are merged to is the rounded weight of the original channel.


def rounded(values, dtype):
    """``values`` rounded to ``dtype``, but in at least fp32, with the gradient of ``values``."""
    wide = torch.promote_types(dtype, torch.float32)
    if torch.promote_types(values.dtype, dtype) == dtype:  # nothing to round
        return values.to(wide)
    exact = values.detach()
    bits = exact.to(dtype).view(torch.int16) | 0  # computing with them keeps a compiler from leaving out the rounding
    return values + (bits.view(dtype).to(wide) - exact)


def rounded_together(rows, dtype):
    """Rows scaled so that their merge is rounded to ``dtype``, in at least fp32, with the gradient of ``rows``.

    Whole inputs are rounded as the original's weight is; shares of a weight, each rounded for itself, would not add up
    to it, and are scaled by what the rounding does to the whole.

    Parameters
    ----------
    rows : Tensor [n, K + 1, ...]
        Of ``c'_1 .. c'_K`` and the residual of n splits.
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


def stored_together(rows, dtype):
    """Rows in ``dtype`` whose merge is exactly their merge rounded to ``dtype``, in this and any wider type.

    Every row but the last concept's is a multiple of the last binary place of the merged weight; the last one is what
    they leave. Rows with whole inputs stay as they are.

    Parameters
    ----------
    rows : Tensor [n, K + 1, ...]
        Of ``c'_1 .. c'_K`` and the residual of n splits, in ``dtype`` or wider.
    dtype : torch.dtype

    Returns
    -------
    Tensor [n, K + 1, ...]
    """
    rows = rows.detach().double()
    whole, kind = merge(rows, dim=1).to(dtype), torch.finfo(dtype)
    exponent = torch.frexp(whole.float() if dtype != torch.float64 else whole).exponent
    places = torch.ldexp(torch.full_like(rows[:, 0], kind.eps / 2), exponent).clamp(min=kind.smallest_normal * kind.eps)
    rows = (rows / places[:, None]).round() * places[:, None]
    others = merge(torch.cat([rows[:, :-2], rows[:, -1:]], dim=1), dim=1)
    last = whole.double() - others + rows[:, -1]
    return torch.cat([rows[:, :-2], last[:, None], rows[:, -1:]], dim=1).to(dtype)
