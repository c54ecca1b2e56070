"""Flags that select stage 4's results, checks of their combinations, and its settings. Imports no torch."""

import argparse
from dataclasses import replace

from utils import defaults
from utils.command_line import flags, split_flags
from utils.command_line.comparison_flags import add_comparison_flags, check_comparison
from utils.command_line.parser import Help
from utils.command_line.ranges import finite, mean_zero_or_number, number_all_or_none, number_of_draws
from utils.command_line.settings import ResultSettings
from utils.divisions.division_registry import DIVISIONS
from utils.errors import UserError
from utils.plugins import flags_of, fraction, positive_int

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


def add_split_choice(parser: argparse.ArgumentParser) -> None:
    """Add the flags of which splits stage 4 evaluates."""
    group = parser.add_argument_group("splits")
    split_flags.add_channel_flag(group, CHANNEL_FLAG, "channel that was split")
    split_flags.add_concept_flags(group)
    split_flags.add_candidates_flag(group)
    group.add_argument(
        "--splits",
        nargs="+",
        metavar="FILE",
        help=Help(
            "split files or manifests (..._layer.json) of stage 3", details="They replace a channel and its concepts."
        ),
    )
    split_flags.add_division_choices(group)
    group.add_argument(
        "--rho",
        type=fraction,
        metavar="RHO",
        help=Help("evaluate the split at this rho: 0.05, 0.10 ... 1.00", "the rho that stage 3 chose"),
    )


