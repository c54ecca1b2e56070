"""What stage 4 begins with: the splits asked for, and where its validation images come from."""

from functools import partial
from pathlib import Path

from utils.command_line import flags
from utils.command_line.opening import (
    Problems,
    asked_candidates,
    naming,
    open_network,
    open_study,
    require_stored_network,
    resolve,
)
from utils.concept_sources.source_registry import SOURCES
from utils.divisions.division_registry import DIVISIONS
from utils.errors import UserError
from utils.images.folders import ClassMap
from utils.images.image_source import ImageSource
from utils.method.rho import RHOS
from utils.plugins import flags_of
from utils.stages.validation import (
    ImagePass,
    StoredValidation,
    list_validation,
    without_images,
    without_measured_images,
)
from utils.store.files import refuse_differences
from utils.store.importance_store import ImportanceStore
from utils.store.opened_splits import OpenedSplit
from utils.store.splits import SPLIT_CONTEXT, find_splits, read_split, require_weight, splits_of

NO_VAL_STORE = (
    "{} has no complete val store of this network, layer and transform (in {}, decoded by {}): run "
    "get_importances_for_classes.py --images val"
)


def open_splits(settings, run):
    """The splits asked for, each once, whether by their files, a manifest, or channels and concepts.

    Returns
    -------
    opened : list of OpenedSplit
    stage_two : dict
        Settings of stage 2, where the candidates say them.
    problems : Problems
        What of the candidates could not be opened.
    """
    if settings.rho is not None and settings.rho not in RHOS:
        raise UserError(f"--rho {settings.rho} is not one of the stored values {', '.join(map(str, RHOS))}")
    if settings.splits:
        named = [(path, rho) for path in settings.splits for path, rho in splits_of(path)]
        problems, stage_two = Problems(len(named)), {}
        found = [(path, lambda path=path, rho=rho: (path, read_split(path), rho)) for path, rho in named]
    else:
        asked = asked_candidates(settings)
        problems, stage_two = Problems(len(asked.candidates)), asked.settings
        found = [
            (f"channel {one.channel}", lambda one=one: _find_split(settings, run, one, stage_two))
            for one in asked.candidates
        ]
    opened, first = {}, None
    for what, read in found:
        with problems.noted(what):
            path, file, rho = read()
            SOURCES.require(file.source["name"], path)
            first = first or file
            shared = [key for key in SPLIT_CONTEXT if key != "weights"]  # equal ones may come from several places
            refuse_differences(first.context, file.context, shared, path)
            division = file.split.division
            if settings.rho is not None and not division.rhos:
                raise UserError(f"{path} was split by {division.words}, which has no rho: leave out --rho")
            opened[path] = OpenedSplit(path, file, settings.rho or rho or file.split.rho)
    if not opened:
        problems.finish("opened")
    return list(opened.values()), stage_two, problems


def model_dir_of(settings):
    """The folder of the splits: by --model_dir, or that of the files of --splits, or the store's.

    Results are compared with the split of their name there: files of --splits that lie elsewhere are refused.
    """
    folders = {path.parent.resolve(): path.parent for path in map(Path, settings.splits or ())}
    if settings.model_dir is None and not folders:
        return Path(settings.store_dir) / "models_disentangled"
    model_dir = Path(settings.model_dir) if settings.model_dir is not None else next(iter(folders.values()))
    elsewhere = [folder for resolved, folder in folders.items() if resolved != model_dir.resolve()]
    if elsewhere:
        what = (
            "--splits names files of several folders"
            if settings.model_dir is None
            else "--splits is not in --model_dir"
        )
        raise UserError(f"{what}, {model_dir} and {elsewhere[0]}: results are kept for one at a time")
    return model_dir


def _find_split(settings, run, candidate, stage_two):
    """The one split of a candidate: its path, content and no rho; names are resolved by the splits' own class map."""
    with naming(candidate):
        return *_find_one(settings, model_dir_of(settings), run, candidate, stage_two), None


