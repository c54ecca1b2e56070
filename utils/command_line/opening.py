"""What stages 2 to 4 begin with: candidates, settings and network, checked against what is stored."""

from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path

from utils.command_line import flags
from utils.errors import UserError, printable
from utils.images.classes import map_folders, read_class_map
from utils.images.listing import class_folders, list_images
from utils.networks.layers import find_layer
from utils.networks.loading import default_weights, has_named_weights, load_network
from utils.store.candidates import AskedCandidate, AskedCandidates, read_candidates
from utils.store.files import refuse_differences
from utils.store.importances import ImportanceStore, identity
from utils.store.splits import transform_from

ALONE = "write 'channel: class, class', or let stage 3 find them (--concepts_from circuits) and give stage 4 --splits"
DEFAULTS = {"tau": 0.03, "only_correct": False}
FLAGS = {"tau": "proportion_attribution_required", "only_correct": "only_correct"}


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
    check_asked_network(args, stored, where)
    network = load_network(args.model, args.weights)
    layer = find_layer(network.module, args.layer_of_interest, stored["transform"]["crop_size"])
    asked = identity(args.model, network, layer)
    refuse_differences(asked, stored, asked, where)
    return network, layer


def open_images(args, run, network, layer):
    """Stage 1's images, and the map of their class folders to network outputs.

    A val store takes the map of the training store; folders of ``val/`` that it does not know are named and left out.
    """
    root = Path(args.data_dir) / args.images
    if args.images == "train":
        class_map = None if args.class_map is None else read_class_map(args.class_map)
        images = list_images(root)
        how = {"named_weights": has_named_weights(args.model, args.weights), "class_map": class_map}
        return images, map_folders(images.folders, layer.num_outputs, **how)
    if args.class_map is not None:
        raise UserError("--class_map: a val store takes the class map of the training store: leave it out")
    training = ImportanceStore(args.store_dir, run)
    meta = training.load_meta()
    asked = identity(args.model, network, layer)
    refuse_differences(asked, meta, asked, training.folder)
    present = class_folders(root)
    unknown = [folder for folder in present if folder not in meta["classes"]]
    if unknown:
        names = ", ".join(map(printable, unknown[:10])) + (", ..." if len(unknown) > 10 else "")
        print(f"{len(unknown)} folders of {root} are not in the training store and are left out: {names}")
    return list_images(root, [folder for folder in present if folder in meta["classes"]]), meta["classes"]


def check_asked_network(args, stored, where):
    """Refuse a model, weights or layer that the flags alone tell from those of ``stored``; no network is loaded."""
    if args.model != stored["model"]:
        refuse_differences({"model": args.model}, stored, ["model"], where)
    if args.weights is None and stored["weights"] != default_weights(args.model):
        raise UserError(f"{where} was made with --weights {stored['weights']}: give them again")
    if args.layer_of_interest not in (*flags.LAST_LAYERS, stored["layer"]):
        refuse_differences({"layer": args.layer_of_interest}, stored, ["layer"], where)


def check_channel_count(args, stored):
    """Refuse a number of channels that is not the layer's."""
    asked = args.nr_channels_in_layer_of_interest
    if asked not in (None, stored["num_channels"]):
        raise UserError(
            f"--nr_channels_in_layer_of_interest {asked}: layer {stored['layer']} has {stored['num_channels']} channels"
        )


def open_transform(args, stored, where):
    """The stored transform; refuse where the flags ask for a different one."""
    transform = transform_from(stored["transform"])
    asked = flags.transform_from_flags(args, transform)
    refuse_differences(asdict(asked), asdict(transform), asdict(asked), where)
    return transform


# --------------------------------------------------------------------------------------------------------------------
# Candidates and settings


