"""Flags of channels, of where their concepts come from and of how their inputs are divided, and their checks.

Nothing here imports torch.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from utils import defaults
from utils.command_line.flags import require
from utils.command_line.parser import Help
from utils.command_line.ranges import count, weight
from utils.concept_sources.source_registry import SOURCES
from utils.concept_sources.source_registry import USUAL as USUAL_SOURCE
from utils.divisions.division_registry import DIVISIONS, USUAL, USUAL_WITHOUT_LABELS, WHICH, usual_with
from utils.errors import UserError
from utils.plugins import flags_of, fraction

if TYPE_CHECKING:
    from utils.concept_sources.concept_source import ConceptSource
    from utils.divisions.division import Division

    Plugin = type[Division] | type[ConceptSource]

CLASSES: type[ConceptSource] = SOURCES.get(USUAL_SOURCE)
OF_EARLIER_STAGES = "It is taken from --candidates or the split file, else from the run of stage 2 in the store."

# --------------------------------------------------------------------------------------------------------------------
# Channels and concepts


def add_channel_flag(group: argparse._ActionsContainer, name: str, meaning: str, details: str = "") -> None:
    of_file = "With --candidates: only these channels of the file."
    group.add_argument(
        f"--{name}",
        type=count,
        nargs="+",
        metavar="CHANNEL",
        help=Help(meaning, details=f"{of_file} {details}".rstrip()),
    )


def add_concept_flags(group: argparse._ActionsContainer) -> None:
    help = Help(
        "classes of each concept: numbers, folders or names",
        details="A class is an output of the network (530), a class folder (n03196217) or a class name ('digital "
        "clock'). A concept may have several classes. Concepts are numbered without gaps; two are needed, or one and "
        "--background.",
        last=defaults.MAX_CONCEPTS,
    )
    for number in range(1, defaults.MAX_CONCEPTS + 1):
        group.add_argument(
            f"--classes_for_concept{number}",
            nargs="+",
            metavar="CLASS",
            help=help if number == 1 else argparse.SUPPRESS,
        )


def add_candidates_flag(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--candidates",
        metavar="FILE",
        help=Help(
            "many channels: a table of stage 2, or your own list",
            details="It replaces a channel and its concepts. FILE is a .json file or the table of stage 2, or a text "
            "file with lines 'channel: class1, class2', where + joins the classes of one concept. The images of a "
            "class are read once for all channels.",
        ),
    )


def add_only_correct_flag(group: argparse._ActionsContainer, help: str) -> None:
    """Add a flag with three states: if it is not given, the candidates or the split decide."""
    group.add_argument("--only_correct", action=argparse.BooleanOptionalAction, help=help)


def add_stage_two_flags(group: argparse._ActionsContainer) -> None:
    """Add the flags of stage 2's settings to stage 3: not given, they are as in stage 2."""
    details = "It is taken from --candidates, else from the run of stage 2 in the store."
    add_only_correct_flag(
        group, Help("ARVs, and the choice of rho, from correctly classified images only", "as in stage 2", details)
    )
    for name, metavar, symbol in (("proportion_attribution_required", "TAU", "tau"), ("p", "P", "p")):
        help = Help(f"{symbol} of stage 2, which the split file keeps for stage 4", "as in stage 2", details)
        group.add_argument(f"--{name}", type=fraction, metavar=metavar, help=help)


def add_measured_tau_flag(group: argparse._ActionsContainer) -> None:
    """Add tau to stage 4, which measures fractions with it."""
    group.add_argument(
        "--proportion_attribution_required",
        type=fraction,
        metavar="TAU",
        help=Help(
            "tau: fractions are measured in images with at least this relative importance of the channel",
            "as in stage 2",
            OF_EARLIER_STAGES,
        ),
    )


def add_separation_p_flag(group: argparse._ActionsContainer) -> None:
    """Add p to stage 4, which chooses irrelevant channels by it."""
    help = "separation: p, the share of a class's images from which a channel is relevant for it"
    group.add_argument("--p", type=fraction, metavar="P", help=Help(help, "as in stage 2", OF_EARLIER_STAGES))


def channels_from(args: argparse.Namespace, channel_flag: str) -> tuple[int, ...] | None:
    """The channels that ``channel_flag`` gives, for settings."""
    channels = getattr(args, channel_flag)
    return None if channels is None else tuple(channels)


def concepts_from(
    args: argparse.Namespace, channel_flag: str, *, source: type[ConceptSource] = CLASSES
) -> tuple[list[str], ...]:
    """The classes of each concept that flags name, as text; none with --candidates.

    UserError unless either --candidates is given, or a channel and its concepts. If the source finds the concepts,
    neither is needed, and the result is empty.
    """
    if not source.is_named():
        return ()
    if args.candidates is None:
        require(args, channel_flag)
        return given_concepts(args, source)
    for number in range(1, defaults.MAX_CONCEPTS + 1):
        for flag in _flags_of_concept(args, source, number):
            raise UserError(f"--candidates names concepts: leave out --{flag}")
    return ()


