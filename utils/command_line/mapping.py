"""Stage 4's maps: the training images that splits came from, where they lie, and what of them a channel sees."""

from pathlib import Path

from utils.command_line.opening import open_network, open_study
from utils.command_line.split_opening import check_weights
from utils.report.figure_files import write_figure
from utils.report.map_figure import PICTURE_SIDE, map_figure
from utils.report.map_page import map_page
from utils.report.split_figures import MOST_CONCEPTS, patch_note_of, patch_size_of
from utils.stages.circuit_map import MapReader, make_map, map_image_finders
from utils.store.files import refuse_differences
from utils.store.importance_store import ImportanceStore
from utils.store.splits import SPLIT_CONTEXT


def draw_maps(settings, run, opened, transform, device, problems):
    """Draw the map of each split: paths of what was written.

    Parameters
    ----------
    settings : ResultSettings
    run : str
    opened : list of OpenedSplit
    transform : Transform
    device : torch.device
    problems : Problems
    """
    training, context = ImportanceStore(settings.store_dir, run), opened[0].file.context
    meta = training.load_meta()
    training.require_complete()
    shared = [key for key in SPLIT_CONTEXT if key != "weights"]
    refuse_differences(context, meta, shared, training.folder)
    network = open_network(settings, context, opened[0].path, device)
    check_weights(opened, network.layer.weight, network.layer.bias)
    size = patch_size_of(settings.patch_size, transform.crop_size, network.layer)
    note = patch_note_of(network.layer)
    study = open_study(settings, training, transform, device, open_network=lambda: network, only_correct=False)
    images_of = map_image_finders(opened, study)
    reader, written = MapReader(study.image_source(training), network, size), []
    for one in opened:
        with problems.noted(one.path.name):
            found = make_map(images_of[one.path](one), PICTURE_SIDE, MOST_CONCEPTS)
            page = map_page(one, run, found, reader, note)
            written.append(write_figure(Path(settings.output_dir) / "plots" / f"{one.path.stem}_map", map_figure(page)))
    return written