def asked_candidates(args, channel_flag, num_channels=None):
    """What is asked for: one candidate by flags; a file's, of all channels or of those given beside it.

    Where concepts have no labels, channels alone: those given, or a file's, or all ``num_channels`` of the layer.
    """
    channels, unlabelled = getattr(args, channel_flag), getattr(args, "concepts_from", "classes") != "classes"
    if args.candidates is None and unlabelled:
        numbers = range(num_channels) if channels is None else dict.fromkeys(channels)
        return AskedCandidates([AskedCandidate(channel, []) for channel in numbers])
    if args.candidates is None:
        if len(channels) > 1:
            raise UserError(f"--{channel_flag} takes several channels only beside --candidates")
        return AskedCandidates([AskedCandidate(channels[0], flags.given_concepts(args))])
    asked = read_candidates(args.candidates)
    if channels is not None:
        missing = sorted(set(channels) - {one.channel for one in asked.candidates})
        if missing:
            raise UserError(f"--candidates {args.candidates} has no channel {missing[0]}")
        asked.candidates = [one for one in asked.candidates if one.channel in channels]
    if unlabelled:
        own = {one.channel: AskedCandidate(one.channel, [], one.line) for one in asked.candidates}
        asked.candidates = list(own.values())
    elif alone := [one for one in asked.candidates if not one.concepts]:
        raise UserError(f"{alone[0].line} names no concepts of channel {alone[0].channel}: {ALONE}")
    return asked


def setting(name, args, *sources):
    """A setting that travels: a flag, else the first of the sources (dictionaries) that knows it, else its default."""
    given = getattr(args, FLAGS[name])
    known = [source[name] for source in sources if source.get(name) is not None]
    if given is None and not known and name == "tau":
        _say_default_tau()
    return given if given is not None else known[0] if known else DEFAULTS[name]


@cache
def _say_default_tau():
    """Once: a list of candidates made by hand does not say which tau its channels were found with."""
    print(
        f"tau is {DEFAULTS['tau']}, the default, as neither candidates nor splits say it: after another one in stage 2 "
        "give --proportion_attribution_required"
    )


class Problems:
    """Candidates that something is wrong with: the others go on, and all of these are named at the end.

    Not where a single candidate was asked for: there the error itself ends the run.
    """

    def __init__(self, total):
        self.total, self.found = total, []

    @contextmanager
    def noted(self, what):
        """Note a UserError in the block, as one of ``what``."""
        try:
            yield
        except UserError as error:
            if self.total == 1:
                raise
            self.found.append(f"{what}: {error}")

    def collect(self, make, asked):
        """What ``make`` makes of each (channel, ...) that is asked for and that nothing is wrong with."""
        made = []
        for channel, *more in asked:
            with self.noted(f"channel {channel}"):
                made.append(make(channel, *more))
        return made

    def finish(self, verb):
        """Raise a UserError that names what could not be done, if anything."""
        if self.found:
            shown = "; ".join(self.found[:20]) + (f"; and {len(self.found) - 20} more" if len(self.found) > 20 else "")
            raise UserError(f"{len(self.found)} of {self.total} candidates could not be {verb}: {shown}")


def resolve(candidate, channel_flag, context, classes):
    """A candidate's concepts as lists of network outputs; UserError where its channel or a class is not there."""
    with candidate.named():
        check_channel(candidate.channel, channel_flag, context)
        return classes.resolve(candidate.concepts, context["num_outputs"])


def check_channel(channel, flag, context):
    """Refuse a channel that the layer does not have."""
    if channel >= context["num_channels"]:
        last = context["num_channels"] - 1
        raise UserError(f"--{flag} {channel} is out of range, the layer has channels 0 to {last}")


def resolve_all(asked, channel_flag, meta, classes, problems):
    """The candidates asked for, each once: a list of (channel, concepts as lists of outputs)."""
    resolved = {}
    for candidate in asked.candidates:
        with problems.noted(f"channel {candidate.channel}"):
            concepts = resolve(candidate, channel_flag, meta, classes)
            resolved[candidate.channel, str(concepts)] = candidate.channel, concepts
    return list(resolved.values())


def check_origin(asked, args, meta):
    """Refuse candidates that stage 2 found in a network of other weights or another layer."""
    origin = {key: asked.settings[key] for key in ("weights_sha256", "layer") if key in asked.settings}
    refuse_differences(meta, origin, origin, args.candidates)
