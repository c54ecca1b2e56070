"""Flags that several scripts share, and their checks. Nothing here imports torch."""

import argparse
import os
import shlex
from dataclasses import asdict, replace

from utils.errors import UserError, quoted
from utils.processes import this_process

MAX_CONCEPTS = 8
SECOND_STAGE, LAST_STAGE = "get_cosine_similarities.py", "get_results.py"
NOT_SAID = {"precision": "fp32", "decode": "pil"}  # defaults, which need not be repeated
# Repeated here, so that --help need not import what they belong to; a test compares
DECODERS = ("pil", "fast", "gpu")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
OBJECTIVES = ("positive", "absolute", "contrast")
PRECISIONS = ("fp32", "tf32", "bf16")
THRESHOLDS = ("proportion_attribution_required", "p", "cos_sim_high")
LAST_LAYERS = ("last_conv", "last_linear")


class Parser(argparse.ArgumentParser):
    """No abbreviations (``--rho`` must never mean ``--rho_objective``), and errors in one line."""

    def __init__(self, description):
        super().__init__(
            description=description, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
        )

    def error(self, message):
        raise UserError(f"{message} (--help explains the flags)")


def _checked(kind, accept, what):
    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not accept(value):
            raise argparse.ArgumentTypeError(f"must be {what}, not {quoted(text)}")
        return value

    return parse


positive_int = _checked(int, lambda value: value >= 1, "a whole number from 1")
count = _checked(int, lambda value: value >= 0, "a whole number from 0")
fraction = _checked(float, lambda value: 0 < value <= 1, "a number above 0 and at most 1")
cosine = _checked(float, lambda value: -1 <= value <= 1, "a number from -1 to 1")
positive = _checked(float, lambda value: 0 < value < float("inf"), "a number above 0")
finite = _checked(float, lambda value: abs(value) < float("inf"), "a number")


def add_data_flag(parser, help="folder with train/ and val/, one sub-folder a class"):
    default = os.environ.get("DATA_DIR", "/datasets/imagenet/")
    parser.add_argument("--data_dir", default=default, help=f"{help} ($DATA_DIR, else /datasets/imagenet/)")


def add_store_flag(parser):
    parser.add_argument(
        "--store_dir",
        default=os.environ.get("STORE_DIR", "./store_dir"),
        help="folder that each stage writes to and the next one reads ($STORE_DIR, else ./store_dir)",
    )


def add_output_flag(parser):
    parser.add_argument("--output_dir", default=".", help="where results for people go (default: here)")


def add_network_flags(parser):
    parser.add_argument(
        "--model",
        help="a torchvision classification network by name, or package.module:function, called without arguments",
    )
    parser.add_argument(
        "--weights",
        help="a torchvision weights name (default: IMAGENET1K_V1, else the network's DEFAULT) or a local state-dict "
        "file; a factory has its own unless given",
    )
    parser.add_argument(
        "--layer_of_interest",
        default="last_conv",
        help="the layer whose channels are looked at, a convolution or a linear layer: last_conv (default), "
        "last_linear (the last one before the classifier) or a module's name, layer4.2.conv3",
    )


def add_channel_flag(parser, name, what):
    parser.add_argument(
        f"--{name}", type=count, nargs="+", metavar="CHANNEL", help=f"{what}; beside --candidates: only these of them"
    )


def add_tau_flag(parser, help, default=None):
    parser.add_argument("--proportion_attribution_required", type=fraction, default=default, help=f"tau: {help}")


def add_threshold_flags(parser):
    """Stage 2's thresholds, one or more values each: lists."""
    for name, kind, default, help in (
        ("proportion_attribution_required", fraction, 0.03, "tau: share of an image's positive importance that makes a "
         "channel relevant for it (0.03)"),
        ("p", fraction, 0.75, "share of a class's images that must agree (0.75)"),
        ("cos_sim_high", cosine, 1.0, "keep cosine < high: gamma (1.0; the paper 0.5)"),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=kind, nargs="+", default=[default], metavar="VALUE", help=help)


def take_single_thresholds(args):
    """Turn lists into numbers where each has one; where not, refuse flags that mean nothing to several values."""
    if all(len(getattr(args, name)) == 1 for name in THRESHOLDS):
        for name in THRESHOLDS:
            setattr(args, name, getattr(args, name)[0])
        return
    for name, usual in {"cos_sim_low": 0, "plot_wordnet": False, "channel": None, "top": None}.items():
        if getattr(args, name) != usual:
            raise UserError(f"--{name} means nothing to several values of a threshold: leave it out")


