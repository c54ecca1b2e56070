"""What stage 4 begins with: the splits asked for, and where its validation images come from."""

from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import torch

from utils.command_line import flags, wishes
from utils.command_line.opening import Problems, asked_candidates, open_network, resolve
from utils.errors import UserError
from utils.images.batches import ImageBatches
from utils.images.classes import ClassMap
from utils.method.disentangling import RHOS
from utils.networks.circuits import UnitCircuits, find_circuit_layer
from utils.stages.disentangling import image_groups, in_order
from utils.stages.embedding import measured_images
from utils.stages.unlabelled import assigned_by_pure, assigned_images
from utils.stages.validation import (
    ImagePass,
    StoredValidation,
    list_validation,
    without_images,
    without_measured_images,
)
from utils.store.files import refuse_differences
from utils.store.importances import ImportanceStore
from utils.store.manifests import splits_of
from utils.store.splits import SPLIT_CONTEXT, SplitFile, find_splits, read_split, require_weight

NO_VAL_STORE = (
    "{} has no complete val store of this network, layer and transform (in {}, decoded by {}): run "
    "get_importances_for_classes.py --images val"
)


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

    @cached_property
    def groups(self):
        """The groups of images of each concept that has some: its classes, or an image set."""
        return image_groups(self.file.split.own_concepts, self.path.stem)

    @cached_property
    def keys(self):
        """All groups of images of all concepts, in the order in which they are read."""
        return in_order(chain.from_iterable(self.groups))

    def which_rho(self):
        """The rho in words, before others; nothing where there is none."""
        if self.rho is None:
            return ""
        return f"rho {self.rho}{' (the chosen one)' if self.rho == self.file.split.rho else ''}, "


def open_splits(args, run):
    """The splits asked for, each once, whether by their files, a manifest, or channels and concepts.

    Returns
    -------
    opened : list of OpenedSplit
    settings : dict
        Of stage 2, where the candidates say them.
    problems : Problems
        What of the candidates could not be opened.
    """
    if args.rho is not None and args.rho not in RHOS:
        raise UserError(f"--rho {args.rho} is not one of the stored values {', '.join(map(str, RHOS))}")
    if args.splits:
        named = [(path, rho) for path in args.splits for path, rho in splits_of(path)]
        problems, settings = Problems(len(named)), {}
        found = [(path, lambda path=path, rho=rho: (path, read_split(path), rho)) for path, rho in named]
    else:
        asked = asked_candidates(args, "channel_of_interest")
        problems, settings = Problems(len(asked.candidates)), asked.settings
        found = [
            (f"channel {one.channel}", lambda one=one: _find_split(args, run, one, settings))
            for one in asked.candidates
        ]
    opened, first = {}, None
    for what, read in found:
        with problems.noted(what):
            path, file, rho = read()
            first = first or file
            shared = [key for key in SPLIT_CONTEXT if key != "weights"]  # equal ones may come from several places
            refuse_differences(first.context, file.context, shared, path)
            if args.rho is not None and file.split.rho is None:
                raise UserError(f"{path} was split by least squares, which has no rho: leave out --rho")
            opened[path] = OpenedSplit(path, file, args.rho or rho or file.split.rho)
    if not opened:
        problems.finish("opened")
    return list(opened.values()), settings, problems


def model_dir_of(args):
    """The folder of the splits: by --model_dir, or that of the files of --splits, or the store's.

    Results are compared with the split of their name there: files of --splits that lie elsewhere are refused.
    """
    folders = {path.parent.resolve(): path.parent for path in map(Path, args.splits or ())}
    if args.model_dir is None and not folders:
        return Path(args.store_dir) / "models_disentangled"
    model_dir = Path(args.model_dir) if args.model_dir is not None else next(iter(folders.values()))
    elsewhere = [folder for resolved, folder in folders.items() if resolved != model_dir.resolve()]
    if elsewhere:
        what = "--splits names files of several folders" if args.model_dir is None else "--splits is not in --model_dir"
        raise UserError(f"{what}, {model_dir} and {elsewhere[0]}: results are kept for one at a time")
    return model_dir


def _find_split(args, run, candidate, settings):
    """The one split of a candidate: its path, content and no rho; names are resolved by the splits' own class map."""
    with candidate.named():
        return *_find_one(args, model_dir_of(args), run, candidate, settings), None


def _find_one(args, model_dir, run, candidate, settings):
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
        how = "--only_correct or --no-only_correct, --rho_objective, --split_by and --background"
        raise UserError(f"{which} ({names}): choose one with {how}")
    ((path, file),) = chosen.items()
    asked = {"channel": candidate.channel, "classes": concepts}
    refuse_differences(asked, {"channel": file.split.channel, "classes": file.split.classes}, asked, path)
    return path, file


def _is_wanted(file, args, settings):
    """Whether a split was made as the flags, or else the candidates' settings, say."""
    only_correct = args.only_correct if args.only_correct is not None else settings.get("only_correct")
    background = file.background or 0
    return (
        only_correct in (None, file.settings["only_correct"])
        and args.rho_objective in (None, file.split.objective)
        and args.split_by in (None, file.split.split_by)
        and args.background in (None, background)
    )


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


