"""What stage 4 is asked to make. Nothing here imports torch."""

from utils.command_line import flags
from utils.errors import UserError


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


def _all_or_number(text):
    return text if text == "all" else flags.positive_int(text)


def is_summary_alone(args):
    """Whether stage 4 is only to sum up what is there."""
    return args.summary and args.channel_of_interest is None and args.candidates is None and args.splits is None


def check_wishes(args, parser):
    """Refuse flags of stage 4 that would be ignored; without a wish, wish for the two kinds of results of the paper."""
    if is_summary_alone(args):
        return refuse_ignored(args, parser, "summary", "output_dir", "store_dir", "model_dir")
    flags.require(args, "model")
    flags.check_splits(args)
    for flag in ("all_classes", "patch_size"):
        if getattr(args, flag) and not args.get_channel_card:
            raise UserError(f"--{flag} is for --get_channel_card: add it")
    if args.irrelevant_channels is not None and not args.get_separation:
        raise UserError("--irrelevant_channels is for --get_separation: add it")
    if not (args.get_separation or wants_each_split(args)):
        args.get_qualitative = args.get_quantitative = True


def wants_each_split(args):
    """Whether stage 4 is asked for anything that looks at splits one by one, at images of their concepts."""
    wishes = ("get_qualitative", "get_quantitative", "get_channel_card", "get_feature_visualization")
    return any(getattr(args, wish) for wish in wishes)


def wants_input(args):
    """Whether stage 4 is asked for pictures, which need the images and the layer's input."""
    return args.get_channel_card or args.get_feature_visualization


def refuse_ignored(args, parser, flag, *meant):
    """Where ``flag`` alone reads what is there, refuse all others but those ``meant``: they would be ignored."""
    for name, value in vars(args).items():
        if name not in (flag, *meant) and value != parser.get_default(name):
            advice = "name a channel or --candidates, or leave it out"
            raise UserError(f"--{name} means nothing to --{flag} alone: {advice}")
