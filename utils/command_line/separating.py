"""Stage 4's separation: splits against all validation images, computed from the stores."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from utils.command_line.opening import check_requested_network
from utils.command_line.settings import ResultSettings, model_dir_of
from utils.command_line.split_opening import (
    NO_VALIDATION_IMAGES,
    OpenedSplits,
    concepts_not_evaluated,
    image_sets_in,
    no_val_store,
)
from utils.concept_sources.source_registry import SOURCES
from utils.defaults import SEPARATION_IRRELEVANT as DRAWN
from utils.errors import UserError
from utils.method.disentangling import GroupKey
from utils.report.separation_figure import write_separation_figure
from utils.report.separation_tables import print_separation, write_separation_tables
from utils.stages.separation import (
    NumbersDrawn,
    Thresholds,
    TrainingUnits,
    ValidationInputs,
    describe_separation,
    separate,
)
from utils.store.files import split_name, with_suffix
from utils.store.importance_store import ImportanceStore
from utils.store.opened_splits import OpenedSplit
from utils.store.separations import MeasuredRows, Separations

LONGEST_NAME = 150
MIXED = "_mixed"  # in the name of a separation of splits that were made in several ways
PLAIN = "_plain"  # stands there for splits whose names have no end
MOST_IRRELEVANT = 2e10  # splits x channels x images, a few minutes: above it irrelevant channels are drawn


def measure_separation(opened: OpenedSplits) -> list[Path]:
    """Measure, store and print the separation of splits; returns the paths of the files written."""
    settings = opened.settings
    for split in opened.splits:
        if not SOURCES.get(split.file.source["name"]).is_named():
            raise UserError(
                f"--get_separation: {split.path} has concepts without labels, whose only images are those they were "
                "found in: use --compare"
            )
    check_requested_network(settings, opened.context, opened.path)
    store = opened.matching_val_store()
    if store is None:
        raise UserError(f"--get_separation: {no_val_store(settings)}")
    training = ImportanceStore(settings.store_dir, opened.run)
    training.load_meta()
    training.require_complete()

    separations = Separations(settings.output_dir, model_dir_of(settings))
    separations.check(opened.run, opened.context["weights_sha256"])
    numbers = NumbersDrawn(_irrelevant_drawn(settings, opened.splits, store.meta), settings.draws)
    thresholds = _thresholds(opened)
    name = separation_name(settings, opened.run, opened.splits)
    described = describe_separation(
        name, opened.run, opened.splits, thresholds, validation=store, training=training, numbers=numbers
    )
    described = separations.with_stored_draws(described)
    numbers = replace(numbers, most_draws=described["draws"])
    separation = separations.find(described)
    if separation is None:
        measured = MeasuredRows(separations, described)
        validation = ValidationInputs(store, opened.outputs, _sets_to_rank(opened, store))
        units = TrainingUnits(opened.open_study(training))
        rows = separate(opened.splits, thresholds, validation, units, numbers=numbers, measured=measured)
        separation = {**described, "images": len(validation.targets), "rows": rows}
        separations.write(separation)
        measured.remove()
    else:
        separations.make_newest(separation)
    tables = write_separation_tables(separations)
    print_separation(separation, separations)
    figures = write_separation_figure(settings.output_dir, separation, settings.figure_width)
    return [*tables, separations.path(separation), *figures]


def _sets_to_rank(opened: OpenedSplits, store: ImportanceStore) -> dict[GroupKey, np.ndarray]:
    """The validation images of concepts that are no classes; UserError if no concept of any split has an image."""
    sets = image_sets_in(opened, store)
    if not opened.outputs and not any(map(len, sets.values())):
        names = dict.fromkeys(name for split in opened.splits for name in concepts_not_evaluated(split))
        raise UserError(f"--get_separation: {NO_VALIDATION_IMAGES.format(', '.join(names))}")
    return sets


def separation_name(settings: ResultSettings, run: str, splits: list[OpenedSplit]) -> str:
    """The name of a separation: that of its candidates file, its manifest or its splits.

    A candidates file has RUN in front, once, and after it the end of the names of its splits; of several ends all of
    them, after ``_mixed``. Channels given beside it, and a requested rho, are part of the name.
    """
    stems = [split.path.stem for split in splits]
    if settings.candidates is not None:
        name = Path(settings.candidates).stem
        name = name if name.startswith(run) else f"{run}_{name}"
        plain = [split_name(run, split.file.split.channel, split.file.split.classes) for split in splits]
        ends = sorted({stem.removeprefix(start) for stem, start in zip(stems, plain, strict=True)})
        name = with_suffix(name, ends[0]) if len(ends) == 1 else name + MIXED + "".join(end or PLAIN for end in ends)
        channels = sorted(set(settings.channels or ()))
        name += f"_channel{'-'.join(map(str, channels))}" if channels else ""
    elif settings.splits and len(settings.splits) == 1:
        name = Path(settings.splits[0]).stem
    else:
        name = "_".join(stems)
    name += f"_rho{settings.rho}" if settings.rho is not None else ""
    if len(name) > LONGEST_NAME:
        name = f"{run}_{len(splits)}splits_{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return name


def _thresholds(opened: OpenedSplits) -> list[Thresholds]:
    """Tau and p for each split."""
    return [Thresholds(*(opened.of_stage_two(name, split) for name in ("tau", "p"))) for split in opened.splits]


def _irrelevant_drawn(
    settings: ResultSettings, splits: list[OpenedSplit], validation: dict[str, Any]
) -> dict[str, int | None]:
    """How many irrelevant channels are drawn for splits of each division, by its name; None: all are used.

    ``validation`` is the ``meta`` of the val store.
    """
    divisions = {split.file.split.division.name: split.file.split.division for split in splits}
    if settings.irrelevant_channels is not None:
        requested = settings.irrelevant_channels
        by_word: dict[int | str, int | None] = {"all": None, "none": 0}
        return dict.fromkeys(divisions, by_word[requested] if requested in by_word else int(requested))
    numbers = {name: division.usual_irrelevant for name, division in divisions.items()}
    using_all = [split for split in splits if numbers[split.file.split.division.name] is None]
    if len(using_all) * validation["num_channels"] * validation["num_images"] > MOST_IRRELEVANT:
        print(
            f"{len(using_all)} splits, {validation['num_channels']} channels and {validation['num_images']} images are "
            f"many: only {DRAWN} irrelevant channels are drawn for each split (--irrelevant_channels changes this)"
        )
        numbers = {name: DRAWN if number is None else number for name, number in numbers.items()}
    return numbers
