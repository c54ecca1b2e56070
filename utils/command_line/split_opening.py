"""Opens the splits that stage 4 evaluates, and its validation images."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.command_line import flags
from utils.command_line.card_patches import patches_of_all
from utils.command_line.commands import validation_store_command
from utils.command_line.earlier_settings import chosen_run, flags_given, setting
from utils.command_line.opening import (
    Problems,
    check_channel,
    check_channel_count,
    naming,
    open_network,
    open_study,
    open_transform,
    requested_candidates,
    require_stored_network,
    resolve,
)
from utils.command_line.settings import ImageSettings, ResultSettings, model_dir_of
from utils.concept_sources.source_registry import SOURCES
from utils.errors import SPLITS_FLAG, UserError, looked_in
from utils.images.batches import ImageSource
from utils.images.folders import ClassMap, ImageList
from utils.images.transform import Transform
from utils.method.disentangling import GroupKey
from utils.method.rho import RHOS
from utils.networks.opened_network import OpenedNetwork
from utils.processes import progress
from utils.stages.strongest_patches import KeptPatches
from utils.stages.validation import (
    ImagePass,
    StoredValidation,
    classes_without_images,
    classes_without_measured_images,
    list_all_validation,
    list_validation,
)
from utils.store.candidates import RequestedCandidate
from utils.store.files import number_text, refuse_differences, run_name
from utils.store.importance_store import ImportanceStore
from utils.store.opened_splits import OpenedSplit
from utils.store.splits import SPLIT_CONTEXT, SplitFile, StoredSplits, read_split, read_splits
from utils.store.study import Study

SHARED_CONTEXT = [key for key in SPLIT_CONTEXT if key != "weights"]  # equal weights may come from several places

NO_VALIDATION_IMAGES = "no validation images of {} were given to stage 3: nothing can be evaluated"

ReadSplit = tuple[Path, SplitFile, float | None]  # with the rho of a manifest


@dataclass(frozen=True)
class OpenedSplits:
    """The splits that stage 4 evaluates, each once, and their shared context.

    ``run`` is the network and layer as names of files have them. ``stage_two`` are settings of stage 2, if the
    candidates contain them. ``problems`` are candidates that could not be opened or evaluated. ``kept_patches`` is the
    file of the strongest patches of all validation images if cards show these; None: patches of the concepts.
    """

    settings: ResultSettings
    run: str
    device: torch.device
    transform: Transform
    splits: list[OpenedSplit]
    stage_two: dict[str, Any]
    problems: Problems
    kept_patches: KeptPatches | None = None

    @property
    def path(self) -> Path:
        """The file that ``context`` is read from."""
        return self.splits[0].path

    @property
    def context(self) -> dict[str, Any]:
        """What all splits share: the network, its layer, the transform and the classes."""
        return self.splits[0].file.context

    @property
    def outputs(self) -> list[int]:
        """The classes of all concepts, ascending."""
        return sorted({output for split in self.splits for output in split.outputs})

    @property
    def taus(self) -> list[float]:
        """The tau of each split."""
        return [self.of_stage_two("tau", split) for split in self.splits]

    def of_stage_two(self, name: str, split: OpenedSplit) -> Any:
        """A setting of stage 2 for a split: of a flag, the candidates, the split, a run of stage 2, or the default."""
        sources = [self.stage_two, split.file.settings]
        if all(source.get(name) is None for source in (flags_given(self.settings), *sources)):
            channels = [split.file.split.channel]
            stage_two_run = chosen_run(self.settings, self.run, self.context, channels, names=[name])
            sources += [] if stage_two_run is None else [stage_two_run.settings]
        return setting(name, self.settings, *sources)

    def matching_val_store(self) -> ImportanceStore | None:
        return matching_val_store(self.settings, self.run, self.context)

    def open_training(self) -> ImportanceStore:
        """The complete store of the training images that the splits were made from."""
        training = ImportanceStore(self.settings.store_dir, self.run)
        meta = training.load_meta()
        training.require_complete()
        refuse_differences(self.context, meta, SHARED_CONTEXT, training.folder)
        return training

    def open_network(self) -> OpenedNetwork:
        return open_network(self.settings, self.context, self.path, self.device)

    def open_study(self, training: ImportanceStore, open_network: Callable[[], OpenedNetwork] | None = None) -> Study:
        """The Study of the layer, of all training images; the network is opened when it is needed."""
        return open_study(
            self.settings,
            training,
            self.transform,
            self.device,
            open_network=open_network or self.open_network,
            only_correct=False,
        )


def open_splits(settings: ResultSettings, device: torch.device) -> OpenedSplits:
    """The requested splits, each once, given by their files, a manifest, or channels and concepts."""
    if settings.rho is not None and settings.rho not in RHOS:
        raise UserError(f"--rho {settings.rho} is not one of the stored values {', '.join(map(str, RHOS))}")
    run = run_name(settings.model, settings.layer_of_interest)
    stage_two: dict[str, Any] = {}
    readers: list[tuple[str, Callable[[], ReadSplit]]]
    if settings.splits:
        readers = list(chain.from_iterable(map(_readers_of, settings.splits)))
    else:
        candidates = requested_candidates(settings)
        stage_two = candidates.settings
        stored = StoredSplits(model_dir_of(settings), run)
        readers = [
            (f"channel {candidate.channel}", partial(_find_split, settings, stored, candidate, stage_two))
            for candidate in candidates.candidates
        ]
    problems = Problems(len(readers))
    splits = _open_each(settings, readers, problems)
    if not splits:
        problems.finish("opened")
    context = splits[0].file.context
    check_channel_count(settings, context)
    transform = open_transform(settings, context, splits[0].path)
    return OpenedSplits(settings, run, device, transform, splits, stage_two, problems)


def _open_each(
    settings: ResultSettings, readers: list[tuple[str, Callable[[], ReadSplit]]], problems: Problems
) -> list[OpenedSplit]:
    """The splits that can be read and are of the same network, layer and images as the first one."""
    opened: dict[Path, OpenedSplit] = {}
    context = None
    for name, read in progress(readers, "opening splits", unit=" splits", delay=2, leave=False):
        with problems.noted(name):
            path, file, rho = read()
            SOURCES.require(file.source["name"], path)
            context = context or file.context
            refuse_differences(context, file.context, SHARED_CONTEXT, path)
            division = file.split.division
            if settings.rho is not None and not division.rhos:
                raise UserError(f"{path} was split by {division.words}, which has no rho: leave out --rho")
            opened[path] = OpenedSplit(path, file, settings.rho or rho or file.split.rho)
    return list(opened.values())


def _readers_of(splits: str | Path) -> list[tuple[str, Callable[[], ReadSplit]]]:
    """A reader of a split file, or of each split of a manifest: these are read now, as all of them must be whole."""
    if Path(splits).suffix != ".json":
        return [(str(splits), lambda: next(read_splits(splits)))]
    return [(str(read[0]), partial(lambda read: read, read)) for read in read_splits(splits)]


def _find_split(
    settings: ResultSettings, stored: StoredSplits, candidate: RequestedCandidate, stage_two: dict[str, Any]
) -> ReadSplit:
    """The one split of a candidate; names are resolved by the splits' own class map."""
    read = cache(read_split)  # of one candidate: the same file may have its classes and be the one that is wanted
    with naming(candidate):
        present = stored.find(candidate.channel)
        if not present:
            _check_range(settings, stored.run, candidate.channel)
            raise UserError(
                f"there is no split of channel {candidate.channel} of {stored.run} in "
                f"{looked_in(stored.folder, SPLITS_FLAG)}: run disentangle_channel.py"
            )
        context = _first_readable(present, read).context
        concepts = resolve(candidate, settings.channel_flag, context, ClassMap(context["classes"]))
        of_concepts = stored.find(candidate.channel, concepts)
        if not of_concepts:
            names = ", ".join(path.name for path in present[:20])
            wanted = "_".join("-".join(map(str, concept)) for concept in concepts)
            raise UserError(
                f"there is no split of channel {candidate.channel} and classes {wanted}, only {names}: "
                "run disentangle_channel.py for these concepts"
            )
        path, file = _only_wanted(settings, {path: read(path) for path in of_concepts}, stage_two)
        expected = {"channel": candidate.channel, "classes": concepts}
        actual = {"channel": file.split.channel, "classes": file.split.classes}
        refuse_differences(expected, actual, expected, path)
        return path, file, None


