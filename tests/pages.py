"""The fenced blocks of README.md and docs/, and what their first lines ask for.

=============================  =======================================================================================
a block begins with            and is
=============================  =======================================================================================
``sh run``, ``python run``     executed by tests/test_pages.py, from the repository root of a copy in which the
                               demonstration was run. A block of Python is complete: it has its own imports.
``python run file=PATH``       written to that file of the copy instead of being executed
``text output``                what the last executed block above it prints (see ``first_difference``)
=============================  =======================================================================================

GitHub highlights a block by the first word alone. Blocks of a page are executed in their order, each page in a copy of
its own.
"""

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from tests.scripts import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<information>.*)")
LANGUAGES = ("sh", "python")
NUMBER = re.compile(r"[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")
LEFT_OUT = "..."
RELATIVE_TOLERANCE = 0.01
ORDER_OF_MAGNITUDE = 10


@dataclass(frozen=True)
class Block:
    page: Path
    line: int  # of the page, from 1, that opens the block
    words: tuple[str, ...]  # behind the fence
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def language(self) -> str:
        return self.words[0] if self.words else ""

    @property
    def is_executed(self) -> bool:
        return "run" in self.words and self.file is None

    @property
    def is_output(self) -> bool:
        return self.words == ("text", "output")

    @property
    def file(self) -> str | None:
        """Where the block is to be written, relative to the repository root."""
        names = [word.removeprefix("file=") for word in self.words if word.startswith("file=")]
        return names[0] if names else None


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page. AssertionError if a fence is not closed, or asks for what there is not."""
    blocks, opened, lines = [], None, []
    for number, line in enumerate(page.read_text().split("\n"), start=1):
        fence = FENCE.fullmatch(line)
        if opened is None and fence:
            opened, start, lines = fence, number, []
        elif opened and fence and fence["fence"].startswith(opened["fence"]) and not fence["information"].strip():
            words = tuple(opened["information"].split())
            blocks.append(Block(page, start, words, textwrap.dedent("".join(f"{line}\n" for line in lines))))
            opened = None
        else:
            lines.append(line)
    assert opened is None, f"{page.name}:{start}: the block is not closed"
    for block in blocks:
        further = [word for word in block.words[1:] if word not in ("run", "output") and not word.startswith("file=")]
        assert not further, f"{block.place}: {' '.join(further)} means nothing here"
        if "run" in block.words:
            assert block.language in LANGUAGES, f"{block.place}: only {' and '.join(LANGUAGES)} can be run"
        assert not block.file or "run" in block.words, f"{block.place}: only a block to run can be a file"
        assert "output" not in block.words or block.is_output, f"{block.place}: output is text"
    return blocks


def first_difference(expected: str, printed: str) -> str | None:
    """Where a printed text departs from an expected one, or None.

    - Spaces at the ends of lines, their number elsewhere, and empty lines at both ends do not matter.
    - A line ``...`` stands for any lines, also none; ``...`` in a line for any text.
    - A number with a decimal point may differ by one in its last digit, or by 1 %; one with an exponent (a rounding
      error) by a factor of ten. Whole numbers must be equal.
    """
    wanted, lines = expected.strip().split("\n"), printed.strip().split("\n")
    ends = {0}  # of the printed lines that the expected ones so far may stand for
    for line in wanted:
        if line.strip() == LEFT_OUT:
            ends = set(range(min(ends), len(lines) + 1))
            continue
        following = {end + 1 for end in ends if end < len(lines) and line_agrees(line, lines[end])}
        if not following:
            return f"not printed there: {line}"
        ends = following
    return None if len(lines) in ends else f"printed besides: {lines[max(ends)]}"


def line_agrees(expected: str, printed: str) -> bool:
    pattern, numbers = "", []
    for part in re.split(rf"({NUMBER.pattern}|\.\.\.|\s+)", expected.strip()):
        if NUMBER.fullmatch(part):
            numbers.append(part)
            pattern += f"({NUMBER.pattern})"
        else:
            pattern += ".*?" if part == LEFT_OUT else r"\s+" if part.isspace() else re.escape(part)
    found = re.fullmatch(pattern, printed.strip())
    return found is not None and all(map(number_agrees, numbers, found.groups()))


def number_agrees(expected: str, printed: str) -> bool:
    first, second = (float(text.replace(",", "")) for text in (expected, printed))
    if "e" in expected:
        smaller, larger = sorted((abs(first), abs(second)))
        return larger <= ORDER_OF_MAGNITUDE * smaller
    if "." not in expected:
        return expected == printed
    last_digit = 10.0 ** -len(expected.split(".")[1])
    return abs(first - second) <= max(1.001 * last_digit, RELATIVE_TOLERANCE * abs(first))
