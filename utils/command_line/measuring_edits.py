"""Stage 4's edits: what taking concepts out of channels does to their own images and to others, by several methods."""

from pathlib import Path
from typing import Any

from tqdm import tqdm

from utils.command_line.separating import separation_name
from utils.command_line.settings import model_dir_of
from utils.command_line.split_opening import OpenedSplits, no_val_store
from utils.errors import UserError
from utils.processes import progress
from utils.report.edit_figure import write_edit_figure
from utils.report.edit_tables import print_edits, write_edit_tables
from utils.stages.edit_effects import EditMeasurer, EditTraining, describe_edits
from utils.stages.edit_methods import methods
from utils.stages.pure_gates import PureGate, pure_gates
from utils.stages.validation import ImagePass, StoredValidation
from utils.store.edit_results import Edits
from utils.store.opened_splits import OpenedSplit
from utils.store.study import Study


def measure_edits(opened: OpenedSplits, validation: ImagePass | StoredValidation) -> list[Path]:
    """Measure, store and print the edits of splits; returns the paths of the files written."""
    assert isinstance(validation, ImagePass)  # settings.wants_network
    network = validation.network
    settings = opened.settings
    edits = Edits(settings.output_dir, model_dir_of(settings))
    edits.check(opened.run, opened.context["weights_sha256"])
    training = opened.open_training()
    compared = methods(with_pure=settings.with_pure)
    splits = progress(opened.splits, "describing splits", unit=" splits", delay=2, leave=False)
    described = [describe_edits(split, opened.run, validation, training.meta, methods=compared) for split in splits]
    measured: list[dict[str, Any] | None] = [edits.find(fields) for fields in described]
    edits.make_newest(edit for edit in measured if edit is not None)
    missing = [number for number, edit in enumerate(measured) if edit is None]
    if missing:
        study = opened.open_study(training, lambda: network)
        missing_splits = [opened.splits[number] for number in missing]
        gates = _gates(opened, missing_splits, study) if settings.with_pure else {}
        measurer = EditMeasurer(validation, EditTraining(study), compared, gates)
        bar = progress(missing, "edits", unit=" splits", total=len(described), initial=len(described) - len(missing))
        for number in bar:
            split = opened.splits[number]
            with opened.problems.noted(split.path.name), tqdm.external_write_mode():
                measured[number] = {**described[number], "rows": measurer.measure(split)}
                edits.write(measured[number])
            bar.set_postfix_str(f"{measurer.images_run} images run", refresh=False)
    all_measured = [edit for edit in measured if edit is not None]
    if not all_measured:
        opened.problems.finish("evaluated")
    paths = write_edit_tables(edits)
    print_edits(all_measured, edits)
    name = separation_name(settings, opened.run, opened.splits)
    figures = write_edit_figure(settings.output_dir, name, all_measured, settings.figure_width)
    return [*paths, edits.path(all_measured[0]).parent, *figures]


def _gates(opened: OpenedSplits, splits: list[OpenedSplit], study: Study) -> dict[Path, PureGate]:
    """PURE's gates of splits; UserError without labels, or without a val store."""
    for split in splits:
        if not all(split.file.split.classes):
            raise UserError(
                f"--with_pure: {split.path} has concepts without labels, to which no cluster can be matched"
            )
    store = opened.matching_val_store()
    if store is None:
        raise UserError(f"--with_pure: {no_val_store(opened.settings)}")
    return pure_gates(splits, study, store)
