"""Stage 4's flags of the comparison of methods, and their checks. Nothing here imports torch."""

import argparse

from utils.command_line.flags import require
from utils.command_line.ranges import finite
from utils.command_line.settings import ResultSettings
from utils.command_line.split_flags import concepts_from
from utils.concept_sources.source_registry import SOURCES
from utils.defaults import COMPARISON_CHANNELS, SAE_TRAINER, SAE_TRAINERS
from utils.divisions.division_registry import DIVISIONS
from utils.errors import UserError
from utils.plugins import flags_of, positive, positive_int

OF_COMPARISON = (
    "compare_without",
    "max_channels",
    "nr_concepts",
    "nr_reference_images",
    "sae_trainer",
    "embedding",
    "embedding_mean",
    "embedding_std",
)
# Other results of stage 4, which cannot be combined with a comparison
NOT_WITH_COMPARISON = (
    *("get_qualitative", "get_quantitative", "get_channel_card", "get_feature_visualization"),
    *(
        "get_separation",
        "get_effect",
        "get_edit",
        "with_pure",
        "get_map",
        "summary",
        "splits",
        "split_by",
        "background",
    ),
    *("report", "patches_of", "patches", "steps", "seeds", "patch_size", "irrelevant_channels", "effect_to"),
    *("rank_by_images", "proportion_attribution_required", "p"),
)


def add_comparison_flags(parser: argparse.ArgumentParser) -> None:
    left_out = [source.name for source in SOURCES.all() if source.compared and not source.labelled]
    on_images = [source.name for source in SOURCES.all() if source.needs_images]
    group = parser.add_argument_group(
        "comparison of methods",
        "original channel, labels, circuits, PURE, concept vectors, autoencoders, NMF, each beside its own nulls",
    )
    group.add_argument(
        "--compare",
        action="store_true",
        help="hold the methods side by side on the channels and labelled concepts of --candidates, from the stores of "
        "stage 1 (also --images val), into results_quantitative/ and plots/; "
        f"{' and '.join(on_images)} run the network on images, others do not",
    )
    group.add_argument(
        "--compare_without",
        nargs="+",
        choices=left_out,
        metavar="METHOD",
        help=f"comparison: leave methods out ({', '.join(left_out)}); without {' and '.join(on_images)} no image is "
        "needed",
    )
    group.add_argument(
        "--max_channels",
        type=positive_int,
        metavar="N",
        help="comparison: of more channels, a sample of N, which does not depend on their order "
        f"({COMPARISON_CHANNELS})",
    )
    group.add_argument(
        "--nr_concepts",
        type=positive_int,
        help="comparison: clusters of each channel, where there are no labels (default: as in disentangle_channel.py)",
    )
    group.add_argument(
        "--nr_reference_images",
        type=positive_int,
        help="comparison: images that are clustered (default: as in disentangle_channel.py)",
    )
    group.add_argument(
        "--sae_trainer",
        choices=SAE_TRAINERS,
        help=f"comparison: what trains the autoencoders of sae: this program, or the package Overcomplete, which has "
        f"to be installed ({SAE_TRAINER})",
    )
    group.add_argument(
        "--embedding",
        metavar="MODEL",
        help="comparison: another network, named as --model is, that tells without labels how alike the images and "
        "patches are that activate a unit; it runs on val/ once",
    )
    help = "of each colour, 0 to 1, for the images of --embedding (default: its own)"
    group.add_argument("--embedding_mean", type=finite, nargs=3, help=help)
    group.add_argument("--embedding_std", type=positive, nargs=3, help="the same")


def check_comparison(args: argparse.Namespace) -> None:
    """Raise UserError for flags that cannot be combined with the comparison, or have no meaning without it."""
    if not args.compare:
        given = [name for name in OF_COMPARISON if getattr(args, name) is not None]
        if given:
            raise UserError(f"--{given[0]} is for --compare: add it")
        return
    require(args, "model")
    for name in (*NOT_WITH_COMPARISON, *flags_of(DIVISIONS.all())):
        if getattr(args, name) not in (None, False):
            raise UserError(f"--compare has its own way with the channels of --candidates: leave out --{name}")
    if args.candidates is None:
        raise UserError("--compare is of the channels of a file: give --candidates, stage 2's _groups.json")
    if args.embedding is None and (args.embedding_mean or args.embedding_std):
        raise UserError("--embedding_mean and --embedding_std are for --embedding: add it")
    if args.nr_concepts == 1:
        raise UserError("--nr_concepts 1: one cluster of all images leaves nothing to compare")
    concepts_from(args, ResultSettings.channel_flag)
