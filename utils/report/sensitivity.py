"""How much the thresholds matter: a table of all combinations, and one figure with shared axes."""

import csv
import io

import numpy as np
from matplotlib.figure import Figure

from utils.report.plots import ORIGINAL, fitted
from utils.store.files import write_bytes

COLUMNS = ("tau", "p", "gamma", "several", "polysemantic", "pairs", "split", "concepts", "clean", "ap", "ap_permuted")
PANELS = {
    "polysemantic": "channels with a pair under γ",
    "pairs": "pairs under γ",
    "split": "channels of two or more groups",
    "clean": "clean concepts of these, held out",
    "gain": "AP above permuted weights",
}
EXPLANATION = """\
several: channels that are relevant for several classes; polysemantic: those with a pair under gamma; pairs: all such;
split: channels of two or more groups; concepts: their groups. Of these (60 channels at most), divided by the rule at
rho = 1: clean, the share of concepts that are clean on held-out halves of the training images; AP against all other
validation images, and of units of permuted weights divided likewise (from a val store, where there is one)."""


def comma_separated(rows):
    """The rows of ``stages.sensitivity.sensitivity`` as CSV; empty where there is no value."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: "" if np.isnan(row[name]) else f"{row[name]:.6g}" for name in COLUMNS})
    return buffer.getvalue()


def table(rows):
    """The same as aligned Markdown."""
    cells = [[name.replace("_", " ") for name in COLUMNS]]
    cells += [[_cell(row[name]) for name in COLUMNS] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["| " + " | ".join(map(str.rjust, row, widths)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|", *lines[1:]])


def _cell(value):
    if np.isnan(value):
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.3g}"


def sensitivity_figure(rows, title):
    """A heat map of every quantity over tau and gamma, a column for each p; one scale for all that is alike.

    Parameters
    ----------
    rows : list of dict
    title : str

    Returns
    -------
    matplotlib.figure.Figure
        Without the panels for which nothing was measured.
    """
    values = [{**row, "gain": row["ap"] - row["ap_permuted"]} for row in rows]
    taus, ps, gammas = (sorted({row[name] for row in rows}) for name in ("tau", "p", "gamma"))
    panels = {name: words for name, words in PANELS.items() if not all(np.isnan(row[name]) for row in values)}
    width, height = 0.62 * len(gammas) * len(ps) + 2.4, len(panels) * (0.32 * len(taus) + 0.62) + 0.9
    figure = Figure(figsize=(max(width, 5.5), height), layout="constrained")
    grid = figure.subplots(len(panels), len(ps), squeeze=False, sharex=True, sharey=True)
    for axes_row, (name, words) in zip(grid, panels.items(), strict=True):
        of_panel = {(row["p"], row["tau"], row["gamma"]): row[name] for row in values}
        known = [value for value in of_panel.values() if not np.isnan(value)]
        for axes, p in zip(axes_row, ps, strict=True):
            picture = np.array([[of_panel[p, tau, gamma] for gamma in gammas] for tau in taus], dtype=float)
            axes.imshow(picture, cmap="Blues", vmin=min(0, *known), vmax=max(known) or 1, aspect="auto", origin="lower")
            _write_numbers(axes, picture, max(known) or 1)
            axes.set_yticks(range(len(taus)), [f"{tau:g}" for tau in taus], fontsize=7)
            axes.set_xticks(range(len(gammas)), [f"{gamma:g}" for gamma in gammas], fontsize=7)
            axes.set_title(f"{words}, p = {p:g}" if len(ps) > 1 else words, fontsize=7.5, pad=3)
            axes.tick_params(length=0)
    for axes in grid[-1]:
        axes.set_xlabel("γ", fontsize=8)
    for axes in grid[:, 0]:
        axes.set_ylabel("τ", fontsize=8, rotation=0, labelpad=8)
    figure.suptitle(fitted(title, figure.get_figwidth() - 0.4, 10, lines=2), fontsize=10, parse_math=False)
    return figure


def _write_numbers(axes, picture, largest):
    for (row, column), value in np.ndenumerate(picture):
        text = "–" if np.isnan(value) else f"{value:.0f}" if largest > 1 else f"{value:.2f}"
        colour = "white" if value > 0.5 * largest else ORIGINAL[0]
        axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)


def write_sensitivity(path, rows):
    """Write the table as CSV: its path."""
    write_bytes(path, comma_separated(rows).encode())
    return path
