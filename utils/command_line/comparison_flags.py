"""Stage 4's flags of the comparison of methods, and their checks. Nothing here imports torch."""

import argparse

from utils.command_line.flags import require
from utils.command_line.parser import Help
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
    on_images = ", ".join(source.name for source in SOURCES.all() if source.needs_images)
    group = parser.add_argument_group("comparison of methods")
    group.add_argument(
        "--compare",
        action="store_true",
        help=Help(
            "compare methods of finding concepts, with nulls",
            details="The original channel, labels, circuits, PURE, concept vectors, autoencoders and NMF on the "
            "channels and labelled concepts of --candidates. It reads both stores of stage 1 (also --images val); only "
            f"{on_images} run the network on images. Written to results_quantitative/ and plots/.",
        ),
    )
    group.add_argument(
        "--compare_without",
        nargs="+",
        choices=left_out,
        metavar="METHOD",
        help=Help(
            "comparison: methods to leave out",
            "none",
            f"Methods: {', '.join(left_out)}. Without {on_images} no image is needed.",
        ),
    )
    group.add_argument(
        "--max_channels",
        type=positive_int,
        metavar="N",
        help=Help(
            "comparison: the most channels",
            f"{COMPARISON_CHANNELS}",
            "Of more channels, a sample of N is compared. It does not depend on their order.",
        ),
    )
    as_in_stage3 = "as in disentangle_channel.py"
    group.add_argument(
        "--nr_concepts",
        type=positive_int,
        metavar="N",
        help=Help("comparison: number of concepts per channel of methods without labels", as_in_stage3),
    )
    group.add_argument(
        "--nr_reference_images",
        type=positive_int,
        metavar="N",
        help=Help("comparison: number of images per channel that are clustered", as_in_stage3),
    )
    group.add_argument(
        "--sae_trainer",
        choices=SAE_TRAINERS,
        help=Help(
            "comparison: what trains the sparse autoencoders",
            SAE_TRAINER,
            "torch: code of this project; overcomplete: the package Overcomplete, which must be installed.",
        ),
    )
    group.add_argument(
        "--embedding",
        metavar="MODEL",
        help=Help(
            "comparison: network that measures how similar the images and patches of a unit are",
            "none",
            "It is given as in --model, runs once over val/, and scores concepts without labels.",
        ),
    )
    own = "the embedding network's own"
    group.add_argument(
        "--embedding_mean",
        type=finite,
        nargs=3,
        metavar=("R", "G", "B"),
        help=Help("comparison: mean of each colour, from 0 to 1, for --embedding", own),
    )
    group.add_argument(
        "--embedding_std",
        type=positive,
        nargs=3,
        metavar=("R", "G", "B"),
        help=Help("comparison: standard deviation of each colour for --embedding", own),
    )


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
            raise UserError(f"--compare cannot be combined with --{name}: leave out --{name}")
    if args.candidates is None:
        raise UserError("--compare needs a file of channels: give --candidates with stage 2's _groups.json")
    if args.embedding is None and (args.embedding_mean or args.embedding_std):
        raise UserError("--embedding_mean and --embedding_std are for --embedding: add it")
    if args.nr_concepts == 1:
        raise UserError(
            "--nr_concepts 1 puts all images into one cluster, which leaves nothing to compare: give 2 or more"
        )
    concepts_from(args, ResultSettings.channel_flag)
