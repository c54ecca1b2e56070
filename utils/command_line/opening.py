"""What stages 2 to 4 begin with: candidates, settings, network and splits, checked against what is stored."""

from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import torch

from utils.command_line import flags
from utils.errors import UserError
from utils.images.batches import ImageBatches
from utils.images.classes import ClassMap, map_folders, read_class_map
from utils.images.listing import class_folders, list_images
from utils.images.text import printable
from utils.method.disentangling import RHOS
from utils.networks.layers import find_layer
from utils.networks.loading import default_weights, has_named_weights, load_network
from utils.stages.validation import ImagePass, StoredValidation, list_validation
from utils.store.candidates import AskedCandidate, AskedCandidates, read_candidates
from utils.store.files import refuse_differences
from utils.store.importances import ImportanceStore, identity
from utils.store.splits import SPLIT_CONTEXT, SplitFile, find_splits, read_split, require_weight, transform_from

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
    if args.layer_of_interest not in ("last_conv", stored["layer"]):
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


def asked_candidates(args, channel_flag):
    """What is asked for: one candidate by flags; a file's, of all channels or of those given beside it."""
    channels = getattr(args, channel_flag)
    if args.candidates is None:
        if len(channels) > 1:
            raise UserError(f"--{channel_flag} takes several channels only beside --candidates")
        return AskedCandidates([AskedCandidate(channels[0], flags.concepts_from(args))])
    asked = read_candidates(args.candidates)
    if channels is not None:
        missing = sorted(set(channels) - {one.channel for one in asked.candidates})
        if missing:
            raise UserError(f"--candidates {args.candidates} has no channel {missing[0]}")
        asked.candidates = [one for one in asked.candidates if one.channel in channels]
    return asked


def setting(name, args, *sources):
    """A setting that travels: a flag, else the first of the sources (dictionaries) that knows it, else its default."""
    given = getattr(args, FLAGS[name])
    known = [source[name] for source in sources if source.get(name) is not None]
    return given if given is not None else known[0] if known else DEFAULTS[name]


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
        if candidate.channel >= context["num_channels"]:
            last = context["num_channels"] - 1
            raise UserError(f"--{channel_flag} {candidate.channel} is out of range, the layer has channels 0 to {last}")
        return classes.resolve(candidate.concepts, context["num_outputs"])


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


# --------------------------------------------------------------------------------------------------------------------
# Splits


@dataclass
class OpenedSplit:
    """A split file's ``path`` and content, and the ``rho`` asked for."""

    path: Path
    file: SplitFile
    rho: float

    @cached_property
    def outputs(self):
        """All classes of all concepts, sorted."""
        return sorted(output for concept in self.file.split.classes for output in concept)


def open_splits(args, run, asked, problems):
    """The splits asked for, each once: a list of OpenedSplit."""
    if args.rho is not None and args.rho not in RHOS:
        raise UserError(f"--rho {args.rho} is not one of the stored values {', '.join(map(str, RHOS))}")
    model_dir, opened, first = model_dir_of(args), {}, None
    for candidate in asked.candidates:
        with problems.noted(f"channel {candidate.channel}"), candidate.named():
            path, file = _open_split(args, model_dir, run, candidate, asked.settings)
            first = first or file
            shared = [key for key in SPLIT_CONTEXT if key != "weights"]  # equal ones may come from several places
            refuse_differences(first.context, file.context, shared, path)
            opened[path] = OpenedSplit(path, file, args.rho or file.split.rho)
    if not opened:
        problems.finish("opened")
    return list(opened.values())


def model_dir_of(args):
    return Path(args.model_dir or Path(args.store_dir) / "models_disentangled")


def _open_split(args, model_dir, run, candidate, settings):
    """A split file's path and content; class folders' names are resolved by the splits' own class map."""
    present = find_splits(model_dir, run, candidate.channel)
    if not present:
        raise UserError(
            f"there is no split of channel {candidate.channel} of {run} in {model_dir}: run disentangle_channel.py"
        )
    context = _first_readable(present).context
    concepts = resolve(candidate, "channel_of_interest", context, ClassMap(context["classes"]))
    found = find_splits(model_dir, run, candidate.channel, concepts)
    if not found:
        names = ", ".join(other.name for other in present[:20])
        wanted = "_".join("-".join(map(str, concept)) for concept in concepts)
        raise UserError(
            f"there is no split of channel {candidate.channel} and classes {wanted}, only {names}: "
            "run disentangle_channel.py for these concepts"
        )
    files = {path: read_split(path) for path in found}
    chosen = {path: file for path, file in files.items() if _is_wanted(file, args, settings)}
    if len(chosen) != 1:
        names = ", ".join(path.name for path in chosen or found)
        which = "several splits match" if chosen else "no split matches"
        raise UserError(f"{which} ({names}): choose one with --only_correct or --no-only_correct, and --rho_objective")
    ((path, file),) = chosen.items()
    asked = {"channel": candidate.channel, "classes": concepts}
    refuse_differences(asked, {"channel": file.split.channel, "classes": file.split.classes}, asked, path)
    return path, file


def _is_wanted(file, args, settings):
    """Whether a split was made as the flags, or else the candidates' settings, say."""
    only_correct = args.only_correct if args.only_correct is not None else settings.get("only_correct")
    return only_correct in (None, file.settings["only_correct"]) and args.rho_objective in (None, file.split.objective)


def _first_readable(paths):
    """The first of several split files that is not damaged."""
    for path in paths[:-1]:
        try:
            return read_split(path)
        except UserError:
            continue
    return read_split(paths[-1])


# --------------------------------------------------------------------------------------------------------------------
# Validation images


def open_validation(args, run, opened, context, classes, transform, device):
    """Where stage 4's images come from: a complete val store that matches, unless pictures need the images; else val/.

    Returns
    -------
    StoredValidation or ImagePass
    """
    root = Path(args.data_dir) / "val"
    store = _matching_val_store(args, run, context)
    if store is not None and not flags.wants_input(args):
        if args.weights is not None:
            open_network(args, context, opened[0].path)
        _check_weights(opened, *store.read_layer())
        return StoredValidation(store, root, classes)
    outputs = sorted({output for one in opened for output in one.outputs})
    images = list_validation(root, classes, outputs, args.all_classes)
    network, layer = open_network(args, context, opened[0].path)
    _check_weights(opened, layer.weight, layer.bias)
    how, loading = {"precision": args.precision, "decoding": args.decode}, flags.loading(args, device)

    def load(batches, description):
        return ImageBatches(images, transform, batches, description, **loading)

    network.module.to(device, memory_format=torch.channels_last)
    return ImagePass(network.module, layer, images, classes, load, args.batch_size, how)


def _check_weights(opened, weight, bias):
    for one in opened:
        require_weight(one.path, one.file.split, weight, bias)


def _matching_val_store(args, run, context):
    """The complete val store of the splits' network, layer and transform, and the precision asked for; else None."""
    store = ImportanceStore(args.store_dir, run, "val")
    if not store.meta_path.is_file():
        return None
    meta = store.load_meta()
    keys = ("weights_sha256", "layer", "num_channels", "num_outputs", "positions", "transform", "classes")
    how = {"precision": args.precision, "decoding": args.decode}
    asked = {**{key: context[key] for key in keys}, **how}
    if any(meta[key] != asked[key] for key in asked):
        return None
    try:
        store.require_complete()
    except UserError:  # it is being made
        return None
    return store