def several_thresholds(args):
    """Whether stage 2 is asked for several values of a threshold: lists, then, where single ones are numbers."""
    return isinstance(args.p, list)


def add_shown_flags(parser):
    """What stage 2 prints; whatever that is, it writes all."""
    shown = parser.add_argument_group("what is printed", "default: all pairs and groups; the files always have all")
    shown = shown.add_mutually_exclusive_group()
    help = "everything about one channel, whether it is a candidate or not, and why"
    shown.add_argument("--channel", type=count, metavar="C", help=help)
    help = "the N channels of lowest cosine between two of their classes, the lowest first"
    shown.add_argument("--top", type=positive_int, metavar="N", help=help)


def add_only_correct_flag(parser, help):
    """Three states: what is not said comes from the candidates or the split."""
    parser.add_argument("--only_correct", action=argparse.BooleanOptionalAction, help=help)


def only_correct_flag(args):
    """The flag as it was given, for another stage."""
    return [] if args.only_correct is None else ["--only_correct" if args.only_correct else "--no-only_correct"]


def add_channel_count_flag(parser):
    parser.add_argument(
        "--nr_channels_in_layer_of_interest",
        type=positive_int,
        help="optional; checked against the layer",
    )


def add_class_map_flag(parser):
    parser.add_argument(
        "--class_map",
        metavar="FILE",
        help="CSV file that says which class folder of train/ is which output of the network: folder,output in the "
        "first line, then a line such as cat,0 for each folder (outputs count from 0). Needed only where names do not "
        "say it: folders 0, 1, 2 ... and WordNet ids of ImageNet do; else as many folders as outputs are taken in "
        "their order",
    )


def add_image_flags(parser):
    images = parser.add_argument_group("images", "default: the transform of the named weights, or of the stage before")
    images.add_argument("--resize_size", type=positive_int, help="pixels of the shorter side (else 256)")
    images.add_argument("--crop_size", type=positive_int, help="pixels of the central square (else 224)")
    images.add_argument("--interpolation", choices=INTERPOLATIONS, help="(else bilinear)")
    images.add_argument("--mean", type=finite, nargs=3, help="of each colour, 0 to 1 (else ImageNet's)")
    images.add_argument("--std", type=positive, nargs=3, help="of each colour (else ImageNet's)")
    images.add_argument(
        "--skip_unreadable", action="store_true", help="leave unreadable images out, name and count them"
    )


def _default_workers():
    """As many as there are cores, divided among the processes that were started on this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cores // this_process().local_size, 32))


def add_compute_flags(parser):
    compute = parser.add_argument_group("computing")
    compute.add_argument("--batch_size", type=positive_int, default=64, help="images a batch (64)")
    compute.add_argument(
        "--num_workers",
        type=count,
        default=_default_workers(),
        help="processes that decode images (%(default)s here; 0: the main process does); with --decode gpu, threads "
        "that read them",
    )
    compute.add_argument(
        "--decode",
        choices=DECODERS,
        default="pil",
        help="what decodes and resizes JPEG files: pil (default, what the paper used), fast (torchvision), gpu (a CUDA "
        "device); all other files are left to PIL",
    )
    compute.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda if there is one)")
    compute.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="arithmetic of the network: fp32 (default, what the paper used), tf32 (CUDA only), bf16; all that is "
        "computed from it is fp32",
    )


def loading(args, device):
    """Arguments of ``ImageBatches`` that come from the flags; UserError where the device lacks what they need."""
    if args.decode == "gpu" and device.type != "cuda":
        raise UserError("--decode gpu needs a CUDA device: use --decode fast")
    shared = {name: getattr(args, name) for name in ("num_workers", "skip_unreadable", "decode")}
    return {"device": device, **shared}


def add_concept_flags(parser):
    classes = "one or more classes: a network output (530), a class folder (n03196217) or a name ('digital clock')"
    further = f"more concepts, without gaps up to --classes_for_concept{MAX_CONCEPTS}"
    for number in range(1, MAX_CONCEPTS + 1):
        help = {1: classes, 2: classes, 3: further}.get(number, argparse.SUPPRESS)
        parser.add_argument(f"--classes_for_concept{number}", nargs="+", metavar="CLASS", help=help)


def add_division_flags(parser, stage3=False):
    """How inputs are divided: for stage 3, or to choose among splits."""
    chooses = "" if stage3 else "; chooses among several splits"
    parser.add_argument(
        "--split_by",
        choices=("arv", "least_squares"),
        help="what divides the inputs: arv (the paper's Ineq. 5, each input whole), or least_squares (shares, "
        "so that each new channel is the channel on its own images, and nothing on others)"
        + (" (arv; least_squares where concepts have no labels)" if stage3 else chooses),
    )
    parser.add_argument(
        "--background",
        type=_checked(float, lambda value: 0 <= value < float("inf"), "a number from 0"),
        nargs="?",
        const=1.0,
        metavar="WEIGHT",
        help="one more concept, everything else: all training images; then a concept may stand alone. WEIGHT is what "
        "they count beside a concept's images in least_squares, 0 for none"
        + (" (arv: none; least_squares, and concepts without labels: 1)" if stage3 else chooses),
    )


def background_weight(args):
    """Stage 3's weight of everything else, or None without it; refuses what does not go together."""
    weight = args.background
    if args.split_by == "least_squares" and args.rho_objective is not None:
        raise UserError("--rho_objective chooses rho, which --split_by least_squares does not have: leave it out")
    if weight is None:
        return 1.0 if args.split_by == "least_squares" else None
    if args.split_by == "arv" and weight not in (0, 1):
        raise UserError(f"--background {weight:g}: only --split_by least_squares weighs it")
    return weight or None