def given_concepts(args: argparse.Namespace, source: type[ConceptSource] = CLASSES) -> tuple[list[str], ...]:
    """The classes of concepts 1 to K as text, without gaps; none of a concept that a flag of the source names.

    K may be 1 only if a background is possible.
    """
    given = [_flags_of_concept(args, source, number) for number in range(1, defaults.MAX_CONCEPTS + 1)]
    for flags in given:
        if len(flags) > 1:
            raise UserError(f"--{flags[0]} and --{flags[1]} name one concept twice: leave one of them out")
    missing = next((number for number, flags in enumerate(given, start=1) if not flags), len(given) + 1)
    names = [f"--classes_for_concept{missing}"] + ([f"--{source.concept_flag}{missing}"] if source.concept_flag else [])
    flag = " or ".join(names)
    if missing == 1:
        raise UserError(f"{flag} must be given (--help explains the flags)")
    if missing == 2 and not _may_stand_alone(args, source):
        raise UserError(
            f"{flag} must be given, or --background, which adds everything else as a concept "
            "(--help explains the flags)"
        )
    if any(given[missing - 1 :]):
        raise UserError(f"{flag} is missing: concepts are numbered without gaps")
    return tuple(_classes_for_concept(args, number) or [] for number in range(1, missing))


def _flags_of_concept(args: argparse.Namespace, source: type[ConceptSource], number: int) -> list[str]:
    """The names of the flags that were given for a concept."""
    starts = ["classes_for_concept"] + ([source.concept_flag] if source.concept_flag else [])
    return [f"{start}{number}" for start in starts if getattr(args, f"{start}{number}") is not None]


def _classes_for_concept(args: argparse.Namespace, number: int) -> list[str] | None:
    return getattr(args, f"classes_for_concept{number}")


def _may_stand_alone(args: argparse.Namespace, source: type[ConceptSource]) -> bool:
    """Whether one concept that the user names is enough, because a background is added."""
    if args.background is not None:
        return bool(args.background)
    return bool(source.background_with(_requested_division(args, source)))


# --------------------------------------------------------------------------------------------------------------------
# Flags that plug-ins declare


def add_plugin_flags(
    parser: argparse._ActionsContainer, plugins: Iterable[Plugin], *, chooses_splits: bool = False
) -> None:
    """Add the flags of plug-ins, each once, for stage 3; or those by which stage 4 chooses among splits.

    The help of the first plug-in that declares a flag is used, with the defaults of all of them.
    """
    for name, declared in flags_of(plugins).items():
        _, flag = declared[0]
        usual = "; ".join(f"{plugin.name}: {its_flag.usual}" for plugin, its_flag in declared if its_flag.usual)
        if len(declared) == 1:
            usual = flag.usual
        help: str = argparse.SUPPRESS
        if chooses_splits and flag.chooses:
            help = Help(flag.chooses)
        elif flag.help != argparse.SUPPRESS:
            help = Help(flag.help, usual, flag.details, last=flag.last)
        if flag.choices:
            parser.add_argument(f"--{name}", choices=flag.choices, help=help)
        else:
            parser.add_argument(f"--{name}", type=flag.parse, metavar=flag.metavar, help=help)


def given_to(plugin: Plugin, args: argparse.Namespace) -> dict[str, Any]:
    """The values of a plug-in's flags that were given: {setting: value}."""
    values = {flag.setting: getattr(args, flag.name) for flag in plugin.flags}
    return {setting: value for setting, value in values.items() if value is not None}


def given_to_any(plugins: Iterable[Plugin], args: argparse.Namespace) -> dict[str, Any]:
    """The values of the flags of several plug-ins that were given: {setting: value}."""
    return {setting: value for plugin in plugins for setting, value in given_to(plugin, args).items()}


# --------------------------------------------------------------------------------------------------------------------
# How inputs are divided


