"""Stage 4: measure and draw how well the new channels tell their concepts apart on validation images.

    python get_results.py --data_dir /datasets/imagenet/ --model resnet50 --store_dir /store_dir/ \\
        --channel_of_interest 1660 --classes_for_concept1 530 --classes_for_concept2 938 --get_qualitative
    python get_results.py --data_dir /datasets/imagenet/ --model resnet50 --store_dir /store_dir/ --report

Splits are named by a channel and its concepts, by --candidates, or by their files (--splits). Each --get_... flag makes
one kind of result; without any, --get_quantitative and --get_qualitative do. --report, --summary, --compare and
--rank_by_images are for the whole layer, and take no split. Tables go to results_quantitative/ and figures to plots/ in
--output_dir.
"""

from utils import defaults
from utils.command_line import flags, result_flags
from utils.command_line.parser import Help, Parser
from utils.command_line.run import run
from utils.command_line.settings import ResultSettings

COMMON = (
    *("data_dir", "model", "weights", "layer_of_interest", "store_dir", "output_dir"),
    *("channel_of_interest", "classes_for_concept1", "candidates", "splits"),
    *("get_quantitative", "get_qualitative", "get_channel_card", "get_separation", "get_effect"),
    *("report", "summary"),
)


def get_args_parser() -> Parser:
    parser = Parser(__doc__, common=COMMON)
    folders = parser.add_argument_group("folders")
    flags.add_data_flag(folders)
    flags.add_store_flag(folders)
    folders.add_argument(
        "--model_dir",
        metavar="DIR",
        help=Help(
            "folder of the split files",
            f"{defaults.MODEL_DIR} in the store",
            "With --splits the default is the folder of these files.",
        ),
    )
    flags.add_output_flag(folders)
    network = parser.add_argument_group("network")
    flags.add_network_flags(network)
    flags.add_channel_count_flag(network)
    result_flags.add_split_choice(parser)
    result_flags.add_result_flags(parser)
    flags.add_image_flags(parser)
    flags.add_compute_flags(parser)
    return parser


def main(settings: ResultSettings) -> None:
    from utils.entries.result_stage import evaluate

    evaluate(settings)


if __name__ == "__main__":
    interrupted = "results that were written are kept; the same command measures the rest"
    run(main, get_args_parser(), settings=result_flags.settings_from, interrupted=interrupted)