def add_candidates_flag(parser):
    parser.add_argument(
        "--candidates",
        metavar="FILE",
        help="many channels in one go, instead of a channel and its concepts: stage 2's .json or table, or a text file "
        "with a line 'channel: class1, class2' each, classes of one concept joined by +. Each class's images are read "
        "once however many candidates use it",
    )


def require(args, *names):
    """Raise UserError unless every named argument was given."""
    missing = [f"--{name}" for name in names if getattr(args, name) is None]
    if missing:
        raise UserError(f"{', '.join(missing)} must be given (--help explains the flags)")


def given_concepts(args):
    """The classes of each concept as given: lists of strings, of the concepts 1 to K without gaps.

    One alone only where there may be a background beside it.
    """
    given = [getattr(args, f"classes_for_concept{number}") for number in range(1, MAX_CONCEPTS + 1)]
    concepts = [classes for classes in given if classes is not None]
    alone = args.background or (args.background is None and args.split_by == "least_squares")
    require(args, "classes_for_concept1", *([] if alone else ["classes_for_concept2"]))
    if given[: len(concepts)] != concepts:
        raise UserError(f"--classes_for_concept{given.index(None) + 1} is missing: concepts are numbered without gaps")
    return concepts


def check_candidates(args, channel_flag):
    """Raise UserError unless either --candidates is given, or a channel and its concepts.

    Stage 3 alone may look for concepts without labels, of any channels, or all.
    """
    if getattr(args, "concepts_from", "classes") != "classes":
        return
    if args.candidates is None:
        require(args, channel_flag)
        given_concepts(args)
        return
    for number in range(1, MAX_CONCEPTS + 1):
        if getattr(args, f"classes_for_concept{number}") is not None:
            raise UserError(f"--candidates names concepts: leave out --classes_for_concept{number}")


def candidate_flags(args, channel_flag, other_flag):
    """The flags that name the same candidates to another stage, which calls its channel flag ``other_flag``."""
    words = ["--candidates", args.candidates] if args.candidates else []
    channels = getattr(args, channel_flag)
    words += [f"--{other_flag}", *channels] if channels else []
    for number in range(1, MAX_CONCEPTS + 1):
        classes = getattr(args, f"classes_for_concept{number}")
        words += [f"--classes_for_concept{number}", *classes] if classes else []
    return words


def transform_from_flags(args, default):
    """``default`` (a Transform) with what the flags say."""
    given = {name: getattr(args, name) for name in asdict(default) if getattr(args, name) is not None}
    transform = replace(default, **{name: tuple(v) if isinstance(v, list) else v for name, v in given.items()})
    if transform.crop_size > transform.resize_size:
        raise UserError(
            f"--crop_size {transform.crop_size} is larger than --resize_size {transform.resize_size}: "
            "the crop would have a black border"
        )
    return transform


def next_command(script, args, *more):
    """A command that goes on with ``script``, with the flags of ``args`` that it shares, ready to be pasted."""
    words = ["--model", args.model]
    for name in ("weights", "device", "precision", "decode"):
        given = getattr(args, name, None)
        if given is not None and given != NOT_SAID.get(name) and (script != SECOND_STAGE or name == "weights"):
            words += [f"--{name}", given]
    if args.layer_of_interest != "last_conv":
        words += ["--layer_of_interest", args.layer_of_interest]
    words += ["--data_dir", args.data_dir, "--store_dir", args.store_dir]
    if script == LAST_STAGE and getattr(args, "output_dir", ".") != ".":
        words += ["--output_dir", args.output_dir]
    return shlex.join(["python", script, *map(str, words), *map(str, more)])
