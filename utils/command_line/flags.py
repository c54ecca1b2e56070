"""Flags that several scripts share, and their checks. Nothing here imports torch."""

import argparse
import os
import shlex
from dataclasses import asdict, fields, replace

from utils import defaults
from utils.concept_sources.source_registry import SOURCES
from utils.concept_sources.source_registry import USUAL as USUAL_SOURCE
from utils.divisions.division_registry import DIVISIONS, USUAL, USUAL_WITHOUT_LABELS
from utils.errors import UserError
from utils.plugins import checked, flags_of, fraction, positive, positive_int
from utils.processes import this_process

SECOND_STAGE, LAST_STAGE = "get_cosine_similarities.py", "get_results.py"
NOT_SAID = {"precision": defaults.PRECISION, "decode": defaults.DECODER}  # which need not be repeated
THRESHOLDS = {"proportion_attribution_required": "taus", "p": "ps", "cos_sim_high": "cos_sim_highs"}


class Parser(argparse.ArgumentParser):
    """No abbreviations (``--rho`` must never mean ``--rho_objective``), and errors in one line."""

    def __init__(self, description):
        super().__init__(
            description=description, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
        )

    def error(self, message):
        raise UserError(f"{message} (--help explains the flags)")


count = checked(int, lambda value: value >= 0, "a whole number from 0")
cosine = checked(float, lambda value: -1 <= value <= 1, "a number from -1 to 1")
finite = checked(float, lambda value: abs(value) < float("inf"), "a number")
weight = checked(float, lambda value: 0 <= value < float("inf"), "a number from 0")


def settings_of(kind, args, **derived):
    """A dataclass of settings from parsed arguments: fields of a flag's name, and what is ``derived`` from several.

    A flag that was not given is as the dataclass says.
    """
    own = {field.name for field in fields(kind)}
    given = {name: value for name, value in vars(args).items() if name in own and value is not None}
    return kind(**{**given, **derived})


def add_data_flag(parser, help="folder with train/ and val/, one sub-folder a class"):
    default = os.environ.get("DATA_DIR", defaults.DATA_DIR)
    parser.add_argument("--data_dir", default=default, help=f"{help} ($DATA_DIR, else {defaults.DATA_DIR})")


def add_store_flag(parser):
    parser.add_argument(
        "--store_dir",
        default=os.environ.get("STORE_DIR", defaults.STORE_DIR),
        help=f"folder that each stage writes to and the next one reads ($STORE_DIR, else {defaults.STORE_DIR})",
    )


def add_output_flag(parser):
    parser.add_argument("--output_dir", default=defaults.OUTPUT_DIR, help="where results for people go (default: here)")


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
        default=defaults.LAYER,
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
    tau = f"tau: share of an image's positive importance that makes a channel relevant for it ({defaults.TAU})"
    share = f"share of a class's images that must agree ({defaults.P})"
    gamma = f"keep cosine < high: gamma ({defaults.COS_SIM_HIGH}; the paper {defaults.GAMMA})"
    for name, kind, default, help in (
        ("proportion_attribution_required", fraction, defaults.TAU, tau),
        ("p", fraction, defaults.P, share),
        ("cos_sim_high", cosine, defaults.COS_SIM_HIGH, gamma),
    ):
        parser.add_argument(f"--{name}", type=kind, nargs="+", default=[default], metavar="VALUE", help=help)


def thresholds_from(args):
    """Values of each threshold, for settings; of several ones, refuse flags that mean nothing to them."""
    values = {field: tuple(getattr(args, name)) for name, field in THRESHOLDS.items()}
    if any(len(one) > 1 for one in values.values()):
        for name, usual in {
            "cos_sim_low": defaults.COS_SIM_LOW,
            "plot_wordnet": False,
            "channel": None,
            "top": None,
        }.items():
            if getattr(args, name) != usual:
                raise UserError(f"--{name} means nothing to several values of a threshold: leave it out")
    return values


def several_thresholds(settings):
    """Whether stage 2 is asked for several values of a threshold."""
    return any(len(getattr(settings, field)) > 1 for field in THRESHOLDS.values())


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


def only_correct_flag(settings):
    """The flag as it was given, for another stage."""
    given = settings.only_correct
    return [] if given is None else ["--only_correct" if given else "--no-only_correct"]


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
    images.add_argument(
        "--resize_size", type=positive_int, help=f"pixels of the shorter side (else {defaults.RESIZE_SIZE})"
    )
    images.add_argument(
        "--crop_size", type=positive_int, help=f"pixels of the central square (else {defaults.CROP_SIZE})"
    )
    images.add_argument("--interpolation", choices=defaults.INTERPOLATIONS, help=f"(else {defaults.INTERPOLATION})")
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
    compute.add_argument(
        "--batch_size", type=positive_int, default=defaults.BATCH_SIZE, help="images a batch (%(default)s)"
    )
    compute.add_argument(
        "--num_workers",
        type=count,
        default=_default_workers(),
        help="processes that decode images (%(default)s here; 0: the main process does); with --decode gpu, threads "
        "that read them",
    )
    compute.add_argument(
        "--decode",
        choices=defaults.DECODERS,
        default=defaults.DECODER,
        help="what decodes and resizes JPEG files: pil (default, what the paper used), fast (torchvision), gpu (a CUDA "
        "device); all other files are left to PIL",
    )
    compute.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda if there is one)")
    compute.add_argument(
        "--precision",
        choices=defaults.PRECISIONS,
        default=defaults.PRECISION,
        help="arithmetic of the network: fp32 (default, what the paper used), tf32 (CUDA only), bf16; all that is "
        "computed from it is fp32",
    )


