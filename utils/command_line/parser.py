"""The parser of a script, and the help texts of its flags. Nothing here imports torch."""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, NoReturn

from utils.errors import UserError, nearest_hint, quoted

HELP_FLAGS = ("-h", "--help")
WIDEST = 100  # columns
USUAL_WIDTH = 80
EXPLANATION_INDENT = 8 * " "
LONGEST_FLAG = 29  # columns of a common flag and its values, for the texts of the others to be in one column
LAST_LINE = "`--help all` explains every flag, `--help FLAG` one flag; docs/flags.md has the same texts."


class Help(str):
    """What ``--help all`` prints about a flag; ``--help`` prints the part without ``details``.

    Parameters
    ----------
    brief : str
        What the flag does, in one short phrase, with units and values.
    usual : str
        Its default in words; empty for a switch, which is off, and for a flag without default.
    details : str
        Further sentences.
    last : int
        N of the flags ``--name1`` to ``--nameN``, which this help, that of ``--name1``, explains together.
    """

    brief: str
    usual: str
    details: str
    last: int

    def __new__(cls, brief: str, usual: str = "", details: str = "", *, last: int = 0) -> Help:
        default = f" (default: {usual})" if usual else ""
        text = super().__new__(cls, f"{brief}{default}" + (f". {details}" if details else ""))
        text.brief = brief
        text.usual = usual
        text.details = details
        text.last = last
        return text


@dataclass(frozen=True)
class DescribedFlag:
    """A flag of a parser, in words.

    Parameters
    ----------
    group : str
        The title of its group in ``--help all``.
    flags : tuple of str
        Its spellings: one; two of a flag that can be negated (``--only_correct``, ``--no-only_correct``); or all of a
        numbered family (``--classes_for_concept1`` to ``--classes_for_concept8``), which has one help text.
    values : str
        What comes after it, for example ``FILE``, ``{train,val}``, ``CLASS ...`` or ``[WEIGHT]``; empty for a switch.
    default : str
        Its default in words, for example ``0.03``; empty for a switch, which is off, and for a flag without default.
    brief : str
        What it does, in one phrase without its default.
    details : str
        Further sentences; often empty.
    is_common : bool
        Whether ``--help`` explains it; ``--help`` only names the others.
    """

    group: str
    flags: tuple[str, ...]
    values: str
    default: str
    brief: str
    details: str
    is_common: bool

    @property
    def help(self) -> str:
        """The help text without the default."""
        return f"{self.brief}. {self.details}" if self.details else self.brief

    @property
    def line(self) -> str:
        """The brief help text with the default."""
        return f"{self.brief} (default: {self.default})" if self.default else self.brief

    @property
    def name(self) -> str:
        """Its spelling, or spellings if they are a numbered family."""
        if len(self.flags) > 2:
            return f"{self.flags[0]}...{len(self.flags)}"
        return self.flags[0]


def described(parser: Parser) -> list[DescribedFlag]:
    """Every flag of a parser except ``--help``, in the order of ``--help all``; suppressed flags are left out.

    ``get_args_parser()`` of each script makes its parser. The texts do not depend on the machine or the environment.
    """
    return [
        _described(group.title or "", action, parser.common)
        for group in parser._action_groups
        for action in group._group_actions
        if action.option_strings and action.help is not argparse.SUPPRESS and "--help" not in action.option_strings
    ]


def _described(group: str, action: argparse.Action, common: Sequence[str]) -> DescribedFlag:
    help = action.help if isinstance(action.help, Help) else Help(action.help or "")
    flags = tuple(action.option_strings)
    if help.last:
        flags = tuple(f"{flags[0].removesuffix('1')}{number}" for number in range(1, help.last + 1))
    return DescribedFlag(
        group=group,
        flags=flags,
        values=_values(action),
        default=help.usual,
        brief=help.brief,
        details=help.details,
        is_common=action.dest in common,
    )


def _values(action: argparse.Action) -> str:
    """What a flag is followed by."""
    if action.nargs == 0:
        return ""
    if isinstance(action.metavar, tuple):
        return " ".join(action.metavar)
    value = action.metavar or (f"{{{','.join(action.choices)}}}" if action.choices else action.dest.upper())
    if isinstance(action.nargs, int):
        return " ".join([value] * action.nargs)
    return {None: value, "?": f"[{value}]", "+": f"{value} ..."}[action.nargs]


