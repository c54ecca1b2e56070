"""Stage 4's feature visualizations: images made to activate a channel and its parts, split by split."""

from typing import Any

from utils.images.transform import Transform
from utils.method.disentangling import Split
from utils.networks.feature_visualization import maximise_activation, reached_activation
from utils.networks.opened_network import OpenedNetwork
from utils.store.visualizations import packed

SAME = (
    *("run", "split", "split_sha256", "weights_sha256", "layer", "transform", "channel", "concepts", "concept_names"),
    *("background", "split_by", "rho"),
)


def describe_visualization(result: dict[str, Any], steps: int, seeds: int) -> dict[str, Any]:
    """All fields of a visualization that are known before it is made; an equal one need not be made again."""
    return {**{name: result[name] for name in SAME}, "steps": steps, "seeds": seeds}


def visualize(
    network: OpenedNetwork, split: Split, rho: float | None, transform: Transform, described: dict[str, Any]
) -> dict[str, Any]:
    """The visualization of the original channel and ``c'_1 .. c'_K``, as ``utils.store.visualizations`` stores it.

    Parameters
    ----------
    network : OpenedNetwork
    split : Split
    rho : float or None
    transform : Transform
    described : dict
        From ``describe_visualization``.
    """
    rows = split.shown_rows(rho)
    biases = None if split.bias is None else split.bias.expand(len(rows))
    pictures = maximise_activation(network, rows, biases, transform, steps=described["steps"], seeds=described["seeds"])
    reached = reached_activation(network, rows, biases, pictures, transform)
    return {**described, "pictures": packed(pictures.numpy()), "reached": reached.tolist()}
