"""Stage 4's report: a folder of pages to browse, from the stores, the split files and the stored results."""

import os
import sys
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from utils.command_line import flags
from utils.command_line.commands import Command, next_command, validation_store_command
from utils.command_line.earlier_settings import choosing_flags
from utils.command_line.image_sets import open_nulls
from utils.command_line.opening import open_network, open_study, open_transform
from utils.command_line.report_opening import open_layer
from utils.command_line.settings import ResultSettings
from utils.command_line.split_opening import matching_val_store
from utils.errors import UserError
from utils.images.batches import ImageSource
from utils.images.transform import Transform
from utils.networks.precision import check_precision, choose_device
from utils.processes import progress
from utils.report.image_set_text import COUNT_NOTE, ScoredSplit, count_in_words, print_count, scores_of
from utils.report.layer_tables import settings_text
from utils.report.overview_figure import overview_figure
from utils.report.page_commands import Commands, StageTwo
from utils.report.page_data import (
    ReportedLayer,
    ShownUnits,
    UnlabelledSplit,
    best_first,
    describe_channel,
    describe_layer,
    table_data,
    units_of,
)
from utils.report.page_splits import MeasuredSplits
from utils.report.page_writer import Pictures, Strip, patches_path, report_folder, strip_name, write_pages, write_strip
from utils.report.separation_figure import separation_figure
from utils.report.separation_tables import heading
from utils.report.sheets import Titles
from utils.report.split_figures import patch_note_of, patch_size_of
from utils.stages.image_set_nulls import ImageSetNulls, ImageSetScores
from utils.stages.strongest_patches import KeptPatches, TopPatches, tiles_of
from utils.stages.validation import list_all_validation
from utils.store.candidates import CRITERIA
from utils.store.files import run_name
from utils.store.importance_store import ImportanceStore
from utils.store.scores import NEW
from utils.store.study import Study

MOST_NULLS = 20  # splits without labels, up to which a report compares all with permuted weights


def make_report(settings: ResultSettings) -> Path:
    """Write ``report/RUN/``, and print which file to open; return its path."""
    device = choose_device(settings.device)
    check_precision(settings.precision, device)
    run = run_name(settings.model, settings.layer_of_interest)
    stage_two = StageTwo(settings.output_dir, run, settings.candidates)
    reported, measured = open_layer(settings, run, stage_two)
    made = partial(
        next_command,
        settings=settings,
        known={**reported.meta, **stage_two.settings},
        told_apart=choosing_flags(settings, run, reported.meta),
    )
    commands = Commands(made, stage_two)
    folder = report_folder(settings.output_dir, run)
    layer_text = f"{settings.model_name}, layer {reported.meta['layer']}"
    print(f"{layer_text}, {reported.settings_text()} ({stage_two.groups.name})")
    for groups in stage_two.others:
        print(f"for other settings: --candidates {groups}")

    patches = PatchMaker(settings, reported, device, folder)
    strips, shown = patches.strips()
    scores = _scores_beside_nulls(settings, run, reported, patches.transform, device)
    unlabelled = {
        split.path: UnlabelledSplit(
            [strips[unit] for unit in shown.of_splits.get(split.path, ())],
            scores.get(split.path),
        )
        for split in reported.unlabelled
    }
    count = count_in_words(ScoredSplit.of(split.file, unlabelled[split.path].scores) for split in reported.unlabelled)
    print_count(count)
    pictures = Pictures(folder)
    described = []
    for channel, units in progress(shown.of_channels.items(), "describing", unit=" channels", delay=2):
        described.append(
            describe_channel(
                reported,
                channel,
                [strips[unit] for unit in units],
                of_splits=unlabelled,
                output_dir=settings.output_dir,
                commands=commands,
                pictures=pictures,
            )
        )
    channels = best_first(described)
    layer_commands = _layer_commands(settings, run, reported, commands)
    layer = {
        **describe_layer(reported),
        "run": run,
        "title": layer_text,
        "meta": {name: reported.meta[name] for name in ("weights", "num_images", "precision", "decoding")},
        "accuracy": f"{reported.accuracy:.1%}",
        "settings": reported.settings_text(),
        **{name: reported.settings[name] for name in ("p", "tau", "only_correct")},
        "gamma_value": reported.settings["gamma"],
        "patches": patches.description(),
        "count_note": COUNT_NOTE,
        "image_sets": count,
        "overview": None
        if reported.guide is None
        else pictures.drawn("overview.png", _overview(reported, reported.guide)),
        "headline": reported.headline(),
        "separations": _separations(reported, measured, pictures),
        "stale": measured.stale,
        "commands": layer_commands,
    }
    index = write_pages(folder, layer, channels, table_data(channels), pictures.made)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"\nwrote {folder}: {len(channels)} channels, {size / 1e6:.1f} MB")
    for purpose, command in _next_commands(layer_commands):
        print(f"{purpose}: {command}")
    print(f"open {index}")
    return index