class _HelpAction(argparse.Action):
    """Prints the help on the topic that is its value, or the short help."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> NoReturn:
        print(parser.help_on(values), flush=True)
        sys.exit()


class Parser(argparse.ArgumentParser):
    """No abbreviations (``--rho`` must never mean ``--rho_objective``), errors in one line, and two lengths of help.

    Parameters
    ----------
    description : str, optional
        The docstring of the script: what it does in one line, indented examples, and explanations.
    common : sequence of str
        The names of the flags that ``--help`` explains, in its order; it only names the others. If there are none,
        ``--help`` explains all flags.
    """

    def __init__(self, description: str | None, *, common: Sequence[str] = ()) -> None:
        super().__init__(
            description=description,
            allow_abbrev=False,
            add_help=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.common = tuple(common)
        help = "all, a flag, or the title of a group: what is explained"
        self.add_argument(*HELP_FLAGS, action=_HelpAction, nargs="?", metavar="TOPIC", help=help)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        parsed, unknown = self.parse_known_args(_joined(sys.argv[1:] if args is None else args), namespace)
        if unknown:
            hints = [nearest_hint(word, {flag: (flag,) for flag in self._option_string_actions}) for word in unknown]
            self.error(f"unrecognized arguments: {' '.join(unknown)}{''.join(hints[:1])}")
        return parsed

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help explains the flags)")

    def format_help(self) -> str:
        if not self.common:
            return super().format_help()
        return "\n".join([(self.description or "").strip(), "", _explanations(described(self), _width())])

    def help_on(self, topic: str | None) -> str:
        """The short help if ``topic`` is None; else the text of a flag or of a group of flags, or of all flags."""
        if topic == "all" or (topic is None and not self.common):
            return self.format_help().rstrip()
        flags = described(self)
        if topic is None:
            return _short_help(self.description or "", flags, self.common, _width())
        name = f"--{topic.lstrip('-')}"
        chosen = [flag for flag in flags if topic == flag.group or name in flag.flags]
        if not chosen:
            topics = {known: (known,) for flag in flags for known in (flag.group, *flag.flags)}
            near = nearest_hint(topic, topics) or nearest_hint(name, topics)
            raise UserError(f"--help: there is no flag and no group of flags {quoted(topic)}{near}")
        return _explanations(chosen, _width())


def _joined(words: Sequence[str]) -> list[str]:
    """``--help --FLAG`` as one word: argparse takes no flag for the value of another one."""
    for index, word in enumerate(words[:-1]):
        if word in HELP_FLAGS:
            topic = words[index + 1]
            return ["--help"] if topic in HELP_FLAGS else [f"--help={topic}"]
    return list(words)


def _width() -> int:
    return min(shutil.get_terminal_size().columns or USUAL_WIDTH, WIDEST)  # 0 where a terminal does not tell it


def _wrapped(text: str, width: int, *, first: str, further: str) -> list[str]:
    """Lines of a text, whose names of flags stay whole; ``first`` and ``further`` are their indents."""
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=further, break_on_hyphens=False)


def _explanations(flags: Sequence[DescribedFlag], width: int) -> str:
    """The full texts of some flags, below the titles of their groups."""
    lines: list[str] = []
    group = None
    for flag in flags:
        if flag.group != group:
            group = flag.group
            lines += ["", f"{group}:"] if lines else [f"{group}:"]
        negated = f", {flag.flags[1]}" if len(flag.flags) == 2 else ""
        lines.append(f"  {flag.name}{negated} {flag.values}".rstrip())
        text = f"{flag.line}. {flag.details}" if flag.details else flag.line
        lines += _wrapped(text, width, first=EXPLANATION_INDENT, further=EXPLANATION_INDENT)
    return "\n".join(lines)


def _short_help(description: str, flags: Sequence[DescribedFlag], common: Sequence[str], width: int) -> str:
    """What a script does, its examples, a line for each common flag, and the names of the others by group."""
    first, *paragraphs = description.strip().split("\n\n")
    examples = list(takewhile(lambda paragraph: paragraph.startswith("    "), paragraphs))
    lines = ["\n\n".join([first, *examples]), "", "common flags:"]
    explained = {flag.flags[0].removeprefix("--"): flag for flag in flags if flag.is_common}
    starts = {name: f"  {explained[name].name} {explained[name].values}".rstrip() for name in common}
    column = max(len(start) for start in starts.values() if len(start) <= LONGEST_FLAG)
    lines += [f"{starts[name]:{column}}  {explained[name].line}" for name in common]
    lines += ["", "other flags:"]
    for group in dict.fromkeys(flag.group for flag in flags):
        names = [flag.name for flag in flags if flag.group == group and not flag.is_common]
        if names:
            names = [name.replace(" ", "\N{NO-BREAK SPACE}") for name in names]
            text = textwrap.fill(
                f"{group}: {' '.join(names)}",
                width,
                initial_indent="  ",
                subsequent_indent="    ",
                break_on_hyphens=False,
            )
            lines.append(text.replace("\N{NO-BREAK SPACE}", " "))
    return "\n".join([*lines, "", LAST_LINE])
