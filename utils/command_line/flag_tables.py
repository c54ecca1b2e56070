"""docs/flags.md: tables of all flags of the four scripts, made from their parsers.

python -m utils.command_line.flag_tables > docs/flags.md
"""

import re
import runpy
from itertools import groupby
from pathlib import Path

from utils.command_line.parser import DescribedFlag, Parser, described

ROOT = Path(__file__).parents[2]
SCRIPTS = ("get_importances_for_classes.py", "get_cosine_similarities.py", "disentangle_channel.py", "get_results.py")
HEAD = """# Flags

All flags of the four scripts. `--help` of a script explains the common ones, `--help all` all of them, and `--help
FLAG` a single one. A flag without a value is a switch, which is off unless it is given.

This page is made by `python -m utils.command_line.flag_tables > docs/flags.md`.
"""
CODE = re.compile(r"(?<![\w`])(--\w[\w-]*|\$\w+)")  # flags and environment variables in a sentence


def page() -> str:
    """The text of docs/flags.md."""
    parsers = {script: parser_of(script) for script in SCRIPTS}
    links = [f"- [{script}](#{script.replace('.', '')})" for script in SCRIPTS]
    sections = [section(script, parser) for script, parser in parsers.items()]
    return "\n".join([HEAD, *links, "", *sections])


def parser_of(script: str) -> Parser:
    """The parser of a script in the repository root."""
    parser = runpy.run_path(str(ROOT / script))["get_args_parser"]()
    assert isinstance(parser, Parser)
    return parser


def section(script: str, parser: Parser) -> str:
    """What a script does in one sentence, and a table of each group of its flags."""
    first = (parser.description or "").strip().split("\n\n")[0]
    lines = [f"## {script}", "", in_words(" ".join(first.split())), ""]
    for group, flags in groupby(described(parser), key=lambda flag: flag.group):
        lines += [f"**{group[:1].upper()}{group[1:]}**", ""]
        lines += ["| Flag | Values | Default | What it does |", "| --- | --- | --- | --- |"]
        lines += [row(flag) for flag in flags] + [""]
    return "\n".join(lines)


def row(flag: DescribedFlag) -> str:
    """The row of a flag in its table."""
    names = [f"`{name}`" for name in flag.flags]
    shown = ", ".join(names) if len(names) <= 2 else f"{names[0]} ... {names[-1]}"
    values = f"`{flag.values}`" if flag.values else ""
    cells = (shown, values, in_words(flag.default), in_words(flag.help))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def in_words(text: str) -> str:
    """A sentence as Markdown: flags and variables as code, and nothing else that Markdown would read as a sign."""
    return CODE.sub(r"`\1`", re.sub(r"([*<\[\]])", r"\\\1", text))


if __name__ == "__main__":
    print(page(), end="")
