"""What stages 2 to 4 begin with: the network they were asked for, checked against what is stored."""

from dataclasses import asdict

from utils.command_line import transform_from_flags
from utils.errors import UserError
from utils.layers import find_layer
from utils.models import default_weights, load_network
from utils.store import refuse_differences, transform_from


def identity(model, network, layer):
    """What two stages must agree in: a dictionary for ``meta.json`` and for split files."""
    return {
        "model": model,
        "layer": layer.name,
        "weights_sha256": network.fingerprint,
        "num_channels": layer.num_channels,
        "num_outputs": layer.num_outputs,
    }


def open_network(args, stored, where):
    """Load the network and find its layer of interest; refuse where they are not those of ``stored``.

    Parameters
    ----------
    args : argparse.Namespace
    stored : dict
        Of ``meta.json`` or a split file.
    where : Path
        What ``stored`` describes, for the message.

    Returns
    -------
    network : LoadedNetwork
    layer : LayerOfInterest
    """
    if args.weights is None and args.model == stored["model"] and stored["weights"] != default_weights(args.model):
        raise UserError(f"{where} was made with --weights {stored['weights']}: give them again")
    network = load_network(args.model, args.weights)
    layer = find_layer(network.module, args.layer_of_interest, stored["transform"]["crop_size"])
    asked = identity(args.model, network, layer)
    refuse_differences(asked, stored, asked, where)
    if args.nr_channels_in_layer_of_interest not in (None, layer.num_channels):
        raise UserError(
            f"--nr_channels_in_layer_of_interest {args.nr_channels_in_layer_of_interest}: "
            f"layer {layer.name} has {layer.num_channels} channels"
        )
    return network, layer


def open_transform(args, stored, where):
    """The stored transform; refuse where the flags ask for a different one."""
    transform = transform_from(stored["transform"])
    asked = transform_from_flags(args, transform)
    refuse_differences(asdict(asked), asdict(transform), asdict(asked), where)
    return transform


def check_channel(flag, channel, num_channels):
    """Raise UserError unless the layer has this channel."""
    if channel >= num_channels:
        raise UserError(f"--{flag} {channel} is out of range, the layer has channels 0 to {num_channels - 1}")