def _check_range(settings: ResultSettings, run: str, channel: int) -> None:
    """Raise UserError if the training store is there and its layer does not have this channel."""
    training = ImportanceStore(settings.store_dir, run)
    if training.meta_path.is_file():
        check_channel(channel, settings.channel_flag, training.load_meta())


def _only_wanted(
    settings: ResultSettings, files: dict[Path, SplitFile], stage_two: dict[str, Any]
) -> tuple[Path, SplitFile]:
    """The only one of several splits of the same concepts that has the settings of the flags; else UserError."""
    wanted = {path: file for path, file in files.items() if _is_wanted(file, settings, stage_two)}
    if len(wanted) != 1:
        which = "several splits match" if wanted else "no split matches"
        raise UserError(f"{which}: give the flags of one of {_told_apart(wanted or files, match=bool(wanted))}")
    return next(iter(wanted.items()))


def _told_apart(files: dict[Path, SplitFile], *, match: bool) -> str:
    """The names of splits, each with the flags that select it.

    Where the splits ``match`` what was asked, flags that all of them share are left out.
    """
    selectors = {path: _selectors(file) for path, file in files.items()}
    shared = set.intersection(*map(set, selectors.values())) if match else set()
    words = {path: [word for flag in flags if flag not in shared for word in flag] for path, flags in selectors.items()}
    return ", ".join(f"{path.name} ({' '.join(map(str, of_split))})" for path, of_split in words.items())


