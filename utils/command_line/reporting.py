"""Stage 4's report: a folder of pages to browse, from the stores, the splits and the results that are there."""

import os
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch

from utils.command_line import flags
from utils.command_line.opening import open_network, open_transform
from utils.command_line.report_opening import open_layer
from utils.command_line.split_opening import matching_val_store
from utils.errors import UserError
from utils.images.folders import class_folders, has_images, list_images
from utils.images.image_source import ImageSource
from utils.images.progress import progress
from utils.networks.precision import check_precision, choose_device
from utils.report.layer_tables import settings_text
from utils.report.overview_figure import overview_figure
from utils.report.page_commands import Commands, StageTwo
from utils.report.page_data import best_first, describe_channel, describe_layer, table_data, units_of
from utils.report.page_writer import Pictures, Strip, report_folder, strip_name, write_pages, write_strip
from utils.report.separation_figure import separation_figure
from utils.report.separation_tables import heading
from utils.report.split_figures import patch_note_of, patch_size_of
from utils.stages.strongest_patches import TopPatches, find_strongest, tiles_of, unit_keys
from utils.store.files import run_name
from utils.store.scores import NEW
from utils.store.strongest import read_strongest, stacked, write_strongest


def make_report(settings):
    """Write ``report/RUN/``, and say which file to open."""
    device = choose_device(settings.device)
    check_precision(settings.precision, device)
    run = run_name(settings.model, settings.layer_of_interest)
    stage_two = StageTwo(settings.output_dir, run, settings.candidates)
    known, measured = open_layer(settings, run, stage_two)
    commands = Commands(partial(flags.next_command, settings=settings), stage_two, settings.output_dir)
    folder = report_folder(settings.output_dir, run)
    print(f"{settings.model}, layer {known.meta['layer']}, {known.settings_text()} ({stage_two.groups.name})")
    for other in stage_two.others:
        print(f"other settings: --candidates {other}")

    patches = PatchMaker(settings, known, device, folder)
    strips, places = patches.strips()
    pictures, shown = Pictures(folder), []
    for channel, own in progress(places.items(), "describing", unit=" channels", delay=2):
        of_channel = [strips[place] for place in own]
        shown.append(
            describe_channel(
                known, channel, of_channel, output_dir=settings.output_dir, commands=commands, pictures=pictures
            )
        )
    channels = best_first(shown)
    layer = {
        **describe_layer(known),
        "run": run,
        "title": f"{settings.model}, layer {known.meta['layer']}",
        "meta": {name: known.meta[name] for name in ("weights", "num_images", "precision", "decoding")},
        "settings": known.settings_text(),
        **{name: known.settings[name] for name in ("p", "tau", "only_correct")},
        "gamma_value": known.settings["gamma"],
        "patches": patches.said(),
        "overview": None if known.guide is None else pictures.drawn("overview.png", _overview(known)),
        "separations": _separations(known, measured, pictures),
        "stale": measured.stale,
        "commands": _layer_commands(settings, run, known, commands),
    }
    index = write_pages(folder, layer, channels, table_data(channels), pictures.made)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"\nwrote {folder}: {len(channels)} channels, {size / 1e6:.1f} MB")
    print(f"open {index}")


def _overview(known):
    names = ("tau", "p", "only_correct", "min_images", "only_above_mean")
    titles = f"layer {known.meta['layer']}", settings_text(**{name: known.settings[name] for name in names})
    return overview_figure(known.channels, known.settings["gamma"], known.guide, known.classes.name, *titles)


def _separations(known, measured, pictures):
    """The figures of the separations of many splits of the channels shown, those first whose splits are shown first."""
    first = {known.first_split(channel).path.stem for channel in known.shown if known.first_split(channel)}
    every = {one.path.stem for splits in known.splits.values() for one in splits}
    drawn = []
    for number, one in enumerate(measured.separations):
        own = {row["split"] for row in one["rows"] if not np.isnan(row[NEW.ap])}
        if len(own & every) > 1:
            drawn.append((len(own & first), number, one))
    drawn.sort(key=lambda one: (-one[0], one[1]))
    return [
        {**pictures.drawn(f"separation{place}.png", separation_figure(one)), "heading": heading(one)}
        for place, (_, _, one) in enumerate(drawn[:4], start=1)
    ]


