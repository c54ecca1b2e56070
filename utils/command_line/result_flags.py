"""Flags that select stage 4's results, checks of their combinations, and its settings. Imports no torch."""

import argparse
from dataclasses import replace

from utils import defaults
from utils.command_line import flags, split_flags
from utils.command_line.comparison_flags import add_comparison_flags, check_comparison
from utils.command_line.ranges import finite, mean_zero_or_number, number_all_or_none, number_of_draws
from utils.command_line.settings import ResultSettings
from utils.divisions.division_registry import DIVISIONS
from utils.errors import UserError
from utils.plugins import flags_of, positive_int

CHANNEL_FLAG = ResultSettings.channel_flag
# Flags that have no meaning unless one of some others is given
ONLY_FOR = {
    "patches_of": ("get_channel_card",),
    "patches": ("get_channel_card",),
    "patch_size": ("get_channel_card", "get_map"),
    "steps": ("get_feature_visualization",),
    "seeds": ("get_feature_visualization",),
    "draws": ("get_separation",),
    "irrelevant_channels": ("get_separation",),
    "p": ("get_separation",),
    "effect_to": ("get_effect",),
    "top": ("rank_by_images",),
    "edit_concepts": ("write_edited",),
    "edit_factor": ("write_edited",),
    "edit_to": ("write_edited",),
    "with_pure": ("get_edit",),
}
# The flags that a report uses; all other flags would be ignored
OF_REPORT = (
    *("data_dir", "store_dir", "model_dir", "output_dir", "model", "weights", "layer_of_interest", "candidates"),
    *("nr_channels_in_layer_of_interest", "split_by", "patch_size", "skip_unreadable", "batch_size", "num_workers"),
    *("resize_size", "crop_size", "interpolation", "mean", "std", "decode", "device", "precision"),
)
# The flags that a ranking uses, or hands on to the command that it prints
OF_RANKING = (
    *("data_dir", "store_dir", "output_dir", "model", "weights", "layer_of_interest", "top"),
    *("nr_channels_in_layer_of_interest", "skip_unreadable", "batch_size", "num_workers"),
    *("decode", "device", "precision"),
)


