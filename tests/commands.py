"""Commands as pages show them, and the parsers of the programs that they call. Nothing is executed but the parsers."""

import argparse
import importlib.util
import re
import runpy
import shlex
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.scripts import ROOT
from utils.errors import UserError

SCRIPTS = ("get_importances_for_classes.py", "get_cosine_similarities.py", "disentangle_channel.py", "get_results.py")
STARTERS = ("python", "python3", "torchrun")
PACKAGES = ("benchmarks", "examples", "utils")  # whose modules pages run by ``python -m``
PLACEHOLDER = re.compile(r"[A-Z][A-Z0-9_]*|.*(\$|\.\.\.).*")
VARIABLE = re.compile(r"\$\w+|\$\{[^}]*\}")
VALUES = ("1", "0.5", "100")  # of which some flag's type takes one in place of a placeholder
HAS_PARSER = re.compile(r"ArgumentParser\(|from utils\.command_line\.run import run\b")


@dataclass(frozen=True)
class Command:
    """A call of one of the four scripts, by its file's name, or of a module of this project."""

    line: int  # of the text it stands in, from 1
    program: str
    arguments: tuple[str, ...]


def commands_in(text: str) -> list[Command]:
    """The calls of our programs in a text of shell commands, which may have prompts; other lines are skipped."""
    commands, start, whole = [], None, ""
    for number, line in enumerate(text.split("\n"), start=1):
        start = number if start is None else start
        whole += line.removeprefix("$ ") if start == number else line
        if whole.endswith("\\"):
            whole = whole[:-1] + " "
            continue
        if re.search(r"\b(python3?|torchrun)\b", whole):
            commands += [Command(start, *call) for words in simple_commands(whole) if (call := called(words))]
        start, whole = None, ""
    return commands


def simple_commands(line: str) -> list[list[str]]:
    """The words of each command of a line, without comments and without what follows a redirection."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    commands, is_redirected = [[]], False
    for word in lexer:
        if set(word) <= set(";&|()"):
            commands.append([])
            is_redirected = False
        elif set(word) <= set("<>&"):
            is_redirected = True
        elif not is_redirected:
            commands[-1].append(word)
    return commands


def called(words: list[str]) -> tuple[str, tuple[str, ...]] | None:
    """The program of ours that a command calls, and its arguments."""
    starters = [index for index, word in enumerate(words) if Path(word).name in STARTERS]
    if not starters:
        return None
    for index in range(starters[0] + 1, len(words)):
        word = words[index]
        if Path(word).name in SCRIPTS:
            return Path(word).name, tuple(words[index + 1 :])
        if word == "-m" and index + 1 < len(words) and words[index + 1].split(".")[0] in PACKAGES:
            return words[index + 1], tuple(words[index + 2 :])
    return None


# --------------------------------------------------------------------------------------------------------------------
# The parsers


class Parsed(BaseException):
    """Stops a program whose arguments have been parsed."""


def complaint(command: Command) -> str | None:
    """What a program would object to in its arguments before it does anything, or None."""
    try:
        parse(command)
    except Parsed:
        return None
    except UserError as error:
        return str(error)
    except SystemExit as stop:  # of --help, and of argparse, which prints its reason
        return f"ended with status {stop.code}" if stop.code else None
    return "parsed no arguments"


def parse(command: Command) -> None:
    """Start a program, and stop it with Parsed when it has made settings of its arguments."""
    source = source_of(command.program)
    if not HAS_PARSER.search(source.read_text()):
        raise_unless_known(command.arguments)
        raise Parsed
    with pytest.MonkeyPatch.context() as patch:

        def run(main, parser, *, settings=None, **_):
            patch.undo()
            arguments, is_whole = filled(command.arguments, parser)
            parsed = parser.parse_args(arguments)
            if settings and is_whole:
                settings(parsed, parser)
            raise Parsed

        def parse_args(parser, *_):
            patch.undo()
            parser.parse_args(filled(command.arguments, parser)[0])
            raise Parsed

        def parse_known_args(parser, *_):
            patch.undo()
            _, rest = parser.parse_known_args(filled(command.arguments, parser)[0])
            raise_unless_known(rest)
            raise Parsed

        patch.setattr("utils.command_line.run.run", run)
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        patch.setattr(argparse.ArgumentParser, "parse_known_args", parse_known_args)
        patch.setattr(sys, "argv", [command.program, *command.arguments])
        runpy.run_path(str(source), run_name="__main__")


def source_of(program: str) -> Path:
    if program in SCRIPTS:
        return ROOT / program
    spec = importlib.util.find_spec(program)
    if spec and spec.submodule_search_locations:
        spec = importlib.util.find_spec(f"{program}.__main__")
    if spec is None:
        raise UserError(f"there is no program {program}")
    return Path(spec.origin)


def filled(arguments: tuple[str, ...], parser: argparse.ArgumentParser) -> tuple[list[str], bool]:
    """Arguments with values in place of placeholders, and whether they are whole.

    A placeholder is in capitals, or has ``$VARIABLE`` or ``...`` in it. Without a flag that it may be the value of,
    ``...`` or a variable stands for further flags.
    """
    words, is_whole, action = [], True, None
    for word in arguments:
        if word.startswith("--"):
            action = parser._option_string_actions.get(word)
        elif word == "..." or (VARIABLE.fullmatch(word) and (not words or not takes_value(words[-1], parser))):
            is_whole = False
            continue
        elif PLACEHOLDER.fullmatch(word) and action is not None:
            word = next(value for value in (word, *VALUES, *(action.choices or ())) if accepts(action, value))
        words.append(word)
    return words, is_whole


def takes_value(word: str, parser: argparse.ArgumentParser) -> bool:
    action = parser._option_string_actions.get(word)
    return action is not None and action.nargs != 0


def accepts(action: argparse.Action, value: str) -> bool:
    try:
        parsed = action.type(value) if action.type else value
    except (ValueError, argparse.ArgumentTypeError):
        return False
    return not action.choices or parsed in action.choices


def raise_unless_known(arguments) -> None:
    """UserError if a flag is none of the four scripts, to which a program hands it on."""
    unknown = [word for word in arguments if word.startswith("--") and word not in flags_of_scripts()]
    if unknown:
        raise UserError(f"no script has the flag {unknown[0]}")


@cache
def flags_of_scripts() -> set[str]:
    return {flag for script in SCRIPTS for flag in parser_of(script)._option_string_actions}


def parser_of(script: str) -> argparse.ArgumentParser:
    return runpy.run_path(str(ROOT / script))["get_args_parser"]()
