"""How much the thresholds matter: a table of all combinations, and one figure with shared axes."""

import numpy as np
from matplotlib.figure import Figure

from utils.report.layout import line_height
from utils.report.numbers import csv_number, formatted
from utils.report.plots import ORIGINAL, fitted, text_width
from utils.report.sheets import SCREEN
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
several: channels that are relevant for several classes; polysemantic: those with a pair under gamma; pairs: all such;
split: channels of two or more groups; concepts: their groups. Of these (60 channels at most), divided by the rule at
rho = 1: clean, the share of concepts that are clean on held-out halves of the training images; AP against all other
validation images, and of units of permuted weights divided likewise (from a val store, where there is one)."""


def comma_separated(rows):
    """The rows of ``stages.sensitivity.sensitivity`` as CSV; empty where there is no value."""
    return Table(COLUMNS, [[csv_number(row[name]) for name in COLUMNS] for row in rows]).as_csv()


def table(rows):
    """The same as aligned Markdown."""
    header = [name.replace("_", " ") for name in COLUMNS]
    cells = [
        [row[name] if isinstance(row[name], int) else formatted(row[name], ".3g") for name in COLUMNS] for row in rows
    ]
    return Table(header, cells).as_markdown(right_aligned=True)


def sensitivity_figure(rows, title, sheet=SCREEN):
    """A heat map of every quantity over tau and gamma, a column for each p; one scale for all that is alike.

    Parameters
    ----------
    rows : list of dict
    title : str
    sheet : Sheet

    Returns
    -------
    matplotlib.figure.Figure
        Without the panels for which nothing was measured. Where a paper has no room for all p beside each other, the
        others stand below.
    """
    values = [{**row, "gain": row["ap"] - row["ap_permuted"]} for row in rows]
    taus, ps, gammas = (sorted({row[name] for row in rows}) for name in ("tau", "p", "gamma"))
    panels = {name: words for name, words in PANELS.items() if not all(np.isnan(row[name]) for row in values)}
    width = sheet.wide(max(0.62 * len(gammas) * len(ps) + 2.4, 5.5))
    room, small = width - 0.6, sheet.type(7.5)
    beside = len(ps) if sheet.width is None else max(1, min(len(ps), int(room / (CELL * len(gammas) + 0.1))))
    lines, each = -(-len(ps) // beside), room / beside - 0.1
    words = {(name, p): fitted(f"{said}, p = {p:g}" if len(ps) > 1 else said, each, small, lines=3)
             for name, said in panels.items() for p in ps}  # fmt: skip
    titles = line_height(small, max(said.count("\n") for said in words.values()))
    tall = titles + (0.32 * len(taus) + 0.62 if sheet.width is None else 0.2 * len(taus) + 0.3)
    figure = Figure(figsize=(width, len(panels) * lines * tall + 0.9), layout="constrained")
    grid = figure.subplots(len(panels) * lines, beside, squeeze=False, sharex=True, sharey=True)
    for axes in grid.ravel():
        axes.set_axis_off()
    for number, name in enumerate(panels):
        of_panel = {(row["p"], row["tau"], row["gamma"]): row[name] for row in values}
        known = [value for value in of_panel.values() if not np.isnan(value)]
        for axes, p in zip(grid[number * lines : (number + 1) * lines].ravel(), ps, strict=False):
            axes.set_axis_on()
            picture = np.array([[of_panel[p, tau, gamma] for gamma in gammas] for tau in taus], dtype=float)
            axes.imshow(picture, cmap="Blues", vmin=min(0, *known), vmax=max(known) or 1, aspect="auto", origin="lower")
            _write_numbers(axes, picture, max(known) or 1, name in COUNTS, 72 * each / len(gammas), sheet.type(7))
            axes.set_yticks(range(len(taus)), [f"{tau:g}" for tau in taus], fontsize=sheet.type(7))
            axes.set_xticks(range(len(gammas)), [f"{gamma:g}" for gamma in gammas], fontsize=sheet.type(7))
            axes.set_title(words[name, p], fontsize=small, pad=3)
            axes.tick_params(length=0)
    for column in grid.T:
        lowest = [axes for axes in column if axes.axison][-1]
        lowest.set_xlabel("γ", fontsize=sheet.type(8))
        lowest.tick_params(labelbottom=True)
    for axes in grid[:, 0]:
        axes.set_ylabel("τ", fontsize=sheet.type(8), rotation=0, labelpad=8)
    figure.suptitle(fitted(title, width - 0.4, sheet.type(10), lines=3), fontsize=sheet.type(10), parse_math=False)
    return figure


def _write_numbers(axes, picture, largest, are_counts, width, size):
    """The value of each cell, upright where a cell, of so many points, is too narrow for it."""
    texts = {place: formatted(value, ".0f" if are_counts else ".2f") for place, value in np.ndenumerate(picture)}
    upright = max(text_width(text, size) for text in texts.values()) > width
    for (row, column), text in texts.items():
        colour = "white" if picture[row, column] > 0.5 * largest else ORIGINAL[0]
        how = {"ha": "center", "va": "center", "fontsize": size, "color": colour, "rotation": 90 * upright}
        axes.text(column, row, text, **how)


def write_sensitivity(path, rows):
    """Write the table as CSV: its path."""
    write_bytes(path, comma_separated(rows).encode())
    return path