def add_result_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of what stage 4 makes."""
    group = parser.add_argument_group("what to make", "default: --get_qualitative and --get_quantitative")
    group.add_argument("--get_qualitative", action="store_true", help="density plots, into plots/")
    group.add_argument("--get_quantitative", action="store_true", help="fractions, into results_quantitative/")
    _add_card_flags(group)
    _add_visualization_flags(group)
    flags.add_figure_flag(group)
    group.add_argument(
        "--get_map",
        action="store_true",
        help="map of the channel's reference images (of the training store) with pictures, and rows of patches of each "
        "concept, into plots/",
    )
    _add_separation_flags(group)
    _add_effect_flags(group)
    _add_ranking_flags(group)
    _add_selectivity_flags(group)
    _add_edit_flags(group)
    help = "make the tables of all stored results anew, and print them; alone, nothing else is done"
    group.add_argument("--summary", action="store_true", help=help)
    add_comparison_flags(parser)
    group.add_argument(
        "--report",
        action="store_true",
        help="report/RUN/, pages to browse: the layer and all its polysemantic channels, with what "
        "is there of splits and results. Of several tables of stage 2 the newest; --candidates chooses another",
    )


def _add_card_flags(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--get_channel_card", action="store_true", help="one figure: patches, densities and fractions, into plots/"
    )
    group.add_argument(
        "--patches_of",
        choices=defaults.PATCHES_OF,
        help="card: patches of all of val/, or of the images of its classes (default: all where --report has searched "
        f"val/ for its channels, or val/ has at most {defaults.MOST_PATCH_IMAGES} images; else classes)",
    )
    group.add_argument(
        "--all_classes", action="store_const", const="all", dest="patches_of", help="the same as --patches_of all"
    )
    group.add_argument(
        "--patches",
        choices=defaults.PATCH_RULES,
        help="card: the most activating patches (ranked, the default), or by the paper's rule, six of the 16 most "
        "activating, of all concepts as equally as they occur",
    )
    group.add_argument(
        "--patch_size",
        type=positive_int,
        help="card, map: side of a patch in pixels (default: three strides of the layer, 96 for ResNet-50)",
    )


def _add_visualization_flags(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--get_feature_visualization",
        action="store_true",
        help="images made to activate the channel and its parts, into plots/ and on the card; what is there and equal "
        "is not made again",
    )
    help = f"feature visualization: steps of optimisation ({defaults.VISUALIZATION_STEPS})"
    group.add_argument("--steps", type=positive_int, help=help)
    help = f"feature visualization: images a channel ({defaults.VISUALIZATION_SEEDS})"
    group.add_argument("--seeds", type=positive_int, help=help)


def _add_separation_flags(group: argparse._ActionsContainer) -> None:
    fewer = "".join(
        f"; {division.usual_irrelevant or 'none'} for splits by {division.words}"
        for division in DIVISIONS.all()
        if division.usual_irrelevant is not None
    )
    group.add_argument(
        "--get_separation",
        action="store_true",
        help="how well each new channel separates its concept from all other validation images, beside the same rule "
        "on permuted weights and on other channels: from the val store of stage 1 (--images val), without network and "
        "images, into results_quantitative/ and plots/",
    )
    first = defaults.SEPARATION_DRAWS
    most = defaults.SEPARATION_MOST_DRAWS
    nulls = ", ".join(f"{division.words}: {division.primary_null.phrase}" for division in DIVISIONS.all())
    group.add_argument(
        "--draws",
        type=number_of_draws,
        metavar="N",
        help=f"separation: the most draws of the primary null ({nulls}). Every concept has {first}; a concept that "
        f"three draws reach has no more (default: {most}, for p values down to {1 / (1 + most):g}; {first} takes the "
        "least time, but few concepts can then pass). A stored result of more draws is kept",
    )
    group.add_argument(
        "--irrelevant_channels",
        type=number_all_or_none,
        metavar="N",
        help="separation: how many irrelevant channels to draw for p values, or all, or none (default: all, but "
        f"{defaults.SEPARATION_IRRELEVANT} where splits are many{fewer})",
    )


def _add_effect_flags(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--get_effect",
        action="store_true",
        help="what each new channel adds to the logit of an image's own class, on validation images of the concepts, "
        "into results_quantitative/; the network runs, what is before the layer once an image",
    )
    group.add_argument(
        "--effect_to",
        choices=defaults.EFFECTS_TO,
        help="effect: what a part is replaced by, its mean over the training images (default) or zero (behind which a "
        "BatchNorm may follow)",
    )


def _add_ranking_flags(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--rank_by_images",
        metavar="FILE",
        help="which channels, and which circuits of the best, respond to your own images more than to all others: a "
        "text file with paths below train/ or below val/, one a line; ranked in the store that has all of them, or in "
        "each if both have (they are different images of the same names). From the stores of stages 1 and 2 alone, "
        "into results_quantitative/; each average precision beside that of permuted weights",
    )
    group.add_argument(
        "--top",
        type=positive_int,
        metavar="N",
        help=f"ranking by images: channels whose circuits are ranked, and rows printed ({defaults.RANKED_CHANNELS})",
    )


def _add_edit_flags(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--write_edited",
        metavar="FILE",
        help="the network with concepts taken out of the weights of channels, as a state dict for the plain network; "
        "beside it FILE.json: what was taken out, top-1 of all validation images before and after, the classes that "
        "lose and gain most, and the lines that load it",
    )
    group.add_argument(
        "--edit_concepts",
        nargs="+",
        metavar="CONCEPT",
        help="edit: the concepts to take out, by their names or classes; of one channel, 739:candle, or of every split "
        "channel that has such a concept, candle",
    )
    group.add_argument(
        "--edit_factor",
        type=finite,
        metavar="NUMBER",
        help=f"edit: what is left of their parts, 0 (default) none, 0.5 half, 2 twice ({defaults.EDIT_FACTOR:g})",
    )
    group.add_argument(
        "--edit_to",
        type=mean_zero_or_number,
        metavar="VALUE",
        help="edit: what takes the place of a part, its mean over the training images (default: mean), zero, or a "
        "number, of the layer's output",
    )


def _add_selectivity_flags(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--get_edit",
        action="store_true",
        help="what taking each concept out of its channel does to the logits of its own images, of the channel's other "
        "concepts and of others, by the concept's part, the whole channel, permuted shares and other methods: how "
        "selective each is, and its harm at equal effect; into results_quantitative/ and plots/. It needs the training "
        "store, and reads images of train/ and val/; the network runs once an image",
    )
    group.add_argument(
        "--with_pure",
        action="store_true",
        help="edit: also hold the channel in images that PURE's clusters give to the concept, which takes a pass over "
        "train/ and one over val/ (it needs the val store and concepts with labels)",
    )


def settings_from(args: argparse.Namespace, parser: argparse.ArgumentParser) -> ResultSettings:
    """Stage 4's settings; UserError if flags would be ignored.

    Without a flag that selects results, the two kinds of results of the paper are made.
    """
    check_comparison(args)
    for name in ("compare", "get_map"):
        if args.figure_width.width and getattr(args, name):
            raise UserError(f"--{name} is drawn for a screen alone: leave out --figure_width")
    settings = flags.settings_of(
        ResultSettings,
        args,
        channels=split_flags.channels_from(args, CHANNEL_FLAG),
        splits=tuple(args.splits or ()),
        edit_concepts=tuple(args.edit_concepts or ()),
        division_given=split_flags.given_to_any(DIVISIONS.all(), args),
    )
    if settings.compare:
        return settings
    if settings.report:
        flags.require(args, "model")
        refuse_ignored(args, parser, "report", *OF_REPORT)
        return settings
    if settings.rank_by_images is not None:
        flags.require(args, "model")
        refuse_ignored(args, parser, "rank_by_images", *OF_RANKING)
        return settings
    if settings.is_summary_alone:
        refuse_ignored(args, parser, "summary", "output_dir", "store_dir", "model_dir")
        return settings
    several = args.candidates is not None or args.splits is not None
    flags.require(args, "model", *([] if several else [CHANNEL_FLAG]))
    settings = replace(settings, concepts=_concepts_from(args))
    for flag, others in ONLY_FOR.items():
        if getattr(args, flag) and not any(getattr(args, name) for name in others):
            raise UserError(f"--{flag} is for {' or '.join(f'--{name}' for name in others)}: add it")
    if settings.write_edited is not None:
        flags.require(args, "edit_concepts")
    settings = settings.with_usual_results()
    if args.figure_width.width and not settings.wants_figures:
        raise UserError("--figure_width is for figures, of which none was asked for: leave it out")
    return settings


def _concepts_from(args: argparse.Namespace) -> tuple[list[str], ...]:
    """The concepts of the channel; UserError unless splits are named in one way."""
    if args.splits is None:
        return split_flags.concepts_from(args, CHANNEL_FLAG)
    others = ["candidates", CHANNEL_FLAG, "split_by", "background", "only_correct", *flags_of(DIVISIONS.all())]
    others += [f"classes_for_concept{number}" for number in range(1, defaults.MAX_CONCEPTS + 1)]
    for flag in others:
        if getattr(args, flag) is not None:
            raise UserError(f"--splits names the splits: leave out --{flag}")
    return ()


def refuse_ignored(args: argparse.Namespace, parser: argparse.ArgumentParser, flag: str, *read: str) -> None:
    """Raise UserError for flags other than ``flag`` and those that it ``read``: they would be ignored."""
    for name, value in vars(args).items():
        if name not in (flag, *read) and value != parser.get_default(name):
            advice = "name a channel or --candidates, or leave it out" if flag == "summary" else "leave it out"
            raise UserError(f"--{name} means nothing to --{flag} alone: {advice}")
