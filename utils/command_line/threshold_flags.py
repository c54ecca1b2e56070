"""Stage 2's flags of its thresholds and of what it prints, and their checks. Nothing here imports torch."""

import argparse

from utils import defaults
from utils.command_line.flags import add_figure_flag
from utils.command_line.parser import Help
from utils.command_line.ranges import cosine, count
from utils.command_line.settings import SimilaritySettings
from utils.errors import UserError
from utils.plugins import fraction, positive_int

THRESHOLDS = {"proportion_attribution_required": "taus", "p": "ps", "cos_sim_high": "cos_sim_highs"}
# Flags that have no meaning if a threshold has several values, and their defaults
ONLY_FOR_SINGLE_VALUES = {"cos_sim_low": defaults.COS_SIM_LOW, "plot_wordnet": False, "channel": None, "top": None}


def add_threshold_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of stage 2's thresholds; all but the lower bound take one or more values."""
    group = parser.add_argument_group("thresholds")
    several = "Several values of tau, p or gamma: only a table and a figure of how much the thresholds matter are made."
    group.add_argument(
        "--proportion_attribution_required",
        type=fraction,
        nargs="+",
        default=[defaults.TAU],
        metavar="TAU",
        help=Help(
            "tau, least relative importance",
            f"{defaults.TAU}",
            "A channel is relevant in an image if its importance is at least this share of the image's positive "
            f"importance. {several}",
        ),
    )
    group.add_argument(
        "--p",
        type=fraction,
        nargs="+",
        default=[defaults.P],
        metavar="P",
        help=Help(
            "p, least share of a class's images",
            f"{defaults.P}",
            "A channel is relevant for a class if it is relevant in at least this share of the class's images. "
            "Several values: see --proportion_attribution_required.",
        ),
    )
    group.add_argument(
        "--cos_sim_high",
        type=cosine,
        nargs="+",
        default=[defaults.COS_SIM_HIGH],
        metavar="GAMMA",
        help=Help(
            "gamma: list pairs of classes with a lower cosine",
            f"{defaults.COS_SIM_HIGH}",
            f"The paper's gamma is {defaults.GAMMA}; 1 lists all pairs. Groups of classes have the same gamma. "
            "Several values: see --proportion_attribution_required.",
        ),
    )
    group.add_argument(
        "--cos_sim_low",
        type=cosine,
        default=defaults.COS_SIM_LOW,
        metavar="COSINE",
        help=Help("list pairs with at least this cosine", f"{defaults.COS_SIM_LOW}", "-1 lists negative cosines, too."),
    )


def add_counting_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that select which images and classes count."""
    group = parser.add_argument_group("images and classes")
    group.add_argument(
        "--only_correct",
        action=argparse.BooleanOptionalAction,
        help=Help("use correctly classified images only", "yes" if defaults.ONLY_CORRECT else "all images"),
    )
    group.add_argument(
        "--only_above_mean",
        action="store_true",
        help=Help(
            "leave out classes for which a channel is relevant because it is below its average",
            details="The average is that over all training images.",
        ),
    )
    group.add_argument(
        "--min_images",
        type=positive_int,
        default=defaults.MIN_IMAGES,
        metavar="N",
        help=Help(
            "leave out classes with fewer images",
            f"{defaults.MIN_IMAGES}",
            "With --only_correct: with fewer correctly classified images.",
        ),
    )


def thresholds_from(args: argparse.Namespace) -> dict[str, tuple[float, ...]]:
    """The values of each threshold, by the name of its field of SimilaritySettings.

    UserError if a threshold has several values and a flag is given that has no meaning then.
    """
    values = {field: tuple(getattr(args, name)) for name, field in THRESHOLDS.items()}
    if any(len(of_threshold) > 1 for of_threshold in values.values()):
        for name, default in ONLY_FOR_SINGLE_VALUES.items():
            if getattr(args, name) != default:
                raise UserError(f"--{name} has no effect with several values of a threshold: leave it out")
    return values


def several_thresholds(settings: SimilaritySettings) -> bool:
    """Whether a threshold of stage 2 has several values."""
    return any(len(getattr(settings, field)) > 1 for field in THRESHOLDS.values())


def add_shown_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that select what stage 2 prints and draws. They do not change what the tables contain."""
    group = parser.add_argument_group("screen and figures")
    exclusive = group.add_mutually_exclusive_group()
    exclusive.add_argument(
        "--channel",
        type=count,
        metavar="C",
        help=Help(
            "print everything about channel C",
            "all pairs and groups",
            "For a channel that is not listed, the reason is printed. The files always contain all channels.",
        ),
    )
    exclusive.add_argument(
        "--top",
        type=positive_int,
        metavar="N",
        help=Help(
            "print the N channels with the lowest cosines",
            "all channels",
            "A channel's cosine is the lowest of two of its classes. Not together with --channel.",
        ),
    )
    group.add_argument(
        "--plot_wordnet",
        action="store_true",
        help=Help(
            "also draw the WordNet path similarity of classes against their cosine",
            details="All pairs are drawn, whatever the cosine bounds. Class folders must be WordNet ids (n02124075). "
            "WordNet is downloaded by nltk if it is missing.",
        ),
    )
    add_figure_flag(group)
