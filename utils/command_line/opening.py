"""What stages 2 to 4 begin with: candidates, settings and network, checked against what is stored."""

from contextlib import contextmanager
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path

import torch

from utils import defaults
from utils.command_line import flags
from utils.concept_sources.source_registry import SUGGESTED
from utils.errors import UserError, listed, printable
from utils.images.folders import class_folders, list_images, map_folders, read_class_map
from utils.networks.layers import Layer, find_layer
from utils.networks.loading import LoadedNetwork, default_weights, has_named_weights, load_network
from utils.networks.opened_network import OpenedNetwork
from utils.report.concepts_table import write_concepts
from utils.report.split_text import print_equality
from utils.store.candidates import AskedCandidate, AskedCandidates, read_candidates
from utils.store.files import refuse_differences, run_name
from utils.store.importance_store import ImportanceStore, identity
from utils.store.splits import transform_from
from utils.store.study import Study

ALONE = (
    f"write 'channel: class, class', or let stage 3 find them (--concepts_from {SUGGESTED}) and give stage 4 --splits"
)
DEFAULTS = {"tau": defaults.TAU, "only_correct": defaults.ONLY_CORRECT}
FLAGS = {"tau": "proportion_attribution_required", "only_correct": "only_correct"}


def open_network(settings, stored, where, device: torch.device) -> OpenedNetwork:
    """The network and its layer of interest, on a device; refuse where they are not those of ``stored``."""
    network, layer = require_stored_network(settings, stored, where)
    return OpenedNetwork(network.module, layer, settings.precision, network.weights).to(device)


def require_stored_network(settings, stored, where) -> tuple[LoadedNetwork, Layer]:
    """Load the network and find its layer of interest; refuse where they are not those of ``stored``.

    Parameters
    ----------
    settings : StageSettings
    stored : dict
        Of ``meta.json`` or a split file.
    where : Path
        What ``stored`` describes, for the message.
    """
    check_asked_network(settings, stored, where)
    network = load_network(settings.model, settings.weights)
    layer = find_layer(network.module, settings.layer_of_interest, stored["transform"]["crop_size"])
    asked = identity(settings.model, network, layer)
    refuse_differences(asked, stored, asked, where)
    return network, layer


def open_images(settings, run, network, layer):
    """Stage 1's images, and the map of their class folders to network outputs.

    A val store takes the map of the training store; folders of ``val/`` that it does not know are named and left out.
    """
    root = Path(settings.data_dir) / settings.images
    if settings.images == "train":
        class_map = None if settings.class_map is None else read_class_map(settings.class_map)
        images = list_images(root)
        how = {"named_weights": has_named_weights(settings.model, settings.weights), "class_map": class_map}
        return images, map_folders(images.folders, layer.num_outputs, **how)
    if settings.class_map is not None:
        raise UserError("--class_map: a val store takes the class map of the training store: leave it out")
    training = ImportanceStore(settings.store_dir, run)
    meta = training.load_meta()
    asked = identity(settings.model, network, layer)
    refuse_differences(asked, meta, asked, training.folder)
    present = class_folders(root)
    unknown = [folder for folder in present if folder not in meta["classes"]]
    if unknown:
        names = listed(list(map(printable, unknown)), most=10, more=", ...")
        print(f"{len(unknown)} folders of {root} are not in the training store and are left out: {names}")
    return list_images(root, [folder for folder in present if folder in meta["classes"]]), meta["classes"]


def open_study(settings, training, transform, device, *, open_network, only_correct, background=None):
    """The Study of a layer.

    Parameters
    ----------
    settings : ImageSettings
    training : ImportanceStore
        Of training images.
    transform : Transform
    device : torch.device
    open_network, only_correct, background
        As a Study has them.
    """
    return Study(
        run=run_name(settings.model, settings.layer_of_interest),
        store_dir=Path(settings.store_dir),
        data_dir=Path(settings.data_dir),
        training=training,
        only_correct=only_correct,
        background=background,
        transform=transform,
        open_network=open_network,
        open_loading=partial(flags.loading, settings, device),
        decoding=settings.decode,
        batch_size=settings.batch_size,
        precision=settings.precision,
    )


def check_asked_network(settings, stored, where):
    """Refuse a model, weights or layer that the flags alone tell from those of ``stored``; no network is loaded."""
    if settings.model != stored["model"]:
        refuse_differences({"model": settings.model}, stored, ["model"], where)
    if settings.weights is None and stored["weights"] != default_weights(settings.model):
        raise UserError(f"{where} was made with --weights {stored['weights']}: give them again")
    if settings.layer_of_interest not in (*defaults.LAST_LAYERS, stored["layer"]):
        refuse_differences({"layer": settings.layer_of_interest}, stored, ["layer"], where)