def loading(settings, device):
    """Arguments of ``ImageBatches`` that come from the flags; UserError where the device lacks what they need."""
    if settings.decode == "gpu" and device.type != "cuda":
        raise UserError("--decode gpu needs a CUDA device: use --decode fast")
    shared = {name: getattr(settings, name) for name in ("num_workers", "skip_unreadable", "decode")}
    return {"device": device, **shared}


def add_concept_flags(parser):
    classes = "one or more classes: a network output (530), a class folder (n03196217) or a name ('digital clock')"
    further = f"more concepts, without gaps up to --classes_for_concept{defaults.MAX_CONCEPTS}"
    for number in range(1, defaults.MAX_CONCEPTS + 1):
        help = {1: classes, 2: classes, 3: further}.get(number, argparse.SUPPRESS)
        parser.add_argument(f"--classes_for_concept{number}", nargs="+", metavar="CLASS", help=help)


# --------------------------------------------------------------------------------------------------------------------
# Flags of divisions and of sources of concepts


def add_plugin_flags(parser, plugins, to_choose=False):
    """The flags of some plug-ins, each once; ``to_choose`` among splits that were made with several values."""
    for name, declared in flags_of(plugins).items():
        flag = declared[0][1]
        usual = "; ".join(f"{plugin.name}: {one.usual}" for plugin, one in declared if one.usual)
        help = f"{flag.help} ({usual})" if usual else flag.help
        how = {"choices": flag.choices} if flag.choices else {"type": flag.parse, "metavar": flag.metavar}
        parser.add_argument(f"--{name}", **how, help=flag.chooses if to_choose and flag.chooses else help)


def given_to(plugin, args):
    """The values of a plug-in's flags that were given: {setting: value}."""
    values = {flag.setting: getattr(args, flag.name) for flag in plugin.flags}
    return {setting: value for setting, value in values.items() if value is not None}


def given_to_any(plugins, args):
    """The values of the flags of some plug-ins that were given: {setting: value}."""
    found = {}
    for plugin in plugins:
        found |= given_to(plugin, args)
    return found


def add_division_flags(parser, stage3=False):
    """How inputs are divided: for stage 3, or to choose among splits."""
    divisions, chooses = DIVISIONS.all(), "; chooses among several splits"
    usual = f" ({USUAL}; {USUAL_WITHOUT_LABELS} where concepts have no labels)"
    help = "what divides the inputs: " + ", or ".join(division.summary for division in divisions)
    parser.add_argument("--split_by", choices=tuple(DIVISIONS), help=help + (usual if stage3 else chooses))
    without = [f"{one.name}: none" for one in divisions if one.usual_background is None]
    with_one = [f"{one.name}: {one.usual_background:g}" for one in divisions if one.usual_background is not None]
    usual = f" ({'; '.join([*without, *with_one])}; concepts without labels: {defaults.BACKGROUND_WEIGHT:g})"
    weighing = " and ".join(division.name for division in divisions if division.weighs_background)
    parser.add_argument(
        "--background",
        type=weight,
        nargs="?",
        const=defaults.BACKGROUND_WEIGHT,
        metavar="WEIGHT",
        help="one more concept, everything else: all training images; then a concept may stand alone. WEIGHT is what "
        f"they count beside a concept's images in {weighing}, 0 for none" + (usual if stage3 else chooses),
    )
    add_plugin_flags(parser, divisions, to_choose=not stage3)


def division_of(args, source):
    """Stage 3's way of dividing inputs: its name, what its flags give, and the weight of everything else or None.

    UserError where what is given does not go together.
    """
    declared, division = flags_of(DIVISIONS.all()), _division_asked_for(args, source)
    for name in _division_flags_given(args):
        if name not in flags_of([division]):
            does = declared[name][0][1].does
            raise UserError(f"--{name} {does}, which --split_by {division.name} does not have: leave it out")
    background = source.background_with(division) if args.background is None else args.background
    background = background or 0
    if not division.weighs_background and background not in (0, 1):
        weighing = " and ".join(one.name for one in DIVISIONS.all() if one.weighs_background)
        raise UserError(f"--background {background:g}: only --split_by {weighing} weighs it")
    return division.name, given_to(division, args), background or None


def _division_flags_given(args):
    return [name for name in flags_of(DIVISIONS.all()) if getattr(args, name) is not None]


