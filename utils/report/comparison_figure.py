"""One figure of a comparison: how well the units of each method find labelled concepts, and its nulls."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from utils.report.comparison_tables import NULLS, channels_text, k_text, summary_rows
from utils.report.figure_files import write_figure
from utils.report.plots import DISENTANGLED, GREY, ORIGINAL, fitted
from utils.store.scores import NEW

PANELS = {NEW.ap: "AP against all other images", NEW.auroc: "AUROC against all other images"}
MARKERS = {
    "weights_permuted": ("D", DISENTANGLED[1][0]),
    "weights_permuted_same_sets": ("s", DISENTANGLED[2][0]),
    "weights_permuted_real_target": ("P", DISENTANGLED[3][0]),
    "owners_permuted": ("^", GREY),
    "references_partitioned": ("v", ORIGINAL[0]),
    "units_random": ("x", GREY),
}


def write_comparison_figure(output_dir: str | Path, comparison: dict) -> list[Path]:
    """Write the figure of a comparison into ``plots/``; returns its path in a list, which is empty without results."""
    if all(np.isnan(row[NEW.ap]) for row in summary_rows(comparison)):
        return []
    stem = Path(output_dir) / "plots" / f"{comparison['name']}_comparison"
    return [write_figure(stem, comparison_figure(comparison))]


def comparison_figure(comparison: dict) -> Figure:
    """A dot for each method with its 95 % interval, and its nulls as open markers on the same row; sorted by AP.

    ``comparison`` is as ``utils.store.comparisons.Comparisons`` stores it.
    """
    rows = summary_rows(comparison)
    methods = sorted((row for row in rows if not row["null"]), key=lambda row: np.nan_to_num(row[NEW.ap]))
    height_of = {row["method"]: number for number, row in enumerate(methods)}
    figure = Figure(figsize=(10.4, 2.1 + 0.36 * len(methods)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (name, label) in zip(panels, PANELS.items(), strict=True):
        for row in rows:
            _draw_row(axes, row, name, height_of[row["method"]])
        axes.set_xlabel(label)
        axes.grid(axis="both", color="#e6e6e6", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(methods)), [_label(comparison, row) for row in methods], fontsize=9)
    panels[0].set_ylim(-0.6, len(methods) - 0.4)
    present = [null for null in NULLS if any(row["null"] == null for row in rows)]
    handles = [Line2D([], [], color=DISENTANGLED[0][0], marker="o", linewidth=2.2, label="method, 95 % interval")]
    for null in present:
        marker, colour = MARKERS[null]
        handles.append(
            Line2D(
                [],
                [],
                marker=marker,
                markerfacecolor="none",
                markeredgecolor=colour,
                linestyle="none",
                label=NULLS[null],
            )
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
    figure.suptitle(fitted(_title(comparison), 10.0, 11, lines=2), fontsize=11, parse_math=False)
    return figure


def _draw_row(axes: Axes, row: dict, name: str, height: int) -> None:
    """A method's value with its interval, or the value of one of its nulls."""
    if row["null"]:
        marker, colour = MARKERS[row["null"]]
        axes.plot(row[name], height, marker, markerfacecolor="none", markeredgecolor=colour, markersize=6, zorder=4)
    else:
        colour = DISENTANGLED[0][0]
        axes.plot([row[f"{name}_low"], row[f"{name}_high"]], [height, height], color=colour, linewidth=2.2)
        axes.plot(row[name], height, "o", color=colour, markersize=7.5, zorder=3)


def _label(comparison: dict, row: dict) -> str:
    return fitted(f"{comparison['methods'][row['method']]['words']}, k\u00a0{k_text(row['k'])}", 2.4, 9, lines=3)


def _title(comparison: dict) -> str:
    return (
        f"{channels_text(comparison)} of {comparison['layer']}: how well methods rank their images "
        f"among {comparison['images']} validation images, and their nulls"
    )
