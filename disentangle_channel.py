"""Stage 3: rewrite a channel that serves several concepts into one channel for each of them.

    python disentangle_channel.py --data_dir /datasets/imagenet/ --model resnet50 --channel_disentangle 1660 \\
        --classes_for_concept1 530 --classes_for_concept2 938 --store_dir /store_dir/
    python disentangle_channel.py --data_dir /datasets/imagenet/ --model resnet50 --store_dir /store_dir/ \\
        --candidates paper_pairs.txt

The input channels of the layer are divided among the concepts by their averaged relevance vectors (ARVs) and a factor
rho, which is chosen on training images of the concepts (Eq. 6). Before a split is stored, the split network
is compared with the original one on images: their outputs must be equal. With --candidates, many channels are split in
one process, and the images of each class are read once.
"""

import argparse

from utils.command_line import flags, split_flags
from utils.command_line.parser import Parser
from utils.command_line.run import run
from utils.command_line.settings import DisentanglingSettings

COMMON = (
    *("data_dir", "model", "weights", "layer_of_interest", "store_dir", "channel_disentangle", "classes_for_concept1"),
    *("candidates", "concepts_from", "split_by", "background", "batch_size", "device"),
)


def get_args_parser() -> Parser:
    parser = Parser(__doc__, common=COMMON)
    folders = parser.add_argument_group("folders")
    flags.add_data_flag(folders)
    flags.add_store_flag(folders)
    flags.add_output_flag(folders, only_for_next=True)
    network = parser.add_argument_group("network")
    flags.add_network_flags(network)
    flags.add_channel_count_flag(network)
    channels = parser.add_argument_group("channels and concepts")
    split_flags.add_channel_flag(channels, "channel_disentangle", "channel to split")
    split_flags.add_concept_flags(channels)
    split_flags.add_candidates_flag(channels)
    split_flags.add_source_flags(parser)
    division = parser.add_argument_group("division of the inputs")
    split_flags.add_division_flags(division)
    split_flags.add_stage_two_flags(division)
    flags.add_image_flags(parser)
    flags.add_compute_flags(parser)
    return parser


def settings_from(args: argparse.Namespace, _: argparse.ArgumentParser) -> DisentanglingSettings:
    flags.require(args, "model")
    source = split_flags.source_of(args)
    channel_flag = DisentanglingSettings.channel_flag
    concepts = split_flags.concepts_from(args, channel_flag, source=source)
    division = split_flags.division_of(args, source)
    return flags.settings_of(
        DisentanglingSettings,
        args,
        channels=split_flags.channels_from(args, channel_flag),
        concepts=concepts,
        concepts_from=source.name,
        source_given=split_flags.given_to(source, args),
        split_by=division.name,
        division_given=split_flags.given_to(division, args),
        background=split_flags.background_of(args, source, division),
    )


def main(settings: DisentanglingSettings) -> None:
    from utils.entries.disentangling_stage import disentangle

    disentangle(settings)


if __name__ == "__main__":
    interrupted = "splits that were written are kept; the same command makes the missing ones"
    run(main, get_args_parser(), settings=settings_from, interrupted=interrupted)
