"""One figure of a layer: how well its channels separate their concepts, before and after, and what chance would do."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from utils.divisions.nulls import FITTED, SHARES, WEIGHTS
from utils.report.figure_files import write_figure
from utils.report.layout import Page, line_height
from utils.report.plots import DISENTANGLED, GREY, HANDLE, ORIGINAL, SUBTLE, fitted, text_width
from utils.report.separation_headline import primary_null
from utils.report.separation_tables import divisions_of, headline_lines
from utils.report.sheets import SCREEN, Sheet
from utils.store.scores import AP_DRAWS, IRRELEVANT, NEW, OWN_LOGIT, PROBE, unit_of
from utils.store.scores import ORIGINAL as ORIGINAL_CHANNEL

AFTER = DISENTANGLED[0]
PRIMARY = {  # name, colour and line of nulls that may be the primary one
    WEIGHTS: (WEIGHTS.words, DISENTANGLED[1]),
    FITTED: (FITTED.words, DISENTANGLED[3]),
}
LINES = (  # name, key of the values, colour and line; upwards from chance
    ("owners permuted", unit_of(SHARES).ap, (GREY, ":")),
    ("original channel", ORIGINAL_CHANNEL.ap, ORIGINAL),
    ("irrelevant channels", IRRELEVANT.ap, DISENTANGLED[2]),
    *((name, unit_of(null).ap, line) for null, (name, line) in PRIMARY.items()),
    ("new channel", NEW.ap, AFTER),
    ("linear probe of the input", PROBE.ap, (SUBTLE, "--")),
    ("class's own logit", OWN_LOGIT.ap, (SUBTLE, (0, (6, 2, 1, 2)))),
)


def write_separation_figure(output_dir: str | Path, separation: dict, sheet: Sheet = SCREEN) -> list[Path]:
    """Write the figure of a separation into ``plots/``; returns its path in a list, which is empty without results."""
    if all(np.isnan(row[NEW.ap]) for row in separation["rows"]):
        return []
    stem = Path(output_dir) / "plots" / f"{separation['name']}_separation"
    return [write_figure(stem, separation_figure(separation, sheet), sheet)]


def separation_figure(separation: dict, sheet: Sheet = SCREEN) -> Figure:
    """Average precision of each concept before and after, with the cloud of its null, and all as distributions.

    The axes and their positions depend on the concepts and images alone, so that the figures of several divisions of
    the same channels can be laid side by side.

    Parameters
    ----------
    separation
        As ``utils.store.separations.Separations`` stores it.
    sheet
    """
    rows = [row for row in separation["rows"] if not np.isnan(row[NEW.ap])]
    width = sheet.wide(10.4)
    title_size = sheet.type(10)
    label_size = sheet.type(10)
    size = sheet.type(8.5)
    small = sheet.type(8)
    text_lines = 4 if sheet.narrow else 2  # of the small print
    # of each line of the headline; on a screen the second one fits into one line
    title_lines = (4, 3) if sheet.narrow else (2, 1 if sheet.width is None else 2)
    panels = 1 if sheet.narrow else 2  # side by side

    # Lengths in inches: a panel has its axis labels at the left and below, and its legend above
    left = 5.5 * label_size / 72
    right = 1.5 * label_size / 72
    across = (width - right) / panels - left
    tall = 0.86 * across
    below = line_height(label_size, 3.2)
    columns = _legend_columns(72 * across, size)
    legend_of_cloud = line_height(1.15 * size, 2 + len(PRIMARY)) + 0.12
    legend_of_lines = line_height(1.15 * size, 1 + math.ceil(len(LINES) / columns)) + 0.12
    lower = line_height(small, text_lines) + below
    if sheet.narrow:
        upper = lower + tall + legend_of_lines + below
        highest_legend = legend_of_cloud
    else:
        upper = lower
        highest_legend = max(legend_of_cloud, legend_of_lines)
    page = Page(width, upper + tall + highest_legend + 0.1 + line_height(title_size, sum(title_lines)))
    cloud = page.axes(left, upper, across, tall)
    lines = page.axes(left + (left + across) * (panels - 1), lower, across, tall)
    _draw_cloud(cloud, rows, size)
    _draw_distributions(lines, rows, size, columns)
    for axes in (cloud, lines):
        axes.tick_params(labelsize=label_size)
        axes.xaxis.label.set_fontsize(label_size)
        axes.yaxis.label.set_fontsize(label_size)
        axes.spines[["top", "right"]].set_visible(False)
    title = "\n".join(
        fitted(line, width - 0.3, title_size, most)
        for line, most in zip(headline_lines(rows), title_lines, strict=False)  # a single line if nothing was measured
    )
    page.text(width / 2, page.height - 0.06, title, title_size, va="top")
    channels = len({row["channel"] for row in rows})
    text = (
        f"{separation['run']}, layer {separation['layer']}, {divisions_of(rows)}; {len(rows)} concepts of {channels} "
    )
    text += f"channels, {separation['images']} validation images; AP of a concept's images against all others"
    page.text(width / 2, 0.04, fitted(text, width - 0.2, small, text_lines), small, color=SUBTLE, va="bottom")
    return page.figure


def least_precision(prevalence: list[float]) -> float:
    """The lower end of axes of AP: no ranking has an AP below about half of the prevalence."""
    return np.nanmin(prevalence) / 2


def _draw_cloud(axes: Axes, rows: list[dict], size: float) -> None:
    """Concepts, and below them the draws of their primary null, in the colour of that null's distribution."""
    dot: dict[str, Any] = {"marker": "o", "linestyle": "none", "markersize": 5}
    handles = [Line2D([], [], color=AFTER[0], label="new channel: one dot per concept", **dot)]
    for null, (name, (colour, _)) in PRIMARY.items():
        of_null = [row for row in rows if primary_null(row) is null]
        if of_null:
            _draw_draws(axes, of_null, AP_DRAWS[null], colour, alpha=min(0.35, 30 / len(rows) ** 0.8))
            label = f"primary null, {name}: one dot per draw"
            handles.append(Line2D([], [], color=colour, alpha=0.6, label=label, **dot))
    axes.plot(
        [row[ORIGINAL_CHANNEL.ap] for row in rows],
        [row[NEW.ap] for row in rows],
        "o",
        color=AFTER[0],
        markersize=4.5,
        markeredgecolor="white",
        markeredgewidth=0.4,
        zorder=3,
    )
    span = np.geomspace(least_precision([row["prevalence"] for row in rows]), 1, 200)
    axes.plot(span, span, color=ORIGINAL[0], linewidth=1, zorder=2)
    axes.set_xscale("log")
    axes.set_xlim(span[0], 1)
    axes.set_ylim(0, 1.02)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("AP of the original channel")
    axes.set_ylabel("AP of the new channel")
    handles.append(Line2D([], [], color=ORIGINAL[0], linewidth=1, label="equal to the original"))
    _legend(axes, size, handles=handles)