def _overview(layer: ReportedLayer, guide: dict[str, Any]) -> Figure:
    titles = Titles(f"layer {layer.meta['layer']}", settings_text(**{name: layer.settings[name] for name in CRITERIA}))
    return overview_figure(layer.channels, layer.settings["gamma"], guide, name=layer.classes.name, titles=titles)


def _separations(layer: ReportedLayer, measured: MeasuredSplits, pictures: Pictures) -> list[dict[str, Any]]:
    """Figures of the separations of several splits; those with most of the splits that pages show first come first."""
    first_splits = [layer.first_split(channel) for channel in layer.shown]
    first = {split.path.stem for split in first_splits if split}
    every = {split.path.stem for splits in layer.splits.values() for split in splits}
    ranked = []
    for number, separation in enumerate(measured.separations):
        names = {row["split"] for row in separation["rows"] if not np.isnan(row[NEW.ap])}
        if len(names & every) > 1:
            ranked.append((-len(names & first), number))
    return [
        {**pictures.drawn(f"separation{rank}.png", separation_figure(separation)), "heading": heading(separation)}
        for rank, (_, number) in enumerate(sorted(ranked)[:4], start=1)
        for separation in [measured.separations[number]]
    ]


def _layer_commands(settings: ResultSettings, run: str, layer: ReportedLayer, commands: Commands) -> dict[str, Any]:
    """The commands that compute missing results of the layer, None if nothing is missing, and how many are missing."""
    several = [groups.channel for groups in layer.channels.several_groups()]
    firsts = [layer.first_split(channel) for channel in several]
    unsplit = sum(first is None for first in firsts)
    by = [first.split.division.name for first in firsts if first is not None]
    unmeasured = sum(first is not None and first.separation is None for first in firsts)
    has_store = matching_val_store(settings, run, layer.meta) is not None
    return {
        "unsplit": unsplit,
        "split": commands.split_layer() if unsplit else None,
        "unmeasured": unmeasured,
        "validation_store": None if has_store else validation_store_command(settings),
        "separation": commands.evaluate_layer(by[0], "--get_separation") if unmeasured else None,
        "guide": commands.guide() if layer.guide is None else None,
        "others": commands.others(),
    }


def _open_nulls(
    settings: ResultSettings, run: str, layer: ReportedLayer, transform: Transform, device: torch.device
) -> ImageSetNulls | None:
    """The nulls of the splits without labels: of all of them where they are few, as each takes seconds or more; of more
    those that are kept."""
    splits = [split.opened for split in layer.unlabelled]
    if not splits:
        return None
    training = ImportanceStore(settings.store_dir, run)
    training.load_meta()

    def open_study_of_layer() -> Study:
        return open_study(
            settings,
            training,
            transform,
            device,
            open_network=lambda: open_network(settings, layer.meta, training.folder, device),
            only_correct=False,
        )

    store = matching_val_store(settings, run, layer.meta)
    return open_nulls(settings, splits, store, open_study_of_layer, measured=len(splits) <= MOST_NULLS)


