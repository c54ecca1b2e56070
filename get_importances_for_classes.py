"""Stage 1: measure how important each channel of a layer is for the class of each image.

    python get_importances_for_classes.py --data_dir /datasets/imagenet/ --model resnet50 --batch_size 254 \\
        --store_dir /store_dir/
    torchrun --nproc_per_node=4 --max_restarts=3 get_importances_for_classes.py --data_dir /datasets/imagenet/ \\
        --model resnet50 --batch_size 254 --store_dir /store_dir/

One forward pass over train/ stores, for every image, the relative importance of each channel of the layer of interest,
and the sums of its input: 2 C + 4 C_in bytes per image, for C channels and C_in input channels. The same command
resumes after an interrupt. With torchrun several processes, each on a GPU of its own, share the images; a process that
dies is restarted.
"""

import argparse

from utils import defaults
from utils.command_line import flags
from utils.command_line.parser import Help, Parser
from utils.command_line.run import run
from utils.command_line.settings import ImportanceSettings
from utils.plugins import positive_int

COMMON = (
    "data_dir",
    "model",
    "weights",
    "layer_of_interest",
    "store_dir",
    "images",
    "batch_size",
    "device",
    "precision",
)


def get_args_parser() -> Parser:
    parser = Parser(__doc__, common=COMMON)
    folders = parser.add_argument_group("folders")
    flags.add_data_flag(folders)
    flags.add_store_flag(folders)
    flags.add_output_flag(folders, only_for_next=True)
    network = parser.add_argument_group("network")
    flags.add_network_flags(network)
    store = parser.add_argument_group("store")
    store.add_argument(
        "--images",
        choices=["train", "val"],
        default="train",
        help=Help(
            "images to measure: train/ or val/",
            "train",
            "Measure val, too: stage 4 then needs no images for most of its results. --get_separation, --compare and "
            "concepts without labels need these measurements.",
        ),
    )
    flags.add_class_map_flag(store)
    store.add_argument(
        "--chunk_size",
        type=positive_int,
        metavar="N",
        help=Help(
            "images per file of the store; a run is resumed after the last complete file",
            f"a tenth of the images, from {defaults.SMALLEST_CHUNK} to {defaults.CHUNK_SIZE}",
            "An existing store keeps its own.",
        ),
    )
    flags.add_image_flags(parser)
    computing = flags.add_compute_flags(parser)
    computing.add_argument(
        "--compile",
        action="store_true",
        help=Help("compile the network", details="It takes a minute and a C++ compiler; then images are faster."),
    )
    return parser


def settings_from(args: argparse.Namespace, _: argparse.ArgumentParser) -> ImportanceSettings:
    flags.require(args, "model")
    return flags.settings_of(ImportanceSettings, args)


def main(settings: ImportanceSettings) -> None:
    from utils.entries.importance_stage import measure_importances

    measure_importances(settings)


if __name__ == "__main__":
    interrupted = "nothing was measured; the same command starts again, or resumes an existing store"
    run(main, get_args_parser(), settings=settings_from, interrupted=interrupted)