def _selectors(file: SplitFile) -> list[tuple[Any, ...]]:
    """The flags that select a split, each a tuple of its words."""
    division = file.split.division
    return [
        ("--split_by", division.name),
        ("--background", number_text(file.background or 0)),
        ("--only_correct" if file.settings["only_correct"] else "--no-only_correct",),
        tuple(division.flag_words(division.settings())),
    ]


def _is_wanted(file: SplitFile, settings: ResultSettings, stage_two: dict[str, Any]) -> bool:
    """Whether a split was made with the settings that flags give, or else with those of the candidates."""
    division = file.split.division
    only_correct = stage_two.get("only_correct") if settings.only_correct is None else settings.only_correct
    return (
        only_correct in (None, file.settings["only_correct"])
        and all(division.settings().get(name) == value for name, value in settings.division_given.items())
        and settings.split_by in (None, division.name)
        and settings.background in (None, file.background or 0)
    )


def _first_readable(paths: list[Path], read: Callable[[Path], SplitFile]) -> SplitFile:
    """The first of several split files that is not damaged."""
    for path in paths[:-1]:
        try:
            return read(path)
        except UserError:
            continue
    return read(paths[-1])


# --------------------------------------------------------------------------------------------------------------------
# Validation images


def concepts_not_evaluated(split: OpenedSplit) -> list[str]:
    """The names of the concepts of a split that have no validation images because none were given to stage 3."""
    source = split.file.source
    return SOURCES.get(source["name"]).not_evaluated(split.file.split.own_concepts, source["state"])


def _print_not_evaluated(opened: OpenedSplits) -> None:
    names = Counter(name for split in opened.splits for name in concepts_not_evaluated(split))
    for name, number in names.items():
        of_splits = f" of {number} splits" if number > 1 else ""
        print(f"concept {name}{of_splits} is not evaluated: stage 3 was given no validation images of it")


