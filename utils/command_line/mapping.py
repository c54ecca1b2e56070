"""Stage 4's maps: the training images that splits came from, where they lie, and what of them a channel sees."""

from pathlib import Path

import torch

from utils.command_line import flags
from utils.command_line.opening import open_network
from utils.command_line.split_opening import check_weights
from utils.images.batches import ImageBatches
from utils.report.files import write_figure
from utils.report.map_figure import PICTURE_SIDE, map_figure
from utils.report.map_page import map_page
from utils.report.split_figures import MOST_CONCEPTS, patch_note_of, patch_size_of
from utils.stages.circuit_map import MapImageFinder, MapReader, make_map
from utils.store.files import refuse_differences
from utils.store.importances import ImportanceStore
from utils.store.splits import SPLIT_CONTEXT


def draw_maps(args, run, opened, transform, device, problems):
    """Draw the map of each split: paths of what was written.

    Parameters
    ----------
    args : argparse.Namespace
    run : str
    opened : list of OpenedSplit
    transform : Transform
    device : torch.device
    problems : Problems
    """
    store, context = ImportanceStore(args.store_dir, run), opened[0].file.context
    meta = store.load_meta()
    store.require_complete()
    shared = [key for key in SPLIT_CONTEXT if key != "weights"]
    refuse_differences(context, meta, shared, store.folder)
    network, layer = open_network(args, context, opened[0].path)
    check_weights(opened, layer.weight, layer.bias)
    size, note = patch_size_of(args.patch_size, transform.crop_size, layer), patch_note_of(layer)
    finder, loading = MapImageFinder(opened, store, run), flags.loading(args, device)
    images = store.read_images(Path(args.data_dir) / "train")
    images = images.with_contents(finder.labels.indices, finder.labels.contents)

    def load(batches, description):
        return ImageBatches(images, transform, batches, description, **loading)

    network.module.to(device, memory_format=torch.channels_last)
    how = network.module, layer, load, args.batch_size, args.precision, size
    reader, written = MapReader(images, transform, *how), []
    for one in opened:
        with problems.noted(one.path.name):
            found = make_map(finder.of(one), PICTURE_SIDE, MOST_CONCEPTS)
            page = map_page(one, run, found, reader, note)
            written.append(write_figure(Path(args.output_dir) / "plots" / f"{one.path.stem}_map", map_figure(page)))
    return written
