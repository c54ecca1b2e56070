"""One figure of a layer: how well its channels separate their concepts, before and after, and what chance would do."""

import math
from pathlib import Path

import numpy as np
from matplotlib.lines import Line2D

from utils.divisions.nulls import FITTED, SHARES, WEIGHTS
from utils.method.significance import mean_with_interval
from utils.report.figure_files import write_figure
from utils.report.layout import Page, line_height
from utils.report.plots import DISENTANGLED, GREY, HANDLE, ORIGINAL, SUBTLE, fitted, text_width
from utils.report.separation_tables import divisions_of
from utils.report.sheets import SCREEN
from utils.store.scores import AP_DRAWS, IRRELEVANT, NEW, OWN_LOGIT, unit_of
from utils.store.scores import ORIGINAL as ORIGINAL_CHANNEL

AFTER, PERMUTED = DISENTANGLED[0], DISENTANGLED[1]
LINES = (  # what, values, colour and line; upwards from chance
    ("owners permuted", unit_of(SHARES).ap, (GREY, ":")),
    ("original channel", ORIGINAL_CHANNEL.ap, ORIGINAL),
    ("irrelevant channels", IRRELEVANT.ap, DISENTANGLED[2]),
    ("weights permuted", unit_of(WEIGHTS).ap, PERMUTED),
    ("permuted, real target", unit_of(FITTED).ap, DISENTANGLED[3]),
    ("new channel", NEW.ap, AFTER),
    ("class's own logit", OWN_LOGIT.ap, (SUBTLE, (0, (6, 2, 1, 2)))),
)


def write_separation_figure(output_dir, separation, sheet=SCREEN):
    """Write the figure of a separation into ``plots/``: its path in a list, empty where nothing could be measured."""
    if all(np.isnan(row[NEW.ap]) for row in separation["rows"]):
        return []
    stem = Path(output_dir) / "plots" / f"{separation['name']}_separation"
    return [write_figure(stem, separation_figure(separation, sheet), sheet)]


def separation_figure(separation, sheet=SCREEN):
    """Average precision of each concept before and after, with the cloud of permuted weights, and all as distributions.

    The axes, and where they stand, depend on the concepts and images alone, so that the figures of several ways to
    split the same channels can be laid beside each other.

    Parameters
    ----------
    separation : dict
        As ``utils.store.separations.Separations`` stores it.
    sheet : Sheet

    Returns
    -------
    matplotlib.figure.Figure
    """
    rows = [row for row in separation["rows"] if not np.isnan(row[NEW.ap])]
    width, title_size, label_size, size, small = sheet.wide(10.4), *map(sheet.type, (11, 10, 8.5, 8))
    title_lines, small_lines, panels = (4, 4, 1) if sheet.narrow else (2, 2, 2)
    left, right = 5.5 * label_size / 72, 1.5 * label_size / 72
    across = (width - right) / panels - left
    tall, below = 0.86 * across, line_height(label_size, 3.2)
    columns = _legend_columns(72 * across, size)
    dots, curves = (line_height(1.15 * size, count) + 0.12 for count in (3, 1 + math.ceil(len(LINES) / columns)))
    top, foot = line_height(title_size, title_lines), line_height(small, small_lines)
    lower = foot + below
    upper, height = (lower + tall + curves + below, dots) if sheet.narrow else (lower, max(dots, curves))
    page = Page(width, upper + tall + height + 0.1 + top)
    places = [(left, upper), (left + (left + across) * (panels - 1), lower)]
    cloud, lines = (page.axes(*place, across, tall) for place in places)
    _draw_cloud(cloud, rows, size)
    _draw_distributions(lines, rows, size, columns)
    for axes in (cloud, lines):
        axes.tick_params(labelsize=label_size)
        axes.xaxis.label.set_fontsize(label_size)
        axes.yaxis.label.set_fontsize(label_size)
        axes.spines[["top", "right"]].set_visible(False)
    title = fitted(_title(rows), width - 0.3, title_size, title_lines)
    page.text(width / 2, page.height - 0.06, title, title_size, va="top")
    text = f"{separation['run']}, layer {separation['layer']}, {divisions_of(rows)}; "
    text += f"{separation['images']} validation images, "
    text += f"{separation['draws']} draws of permuted weights; AP of a concept's images against all others"
    page.text(width / 2, 0.04, fitted(text, width - 0.2, small, small_lines), small, color=SUBTLE, va="bottom")
    return page.figure