def open_validation(opened: OpenedSplits) -> tuple[OpenedSplits, ImagePass | StoredValidation]:
    """Stage 4's images: of a complete val store that matches, unless the network is needed; else of val/.

    Also returns the splits whose classes all have images; the others are among the problems.
    """
    settings = opened.settings
    classes = ClassMap(opened.context["classes"])
    root = Path(settings.data_dir) / "val"
    store = opened.matching_val_store()
    sets = image_sets_in(opened, store)
    if store is not None and not settings.wants_network:
        if settings.weights is not None:
            require_stored_network(settings, opened.context, opened.path)
        source = StoredValidation(store, root, classes, sets)
        missing = classes_without_measured_images(store, source.images, classes, opened.outputs)
        return _with_images(opened, missing, sets), source
    opened = _with_images(opened, classes_without_images(root, classes, opened.outputs), sets)
    images = store.measured_images(root)[0] if store is not None and (sets or settings.with_pure) else None
    if settings.get_channel_card:
        opened = replace(opened, kept_patches=patches_of_all(opened, images))
    if images is None:
        images = _listed_images(opened, root, classes)
    network = opened.open_network()
    loading = flags.loading(settings, opened.device)
    image_source = ImageSource(images, opened.transform, settings.batch_size, loading)
    return opened, ImagePass(network, image_source, classes, sets)


def _listed_images(opened: OpenedSplits, root: Path, classes: ClassMap) -> ImageList:
    """The images in ``val/``: of the splits' classes, or of all, where results need other ones."""
    if opened.kept_patches is not None:
        return opened.kept_patches.images
    if opened.settings.get_edit:
        return list_all_validation(root, classes)
    return list_validation(root, classes, opened.outputs)


def image_sets_in(opened: OpenedSplits, store: ImportanceStore | None) -> dict[GroupKey, np.ndarray]:
    """The validation images of concepts without labels, {key: indices}; UserError without a val store.

    Prints the concepts that have none because none were given.
    """
    _print_not_evaluated(opened)
    unlabelled = [split for split in opened.splits if not SOURCES.get(split.file.source["name"]).labelled]
    if not unlabelled:
        return {}
    if store is None:
        raise UserError(
            f"{unlabelled[0].path} has concepts without labels, whose validation images are in the val store: "
            f"{no_val_store(opened.settings)}"
        )
    study = opened.open_study(ImportanceStore(opened.settings.store_dir, opened.run))
    sets: dict[GroupKey, torch.Tensor] = {}
    for name in SOURCES:
        by_source = [split for split in unlabelled if split.file.source["name"] == name]
        if by_source:
            sets |= SOURCES.get(name).assigned(by_source, store, study)
    return {key: indices.numpy() for key, indices in sets.items()}


def _with_images(opened: OpenedSplits, missing: dict[int, str], sets: dict[GroupKey, np.ndarray]) -> OpenedSplits:
    """Without the splits that have a class in ``missing`` {output: reason}, or only empty image ``sets``.

    These become problems.
    """
    splits = []
    for split in opened.splits:
        with opened.problems.noted(split.path.name):
            lacking = [output for output in split.outputs if output in missing]
            if lacking:
                raise UserError(missing[lacking[0]])
            if not any(key not in sets or len(sets[key]) for key in split.keys):
                names = ", ".join(concepts_not_evaluated(split))
                if names:
                    raise UserError(NO_VALIDATION_IMAGES.format(names))
                raise UserError(f"channel {split.file.split.channel} is active in no validation image")
            splits.append(split)
    if not splits:
        opened.problems.finish("evaluated")
    return replace(opened, splits=splits)


def no_val_store(settings: ResultSettings) -> str:
    """That the val store is missing, and the command that makes it."""
    return (
        f"{settings.store_dir} has no complete val store of this network, layer and transform (in "
        f"{settings.precision}, decoded by {settings.decode}): run {validation_store_command(settings)}"
    )


def matching_val_store(settings: ImageSettings, run: str, context: dict[str, Any]) -> ImportanceStore | None:
    """The complete val store of the splits' network, layer and transform, and the requested precision; else None."""
    store = ImportanceStore(settings.store_dir, run, "val")
    if not store.meta_path.is_file():
        return None
    meta = store.load_meta()
    keys = ("weights_sha256", "layer", "num_channels", "num_outputs", "transform", "classes")
    expected = {key: context[key] for key in keys}
    expected |= {"precision": settings.precision, "decoding": settings.decode}
    if any(meta[key] != expected[key] for key in expected):
        return None
    try:
        store.require_complete()
    except UserError:  # it is being made
        return None
    return store
