"""What README.md and docs/ name is there: imports, modules, scripts, files, and every flag of their commands."""

import importlib
import os
import re
import subprocess

import pytest

from tests.commands import commands_in, complaint
from tests.pages import PAGES, blocks_of
from tests.scripts import ROOT, python

OF_COMMANDS = ("", "sh", "bash")  # languages of blocks that may have some
TEXT = "\n".join(page.read_text() for page in PAGES)


def test_imports_in_examples_work():
    found = re.findall(r"^from ([\w.]+) import ([\w, ]+)$", TEXT, re.MULTILINE)
    lines = [(module, name) for module, names in found for name in names.split(", ")]
    assert ("utils.store", "split_network") in lines
    missing = [line for line in lines if not hasattr(importlib.import_module(line[0]), line[1])]
    assert not missing


def test_scripts_that_are_run_are_there():
    scripts = set(re.findall(r"(?:python|sh) (\w+\.(?:py|sh))", TEXT))
    assert {"get_results.py", "demo.sh"} <= scripts
    assert not [name for name in scripts if not (ROOT / name).is_file()]


def commands_of(page):
    """(place, command) of all calls of the scripts, benchmarks and examples in a page, in blocks and in sentences."""
    for block in blocks_of(page):
        if block.language in OF_COMMANDS:
            for command in commands_in(block.text):
                yield f"{page.name}:{block.line + command.line}", command
    text = page.read_text()
    for span in re.finditer(r"(?<!`)`(python [^`]+)`", text):
        for command in commands_in(" ".join(span[1].split())):
            yield f"{page.name}:{text[: span.start()].count(chr(10)) + command.line}", command


def test_commands_are_understood_by_what_they_call():
    commands = [placed for page in PAGES for placed in commands_of(page)]
    assert {"get_results.py", "benchmarks.ground_truth", "examples.demo"} <= {
        command.program for _, command in commands
    }
    found = [f"{place}: {command.program}: {fault}" for place, command in commands if (fault := complaint(command))]
    assert not found, "\n".join(["", *found])


def test_the_page_of_flags_is_what_the_parsers_give():
    """Also where the environment gives other defaults."""
    command = [python(), "-m", "utils.command_line.flag_tables"]
    elsewhere = {**os.environ, "DATA_DIR": "/elsewhere", "STORE_DIR": "/elsewhere", "COLUMNS": "60"}
    made = subprocess.run(command, cwd=ROOT, env=elsewhere, capture_output=True, text=True, check=True).stdout
    page = (ROOT / "docs" / "flags.md").read_text()
    assert page == made, "run: python -m utils.command_line.flag_tables > docs/flags.md"
    rows = [re.split(r"(?<!\\)\|", line) for line in page.split("\n") if line.startswith("| `--")]
    assert len(rows) > 100
    assert {len(cells) for cells in rows} == {6}  # four, and what is outside
    assert not [cells for cells in rows if "%(" in cells[4] or not re.search("[a-z]{4}", cells[4])]


def test_python_in_pages_is_python():
    for page in PAGES:
        for block in blocks_of(page):
            if block.language == "python":
                compile("\n" * block.line + block.text, str(page), "exec")


def test_files_that_are_named_are_there():
    named = {
        (page, ROOT / name)
        for page in PAGES
        for name in re.findall(r"`((?:utils|docs|examples|tests)/[\w/.]+)`", page.read_text())
    }
    links = {
        (page, page.parent / name)
        for page in PAGES
        for name in re.findall(r"(?:\]\(|src=\")([\w./-]+\.\w+|LICENSE)(?:#[\w-]+)?[\")]", page.read_text())
    }
    assert {ROOT / "LICENSE", ROOT / "docs/wordnet.png"} <= {path for _, path in links | named}
    assert not [f"{page.name}: {path}" for page, path in links | named if not path.exists()]


def test_headings_that_are_linked_are_there():
    """A link ends in the heading as it stands, in small letters, spaces as hyphens, without signs."""
    headings = {
        page: {
            re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
            for line in page.read_text().split("\n")
            if line.startswith("#")
        }
        for page in PAGES
    }
    links = [(page, *link) for page in PAGES for link in re.findall(r"\]\(([\w/.-]*)#([\w-]+)\)", page.read_text())]
    assert len(links) > 10
    assert not [
        link for link in links if link[2] not in headings[(link[0].parent / link[1]).resolve() if link[1] else link[0]]
    ]


# --------------------------------------------------------------------------------------------------------------------
# The checks find what they are for


SPLIT = "python disentangle_channel.py --model resnet50 --channel_disentangle 3 --classes_for_concept1"
SHARED = "--model resnet50 --splits a.pt"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("python get_results.py --modell x", "unrecognized arguments: --modell x; similar: --model"),
        (
            "\n$ python get_results.py --model m \\\n    --channel_of_interest x",
            "a whole number from 0, not 'x'",
        ),
        (f"{SPLIT} 1 # --background", "--classes_for_concept2 must be given"),
        ("torchrun --nproc_per_node=4 get_importances_for_classes.py --images val", "--model must be given"),
        ("cd x && python get_cosine_similarities.py --model $MODEL --p 2 | tee log", "at most 1, not '2'"),
        (f"python get_results.py {SHARED} --draws 20 > log", "--draws is for --get_separation: add it"),
        ("python -m benchmarks.peers --wayz ours", "no script has the flag --wayz"),
        ("python -m benchmarks.sensitivity --model m --taus 1", "no script has the flag --taus"),
        ("python -m benchmarks.nothing", "there is no program benchmarks.nothing"),
        ("python -m benchmarks.networks --no_flag", "ended with status 2"),
        ("python -m examples.demo demo_output --shov", "unrecognized arguments: --shov"),
    ],
)
def test_a_wrong_command_is_found(text, fault):
    (command,) = commands_in(text)
    assert fault in complaint(command)
    assert command.line == (2 if text.startswith("\n") else 1)


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("STORE_DIR=x python get_results.py --summary  # all", "get_results.py"),
        ("ls; .venv/bin/python3 get_results.py --help", "get_results.py"),
        (f"{SPLIT} 'digital clock' $FLAGS", "disentangle_channel.py"),
        (f"python get_results.py {SHARED} --get_separation --draws N --irrelevant_channels N", "get_results.py"),
        ("python get_results.py --model MODEL ...", "get_results.py"),
    ],
)
def test_a_command_that_is_right(text, program):
    (command,) = commands_in(text)
    assert command.program == program
    assert complaint(command) is None


def test_what_is_no_command_is_skipped():
    assert commands_in("c'_1 = a\nget_results.py    stage 4\npython my_script.py --flag\npip install python") == []


# --------------------------------------------------------------------------------------------------------------------
# The README's own promises


def status_of(page):
    """The section "Status" of a page: its list, a line for each item."""
    section = page.read_text().split("\n## Status\n")[1].split("\n## ")[0]
    return [" ".join(item.split()) for item in re.findall(r"^- (.+(?:\n  .+)*)", section, re.MULTILINE)]


def test_the_status_is_that_of_the_speed_page():
    status = status_of(ROOT / "README.md")
    assert len(status) == 3 and status == status_of(ROOT / "docs" / "speed.md")


def test_the_readme_is_read_to_the_end():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 230
