"""How much the thresholds matter: a table of all combinations, and one figure with shared axes."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.report.layout import line_height
from utils.report.numbers import csv_number, formatted
from utils.report.plots import ORIGINAL, fitted, text_width
from utils.report.sheets import SCREEN, Sheet
from utils.report.tables import Table
from utils.store.files import write_bytes

COLUMNS = ("tau", "p", "gamma", "several", "polysemantic", "pairs", "split", "concepts", "clean", "ap", "ap_permuted")
PANELS = {
    "polysemantic": "channels with a pair under γ",
    "pairs": "pairs under γ",
    "split": "channels of two or more groups",
    "clean": "clean concepts of these, held out",
    "gain": "AP above permuted weights",
}
COUNTS = ("polysemantic", "pairs", "split")
CELL = 0.27  # inches, at least, in print
EXPLANATION = """\
several: channels that are relevant for several classes; polysemantic: those with a pair below gamma; pairs: all pairs
below gamma; split: channels of two or more groups; concepts: their groups. At most 60 of these channels are divided by
the rule at rho = 1. clean: share of their concepts that are clean on held-out halves of the training images. ap:
average precision of their new channels against all other validation images; ap permuted: the same of permuted weights
that are divided in the same way (both only with a val store)."""


def comma_separated(rows: list[dict]) -> str:
    """The rows of ``stages.sensitivity.sensitivity`` as CSV; empty if there is no value."""
    return Table(COLUMNS, [[csv_number(row[name]) for name in COLUMNS] for row in rows]).as_csv()


def table(rows: list[dict]) -> str:
    """The same rows as an aligned Markdown table."""
    header = [name.replace("_", " ") for name in COLUMNS]
    cells = [
        [row[name] if isinstance(row[name], int) else formatted(row[name], ".3g") for name in COLUMNS] for row in rows
    ]
    return Table(header, cells).as_markdown(right_aligned=True)


def sensitivity_figure(rows: list[dict], title: str, sheet: Sheet = SCREEN) -> Figure:
    """A heat map of every quantity over tau and gamma, a column for each p; the panels of a quantity share one scale.

    Parameters
    ----------
    rows
        From ``stages.sensitivity.sensitivity``.
    title
    sheet
        On a printed page without room for all p side by side, the others are below.

    Returns
    -------
    matplotlib.figure.Figure
        Without the quantities for which nothing was measured.
    """
    values = [{**row, "gain": row["ap"] - row["ap_permuted"]} for row in rows]
    ps = sorted({row["p"] for row in rows})
    panels = {name: words for name, words in PANELS.items() if not all(np.isnan(row[name]) for row in values)}
    num_taus = len({row["tau"] for row in rows})
    num_gammas = len({row["gamma"] for row in rows})

    width = sheet.wide(max(0.62 * num_gammas * len(ps) + 2.4, 5.5))
    room = width - 0.6
    beside = len(ps) if sheet.width is None else max(1, min(len(ps), int(room / (CELL * num_gammas + 0.1))))
    lines = -(-len(ps) // beside)
    each = room / beside - 0.1
    small = sheet.type(7.5)
    headings = {
        (name, p): fitted(f"{words}, p = {p:g}" if len(ps) > 1 else words, each, small, lines=3)
        for name, words in panels.items()
        for p in ps
    }
    titles = line_height(small, max(heading.count("\n") for heading in headings.values()))
    tall = titles + (0.32 * num_taus + 0.62 if sheet.width is None else 0.2 * num_taus + 0.3)
    figure = Figure(figsize=(width, len(panels) * lines * tall + 0.9), layout="constrained")
    grid = figure.subplots(len(panels) * lines, beside, squeeze=False, sharex=True, sharey=True)
    for axes in grid.ravel():
        axes.set_axis_off()
    for number, name in enumerate(panels):
        measured = [row[name] for row in values if not np.isnan(row[name])]
        for axes, p in zip(grid[number * lines : (number + 1) * lines].ravel(), ps, strict=False):
            _heat_map(axes, [row for row in values if row["p"] == p], name, measured, each=each, sheet=sheet)
            axes.set_title(headings[name, p], fontsize=small, pad=3)
    for column in grid.T:
        lowest = [axes for axes in column if axes.axison][-1]
        lowest.set_xlabel("γ", fontsize=sheet.type(8))
        lowest.tick_params(labelbottom=True)
    for axes in grid[:, 0]:
        axes.set_ylabel("τ", fontsize=sheet.type(8), rotation=0, labelpad=8)
    figure.suptitle(fitted(title, width - 0.4, sheet.type(10), lines=3), fontsize=sheet.type(10), parse_math=False)
    return figure


def _heat_map(axes: Axes, rows: list[dict], name: str, measured: list[float], *, each: float, sheet: Sheet) -> None:
    """Draw one quantity over tau and gamma, on the scale of all values ``measured``, ``each`` inches wide."""
    taus = sorted({row["tau"] for row in rows})
    gammas = sorted({row["gamma"] for row in rows})
    value_at = {(row["tau"], row["gamma"]): row[name] for row in rows}
    picture = np.array([[value_at[tau, gamma] for gamma in gammas] for tau in taus], dtype=float)
    largest = max(measured) or 1
    size = sheet.type(7)
    axes.set_axis_on()
    axes.imshow(picture, cmap="Blues", vmin=min(0, *measured), vmax=largest, aspect="auto", origin="lower")
    texts = {cell: formatted(value, ".0f" if name in COUNTS else ".2f") for cell, value in np.ndenumerate(picture)}
    cell_width = 72 * each / len(gammas)
    is_upright = max(text_width(text, size) for text in texts.values()) > cell_width
    for (row, column), text in texts.items():
        colour = "white" if picture[row, column] > 0.5 * largest else ORIGINAL[0]
        axes.text(column, row, text, ha="center", va="center", fontsize=size, color=colour, rotation=90 * is_upright)
    axes.set_yticks(range(len(taus)), [f"{tau:g}" for tau in taus], fontsize=size)
    axes.set_xticks(range(len(gammas)), [f"{gamma:g}" for gamma in gammas], fontsize=size)
    axes.tick_params(length=0)


def write_sensitivity(path: Path, rows: list[dict]) -> Path:
    """Write the table as CSV: its path."""
    write_bytes(path, comma_separated(rows).encode())
    return path
