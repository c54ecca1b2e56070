"""What stages 2 to 4 begin with: the candidates and the network they were asked for, checked against what is stored."""

from dataclasses import asdict, dataclass
from pathlib import Path

from utils.command_line.flags import concepts_from, transform_from_flags
from utils.errors import UserError
from utils.images.classes import ClassMap
from utils.method.disentangling import RHOS, Split
from utils.method.patches import default_patch_size
from utils.networks.layers import find_layer
from utils.networks.loading import default_weights, load_network
from utils.store.candidates import AskedCandidate, read_candidates
from utils.store.files import refuse_differences
from utils.store.importances import identity
from utils.store.splits import SPLIT_CONTEXT, find_splits, read_first_split, read_split, split_path, transform_from


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
    layer : Layer
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


def check_patch_size(args, transform, layer):
    """The side of a patch, in pixels; UserError where it is larger than the image."""
    size = args.patch_size or default_patch_size(transform.crop_size, min(layer.map_size))
    if size > transform.crop_size:
        raise UserError(f"--patch_size {size} is larger than the image, {transform.crop_size} pixels")
    return size


def asked_candidates(args, channel_flag):
    """What is asked for, as an AskedCandidate each: one by flags, or a file's."""
    if args.candidates is None:
        return [AskedCandidate(getattr(args, channel_flag), concepts_from(args))]
    return read_candidates(args.candidates)


def resolved_candidates(args, channel_flag, meta, classes):
    """What is asked for, as channels and concepts of network outputs: a list of (channel, concepts), each once.

    Raises
    ------
    UserError
        A channel that the layer does not have, or a class that is not there; with its line of the file.
    """
    resolved = []
    for candidate in asked_candidates(args, channel_flag):
        with candidate.named():
            if candidate.channel >= meta["num_channels"]:
                raise UserError(
                    f"--{channel_flag} {candidate.channel} is out of range, "
                    f"the layer has channels 0 to {meta['num_channels'] - 1}"
                )
            one = candidate.channel, classes.resolve(candidate.concepts, meta["num_outputs"])
        resolved += [one] if one not in resolved else []
    return resolved


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
    for candidate in asked_candidates(args, "channel_of_interest"):
        with candidate.named():
            path, split, context = _open_split(model_dir, run, candidate.channel, candidate.concepts)
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