def _find_one(settings, model_dir, run, candidate, stage_two):
    present = find_splits(model_dir, run, candidate.channel)
    if not present:
        raise UserError(
            f"there is no split of channel {candidate.channel} of {run} in {model_dir}: run disentangle_channel.py"
        )
    context = _first_readable(present).context
    concepts = resolve(candidate, settings.channel_flag, context, ClassMap(context["classes"]))
    found = find_splits(model_dir, run, candidate.channel, concepts)
    if not found:
        names = ", ".join(other.name for other in present[:20])
        wanted = "_".join("-".join(map(str, concept)) for concept in concepts)
        raise UserError(
            f"there is no split of channel {candidate.channel} and classes {wanted}, only {names}: "
            "run disentangle_channel.py for these concepts"
        )
    files = {path: read_split(path) for path in found}
    chosen = {path: file for path, file in files.items() if _is_wanted(file, settings, stage_two)}
    if len(chosen) != 1:
        names = ", ".join(path.name for path in chosen or found)
        which = "several splits match" if chosen else "no split matches"
        selectors = ", ".join(f"--{name}" for name in flags_of(DIVISIONS.all()))
        how = f"--only_correct or --no-only_correct, {selectors}, --split_by and --background"
        raise UserError(f"{which} ({names}): choose one with {how}")
    ((path, file),) = chosen.items()
    asked = {"channel": candidate.channel, "classes": concepts}
    refuse_differences(asked, {"channel": file.split.channel, "classes": file.split.classes}, asked, path)
    return path, file


def _is_wanted(file, settings, stage_two):
    """Whether a split was made as the flags, or else the candidates' settings, say."""
    given, division = settings.only_correct, file.split.division
    only_correct = stage_two.get("only_correct") if given is None else given
    return (
        only_correct in (None, file.settings["only_correct"])
        and all(division.settings().get(name) == value for name, value in settings.division_given.items())
        and settings.split_by in (None, division.name)
        and settings.background in (None, file.background or 0)
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


def open_validation(settings, run, opened, transform, device, problems):
    """Where stage 4's images come from: a complete val store that matches, unless pictures need the images; else val/.

    Returns
    -------
    source : StoredValidation or ImagePass
    opened : list of OpenedSplit
        Those whose classes all have images; the others are among the problems.
    """
    context, first = opened[0].file.context, opened[0].path
    classes = ClassMap(context["classes"])
    root, outputs = Path(settings.data_dir) / "val", sorted({output for one in opened for output in one.outputs})
    store = matching_val_store(settings, run, context)
    sets = _image_sets(settings, run, opened, store, transform, device)
    if store is not None and not settings.wants_network:
        if settings.weights is not None:
            require_stored_network(settings, context, first)
        check_weights(opened, *store.read_layer())
        source = StoredValidation(store, root, classes, sets)
        missing = without_measured_images(store, source.images, classes, outputs)
        return source, _with_images(opened, missing, sets, problems)
    opened = _with_images(opened, without_images(root, classes, outputs), sets, problems)
    outputs = sorted({output for one in opened for output in one.outputs})
    if sets:
        images, _ = store.measured_images(root)
    else:
        images = list_validation(root, classes, outputs, settings.all_classes)
    network = open_network(settings, context, first, device)
    check_weights(opened, network.layer.weight, network.layer.bias)
    images_with_transform = ImageSource(images, transform, settings.batch_size, flags.loading(settings, device))
    return ImagePass(network, images_with_transform, classes, sets), opened


def _image_sets(settings, run, opened, store, transform, device):
    """The validation images of concepts without labels, {key: array of indices}; UserError without a val store."""
    unlabelled = [one for one in opened if not SOURCES.get(one.file.source["name"]).labelled]
    if unlabelled and store is None:
        raise UserError(
            f"{unlabelled[0].path} has concepts without labels, whose validation images a val store tells: "
            f"{NO_VAL_STORE.format(settings.store_dir, settings.precision, settings.decode)}"
        )

    training, found = ImportanceStore(settings.store_dir, run), {}
    opener = partial(open_network, settings, opened[0].file.context, opened[0].path, device)
    study = open_study(settings, training, transform, device, open_network=opener, only_correct=False)
    for name in SOURCES:
        by_source = [one for one in unlabelled if one.file.source["name"] == name]
        found |= SOURCES.get(name).assigned(by_source, store, study) if by_source else {}
    return {key: indices.numpy() for key, indices in found.items()}


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


def matching_val_store(settings, run, context):
    """The complete val store of the splits' network, layer and transform, and the precision asked for; else None."""
    store = ImportanceStore(settings.store_dir, run, "val")
    if not store.meta_path.is_file():
        return None
    meta = store.load_meta()
    keys = ("weights_sha256", "layer", "num_channels", "num_outputs", "transform", "classes")
    how = {"precision": settings.precision, "decoding": settings.decode}
    asked = {**{key: context[key] for key in keys}, **how}
    if any(meta[key] != asked[key] for key in asked):
        return None
    try:
        store.require_complete()
    except UserError:  # it is being made
        return None
    return store
