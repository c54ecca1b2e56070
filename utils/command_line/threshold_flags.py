"""Stage 2's flags of its thresholds and of what it prints, and their checks. Nothing here imports torch."""

import argparse

from utils import defaults
from utils.command_line.ranges import cosine, count
from utils.command_line.settings import SimilaritySettings
from utils.errors import UserError
from utils.plugins import fraction, positive_int

THRESHOLDS = {"proportion_attribution_required": "taus", "p": "ps", "cos_sim_high": "cos_sim_highs"}
# Flags that have no meaning if a threshold has several values, and their defaults
ONLY_FOR_SINGLE_VALUES = {"cos_sim_low": defaults.COS_SIM_LOW, "plot_wordnet": False, "channel": None, "top": None}


def add_threshold_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of stage 2's thresholds, each a list of one or more values."""
    tau = f"tau: share of an image's positive importance that makes a channel relevant for it ({defaults.TAU})"
    share = f"share of a class's images that must agree ({defaults.P})"
    gamma = f"keep cosine < high: gamma ({defaults.COS_SIM_HIGH}, the paper's; 1 keeps all pairs)"
    for name, kind, default, help in (
        ("proportion_attribution_required", fraction, defaults.TAU, tau),
        ("p", fraction, defaults.P, share),
        ("cos_sim_high", cosine, defaults.COS_SIM_HIGH, gamma),
    ):
        parser.add_argument(f"--{name}", type=kind, nargs="+", default=[default], metavar="VALUE", help=help)


def add_counting_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that select which images and classes count."""
    parser.add_argument(
        "--only_correct",
        action=argparse.BooleanOptionalAction,
        default=defaults.ONLY_CORRECT,
        help="use correctly classified images only",
    )
    parser.add_argument(
        "--only_above_mean",
        action="store_true",
        help="leave out classes for which a channel counts by being low: below its mean over all training images",
    )
    parser.add_argument(
        "--min_images",
        type=positive_int,
        default=defaults.MIN_IMAGES,
        help="leave out classes with fewer images (with --only_correct: correctly classified ones) (%(default)s)",
    )


def thresholds_from(args: argparse.Namespace) -> dict[str, tuple[float, ...]]:
    """The values of each threshold, by the name of its field of SimilaritySettings.

    UserError if a threshold has several values and a flag is given that has no meaning then.
    """
    values = {field: tuple(getattr(args, name)) for name, field in THRESHOLDS.items()}
    if any(len(of_threshold) > 1 for of_threshold in values.values()):
        for name, default in ONLY_FOR_SINGLE_VALUES.items():
            if getattr(args, name) != default:
                raise UserError(f"--{name} means nothing to several values of a threshold: leave it out")
    return values


def several_thresholds(settings: SimilaritySettings) -> bool:
    """Whether a threshold of stage 2 has several values."""
    return any(len(getattr(settings, field)) > 1 for field in THRESHOLDS.values())


def add_shown_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that select what stage 2 prints. They do not change what the files contain."""
    group = parser.add_argument_group("what is printed", "default: all pairs and groups; the files always have all")
    exclusive = group.add_mutually_exclusive_group()
    help = "everything about one channel, whether it is a candidate or not, and why"
    exclusive.add_argument("--channel", type=count, metavar="C", help=help)
    help = "the N channels of lowest cosine between two of their classes, the lowest first"
    exclusive.add_argument("--top", type=positive_int, metavar="N", help=help)
