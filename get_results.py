"""Stage 4: how well do the disentangled channels tell the concepts apart on validation images?

--get_quantitative: fractions of the original channel's activation that c'_1, c'_2, ... and the residual carry, in
images for which the channel has a relative attribution of at least tau; how well the channels tell the concepts apart;
rows and summaries of all pairs so far. --get_qualitative: densities of the activation, one plot a concept. Neither this
nor another figure named: both. --get_channel_card: one figure of the split with its most activating patches.
--get_feature_visualization: images made to activate the channel and its parts. --get_separation: how well the channels
separate their concepts from all other validation images, beside the same rule on permuted weights, from the val store.
--get_edit: what taking a concept out of its channel does, by its part, the whole channel and other methods.
--compare: labels, circuits, PURE and concept vectors side by side on the channels of --candidates, beside their nulls.
--write_edited: the network with concepts taken out of channels, as a state dict, and what that costs.
--get_map: the channel's reference images on a plane, and patches of each concept, from the training images.
--rank_by_images: which channels and circuits respond to a list of your own images more than to all others.

    python get_results.py --data_dir /datasets/imagenet --model_dir /store_dir/models_disentangled/ --model resnet50 \\
        --classes_for_concept1 530 --classes_for_concept2 938 --channel_of_interest 1660 --get_qualitative

    python get_results.py --model resnet50 --candidates paper_pairs.txt     many pairs, each class's images read once

    python get_results.py --summary        the table of all pairs evaluated so far, without a network or images

    python get_results.py --report --model resnet50 --data_dir /datasets/imagenet      the page to browse a layer
"""

from utils.command_line import flags, result_flags, split_flags
from utils.command_line.parser import Parser
from utils.command_line.run import run
from utils.command_line.settings import ResultSettings
from utils.plugins import fraction


def get_args_parser() -> Parser:
    parser = Parser(__doc__)
    flags.add_data_flag(parser)
    flags.add_store_flag(parser)
    parser.add_argument(
        "--model_dir", help="folder of the split files (default: that of --splits, or models_disentangled in the store)"
    )
    flags.add_output_flag(parser)
    flags.add_network_flags(parser)
    flags.add_channel_count_flag(parser)
    split_flags.add_channel_flag(parser, "channel_of_interest", "the channel that was split")
    split_flags.add_concept_flags(parser)
    split_flags.add_candidates_flag(parser)
    help = "split files or manifests of stage 3, instead of a channel and concepts"
    parser.add_argument("--splits", nargs="+", metavar="FILE", help=help)
    split_flags.add_division_flags(parser)
    help = "one of the stored values 0.05, 0.10 ... 1.00 (default: the chosen one)"
    parser.add_argument("--rho", type=fraction, help=help)
    split_flags.add_stage_two_flags(parser)
    result_flags.add_result_flags(parser)
    flags.add_image_flags(parser)
    flags.add_compute_flags(parser)
    return parser


def main(settings: ResultSettings) -> None:
    from utils.entries.result_stage import evaluate

    evaluate(settings)


if __name__ == "__main__":
    interrupted = "results that were written stay; the same command measures the rest"
    run(main, get_args_parser(), settings=result_flags.settings_from, interrupted=interrupted)