def add_division_flags(group: argparse._ActionsContainer) -> None:
    """Add the flags of how stage 3 divides inputs."""
    divisions = DIVISIONS.all()
    group.add_argument(
        "--split_by",
        choices=tuple(DIVISIONS),
        help=Help(
            "how the inputs are divided",
            USUAL,
            f"{'; '.join(division.summary for division in divisions)}. Concepts without labels: {USUAL_WITHOUT_LABELS} "
            f"by default. Which one? {WHICH}.",
        ),
    )
    weights = "; ".join(f"{division.name}: {division.usual_background or 0:g}" for division in divisions)
    group.add_argument(
        "--background",
        type=weight,
        nargs="?",
        const=defaults.BACKGROUND_WEIGHT,
        metavar="WEIGHT",
        help=Help(
            "add a background concept",
            weights,
            "The background concept is everything else: it represents all training images, so that a single concept "
            f"of your own is enough. WEIGHT is the weight of its images if a concept's own images have weight 1 (only "
            f"with {_weighing_divisions()}); without a value it is {defaults.BACKGROUND_WEIGHT:g}, and 0 means no "
            f"background. Concepts without labels have a background of weight {defaults.BACKGROUND_WEIGHT:g} by "
            "default.",
        ),
    )
    add_plugin_flags(group, divisions)


def add_division_choices(group: argparse._ActionsContainer) -> None:
    """Add the flags by which stage 4 chooses among several splits of a channel and its concepts."""
    only = "if there are several splits: "
    group.add_argument(
        "--split_by", choices=tuple(DIVISIONS), help=Help(f"{only}the one whose inputs were divided in this way")
    )
    group.add_argument(
        "--background",
        type=weight,
        nargs="?",
        const=defaults.BACKGROUND_WEIGHT,
        metavar="WEIGHT",
        help=Help(
            f"{only}the one with a background concept of this weight",
            details=f"Without a value: {defaults.BACKGROUND_WEIGHT:g}. 0 is a split without background.",
        ),
    )
    add_plugin_flags(group, DIVISIONS.all(), chooses_splits=True)
    add_only_correct_flag(group, Help(f"{only}the one that was made from correctly classified images only"))


def division_of(args: argparse.Namespace, source: type[ConceptSource]) -> type[Division]:
    """Stage 3's way of dividing inputs; UserError if a flag is given that it does not have."""
    division = _requested_division(args, source)
    declared = flags_of(DIVISIONS.all())
    for name in _division_flags_given(args):
        if name not in flags_of([division]):
            _, flag = declared[name][0]
            raise UserError(f"--{name} {flag.does}, which --split_by {division.name} does not have: leave it out")
    return division


def background_of(args: argparse.Namespace, source: type[ConceptSource], division: type[Division]) -> float:
    """The weight of stage 3's background concept, 0 without one."""
    return (source.background_with(division) if args.background is None else args.background) or 0


def _weighing_divisions() -> str:
    return " and ".join(division.name for division in DIVISIONS.all() if division.weighs_background)


def _division_flags_given(args: argparse.Namespace) -> list[str]:
    return [name for name in flags_of(DIVISIONS.all()) if getattr(args, name) is not None]


def _requested_division(args: argparse.Namespace, source: type[ConceptSource]) -> type[Division]:
    """The way of dividing that --split_by names; else the usual one, or one that has the first flag given."""
    usual = usual_with(labels=source.labelled)
    for name in _division_flags_given(args)[:1]:
        having = [division.name for division, _ in flags_of(DIVISIONS.all())[name]]
        usual = usual if usual in having else having[0]
    return DIVISIONS.get(args.split_by or usual)


# --------------------------------------------------------------------------------------------------------------------
# Where concepts come from


def add_source_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the source of concepts, for stage 3."""
    group = parser.add_argument_group("source of concepts")
    sources = [source for source in SOURCES.all() if source.summary]
    group.add_argument(
        "--concepts_from",
        choices=tuple(source.name for source in sources),
        metavar="SOURCE",
        help=Help(
            "where the concepts come from, for example circuits",
            USUAL_SOURCE,
            f"Sources: {'; '.join(source.summary for source in sources)}. Reference images are those that activate a "
            "channel most. If the concepts are found in them, and neither a channel nor --candidates is given, every "
            "channel of the layer is split.",
        ),
    )
    add_plugin_flags(group, sources)


def source_of(args: argparse.Namespace) -> type[ConceptSource]:
    """Stage 3's source of concepts; UserError if a flag is given that it does not have."""
    given = {name: declared for name, declared in flags_of(SOURCES.all()).items() if getattr(args, name) is not None}
    implied = [source.name for declared in given.values() for source, _ in declared if source.concept_flag]
    source = SOURCES.get(args.concepts_from or next(iter(implied), USUAL_SOURCE))
    for name, declared in given.items():
        if name not in flags_of([source]):
            methods = " or ".join(plugin.name for plugin, _ in declared)
            raise UserError(f"--{name} is for --concepts_from {methods}: add it")
    numbers = range(1, defaults.MAX_CONCEPTS + 1)
    if not source.is_named() and any(_classes_for_concept(args, number) is not None for number in numbers):
        raise UserError(f"--concepts_from {source.name} finds the concepts: leave out --classes_for_concept")
    return source