def _title(rows):
    """The figure in a sentence."""
    before, after = (np.mean([row[name] for row in rows]) for name in (ORIGINAL_CHANNEL.ap, NEW.ap))
    channels = [row["channel"] for row in rows]
    title = f"{len(rows)} concepts of {len(set(channels))} channels: AP {before:.2f} before, {after:.2f} after"
    for what, null in (("above permuted weights", WEIGHTS), ("above those with the real target", FITTED)):
        mean, low, high = mean_with_interval([row[NEW.ap] - row[unit_of(null).ap] for row in rows], channels)
        if np.isfinite(mean):
            title += f"; {mean:+.2f} {what}"
            title += f" (95\xa0%\xa0{low:+.2f}\xa0to\xa0{high:+.2f})" if np.isfinite(low) else ""
    return title


def least_precision(prevalence):
    """What axes of AP begin at: no AP is below about half of the prevalence, whatever the ranking."""
    return np.nanmin(prevalence) / 2


def _draw_cloud(axes, rows, size):
    before, after = (np.array([row[name] for row in rows]) for name in (ORIGINAL_CHANNEL.ap, NEW.ap))
    draws = [len(row[AP_DRAWS[WEIGHTS]]) for row in rows]
    cloud = np.concatenate([row[AP_DRAWS[WEIGHTS]] for row in rows])
    plain = {"linestyle": "none", "markeredgewidth": 0, "rasterized": True}
    style = {"marker": "o", "markersize": 3, "alpha": min(0.35, 30 / len(rows) ** 0.8), **plain}
    axes.plot(np.repeat(before, draws), cloud, color=PERMUTED[0], zorder=1, **style)
    axes.plot(
        before, after, "o", color=AFTER[0], markersize=4.5, markeredgecolor="white", markeredgewidth=0.4, zorder=3
    )
    span = np.geomspace(least_precision([row["prevalence"] for row in rows]), 1, 200)
    axes.plot(span, span, color=ORIGINAL[0], linewidth=1, zorder=2)
    axes.set_xscale("log")
    axes.set_xlim(span[0], 1)
    axes.set_ylim(0, 1.02)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("AP of the original channel")
    axes.set_ylabel("AP of the new channel")
    dot = {"marker": "o", "linestyle": "none", "markersize": 5}
    handles = [
        Line2D([], [], color=AFTER[0], label="new channel: a dot a concept", **dot),
        Line2D([], [], color=PERMUTED[0], alpha=0.6, label="the same rule on permuted weights: a dot a draw", **dot),
        Line2D([], [], color=ORIGINAL[0], linewidth=1, label="as the original"),
    ]
    _legend(axes, size, handles=handles)


def _draw_distributions(axes, rows, size, columns):
    for what, name, (colour, line) in LINES:
        values = np.sort([row[name] for row in rows])
        values = values[~np.isnan(values)]
        if len(values):
            share = np.arange(len(values), 0, -1) / len(values)
            style = {"color": colour, "linestyle": line, "linewidth": 2.4 if name == NEW.ap else 1.6}
            label = f"{what} {values.mean():.2f}"
            axes.step([0, *values, values[-1]], [1, *share, 0], where="pre", label=label, **style)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("AP")
    axes.set_ylabel("share of the concepts with at least this AP")
    _legend(axes, size, ncols=columns, title="mean AP", title_fontsize=size)


def _legend(axes, size, **how):
    """Above the axes, where it hides nothing."""
    place = {"loc": "lower center", "bbox_to_anchor": (0.5, 1), "frameon": False}
    axes.legend(fontsize=size, columnspacing=1.2, handlelength=HANDLE / size, **place, **how)


def _legend_columns(points, size):
    """How many columns of the lines' names stand beside each other in so many points of print."""
    widest = max(text_width(f"{what} 0.00", size) for what, *_ in LINES) + HANDLE + 1.5 * size
    return 2 if 2 * widest <= points else 1
