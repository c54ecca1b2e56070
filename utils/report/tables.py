"""A table, written as CSV, Markdown or LaTeX; and what tables of Measurements have in common."""

import csv
import io
import sys
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from utils.errors import listed
from utils.report.latex import escaped, floating, tabular
from utils.report.numbers import DASH
from utils.store.files import write_bytes
from utils.store.measurements import Measurements

LONGEST_NAME = 40  # characters of a name in a table
Written = TypeVar("Written")


@dataclass(frozen=True)
class Table:
    """Rows of cells below a header; in Markdown and LaTeX without the columns that have no value.

    ``header`` has the headings and ``rows`` a sequence of cells each. ``totals`` are further rows that summarise the
    others; in LaTeX a rule separates them. The cells are text, for CSV anything that ``str`` turns into it.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    totals: Sequence[Sequence[object]] = ()

    def as_csv(self) -> str:
        """Comma-separated text, the header first."""
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows([self.header, *self.rows, *self.totals])
        return buffer.getvalue()

    def with_values(self) -> "Table":
        """The table without the columns that have no value in any row."""
        rows = [*self.rows, *self.totals]
        kept = [number for number in range(len(self.header)) if not rows or any(_is_value(row[number]) for row in rows)]
        header, *shown = [[row[number] for number in kept] for row in (self.header, *rows)]
        return Table(list(map(str, header)), shown[: len(self.rows)], shown[len(self.rows) :])

    def as_markdown(self, right_aligned: bool = False) -> str:
        """A Markdown table whose columns have one width each, so that it can be read as it is."""
        shown = self.with_values()
        cells = [[str(cell).replace("|", "\\|") for cell in row] for row in (shown.header, *shown.rows, *shown.totals)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        pad = str.rjust if right_aligned else str.ljust
        rule = "|".join("-" * (width + 1) + (":" if right_aligned else "-") for width in widths)
        header, *rows = ["| " + " | ".join(map(pad, row, widths)) + " |" for row in cells]
        return "\n".join([header, f"|{rule}|", *rows])

    def as_latex(self, caption: str, heading: Callable[[str], str] = escaped, label: str = "") -> str:
        """A floating LaTeX table whose second column holds names; ``heading`` turns a heading into LaTeX.

        ``label`` is in words that a new result does not change; default: the caption.
        """
        shown = self.with_values()
        blocks = [[list(map(str, row)) for row in rows] for rows in (shown.rows, shown.totals)]
        columns = "rl" + "r" * (len(shown.header) - 2)
        return floating(caption, tabular(columns, list(map(heading, shown.header)), *blocks), label)

    def write_csv(self, path: Path) -> None:
        """Write the table as a CSV file."""
        write_bytes(path, self.as_csv().encode())


def _is_value(cell: object) -> bool:
    """Whether a cell has more than the sign of what could not be measured."""
    return bool(set(str(cell)) - {*DASH, "/", " "})


def short_name(name: str, length: int = LONGEST_NAME) -> str:
    """A name of at most ``length`` characters, dots included."""
    return name if len(name) <= length else f"{name[: length - 3]}..."


def grouped(
    entries: Iterable[dict[str, Any]], settings_of: Callable[[dict[str, Any]], Hashable]
) -> list[list[dict[str, Any]]]:
    """Entries of Measurements that may be summarised together, as lists in the order in which they are given.

    They agree in what ``settings_of`` returns, and no two of them differ in the validation images of a class folder.
    """
    candidates: dict[Hashable, list[tuple[dict[str, str], list[dict[str, Any]]]]] = {}
    for entry in entries:
        of_settings = candidates.setdefault(settings_of(entry), [])
        for validation, group in of_settings:
            if all(validation.get(folder, digest) == digest for folder, digest in entry["validation"].items()):
                validation.update(entry["validation"])
                group.append(entry)
                break
        else:
            of_settings.append((dict(entry["validation"]), [entry]))
    return [group for of_settings in candidates.values() for _, group in of_settings]


def settled(measurements: Measurements, write: Callable[[list[dict[str, Any]]], Written]) -> Written:
    """Call ``write``, which writes the files that are made of all entries of Measurements, and return its result.

    Other processes may write entries at the same time: the files are written again until nothing has changed meanwhile,
    so that the last process has seen all entries. (A lock would need a file system that has locks.)
    """
    while True:
        state = measurements.state()
        written = write(measurements.read_all())
        if state == measurements.state():
            return written


def write_settled(measurements: Measurements, texts: Mapping[str, Callable[[list[dict[str, Any]]], str]]) -> list[Path]:
    """Write files that are made of all entries of Measurements; return their paths.

    ``texts`` has, for each file name, the function that makes the file's text of the entries. Without an entry the
    files are removed.
    """

    def write(entries: list[dict[str, Any]]) -> list[Path]:
        paths = [measurements.folder / name for name in texts]
        if not entries:
            for path in paths:
                path.unlink(missing_ok=True)
            return []
        for path, text in zip(paths, texts.values(), strict=True):
            write_bytes(path, text(entries).encode())
        return paths

    return settled(measurements, write)


def warn_of(names: list[str], noun: str, text: str) -> None:
    """Warn of the things that have these names, if there are any; ``text`` follows their number and the ``noun``."""
    counted = f"1 {noun}" if len(names) == 1 else f"{len(names)} {noun}s"
    if names:
        print(f"warning: {counted} {text} ({listed(names)})", file=sys.stderr)
