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

from utils import defaults
from utils.command_line import flags
from utils.command_line.parser import Parser
from utils.command_line.run import run
from utils.command_line.settings import ImportanceSettings
from utils.plugins import positive_int


def get_args_parser() -> Parser:
    parser = Parser(__doc__)
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
    from utils.entries.importance_stage import measure_importances

    measure_importances(settings)


if __name__ == "__main__":
    interrupted = "nothing was measured; the same command begins again, or goes on in a store that is there"
    run(main, get_args_parser(), settings=settings_from, interrupted=interrupted)