def check_channel_count(settings, stored):
    """Refuse a number of channels that is not the layer's."""
    asked = settings.nr_channels_in_layer_of_interest
    if asked not in (None, stored["num_channels"]):
        raise UserError(
            f"--nr_channels_in_layer_of_interest {asked}: layer {stored['layer']} has {stored['num_channels']} channels"
        )


def open_transform(settings, stored, where):
    """The stored transform; refuse where the flags ask for a different one."""
    transform = transform_from(stored["transform"])
    asked = flags.transform_from_flags(settings, transform)
    refuse_differences(asdict(asked), asdict(transform), asdict(asked), where)
    return transform


# --------------------------------------------------------------------------------------------------------------------
# Candidates and settings


def asked_candidates(settings, num_channels=None):
    """What is asked for: one candidate by flags; a file's, of all channels or of those given beside it.

    Where concepts have no labels, channels alone: those given, or a file's, or all ``num_channels`` of the layer.
    """
    channels, finds_concepts = settings.channels, settings.finds_concepts
    if settings.candidates is None and finds_concepts:
        numbers = range(num_channels) if channels is None else dict.fromkeys(channels)
        return AskedCandidates([AskedCandidate(channel, []) for channel in numbers])
    if settings.candidates is None:
        if len(channels) > 1:
            raise UserError(f"--{settings.channel_flag} takes several channels only beside --candidates")
        return AskedCandidates([AskedCandidate(channels[0], settings.concepts)])
    asked = read_candidates(settings.candidates)
    if channels is not None:
        missing = sorted(set(channels) - {one.channel for one in asked.candidates})
        if missing:
            raise UserError(f"--candidates {settings.candidates} has no channel {missing[0]}")
        asked.candidates = [one for one in asked.candidates if one.channel in channels]
    if finds_concepts:
        alone = {one.channel: AskedCandidate(one.channel, [], one.line) for one in asked.candidates}
        asked.candidates = list(alone.values())
    elif without := [one for one in asked.candidates if not one.concepts]:
        raise UserError(f"{without[0].line} names no concepts of channel {without[0].channel}: {ALONE}")
    return asked


def setting(name, settings, *sources):
    """A setting that travels: a flag, else the first of the sources (dictionaries) that knows it, else its default."""
    given = getattr(settings, FLAGS[name])
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
            shown = listed(self.found, most=20, separator="; ", more="; and {} more")
            raise UserError(f"{len(self.found)} of {self.total} candidates could not be {verb}: {shown}")


@contextmanager
def naming(candidate):
    """Say in errors which line of a file an AskedCandidate stands in."""
    try:
        yield
    except UserError as error:
        if candidate.line is None:
            raise
        raise UserError(f"{candidate.line}: {error}") from error


def resolve(candidate, channel_flag, context, classes):
    """A candidate's concepts as lists of network outputs; UserError where its channel or a class is not there."""
    with naming(candidate):
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


def check_origin(asked, settings, meta):
    """Refuse candidates that stage 2 found in a network of other weights or another layer."""
    origin = {key: asked.settings[key] for key in ("weights_sha256", "layer") if key in asked.settings}
    refuse_differences(meta, origin, origin, settings.candidates)


# --------------------------------------------------------------------------------------------------------------------
# What stage 3 ends with


def write_layer(splits, manifest, candidates, proof, open_images):
    """Show that a network with all splits at once is equal, and write their manifest, if that is not there: the paths.

    Parameters
    ----------
    splits : SplitWriter
    manifest : Path
    candidates : list of Candidate
        All of which are written.
    proof : EqualityProof
    open_images : function that returns images of each group, on which to show it
    """
    files, written = splits.read_all(candidates), []
    all_splits = [file.split for file in files.values()]
    if not splits.layer_is_there(manifest, files):
        check = proof.check(all_splits, open_images())
        print(f"\nall {len(files)} splits at once")
        print_equality(check)
        splits.write_layer(manifest, files, check)
        written.append(manifest)
    return [*written, write_concepts(manifest, proof.network.layer, all_splits)]


def commands_after_splitting(settings, source, splits, candidates, manifest):
    """What to run next, (what for, command) each; ``manifest`` is the path of the one of all splits, or None."""
    stage4 = partial(flags.next_command, "get_results.py", settings=settings)
    if not source.labelled:
        paths = map(splits.path, candidates) if manifest is None else [manifest]
        return [("next", stage4("--splits", *paths))]
    selectors = splits.selectors(candidates)
    if not {"--only_correct", "--no-only_correct"} & set(map(str, selectors)):
        selectors += flags.only_correct_flag(settings)
    commands = [("next", stage4(*flags.candidate_flags(settings, "channel_of_interest"), *selectors))]
    if manifest is not None:
        separation = stage4("--splits", manifest, "--get_separation")
        commands.append(("or, against all other validation images", separation))
    return commands
