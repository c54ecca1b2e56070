"""One figure of a layer: how well its channels separate their concepts, before and after, and what chance would do."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from utils.method.references import mean_with_interval
from utils.report.files import write_figure
from utils.report.plots import DISENTANGLED, GREY, ORIGINAL, SUBTLE, fitted

AFTER, PERMUTED = DISENTANGLED[0], DISENTANGLED[1]
LINES = (  # what, values, colour and line; upwards from chance
    ("owners permuted", "ap_all_owners_permuted", (GREY, ":")),
    ("original channel", "ap_all_original", ORIGINAL),
    ("irrelevant channels", "ap_all_irrelevant", DISENTANGLED[2]),
    ("weights permuted", "ap_all_weights_permuted", PERMUTED),
    ("permuted, real target", "ap_all_real_target", DISENTANGLED[3]),
    ("new channel", "ap_all", AFTER),
    ("class's own logit", "ap_all_own_logit", (SUBTLE, (0, (6, 2, 1, 2)))),
)


def write_separation_figure(output_dir, separation):
    """Write the figure of a separation into ``plots/``: its path in a list, empty where nothing could be measured."""
    if all(np.isnan(row["ap_all"]) for row in separation["rows"]):
        return []
    stem = Path(output_dir) / "plots" / f"{separation['name']}_separation"
    return [write_figure(stem, separation_figure(separation))]


def separation_figure(separation):
    """Average precision of each concept before and after, with the cloud of permuted weights, and all as distributions.

    Parameters
    ----------
    separation : dict
        As ``utils.store.separations.Separations`` stores it.

    Returns
    -------
    matplotlib.figure.Figure
    """
    rows = [row for row in separation["rows"] if not np.isnan(row["ap_all"])]
    figure = Figure(figsize=(10.4, 5.6), layout="constrained")
    cloud, lines = figure.subplots(1, 2, width_ratios=(1, 1.05))
    _draw_cloud(cloud, rows)
    _draw_distributions(lines, rows)
    figure.suptitle(fitted(_title(rows), 9.6, 11, lines=2), fontsize=11, parse_math=False)
    how = rows[0]["split_by"].replace("_", " ")
    below = f"{separation['run']}, layer {separation['layer']}, {how}; {separation['images']} validation images, "
    below += f"{separation['draws']} draws of permuted weights; AP of a concept's images against all others"
    figure.supxlabel(fitted(below, 10.0, 8, lines=2), fontsize=8, color=SUBTLE, parse_math=False)
    return figure


def _title(rows):
    """The figure in a sentence."""
    before, after = (np.mean([row[name] for row in rows]) for name in ("ap_all_original", "ap_all"))
    channels = [row["channel"] for row in rows]
    title = f"{len(rows)} concepts of {len(set(channels))} channels: AP {before:.2f} before, {after:.2f} after"
    for what, name in (
        ("above permuted weights", "_weights_permuted"),
        ("above those with the real target", "_real_target"),
    ):
        mean, low, high = mean_with_interval([row["ap_all"] - row[f"ap_all{name}"] for row in rows], channels)
        if np.isfinite(mean):
            title += f"; {mean:+.2f} {what}"
            title += f" (95 % {low:+.2f} to {high:+.2f})" if np.isfinite(low) else ""
    return title


def _draw_cloud(axes, rows):
    before, after = (np.array([row[name] for row in rows]) for name in ("ap_all_original", "ap_all"))
    draws = [len(row["ap_draws"]) for row in rows]
    cloud = np.concatenate([row["ap_draws"] for row in rows])
    plain = {"linestyle": "none", "markeredgewidth": 0, "rasterized": True}
    style = {"marker": "o", "markersize": 3, "alpha": min(0.35, 30 / len(rows) ** 0.8), **plain}
    axes.plot(np.repeat(before, draws), cloud, color=PERMUTED[0], zorder=1, **style)
    axes.plot(
        before, after, "o", color=AFTER[0], markersize=4.5, markeredgecolor="white", markeredgewidth=0.4, zorder=3
    )
    lowest = np.nanmin([row["prevalence"] for row in rows])
    span = np.geomspace(min(lowest, np.nanmin(before)) / 1.3, 1, 200)
    axes.plot(span, span, color=ORIGINAL[0], linewidth=1, zorder=2)
    axes.set_xscale("log")
    axes.set_xlim(span[0], 1)
    axes.set_ylim(0, 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("AP of the original channel")
    axes.set_ylabel("AP of the new channel")
    dot = {"marker": "o", "linestyle": "none", "markersize": 5}
    handles = [
        Line2D([], [], color=AFTER[0], label="new channel: a dot a concept", **dot),
        Line2D([], [], color=PERMUTED[0], alpha=0.6, label="the same rule on permuted weights: a dot a draw", **dot),
        Line2D([], [], color=ORIGINAL[0], linewidth=1, label="as the original"),
    ]
    _legend(axes, handles=handles)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_distributions(axes, rows):
    for what, name, (colour, line) in LINES:
        values = np.sort([row[name] for row in rows])
        values = values[~np.isnan(values)]
        if len(values):
            share = np.arange(len(values), 0, -1) / len(values)
            style = {"color": colour, "linestyle": line, "linewidth": 2.4 if name == "ap_all" else 1.6}
            label = f"{what}, mean {values.mean():.2f}"
            axes.step([0, *values, values[-1]], [1, *share, 0], where="pre", label=label, **style)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("AP")
    axes.set_ylabel("share of the concepts with at least this AP")
    _legend(axes, ncols=2)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(axes, **how):
    """Above the axes, where it hides nothing."""
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False, fontsize=8.5, columnspacing=1.2, **how)