def open_validation(args, run, opened, context, classes, transform, device, problems):
    """Where stage 4's images come from: a complete val store that matches, unless pictures need the images; else val/.

    Returns
    -------
    source : StoredValidation or ImagePass
    opened : list of OpenedSplit
        Those whose classes all have images; the others are among the problems.
    """
    root, outputs = Path(args.data_dir) / "val", sorted({output for one in opened for output in one.outputs})
    store = matching_val_store(args, run, context)
    sets = _image_sets(args, run, opened, store, transform, device)
    if store is not None and not wishes.wants_network(args):
        if args.weights is not None:
            open_network(args, context, opened[0].path)
        check_weights(opened, *store.read_layer())
        source = StoredValidation(store, root, classes, sets)
        missing = without_measured_images(store, source.images, classes, outputs)
        return source, _with_images(opened, missing, sets, problems)
    opened = _with_images(opened, without_images(root, classes, outputs), sets, problems)
    outputs = sorted({output for one in opened for output in one.outputs})
    images = measured_images(store, root)[0] if sets else list_validation(root, classes, outputs, args.all_classes)
    network, layer = open_network(args, context, opened[0].path)
    check_weights(opened, layer.weight, layer.bias)
    how, loading = {"precision": args.precision, "decoding": args.decode}, flags.loading(args, device)

    def load(batches, description):
        return ImageBatches(images, transform, batches, description, **loading)

    network.module.to(device, memory_format=torch.channels_last)
    return ImagePass(network.module, layer, images, classes, sets, load, args.batch_size, how), opened


def _image_sets(args, run, opened, store, transform, device):
    """The validation images of concepts without labels, {key: array of indices}; UserError without a val store."""
    unlabelled = [one for one in opened if one.file.source["from"] != "classes"]
    if unlabelled and store is None:
        raise UserError(
            f"{unlabelled[0].path} has concepts without labels, whose validation images a val store tells: "
            f"{NO_VAL_STORE.format(args.store_dir, args.precision, args.decode)}"
        )
    found = {}
    if by_store := [one for one in unlabelled if one.file.source["from"] != "pure"]:
        found |= assigned_images(by_store, store)
    pure = [one for one in unlabelled if one.file.source["from"] == "pure"]
    for name in {one.file.source["circuit_layer"]: None for one in pure}:
        alike = [one for one in pure if one.file.source["circuit_layer"] == name]
        found |= _assigned_by_pure(args, run, alike, store, transform, device, name)
    return {key: indices.numpy() for key, indices in found.items()}


def _assigned_by_pure(args, run, opened, store, transform, device, circuit_layer):
    """``assigned_by_pure`` of splits with one circuit layer; a pass over ``val/`` where it was not made yet."""
    network, layer = open_network(args, opened[0].file.context, opened[0].path)
    if circuit_layer is not None:
        circuit_layer = find_circuit_layer(network.module, layer, circuit_layer, transform.crop_size)
    network.module.to(device, memory_format=torch.channels_last)
    channels = [one.file.split.channel for one in opened]
    biases = None if layer.bias is None else layer.bias[channels]
    how = {"precision": args.precision, "circuit_layer": circuit_layer}
    units = UnitCircuits(network.module, layer, layer.weight[channels], biases, **how)
    images, loading = measured_images(store, Path(args.data_dir) / "val")[0], flags.loading(args, device)

    def load(batches, description):
        return ImageBatches(images, transform, batches, description, **loading)

    return assigned_by_pure(opened, store, run, units, load, args.batch_size, args.decode)


def _with_images(opened, missing, sets, problems):
    """The splits of which no class is in ``missing`` {output: why}, and whose image ``sets`` are not all empty; the
    others become problems."""
    whole = []
    for one in opened:
        with problems.noted(one.path.name):
            if lacking := [output for output in one.outputs if output in missing]:
                raise UserError(missing[lacking[0]])
            if not any(key not in sets or len(sets[key]) for key in one.keys):
                raise UserError(f"channel {one.file.split.channel} is active in no validation image")
            whole.append(one)
    if not whole:
        problems.finish("evaluated")
    return whole


def check_weights(opened, weight, bias):
    for one in opened:
        require_weight(one.path, one.file.split, weight, bias)


def matching_val_store(args, run, context):
    """The complete val store of the splits' network, layer and transform, and the precision asked for; else None."""
    store = ImportanceStore(args.store_dir, run, "val")
    if not store.meta_path.is_file():
        return None
    meta = store.load_meta()
    keys = ("weights_sha256", "layer", "num_channels", "num_outputs", "transform", "classes")
    how = {"precision": args.precision, "decoding": args.decode}
    asked = {**{key: context[key] for key in keys}, **how}
    if any(meta[key] != asked[key] for key in asked):
        return None
    try:
        store.require_complete()
    except UserError:  # it is being made
        return None
    return store
