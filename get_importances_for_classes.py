"""Stage 1: how important is each channel of a layer for each image's own class, and what goes into it?

One forward pass over train/ keeps, for every image, the relative importance of each channel of the layer of interest
and the sums of its input, 2 C + 4 C_in bytes an image. A run that was stopped goes on where it was when started again.
Several processes share the chunks, each on its own GPU; one that dies is started again.

    python get_importances_for_classes.py --data_dir /datasets/imagenet/ --model resnet50 --batch_size 254 \\
        --store_dir /store_dir/
    torchrun --nproc_per_node=4 --max_restarts=3 get_importances_for_classes.py --data_dir /datasets/imagenet/ \\
        --model resnet50 --batch_size 254 --store_dir /store_dir/
"""

import argparse
import time

from utils import defaults
from utils.command_line import flags
from utils.command_line.run import run
from utils.command_line.settings import ImportanceSettings
from utils.plugins import positive_int


def get_args_parser() -> flags.Parser:
    parser = flags.Parser(__doc__)
    flags.add_data_flag(parser)
    flags.add_store_flag(parser)
    flags.add_output_flag(parser, only_for_next=True)
    flags.add_network_flags(parser)
    flags.add_image_flags(parser)
    flags.add_compute_flags(parser)
    parser.add_argument(
        "--images",
        choices=["train", "val"],
        default="train",
        help="the folder that the store is made of: train (default), or val, which spares stage 4 its pass over images",
    )
    flags.add_class_map_flag(parser)
    parser.add_argument(
        "--chunk_size",
        type=positive_int,
        help=f"images a file, the unit of resuming (a new store: a tenth of the images, {defaults.SMALLEST_CHUNK} to "
        f"{defaults.CHUNK_SIZE}; one that is there keeps its own)",
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile the network first: a minute, needs a C++ compiler; then faster"
    )
    return parser


def settings_from(args: argparse.Namespace, _: argparse.ArgumentParser) -> ImportanceSettings:
    flags.require(args, "model")
    return flags.settings_of(ImportanceSettings, args)


def main(settings: ImportanceSettings) -> None:
    import torch

    from utils.command_line.next_steps import after_importances
    from utils.command_line.opening import open_images, open_transform_of_stage1
    from utils.command_line.run import print_end
    from utils.errors import Interrupted
    from utils.images.batches import ImageSource
    from utils.networks.layers import find_layer
    from utils.networks.loading import load_network
    from utils.networks.opened_network import OpenedNetwork
    from utils.networks.precision import check_precision, choose_device, compile_network
    from utils.processes import this_process
    from utils.report.store_text import kept_chunks, print_plan, print_store_summary, print_transform
    from utils.stages.importances import StoreSettings, check_on_images, describe_store, fill_store, planned_batches
    from utils.store.files import run_name
    from utils.store.importance_store import ImportanceStore

    device = choose_device(settings.device)
    check_precision(settings.precision, device)
    loading = flags.loading(settings, device)
    run = run_name(settings.model, settings.layer_of_interest)
    store = ImportanceStore(settings.store_dir, run, settings.images)
    network = load_network(settings.model, settings.weights)
    transform = open_transform_of_stage1(settings, run, network)
    layer = find_layer(network.module, settings.layer_of_interest, transform.crop_size)
    images, classes = open_images(settings, run, network, layer)

    process = this_process()
    described = StoreSettings(
        model=settings.model,
        images=settings.images,
        precision=settings.precision,
        decoding=settings.decode,
        compiled=settings.compile,
        skip_unreadable=settings.skip_unreadable,
        chunk_size=settings.chunk_size or store.chunk_size_for(len(images)),
    )
    meta = describe_store(described, network, layer, transform=transform, images=images, classes=classes)
    store.begin(meta, layer, images, process.rank)
    if process.rank == 0:
        print_plan(
            store,
            settings.model,
            images,
            network=network,
            layer=layer,
            device=device,
            precision=settings.precision,
            num_processes=process.size,
        )
        print_transform(transform, settings.model, flags.assumed_transform(settings, network))

    opened = OpenedNetwork(network.module, layer, settings.precision, network.weights).to(device)
    source = ImageSource(images, transform, settings.batch_size, loading)
    chunks = [chunk for chunk in store.missing_chunks() if chunk % process.size == process.rank]
    if chunks:
        check_on_images(opened, source)
    if settings.compile and chunks:
        size = len(planned_batches(store, chunks[:1], settings.batch_size)[0].indices)
        black = torch.zeros(size, transform.crop_size, transform.crop_size, 3, dtype=torch.uint8)
        compile_network(network.module, layer, loading.pixels(black, transform), settings.precision)
    try:
        fill_store(store, chunks, opened, source)
    except KeyboardInterrupt as interrupt:
        raise Interrupted(kept_chunks(store)) from interrupt

    while process.ends_with_others and process.rank == 0 and store.missing_chunks():
        time.sleep(0.5)  # to report once
    if store.missing_chunks():
        print(f"process {process.rank} has made its {len(chunks)} chunks; other processes are not ready yet")
    elif process.rank == 0 or (chunks and not process.ends_with_others):
        print_store_summary(store)
        print_end([store.folder], after_importances(settings, run, store), open_first=store.meta_path)


if __name__ == "__main__":
    interrupted = "nothing was measured; the same command begins again, or goes on in a store that is there"
    run(main, get_args_parser(), settings=settings_from, interrupted=interrupted)
