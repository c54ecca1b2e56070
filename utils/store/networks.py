"""For your own scripts: a network with the splits of some files, and the transform of its images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from torch import nn

from utils.images.transform import Transform
from utils.networks.ablation import number_of_concept
from utils.networks.edits import ChannelEdit, with_edits
from utils.networks.loading import fingerprint
from utils.networks.splitting import stored_rhos, why_other_weights, with_splits
from utils.store.splits import SplitFile, read_splits, transform_from

SplitPaths = Path | str | Sequence[Path | str]
ChannelKey = int | tuple[str, int]  # a channel, or (layer, channel)
ConceptNames = int | str | Sequence[int | str]  # numbers from 1, or names


def split_network(network: nn.Module, *paths: Path | str, rhos: Sequence[float | None] | None = None) -> nn.Module:
    """A copy of ``network`` with the channels of one or several split files disentangled, and equal outputs.

    Parameters
    ----------
    network
        With the weights that the splits were made from. It can be converted or wrapped after this call, not before.
    paths
        Split files of different channels, of one layer or several, or manifests of them. All splits of the network are
        made in one call.
    rhos
        One for each split; default: the chosen ones.

    Raises
    ------
    UserError
        A damaged file, or a layer that cannot be split.
    ValueError
        A file of another network (a split, converted or wrapped network is another one), or of the same channel; a rho
        that is not stored, or a number of rhos that is not that of the splits; a network that cannot be copied.
    """
    files = _read_for(network, paths, rhos)
    splits = [read.file.split for read in files]
    return with_splits(network, [read.layer for read in files], splits, [read.rho for read in files])


def edited_network(
    network: nn.Module,
    splits: SplitPaths,
    edits: Mapping[ChannelKey, ConceptNames],
    factor: float = 0.0,
    to: str | float = "mean",
    *,
    rhos: Sequence[float | None] | None = None,
) -> nn.Module:
    """A copy of ``network``, of the same architecture, with concepts taken out of the weights of channels.

        edited = edited_network(network, "store_dir/models_disentangled/..._layer.json", {739: "candle"})

    The exclusive part of each concept, ``c'_k - r``, becomes ``factor (c'_k - r) + (1 - factor) m_k``, as ``ablated``
    holds it in the split network (``factor=0``). The constant ``m_k`` goes into the layer's bias; where the layer has
    none, into the ``running_mean`` of a BatchNorm that alone reads its output, so that the state dict has the same
    keys; else the layer gets a bias.

    Parameters
    ----------
    network
        The original one, with the weights that the splits were made from.
    splits
        A split file or a manifest, or a list of them.
    edits
        {channel: concepts}, or {(layer, channel): concepts} where a channel is split in several layers. Concepts are
        numbers from 1 or names, as for ``ablated``; one, or a list of them.
    factor
        What is left of the parts: 0 takes them out, 0.5 halves them, 2 doubles them.
    to
        ``m_k``: "mean", the part's mean over all positions of the training images, "zero", or a number.
    rhos
        One for each split; default: the chosen ones.

    Returns
    -------
    nn.Module
        Its attribute ``concept_edits`` says what was edited, and lists the layers that got a bias.

    Raises
    ------
    UserError
        A damaged file; a layer that cannot be split, or that shares its weights with another one.
    ValueError
        As ``split_network``; no such channel, concept, ``factor`` or ``to``.
    """
    paths = [splits] if isinstance(splits, (str, Path)) else list(splits)
    files = _read_for(network, paths, rhos)
    if not edits:
        raise ValueError("no channel to edit was given: {channel: concepts}")
    chosen = [_edit_of(files, key, concepts) for key, concepts in edits.items()]
    size = files[0].file.context["transform"]["crop_size"]
    return with_edits(network, chosen, factor=factor, to=to, image_size=size)


@dataclass(frozen=True)
class _SplitToApply:
    """A SplitFile and the rho to apply it with."""

    file: SplitFile
    rho: float | None

    @property
    def layer(self) -> str:
        return self.file.context["layer"]


def _read_for(
    network: nn.Module, paths: Sequence[Path | str], rhos: Sequence[float | None] | None
) -> list[_SplitToApply]:
    """The splits of files and manifests; ValueError if one is of another network, or if ``rhos`` do not fit them."""
    if not paths:
        raise ValueError("no split file was given")
    weights = fingerprint(network)
    files = []
    chosen_rhos = []
    for split_path, file, stored_rho in chain.from_iterable(map(read_splits, paths)):
        if file.context["weights_sha256"] != weights:
            raise ValueError(f"{split_path} was made for {file.context['model']}{why_other_weights(network)}")
        files.append(file)
        chosen_rhos.append(file.split.rho if stored_rho is None else stored_rho)
    applied = stored_rhos([file.split for file in files], rhos or chosen_rhos)
    return [_SplitToApply(file, rho) for file, rho in zip(files, applied, strict=True)]


def _edit_of(files: Sequence[_SplitToApply], key: ChannelKey, concepts: ConceptNames) -> ChannelEdit:
    """The edit of a channel; ValueError if it is not split once in one layer, or has no such concept."""
    layer, channel = key if isinstance(key, tuple) else (None, key)
    matching = [read for read in files if read.file.split.channel == channel and layer in (None, read.layer)]
    if not matching:
        raise ValueError(f"channel {channel} is not split" + (f" in {layer}" if layer else ""))
    layers = sorted({read.layer for read in matching})
    if len(layers) > 1:
        raise ValueError(f"channel {channel} is split in {', '.join(layers)}: give ({layers[0]!r}, {channel})")
    if len(matching) > 1:
        raise ValueError(f"channel {channel} of {layers[0]} is split in {len(matching)} of the files: give one of them")
    names = [concepts] if isinstance(concepts, (int, str)) else list(concepts)
    if not names:
        raise ValueError(f"no concept of channel {channel} was given")
    split = matching[0].file.split
    numbers = dict.fromkeys(number_of_concept(name, split.concepts, channel) for name in names)
    return ChannelEdit(layers[0], split, matching[0].rho, tuple(numbers))


def stored_transform(*paths: Path | str) -> Transform:
    """The evaluation transform that splits were made with.

    Calling it with a PIL image gives a float32 Tensor [3, H, W], resized, cropped and normalised. ``paths`` are split
    files or manifests, as for ``split_network``. The splits of a manifest have one transform: one of them is read.

    Raises
    ------
    UserError
        A damaged file.
    ValueError
        Files of different transforms, or none.
    """
    first_splits = [next(read_splits(path)) for path in paths]
    transforms = {transform_from(file.context["transform"]) for _, file, _ in first_splits}
    if len(transforms) != 1:
        raise ValueError("the files are of different transforms" if transforms else "no split file was given")
    return transforms.pop()