def _division_asked_for(args, source):
    """The way of dividing that --split_by names; else the usual one, or one that has the first flag given."""
    usual = USUAL if source.labelled else USUAL_WITHOUT_LABELS
    for name in _division_flags_given(args)[:1]:
        having = [division.name for division, _ in flags_of(DIVISIONS.all())[name]]
        usual = usual if usual in having else having[0]
    return DIVISIONS.get(args.split_by or usual)


def _may_stand_alone(args):
    """Whether one concept with labels is enough, as there is a background beside it."""
    if args.background is not None:
        return bool(args.background)
    source = SOURCES.get(USUAL_SOURCE)
    return bool(source.background_with(_division_asked_for(args, source)))


def add_source_flags(parser):
    """Where concepts come from, for stage 3."""
    group = parser.add_argument_group("concepts without labels", "sets of the images in which a channel is largest")
    sources = [source for source in SOURCES.all() if source.summary]
    group.add_argument(
        "--concepts_from",
        choices=tuple(source.name for source in sources),
        default=USUAL_SOURCE,
        help="; ".join(source.summary for source in sources)
        + ". Without a channel or --candidates: all channels of the layer",
    )
    add_plugin_flags(group, sources)


def source_of(args):
    """Stage 3's source of concepts, and the values that its flags give; refuse flags that mean nothing to it."""
    source = SOURCES.get(args.concepts_from)
    for name, declared in flags_of(SOURCES.all()).items():
        if getattr(args, name) is not None and name not in flags_of([source]):
            methods = " or ".join(plugin.name for plugin, _ in declared)
            raise UserError(f"--{name} is for --concepts_from {methods}: add it")
    if not source.labelled and any(classes is not None for classes in _classes_for_concepts(args)):
        raise UserError(f"--concepts_from {source.name} finds the concepts: leave out --classes_for_concept")
    return source, given_to(source, args)


# --------------------------------------------------------------------------------------------------------------------
# Channels and concepts


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


def _classes_for_concepts(args):
    """The classes of each concept that can be given: lists of strings, or None."""
    return [getattr(args, f"classes_for_concept{number}") for number in range(1, defaults.MAX_CONCEPTS + 1)]


def given_concepts(args):
    """The classes of each concept as given: lists of strings, of the concepts 1 to K without gaps.

    One alone only where there may be a background beside it.
    """
    given = _classes_for_concepts(args)
    concepts = [classes for classes in given if classes is not None]
    require(args, "classes_for_concept1", *([] if _may_stand_alone(args) else ["classes_for_concept2"]))
    if given[: len(concepts)] != concepts:
        raise UserError(f"--classes_for_concept{given.index(None) + 1} is missing: concepts are numbered without gaps")
    return tuple(concepts)


def candidates_from(args, channel_flag, finds_concepts=False):
    """Which channels and concepts are meant, for settings: ``channels`` and ``concepts``.

    UserError unless either --candidates is given, or a channel and its concepts; where concepts have no labels
    (``finds_concepts``), of any channels, or all.
    """
    channels, concepts = getattr(args, channel_flag), ()
    if not finds_concepts and args.candidates is None:
        require(args, channel_flag)
        concepts = given_concepts(args)
    elif not finds_concepts:
        for number, classes in enumerate(_classes_for_concepts(args), start=1):
            if classes is not None:
                raise UserError(f"--candidates names concepts: leave out --classes_for_concept{number}")
    return {"channels": None if channels is None else tuple(channels), "concepts": concepts}


def candidate_flags(settings, channel_flag):
    """The flags that name the same candidates to another stage, which has this flag for its channels."""
    words = ["--candidates", settings.candidates] if settings.candidates else []
    words += [f"--{channel_flag}", *settings.channels] if settings.channels else []
    for number, classes in enumerate(settings.concepts, start=1):
        words += [f"--classes_for_concept{number}", *classes]
    return words


def transform_from_flags(settings, default):
    """``default`` (a Transform) with what the flags say."""
    given = {name: getattr(settings, name) for name in asdict(default) if getattr(settings, name) is not None}
    transform = replace(default, **{name: tuple(v) if isinstance(v, list) else v for name, v in given.items()})
    if transform.crop_size > transform.resize_size:
        raise UserError(
            f"--crop_size {transform.crop_size} is larger than --resize_size {transform.resize_size}: "
            "the crop would have a black border"
        )
    return transform


def next_command(script, *more, settings):
    """A command that goes on with ``script``, with the flags of ``settings`` that it shares, ready to be pasted."""
    words = ["--model", settings.model]
    for name in ("weights", "device", "precision", "decode"):
        given = getattr(settings, name, None)
        if given is not None and given != NOT_SAID.get(name) and (script != SECOND_STAGE or name == "weights"):
            words += [f"--{name}", given]
    if settings.layer_of_interest != defaults.LAYER:
        words += ["--layer_of_interest", settings.layer_of_interest]
    words += ["--data_dir", settings.data_dir, "--store_dir", settings.store_dir]
    if script == LAST_STAGE and settings.output_dir != defaults.OUTPUT_DIR:
        words += ["--output_dir", settings.output_dir]
    return shlex.join(["python", script, *map(str, words), *map(str, more)])