def _scores_beside_nulls(
    settings: ResultSettings, run: str, layer: ReportedLayer, transform: Transform, device: torch.device
) -> dict[Path, ImageSetScores | None]:
    """The scores of the splits without labels by path; where a store cannot be read, the report is made without them,
    and a warning says so."""
    scores: dict[Path, ImageSetScores | None] = {}
    try:
        nulls = _open_nulls(settings, run, layer, transform, device)
        for split in progress(layer.unlabelled, "permuted weights", unit=" splits", delay=2):
            scores[split.path] = scores_of(nulls, split.opened)
    except (UserError, OSError) as error:
        print(
            f"warning: concepts without labels are shown without permuted weights: {error}; then run this again",
            file=sys.stderr,
        )
    return scores


def _next_commands(commands: dict[str, Any]) -> list[Command]:
    """Of the commands of ``_layer_commands`` those to run next, as (purpose, command) pairs."""
    if commands["split"]:
        return [("next", commands["split"])]
    missing = (commands["validation_store"], commands["separation"]) if commands["separation"] else ()
    return list(zip(("next", "then"), filter(None, missing), strict=False))


class PatchMaker:
    """The strips of patches of all units that a report shows; those of an earlier report are reused.

    ``folder`` is that of the report.
    """

    def __init__(self, settings: ResultSettings, layer: ReportedLayer, device: torch.device, folder: Path) -> None:
        self.settings = settings
        self.layer = layer
        self.device = device
        self.folder = folder
        self.transform = open_transform(settings, layer.meta, settings.store_dir)
        self.network = open_network(settings, layer.meta, settings.store_dir, torch.device("cpu"))
        self.size = patch_size_of(settings.patch_size, self.transform.crop_size, self.network.layer)
        self.images = list_all_validation(Path(settings.data_dir) / "val", layer.classes)
        self.kept = KeptPatches.of(
            patches_path(folder), self.images, layer.meta, precision=settings.precision, decoding=settings.decode
        )

    def description(self) -> dict[str, Any]:
        """The images that patches are from, their size, and a note, for the pages."""
        ranked = f"{len(self.images)} validation images of {len(self.images.folders)} classes"
        return {"ranked": ranked, "size": self.size, "note": patch_note_of(self.network.layer)}

    def strips(self) -> tuple[list[Strip], ShownUnits]:
        """The strips of all units, and the units of each channel and split."""
        shown = units_of(self.layer)
        if not len(shown.rows):
            return [], shown
        keys = self.kept.keys(shown.rows, shown.biases)
        strongest = self.kept.patches(shown.rows, shown.biases, self._source, self.network.to(self.device))
        names = [strip_name(f"{key.tobytes().hex()[:24]}_{self.size}") for key in keys]
        missing = [unit for unit, name in enumerate(names) if not (self.folder / name).is_file()]
        if missing:
            tiles = tiles_of(self._source, TopPatches(*(part[missing] for part in strongest)), self.size)
            for unit, of_unit in zip(missing, tiles, strict=True):
                write_strip(self.folder / names[unit], of_unit)
        units = zip(names, strongest.values, strongest.images, strict=True)
        return [self._strip(name, values, images) for name, values, images in units], shown

    def _strip(self, src: str, values: torch.Tensor, images: torch.Tensor) -> Strip:
        shown = []
        for value, index in zip(values.tolist(), images.tolist(), strict=True):
            if index >= 0:
                output = self.layer.meta["classes"][self.images.folders[self.images.folder_of[index]]]
                shown.append((output, value, os.fsdecode(self.images.paths[index])))
        return Strip(src, shown)

    @cached_property
    def _source(self) -> ImageSource:
        loading = flags.loading(self.settings, self.device)
        return ImageSource(self.images, self.transform, self.settings.batch_size, loading)
