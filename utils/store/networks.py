"""For scripts of one's own: split networks, from a network and the files of its splits, and what images they take."""

from utils.networks.layers import splittable
from utils.networks.loading import fingerprint
from utils.networks.splitting import why_other_weights, with_splits
from utils.store.splits import read_split, require_weight, splits_of, transform_from


def split_network(network, *paths, rhos=None):
    """A copy of ``network`` with the channels of one or several split files disentangled, and equal outputs.

    Parameters
    ----------
    network : nn.Module
        With the weights that the splits were made from, as it was then: it can be converted or wrapped afterwards.
    paths : str or Path
        Split files of different channels, of one layer or several, or manifests of them: all that the network shall
        have.
    rhos : list of float, optional
        One a split; default: the chosen ones.

    Raises
    ------
    UserError
        A damaged file, or one with another weight than the network's.
    ValueError
        A file of another network (one that is split, converted or wrapped is another), or of the same channel; a rho
        that is not stored, or not as many as files; a network that cannot be copied.
    """
    if not paths:
        raise ValueError("no split file was given")
    paths, stored = zip(*(one for path in paths for one in splits_of(path)), strict=True)
    files = [read_split(path) for path in paths]
    weights = fingerprint(network)
    for path, file in zip(paths, files, strict=True):
        if file.context["weights_sha256"] != weights:
            raise ValueError(f"{path} was made for {file.context['model']}{why_other_weights(network)}")
    layers = [file.context["layer"] for file in files]
    for path, file in zip(paths, files, strict=True):
        layer = splittable(file.context["layer"], network.get_submodule(file.context["layer"]))
        require_weight(path, file.split, layer.weight, layer.bias)
    return with_splits(network, layers, [file.split for file in files], rhos or _chosen(files, stored))


def _chosen(files, stored):
    """The rho of each split: that of its manifest, else its own."""
    return [file.split.rho if rho is None else rho for file, rho in zip(files, stored, strict=True)]


def stored_transform(*paths):
    """The evaluation transform that splits were made with.

    Parameters
    ----------
    paths : str or Path
        Split files or manifests, as for ``split_network``.

    Returns
    -------
    Transform
        To be called with a PIL image: float32 Tensor [3, H, W], resized, cropped and normalised.

    Raises
    ------
    UserError
        A damaged file.
    ValueError
        Files of different transforms, or none.
    """
    files = [read_split(file) for path in paths for file, _ in splits_of(path)]
    transforms = {transform_from(file.context["transform"]) for file in files}
    if len(transforms) != 1:
        raise ValueError("the files are of different transforms" if transforms else "no split file was given")
    return transforms.pop()
