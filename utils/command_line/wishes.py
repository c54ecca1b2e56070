"""What stage 4 can be asked for: its flags, and which of them go together. Nothing here imports torch."""

from utils.command_line import flags
from utils.command_line.comparison_flags import add_comparison_flags, check_comparison
from utils.command_line.figures import add_figure_flag
from utils.errors import UserError

ONLY_FOR = {
    "all_classes": ("get_channel_card",),
    "patches": ("get_channel_card",),
    "patch_size": ("get_channel_card", "get_map"),
    "steps": ("get_feature_visualization",),
    "seeds": ("get_feature_visualization",),
}
# What a report is made of and how; all other flags would be ignored
OF_REPORT = (
    *("data_dir", "store_dir", "model_dir", "output_dir", "model", "weights", "layer_of_interest", "candidates"),
    *("nr_channels_in_layer_of_interest", "split_by", "patch_size", "skip_unreadable", "batch_size", "num_workers"),
    *("resize_size", "crop_size", "interpolation", "mean", "std", "decode", "device", "precision"),
)


def add_wish_flags(parser):
    wanted = parser.add_argument_group("what to make", "default: --get_qualitative and --get_quantitative")
    wanted.add_argument("--get_qualitative", action="store_true", help="density plots, into plots/")
    wanted.add_argument("--get_quantitative", action="store_true", help="fractions, into results_quantitative/")
    wanted.add_argument(
        "--get_channel_card", action="store_true", help="one figure: patches, densities and fractions, into plots/"
    )
    wanted.add_argument("--all_classes", action="store_true", help="card: patches from all of val/, not the concepts'")
    wanted.add_argument(
        "--patches",
        choices=("ranked", "paper"),
        help="card: the most activating patches (ranked, the default), or by the paper's rule, six of the 16 most "
        "activating, of all concepts as equally as they occur",
    )
    wanted.add_argument(
        "--patch_size",
        type=flags.positive_int,
        help="card, map: side of a patch in pixels (default: three strides of the layer, 96 for ResNet-50)",
    )
    wanted.add_argument(
        "--get_feature_visualization",
        action="store_true",
        help="images made to activate the channel and its parts, into plots/ and on the card; what is there and equal "
        "is not made again",
    )
    wanted.add_argument("--steps", type=flags.positive_int, help="feature visualization: steps of optimisation (200)")
    wanted.add_argument("--seeds", type=flags.positive_int, help="feature visualization: images a channel (2)")
    add_figure_flag(wanted)
    wanted.add_argument(
        "--get_map",
        action="store_true",
        help="map of the channel's reference images (of the training store) with pictures, and rows of patches of each "
        "concept, into plots/",
    )
    add_separation_flags(wanted)
    add_effect_flags(wanted)
    help = "print the table of all pairs so far; alone, nothing else is done"
    wanted.add_argument("--summary", action="store_true", help=help)
    add_comparison_flags(parser)
    wanted.add_argument(
        "--report",
        action="store_true",
        help="report/RUN/, pages to browse: the layer and all its polysemantic channels, with what "
        "is there of splits and results. Of several tables of stage 2 the newest; --candidates chooses another",
    )


def check_splits(args):
    """Raise UserError unless stage 4 is told which splits, in one way."""
    if args.splits is None:
        return flags.check_candidates(args, "channel_of_interest")
    others = ["candidates", "channel_of_interest", "split_by", "background", "only_correct", "rho_objective"]
    others += [f"classes_for_concept{number}" for number in range(1, flags.MAX_CONCEPTS + 1)]
    for flag in others:
        if getattr(args, flag) is not None:
            raise UserError(f"--splits names the splits: leave out --{flag}")


def add_separation_flags(parser):
    parser.add_argument(
        "--get_separation",
        action="store_true",
        help="how well each new channel separates its concept from all other validation images, beside the same rule "
        "on permuted weights and on other channels: from the val store of stage 1 (--images val), without network and "
        "images, into results_quantitative/ and plots/",
    )
    parser.add_argument(
        "--irrelevant_channels",
        type=_all_or_number,
        metavar="N",
        help="separation: how many irrelevant channels to draw for p values, or all (default: all; 200 for splits by "
        "least squares)",
    )


def add_effect_flags(parser):
    parser.add_argument(
        "--get_effect",
        action="store_true",
        help="what each new channel adds to the logit of an image's own class, on validation images of the concepts, "
        "into results_quantitative/; the network runs, what is before the layer once an image",
    )
    parser.add_argument(
        "--effect_to",
        choices=("mean", "zero"),
        help="effect: what a part is replaced by, its mean over the training images (default) or zero (behind which a "
        "BatchNorm may follow)",
    )


def _all_or_number(text):
    return text if text == "all" else flags.positive_int(text)


def is_summary_alone(args):
    """Whether stage 4 is only to sum up what is there."""
    return args.summary and args.channel_of_interest is None and args.candidates is None and args.splits is None


def check_wishes(args, parser):
    """Refuse flags of stage 4 that would be ignored; without a wish, wish for the two kinds of results of the paper."""
    check_comparison(args)
    for what in ("compare", "get_map"):
        if args.figure_width.width and getattr(args, what):
            raise UserError(f"--{what} is drawn for a screen alone: leave out --figure_width")
    if args.compare:
        return None
    if args.report:
        flags.require(args, "model")
        return refuse_ignored(args, parser, "report", *OF_REPORT)
    if is_summary_alone(args):
        return refuse_ignored(args, parser, "summary", "output_dir", "store_dir", "model_dir")
    named = args.candidates is not None or args.splits is not None
    flags.require(args, "model", *([] if named else ["channel_of_interest"]))
    check_splits(args)
    for flag, wishes in ONLY_FOR.items():
        if getattr(args, flag) and not any(getattr(args, wish) for wish in wishes):
            raise UserError(f"--{flag} is for {' or '.join(f'--{wish}' for wish in wishes)}: add it")
    if args.irrelevant_channels is not None and not args.get_separation:
        raise UserError("--irrelevant_channels is for --get_separation: add it")
    if args.effect_to is not None and not args.get_effect:
        raise UserError("--effect_to is for --get_effect: add it")
    args.effect_to = args.effect_to or "mean"
    if not (args.get_separation or args.get_effect or args.get_map or wants_each_split(args)):
        args.get_qualitative = args.get_quantitative = True
    if args.figure_width.width and not (args.get_separation or args.get_qualitative or wants_pictures(args)):
        raise UserError("--figure_width is for figures, of which none was asked for: leave it out")


def wants_each_split(args):
    """Whether stage 4 is asked for anything that looks at splits one by one, at images of their concepts."""
    wishes = ("get_qualitative", "get_quantitative", "get_channel_card", "get_feature_visualization")
    return any(getattr(args, wish) for wish in wishes)


def wants_pictures(args):
    """Whether stage 4 is asked for pictures, which need the images and the layer's input."""
    return args.get_channel_card or args.get_feature_visualization


def wants_network(args):
    """Whether stage 4 is asked for what needs the network and images, whatever a val store has of them."""
    return wants_pictures(args) or args.get_effect


def refuse_ignored(args, parser, flag, *meant):
    """Where ``flag`` alone reads what is there, refuse all others but those ``meant``: they would be ignored."""
    for name, value in vars(args).items():
        if name not in (flag, *meant) and value != parser.get_default(name):
            advice = "leave it out" if flag == "report" else "name a channel or --candidates, or leave it out"
            raise UserError(f"--{name} means nothing to --{flag} alone: {advice}")
