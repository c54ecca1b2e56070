"""Stage 4's maps: the training images that splits were made from, on a plane, and patches of each concept."""

from pathlib import Path

from utils.command_line.image_sets import open_nulls, show_names
from utils.command_line.split_opening import OpenedSplits
from utils.processes import progress
from utils.report.figure_files import write_figure
from utils.report.image_set_text import scores_of
from utils.report.map_figure import PICTURE_SIDE, map_figure
from utils.report.map_page import map_page
from utils.report.split_figures import MOST_CONCEPTS, patch_note_of, patch_size_of
from utils.stages.circuit_map import MapReader, make_map, map_image_finders


def draw_maps(opened: OpenedSplits) -> list[Path]:
    """Draw the map of each split; returns the paths of the files written."""
    settings = opened.settings
    training = opened.open_training()
    network = opened.open_network()
    patch_size = patch_size_of(settings.patch_size, opened.transform.crop_size, network.layer)
    patch_note = patch_note_of(network.layer)
    study = opened.open_study(training, lambda: network)
    images_of = map_image_finders(opened.splits, study)
    nulls = open_nulls(settings, opened.splits, opened.matching_val_store(), lambda: study)
    splits = progress(opened.splits, "permuted weights", unit=" splits", delay=2, leave=False)
    scores = {split.path: scores_of(nulls, split) for split in splits}
    written = show_names(settings, opened.splits, scores)
    reader = MapReader(study.image_source(training), network, patch_size)
    for split in progress(opened.splits, desc="maps", unit=" splits", delay=2):
        with opened.problems.noted(split.path.name):
            circuit_map = make_map(images_of[split.path](split), PICTURE_SIDE, MOST_CONCEPTS)
            page = map_page(split, opened.run, circuit_map, reader, scores=scores[split.path], note=patch_note)
            path = Path(settings.output_dir) / "plots" / f"{split.path.stem}_map"
            written.append(write_figure(path, map_figure(page)))
    return written
