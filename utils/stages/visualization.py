"""Stage 4's feature visualizations: images made to activate a channel and its parts, split by split."""

from utils.networks.feature_visualization import maximise_activation, reached_activation
from utils.store.visualizations import packed

SAME = (
    *("run", "split", "split_sha256", "weights_sha256", "layer", "transform", "channel", "concepts", "concept_names"),
    *("background", "split_by", "rho"),
)


def describe_visualization(result, steps, seeds):
    """All of a visualization that is known before it is made; one that is there and equal need not be made again."""
    return {**{name: result[name] for name in SAME}, "steps": steps, "seeds": seeds}


def visualize(network, layer, split, rho, transform, known, device):
    """The visualization of the original channel and ``c'_1 .. c'_K``, as ``utils.store.visualizations`` stores it.

    Parameters
    ----------
    network : nn.Module
    layer : Layer
    split : Split
    rho : float or None
    transform : Transform
    known : dict
        Of ``describe_visualization``.
    device : torch.device
    """
    rows = split.shown_rows(rho)
    biases = None if split.bias is None else split.bias.expand(len(rows))
    how = {name: known[name] for name in ("steps", "seeds")}
    pictures = maximise_activation(network, layer, rows, biases, transform, device=device, **how)
    reached = reached_activation(network, layer, rows, biases, pictures, transform, device=device)
    return {**known, "pictures": packed(pictures.numpy()), "reached": reached.tolist()}