def add_result_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of what stage 4 makes, a group for each kind of result."""
    _add_fraction_flags(parser.add_argument_group("fractions and densities"))
    pictures = parser.add_argument_group("pictures")
    _add_card_flags(pictures)
    _add_visualization_flags(pictures)
    pictures.add_argument(
        "--get_map",
        action="store_true",
        help=Help(
            "map of the channel's strongest training images, with patches",
            details="It shows the images on a plane, and a row of patches for each concept. Written to plots/.",
        ),
    )
    flags.add_figure_flag(pictures)
    _add_separation_flags(parser.add_argument_group("separation"))
    edits = parser.add_argument_group("effects and edits")
    _add_effect_flags(edits)
    _add_selectivity_flags(edits)
    _add_edit_flags(edits)
    add_comparison_flags(parser)
    _add_ranking_flags(parser.add_argument_group("your own images"))
    _add_overview_flags(parser.add_argument_group("overviews"))


def _add_fraction_flags(group: argparse._ActionsContainer) -> None:
    usual = "on if no result is named"
    group.add_argument(
        "--get_quantitative",
        action="store_true",
        help=Help(
            "fractions of the original channel",
            usual,
            "The share of the original channel's activation that each new one has, in images in which the channel's "
            "relative importance is at least tau. Also: how well the new channels tell the concepts apart, and a "
            "summary of all splits so far. Written to results_quantitative/.",
        ),
    )
    group.add_argument(
        "--get_qualitative",
        action="store_true",
        help=Help("density plots of activations", usual, "One plot per concept, in plots/."),
    )
    split_flags.add_measured_tau_flag(group)


def _add_card_flags(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--get_channel_card",
        action="store_true",
        help=Help("one figure per split: patches, densities, fractions", details="Written to plots/."),
    )
    group.add_argument(
        "--patches_of",
        choices=defaults.PATCHES_OF,
        help=Help(
            "card: patches of all validation images, or of the images of the concepts' classes",
            f"all if there are at most {defaults.MOST_PATCH_IMAGES} images",
            "For more images the default is classes, unless --report has searched all of them already.",
        ),
    )
    group.add_argument(
        "--all_classes", action="store_const", const="all", dest="patches_of", help=Help("the same as --patches_of all")
    )
    group.add_argument(
        "--patches",
        choices=defaults.PATCH_RULES,
        help=Help(
            "card: which patches are shown",
            defaults.PATCHES,
            "ranked: the most activating ones; paper: the paper's rule, six of the 16 most activating ones, with the "
            "concepts as equally often as possible.",
        ),
    )
    group.add_argument(
        "--patch_size",
        type=positive_int,
        metavar="N",
        help=Help(
            "card and map: pixels of the side of a patch",
            "three strides of the layer",
            "Three strides are 96 pixels for ResNet-50.",
        ),
    )


def _add_visualization_flags(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--get_feature_visualization",
        action="store_true",
        help=Help(
            "images optimised to activate each channel",
            details="For the original channel and its parts, in plots/ and on the card. Images of the same settings "
            "are not made again.",
        ),
    )
    group.add_argument(
        "--steps",
        type=positive_int,
        metavar="N",
        help=Help("feature visualization: steps of the optimisation", f"{defaults.VISUALIZATION_STEPS}"),
    )
    group.add_argument(
        "--seeds",
        type=positive_int,
        metavar="N",
        help=Help("feature visualization: images per channel", f"{defaults.VISUALIZATION_SEEDS}"),
    )


def _add_separation_flags(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--get_separation",
        action="store_true",
        help=Help(
            "how well new channels detect their concepts, with nulls",
            details="How well each new channel tells its concept from all other validation images, compared with "
            "the same rule on permuted weights and on other channels. It reads the val store (stage 1 with --images "
            "val), no images. Written to results_quantitative/ and plots/.",
        ),
    )
    first = defaults.SEPARATION_DRAWS
    most = defaults.SEPARATION_MOST_DRAWS
    nulls = "; ".join(f"{division.words}: {division.primary_null.phrase}" for division in DIVISIONS.all())
    group.add_argument(
        "--draws",
        type=number_of_draws,
        metavar="N",
        help=Help(
            "separation: the most draws of the primary null for each concept",
            f"{most}",
            f"The primary null is that of the division ({nulls}). Every concept has {first} draws, and more only while "
            f"fewer than three of them reach its score. {most} draws give p values down to {1 / (1 + most):g}; {first} "
            "are fastest, but few concepts can then pass. A stored result of more draws is kept.",
        ),
    )
    fewer = "".join(
        f"; {division.usual_irrelevant or 'none'} if divided by {division.words}"
        for division in DIVISIONS.all()
        if division.usual_irrelevant is not None
    )
    group.add_argument(
        "--irrelevant_channels",
        type=number_all_or_none,
        metavar="N",
        help=Help(
            "separation: number of irrelevant channels that are split for p values, or all, or none",
            f"all{fewer}",
            f"If there are many splits, {defaults.SEPARATION_IRRELEVANT} are drawn for each.",
        ),
    )
    split_flags.add_separation_p_flag(group)


def _add_effect_flags(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--get_effect",
        action="store_true",
        help=Help(
            "what each new channel adds to the logits",
            details="Measured on validation images of the concepts: the change of the logit of an image's own class if "
            "a part is replaced. The network runs; what comes before the layer runs once per image. Into "
            "results_quantitative/.",
        ),
    )
    group.add_argument(
        "--effect_to",
        choices=defaults.EFFECTS_TO,
        help=Help(
            "effect: what a part is replaced by",
            defaults.EFFECT_TO,
            "mean: its mean over the training images; zero: 0, before a BatchNorm that may follow the layer.",
        ),
    )


def _add_ranking_flags(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--rank_by_images",
        metavar="FILE",
        help=Help(
            "rank the channels by their response to your images",
            details="Which channels, and which circuits of the best channels, respond to the images of FILE more than "
            "to all others. FILE is a text file with one path below train/ or below val/ per line. It is ranked in the "
            "store that has all of these images, or in each of the two stores if both have images of these names. Each "
            "average precision is given with that of permuted weights. It reads the stores of stages 1 and 2, no "
            "images. Written to results_quantitative/.",
        ),
    )
    group.add_argument(
        "--top",
        type=positive_int,
        metavar="N",
        help=Help(
            "ranking: number of channels whose circuits are ranked, and of rows that are printed",
            f"{defaults.RANKED_CHANNELS}",
        ),
    )


def _add_selectivity_flags(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--get_edit",
        action="store_true",
        help=Help(
            "what removing each concept does to the logits",
            details="The concept is removed by its part, by the whole channel, by permuted shares and by other "
            "methods. For each: the change of the logit of an image's own class, on images of the concept, of the "
            "channel's other concepts and on other images, how selective it is, and its harm at equal effect. It "
            "reads the training store and images of train/ and val/; the network runs once per image. Written to "
            "results_quantitative/ and plots/.",
        ),
    )
    group.add_argument(
        "--with_pure",
        action="store_true",
        help=Help(
            "--get_edit: also hold the channel in the images that PURE's clusters assign to the concept",
            details="It takes a pass over train/ and one over val/, and needs the val store and concepts with labels.",
        ),
    )


def _add_edit_flags(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--write_edited",
        metavar="FILE",
        help=Help(
            "write the network without the concepts of --edit_concepts",
            details="FILE is a state dict of the plain network, with the concepts removed from the weights. FILE.json "
            "lists what was removed, top-1 accuracy on all validation images before and after, the classes that lose "
            "and gain most, and the lines of code that load FILE.",
        ),
    )
    group.add_argument(
        "--edit_concepts",
        nargs="+",
        metavar="CONCEPT",
        help=Help(
            "--write_edited: the concepts to remove, by name or class",
            details="739:candle removes it from channel 739; candle removes it from every split channel that has it.",
        ),
    )
    group.add_argument(
        "--edit_factor",
        type=finite,
        metavar="NUMBER",
        help=Help(
            "--write_edited: the factor of what is left of a part",
            f"{defaults.EDIT_FACTOR:g}",
            "0 removes the part, 0.5 halves it, 2 doubles it.",
        ),
    )
    group.add_argument(
        "--edit_to",
        type=mean_zero_or_number,
        metavar="VALUE",
        help=Help(
            "--write_edited: what replaces a part: mean, zero or a number",
            defaults.EFFECT_TO,
            "mean: its mean over the training images. A number is a value of the layer's output.",
        ),
    )


def _add_overview_flags(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--report",
        action="store_true",
        help=Help(
            "HTML pages to browse the layer",
            details="They go to report/RUN/: the layer and each of its polysemantic channels, with the splits and "
            "results that are stored. The newest table of stage 2 is used; --candidates chooses another one.",
        ),
    )
    group.add_argument(
        "--summary",
        action="store_true",
        help=Help(
            "tables of all stored results",
            details="They are made again and printed. Without other flags nothing else is done.",
        ),
    )


def settings_from(args: argparse.Namespace, parser: argparse.ArgumentParser) -> ResultSettings:
    """Stage 4's settings; UserError if flags would be ignored.

    Without a flag that selects results, the two kinds of results of the paper are made.
    """
    check_comparison(args)
    for name in ("compare", "get_map"):
        if args.figure_width.width and getattr(args, name):
            raise UserError(f"--{name} is only drawn for a screen: leave out --figure_width")
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
        raise UserError("--figure_width is for figures, but no figure is requested: leave it out")
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
            raise UserError(f"--{name} has no effect with --{flag} alone: {advice}")