def _layer_commands(settings, run, known, commands):
    """What to run for what is not there of the layer: {what: command, or None where it is there}."""
    several = [one.channel for one in known.channels.several_groups()]
    firsts = [known.first_split(channel) for channel in several]
    unsplit = sum(first is None for first in firsts)
    by = [first.split.division.name for first in firsts if first is not None]
    unmeasured = sum(first is not None and first.separation is None for first in firsts)
    has_store = matching_val_store(settings, run, known.meta) is not None
    return {
        "unsplit": unsplit,
        "split": commands.split_layer() if unsplit else None,
        "unmeasured": unmeasured,
        "validation_store": None if has_store else commands.validation_store(),
        "separation": commands.evaluate_layer(by[0], "--get_separation") if unmeasured else None,
        "guide": commands.guide() if known.guide is None else None,
        "others": commands.others(),
    }


class PatchMaker:
    """The strips of patches of all units that a report shows; what an earlier report has found is not looked for again.

    Parameters
    ----------
    settings : ResultSettings
    known : ReportedLayer
    device : torch.device
    folder : Path
        Of the report.
    """

    def __init__(self, settings, known, device, folder):
        self.settings, self.known, self.device, self.folder = settings, known, device, folder
        self.transform = open_transform(settings, known.meta, settings.store_dir)
        self.network = open_network(settings, known.meta, settings.store_dir, torch.device("cpu"))
        self.size = patch_size_of(settings.patch_size, self.transform.crop_size, self.network.layer)
        root = Path(settings.data_dir) / "val"
        folders = [name for name in class_folders(root) if name in known.meta["classes"] and has_images(root / name)]
        if not folders:
            raise UserError(f"{root} has no images of the classes of stage 1")
        self.images = list_images(root, folders)

    def said(self):
        """What the patches are, in words."""
        ranked = f"{len(self.images)} validation images of {len(self.images.folders)} classes"
        return {"ranked": ranked, "size": self.size, "note": patch_note_of(self.network.layer)}

    def strips(self):
        """A list of Strip, and the places of each channel's in it."""
        rows, biases, places = units_of(self.known)
        if not len(rows):
            return [], places
        keys, found = self._found(rows, biases)
        names = [strip_name(f"{key.tobytes().hex()[:24]}_{self.size}") for key in keys]
        missing = [unit for unit, name in enumerate(names) if not (self.folder / name).is_file()]
        if missing:
            tiles = tiles_of(self._source, TopPatches(*(part[missing] for part in found)), self.size)
            for unit, of_unit in zip(missing, tiles, strict=True):
                write_strip(self.folder / names[unit], of_unit)
        return [self._strip(name, *unit) for name, *unit in zip(names, found.values, found.images, strict=True)], places

    def _strip(self, src, values, images):
        shown = []
        for value, index in zip(values.tolist(), images.tolist(), strict=True):
            if index >= 0:
                output = self.known.meta["classes"][self.images.folders[self.images.folder_of[index]]]
                shown.append((output, value, os.fsdecode(self.images.paths[index])))
        return Strip(src, shown)

    def _found(self, rows, biases):
        """The keys of units, and their TopPatches: from an earlier report as far as it has them."""
        stored, path = self.known.meta, self.folder / "patches.npz"
        origin = {key: stored[key] for key in ("weights_sha256", "layer", "transform")}
        origin |= {
            "images": self.images.digest(),
            "precision": self.settings.precision,
            "decoding": self.settings.decode,
        }
        keys, before = unit_keys(origin, rows, biases), read_strongest(path)
        new = [unit for unit, key in enumerate(keys) if key.tobytes() not in before]
        if new:
            loader = self._source.in_order(range(len(self.images)), "validation images")
            new_biases = None if biases is None else biases[new]
            found = find_strongest(loader, self.network.to(self.device), rows[new], new_biases)
            units = zip(*(part.numpy() for part in found), strict=True)
            before |= {keys[unit].tobytes(): part for unit, part in zip(new, units, strict=True)}
            write_strongest(path, before)
        return keys, TopPatches(*map(torch.from_numpy, stacked(before[key.tobytes()] for key in keys)))

    @cached_property
    def _source(self) -> ImageSource:
        loading = flags.loading(self.settings, self.device)
        return ImageSource(self.images, self.transform, self.settings.batch_size, loading)
