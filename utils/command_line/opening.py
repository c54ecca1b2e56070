"""What stages 2 to 4 begin with: the pairs and the network they were asked for, checked against what is stored."""

from dataclasses import asdict, dataclass
from pathlib import Path

from utils.command_line.flags import MAX_CONCEPTS, concepts_from, require, transform_from_flags
from utils.errors import UserError
from utils.images.classes import ClassMap
from utils.method.disentangling import RHOS, Split
from utils.networks.layers import find_layer
from utils.networks.loading import default_weights, load_network
from utils.store.candidates import AskedPair, read_pairs
from utils.store.files import refuse_differences
from utils.store.splits import SPLIT_CONTEXT, find_splits, read_first_split, read_split, split_path, transform_from


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


def pairs_from(args, channel_flag):
    """What is asked for, as an AskedPair each: one by flags, or a file's."""
    concept_flags = [f"classes_for_concept{number}" for number in range(1, MAX_CONCEPTS + 1)]
    if args.candidates is None:
        require(args, channel_flag)
        return [AskedPair(getattr(args, channel_flag), concepts_from(args))]
    for flag in (channel_flag, *concept_flags):
        if getattr(args, flag) is not None:
            raise UserError(f"--candidates names channels and classes: leave out --{flag}")
    return read_pairs(args.candidates)


@dataclass
class Opened:
    """A split file: its path, the Split, the rho asked for, and what the split belongs to."""

    path: Path
    split: Split
    rho: float
    context: dict


def open_splits(args, run):
    """The splits asked for, each once."""
    if args.rho is not None and args.rho not in RHOS:
        raise UserError(f"--rho {args.rho} is not one of the stored values {', '.join(map(str, RHOS))}")
    model_dir, opened = Path(args.model_dir or Path(args.store_dir) / "models_disentangled"), {}
    for pair in pairs_from(args, "channel_of_interest"):
        with pair.named():
            path, split, context = _open_split(model_dir, run, pair.channel, pair.concepts)
        for first in list(opened.values())[:1]:
            shared = [key for key in SPLIT_CONTEXT if key != "weights"]  # equal ones may come from several places
            refuse_differences(first.context, context, shared, path)
        opened[path] = Opened(path, split, args.rho or split.rho, context)
    return list(opened.values())


def _open_split(model_dir, run, channel, given):
    """A split file's path, Split and context; class folders' names are resolved by the splits' own class map."""
    present = find_splits(model_dir, run, channel)
    if not present:
        raise UserError(f"there is no split of channel {channel} of {run} in {model_dir}: run disentangle_channel.py")
    _, context = read_first_split(present)
    concepts = ClassMap(context["classes"]).resolve(given, context["num_outputs"])
    path = split_path(model_dir, run, channel, concepts)
    if path not in present:
        names = ", ".join(other.name for other in present[:20])
        raise UserError(f"there is no split {path.name}, only {names}: run disentangle_channel.py for these concepts")
    split, context = read_split(path)
    asked = {"channel": channel, "concepts": concepts}
    refuse_differences(asked, vars(split), asked, path)
    return path, split, context
