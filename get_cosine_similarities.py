"""Stage 2: find the channels that are relevant for several classes by different inputs (polysemantic channels).

    python get_cosine_similarities.py --model resnet50 --store_dir /store_dir/ --proportion_attribution_required 0.03 \\
        --p 0.75 --cos_sim_high 0.5
    python get_cosine_similarities.py --model resnet50 --store_dir /store_dir/ --top 20

A channel is relevant in an image if it carries at least tau of the image's positive importance, and relevant for a
class if it is relevant in at least a share p of the class's images. Two classes of a channel are gamma-polysemantic if
the cosine of their averaged relevance vectors (ARVs) is below gamma (--cos_sim_high).

It writes a table of these pairs, the groups of classes that each channel serves by the same inputs, an overview figure,
and diagnostics for choosing gamma. With several values of tau, p or gamma it only writes a table and a figure of how
much the thresholds matter. Stage 2 reads the store of stage 1, no images. Changing the cosine bounds takes seconds;
changing --p re-reads some chunks; changing tau re-reads all of them.
"""

import argparse

from utils.command_line import flags, threshold_flags
from utils.command_line.parser import Parser
from utils.command_line.run import run
from utils.command_line.settings import SimilaritySettings
from utils.errors import UserError

COMMON = (
    *("model", "store_dir", "output_dir", "layer_of_interest", "proportion_attribution_required", "p"),
    *("cos_sim_high", "cos_sim_low", "top", "channel"),
)


def get_args_parser() -> Parser:
    parser = Parser(__doc__, common=COMMON)
    folders = parser.add_argument_group("folders")
    flags.add_store_flag(folders)
    flags.add_output_flag(folders)
    flags.add_data_flag(folders, "folder of the images, only used in the next command that is printed", "")
    network = parser.add_argument_group("network")
    flags.add_network_flags(network)
    flags.add_channel_count_flag(network)
    threshold_flags.add_threshold_flags(parser)
    threshold_flags.add_counting_flags(parser)
    threshold_flags.add_shown_flags(parser)
    return parser


def settings_from(args: argparse.Namespace, _: argparse.ArgumentParser) -> SimilaritySettings:
    flags.require(args, "model")
    settings = flags.settings_of(SimilaritySettings, args, **threshold_flags.thresholds_from(args))
    several = threshold_flags.several_thresholds(settings)
    if not several and not settings.cos_sim_low < settings.cos_sim_high:
        raise UserError(f"--cos_sim_low {settings.cos_sim_low} is not below --cos_sim_high {settings.cos_sim_high}")
    return settings


def main(settings: SimilaritySettings) -> None:
    from utils.entries.similarity_stage import find_polysemantic

    find_polysemantic(settings)


if __name__ == "__main__":
    interrupted = "files that were written are complete; the same command starts again"
    run(main, get_args_parser(), settings=settings_from, interrupted=interrupted)
