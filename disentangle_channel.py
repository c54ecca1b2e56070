"""Stage 3: rewrite a channel that serves several concepts into channels that serve one each.

The input channels of the layer are divided among the concepts by their averaged relevance vectors and a factor rho;
rho is chosen on the concepts' training images (Eq. 6). The network's output stays what it was, which is shown on real
images before anything is stored.

    python disentangle_channel.py --data_dir /datasets/imagenet/ --model resnet50 --channel_disentangle 1660 \\
        --classes_for_concept1 530 --classes_for_concept2 938 --store_dir /store_dir/

More concepts: --classes_for_concept3 ... --classes_for_concept8. Many pairs in one process, each class's images read
once: --candidates FILE (stage 2's table, or paper_pairs.txt).
"""

import argparse

from utils.command_line import flags, split_flags
from utils.command_line.parser import Parser
from utils.command_line.run import run
from utils.command_line.settings import DisentanglingSettings


def get_args_parser() -> Parser:
    parser = Parser(__doc__)
    flags.add_data_flag(parser)
    flags.add_store_flag(parser)
    flags.add_output_flag(parser, only_for_next=True)
    flags.add_network_flags(parser)
    flags.add_channel_count_flag(parser)
    split_flags.add_channel_flag(parser, "channel_disentangle", "the channel to split")
    split_flags.add_concept_flags(parser)
    split_flags.add_candidates_flag(parser)
    split_flags.add_stage_two_flags(parser, stage3=True)
    split_flags.add_division_flags(parser, stage3=True)
    split_flags.add_source_flags(parser)
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
    interrupted = "splits that were written stay; the same command makes the missing ones"
    run(main, get_args_parser(), settings=settings_from, interrupted=interrupted)
