"""Stage 4's separation: splits against all validation images, computed from the stores."""

import hashlib
from pathlib import Path
from typing import Any

from utils.command_line.opening import check_requested_network
from utils.command_line.settings import ResultSettings
from utils.command_line.split_opening import NO_VAL_STORE, OpenedSplits, model_dir_of
from utils.defaults import P
from utils.errors import UserError
from utils.report.separation_figure import write_separation_figure
from utils.report.separation_tables import print_separation, write_separation_tables
from utils.stages.separation import Thresholds, TrainingUnits, ValidationInputs, describe_separation, separate
from utils.store.files import split_name
from utils.store.importance_store import ImportanceStore
from utils.store.opened_splits import OpenedSplit
from utils.store.separations import Separations

LONGEST_NAME = 150


def measure_separation(opened: OpenedSplits) -> list[Path]:
    """Measure, store and print the separation of splits; returns the paths of the files written."""
    settings = opened.settings
    for split in opened.splits:
        if not all(split.file.split.classes):
            raise UserError(
                f"--get_separation: {split.path} has concepts without labels, which have no images but those found: "
                "compare with --compare"
            )
    check_requested_network(settings, opened.context, opened.path)
    store = opened.matching_val_store()
    if store is None:
        missing = NO_VAL_STORE.format(settings.store_dir, settings.precision, settings.decode)
        raise UserError(f"--get_separation: {missing}")
    training = ImportanceStore(settings.store_dir, opened.run)
    training.load_meta()
    training.require_complete()

    separations = Separations(settings.output_dir, model_dir_of(settings))
    separations.check(opened.run, opened.context["weights_sha256"])
    number = _number_drawn(settings, opened.splits)
    thresholds = _thresholds(opened)
    name = separation_name(settings, opened.run, opened.splits)
    described = describe_separation(
        name, opened.run, opened.splits, thresholds, validation=store, training=training, number=number
    )
    separation = separations.find(described)
    if separation is None:
        validation = ValidationInputs(store, opened.outputs)
        units = TrainingUnits(opened.open_study(training))
        rows = separate(opened.splits, thresholds, validation, units, number)
        separation = {**described, "images": len(validation.targets), "rows": rows}
        separations.write(separation)
    else:
        separations.make_newest(separation)
    tables = write_separation_tables(separations)
    print_separation(separation, separations)
    figures = write_separation_figure(settings.output_dir, separation, settings.figure_width)
    return [*tables, separations.path(separation), *figures]


def separation_name(settings: ResultSettings, run: str, splits: list[OpenedSplit]) -> str:
    """The name of a separation: that of its candidates file, its manifest or its splits.

    A candidates file has RUN in front, once, and after it the ends of the names of its splits. Channels given beside
    it, and a requested rho, are part of the name.
    """
    stems = [split.path.stem for split in splits]
    if settings.candidates is not None:
        name = Path(settings.candidates).stem
        name = name if name.startswith(run) else f"{run}_{name}"
        plain = [split_name(run, split.file.split.channel, split.file.split.classes) for split in splits]
        name += "".join(sorted({stem.removeprefix(start) for stem, start in zip(stems, plain, strict=True)}))
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
    return [Thresholds(tau, _p(opened, split)) for tau, split in zip(opened.taus, opened.splits, strict=True)]


def _p(opened: OpenedSplits, split: OpenedSplit) -> float:
    """The p of stage 2, from the candidates or the split; else the default."""
    sources: list[dict[str, Any]] = [opened.stage_two, split.file.settings]
    return next((source["p"] for source in sources if source.get("p") is not None), P)


def _number_drawn(settings: ResultSettings, splits: list[OpenedSplit]) -> int | None:
    """How many irrelevant channels are drawn; None: all are used."""
    if settings.irrelevant_channels is not None:
        return None if settings.irrelevant_channels == "all" else int(settings.irrelevant_channels)
    usual = [split.file.split.division.usual_irrelevant for split in splits]
    return min((number for number in usual if number is not None), default=None)
