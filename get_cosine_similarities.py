"""Stage 2: which channels are relevant for which classes, and which of them are gamma-polysemantic?

Reads the chunks of stage 1, one at a time, once for each --proportion_attribution_required; other values of --p and of
the cosine bounds take seconds. A channel is relevant for a class if it carries at least tau of the positive importance
in at least a fraction p of the class's images; a pair of classes that share a channel is gamma-polysemantic if the
cosine of their averaged relevance vectors is below gamma (--cos_sim_high).

    python get_cosine_similarities.py --model resnet50 --nr_channels_in_layer_of_interest 2048 \\
        --proportion_attribution_required 0.03 --p 0.75 --cos_sim_high 0.5

Several values of tau, p or gamma: one table and figure of how much the thresholds matter, and no candidates.

Groups the classes of each channel by their vectors, and says what there is to go by in the choice of gamma.
Draws an overview of the layer, and with --plot_wordnet how the cosines relate to the classes' distance in WordNet.
"""

import argparse

from utils import defaults
from utils.command_line import flags, threshold_flags
from utils.command_line.parser import Parser
from utils.command_line.ranges import cosine
from utils.command_line.run import run
from utils.command_line.settings import SimilaritySettings
from utils.errors import UserError


def get_args_parser() -> Parser:
    parser = Parser(__doc__)
    flags.add_store_flag(parser)
    flags.add_output_flag(parser)
    flags.add_data_flag(parser, "where the images are: for the line that says what to run next; none is read")
    flags.add_network_flags(parser)
    flags.add_channel_count_flag(parser)
    threshold_flags.add_threshold_flags(parser)
    parser.add_argument(
        "--cos_sim_low", type=cosine, default=defaults.COS_SIM_LOW, help="keep low <= cosine (%(default)s)"
    )
    flags.add_figure_flag(parser)
    threshold_flags.add_counting_flags(parser)
    threshold_flags.add_shown_flags(parser)
    parser.add_argument(
        "--plot_wordnet",
        action="store_true",
        help="also draw the classes' WordNet path similarity over the cosine, for all pairs and whatever the bounds; "
        "class folders must be WordNet ids (n02124075)",
    )
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
    interrupted = "what was written is whole, the same command begins again"
    run(main, get_args_parser(), settings=settings_from, interrupted=interrupted)