def _draw_draws(axes: Axes, rows: list[dict], column: str, colour: str, alpha: float) -> None:
    """The draws of a null, which are a list in a column of each row."""
    axes.plot(
        np.repeat([row[ORIGINAL_CHANNEL.ap] for row in rows], [len(row[column]) for row in rows]),
        np.concatenate([row[column] for row in rows]),
        color=colour,
        zorder=1,
        marker="o",
        markersize=3,
        alpha=alpha,
        linestyle="none",
        markeredgewidth=0,
        rasterized=True,
    )


def _draw_distributions(axes: Axes, rows: list[dict], size: float, columns: int) -> None:
    for words, name, (colour, line) in LINES:
        values = np.sort([row[name] for row in rows])
        values = values[~np.isnan(values)]
        if len(values):
            share = np.arange(len(values), 0, -1) / len(values)
            axes.step(
                [0, *values, values[-1]],
                [1, *share, 0],
                where="pre",
                label=f"{words} {values.mean():.2f}",
                color=colour,
                linestyle=line,
                linewidth=2.4 if name == NEW.ap else 1.6,
            )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("AP")
    axes.set_ylabel("share of the concepts with at least this AP")
    _legend(axes, size, ncols=columns, title="mean AP", title_fontsize=size)


def _legend(axes: Axes, size: float, **options: Any) -> None:
    """Above the axes, where it hides nothing."""
    axes.legend(
        fontsize=size,
        columnspacing=1.2,
        handlelength=HANDLE / size,
        loc="lower center",
        bbox_to_anchor=(0.5, 1),
        frameon=False,
        **options,
    )


def _legend_columns(points: float, size: float) -> int:
    """The number of columns of the lines' names that fit into a width in points of print."""
    widest = max(text_width(f"{words} 0.00", size) for words, *_ in LINES) + HANDLE + 1.5 * size
    return 2 if 2 * widest <= points else 1
