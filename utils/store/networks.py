"""For your own scripts: a network with the splits of some files, and the transform of its images."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from torch import nn

from utils.images.transform import Transform
from utils.networks.loading import fingerprint
from utils.networks.splitting import why_other_weights, with_splits
from utils.store.splits import read_splits, transform_from


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
    layers = [file.context["layer"] for file in files]
    return with_splits(network, layers, [file.split for file in files], rhos or chosen_rhos)


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
