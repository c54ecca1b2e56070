"""The parser of a script: two lengths of help, and the flags in words."""

import argparse

import pytest

from utils.command_line.parser import DescribedFlag, Help, Parser, described
from utils.errors import UserError

DOCSTRING = """Stage 7: what it does.

    python stage7.py --size 3

An explanation.
"""


def made_parser():
    parser = Parser(DOCSTRING, common=("size", "part1"))
    folders = parser.add_argument_group("folders")
    folders.add_argument("--folder", default=".", metavar="DIR", help=Help("where files go", "here", "It is made."))
    parts = parser.add_argument_group("parts")
    parts.add_argument("--part1", nargs="+", metavar="CLASS", help=Help("classes of parts 1 to 3", last=3))
    for number in (2, 3):
        parts.add_argument(f"--part{number}", nargs="+", metavar="CLASS", help=argparse.SUPPRESS)
    parts.add_argument("--size", choices=("3", "4"), help=Help("pixels", "3"))
    parts.add_argument("--odd", action=argparse.BooleanOptionalAction, help=Help("odd ones", "as found"))
    parts.add_argument("--mean", nargs=3, metavar=("R", "G", "B"), help=Help("of each colour"))
    parts.add_argument("--weight", nargs="?", const=1.0, help=Help("one more part"))
    return parser


def test_flags_are_described():
    flags = described(made_parser())
    assert flags[0] == DescribedFlag("folders", ("--folder",), "DIR", "here", "where files go", "It is made.", False)
    assert flags[0].help == "where files go. It is made."
    assert flags[1] == DescribedFlag(
        "parts", ("--part1", "--part2", "--part3"), "CLASS ...", "", "classes of parts 1 to 3", "", True
    )
    assert [(flag.name, flag.values, flag.default) for flag in flags[1:]] == [
        ("--part1...3", "CLASS ...", ""),
        ("--size", "{3,4}", "3"),
        ("--odd", "", "as found"),
        ("--mean", "R G B", ""),
        ("--weight", "[WEIGHT]", ""),
    ]
    assert flags[3].flags == ("--odd", "--no-odd")


def help_of(capsys, *words):
    with pytest.raises(SystemExit) as end:
        made_parser().parse_args(words)
    assert not end.value.code
    return capsys.readouterr().out


def test_the_short_help_explains_common_flags_and_names_the_others(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    text = help_of(capsys, "--help")
    assert text.startswith("""Stage 7: what it does.

    python stage7.py --size 3

common flags:
  --size {3,4}           pixels (default: 3)
  --part1...3 CLASS ...  classes of parts 1 to 3

other flags:
  folders: --folder
  parts: --odd --mean --weight

""")
    assert text.count("\n") == 13 and text == help_of(capsys, "-h")


def test_the_whole_help_explains_all_flags(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    text = help_of(capsys, "--help", "all")
    assert text.startswith(f"""{DOCSTRING}
folders:
  --folder DIR
        where files go (default: here).
        It is made.

parts:
  --part1...3 CLASS ...
        classes of parts 1 to 3
  --size""")
    assert "\n  --odd, --no-odd\n        odd ones (default: as found)\n" in text


@pytest.mark.parametrize("words", [("--help", "--size"), ("-h", "size"), ("--help=--size",), ("--odd", "-h", "--size")])
def test_help_on_a_flag(words, capsys):
    assert help_of(capsys, *words) == "parts:\n  --size {3,4}\n        pixels (default: 3)\n"


def test_help_on_a_flag_of_a_family_and_on_a_group(capsys):
    assert help_of(capsys, "--help", "--part2").startswith("parts:\n  --part1...3 CLASS ...\n")
    assert help_of(capsys, "--help", "folders").startswith("folders:\n  --folder DIR\n")


def test_help_on_anything_else_is_an_error():
    with pytest.raises(UserError, match=r"^--help: there is no flag and no group of flags '--sice'; similar: --size$"):
        made_parser().parse_args(["--help", "--sice"])


def test_a_parser_without_common_flags_explains_all(capsys):
    parser = Parser("A program.")
    parser.add_argument("folder", help="where to look")
    parser.add_argument("--size", help="pixels of the side")
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    text = capsys.readouterr().out
    assert all(words in text for words in ("usage:", "A program.", "where to look", "pixels of the side"))
