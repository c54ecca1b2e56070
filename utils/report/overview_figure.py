"""Overview of a layer: how many classes its channels serve, and which ones the polysemantic ones do."""

import numpy as np
from matplotlib.ticker import NullFormatter

from utils.report.gamma_guide import draw_gamma, has_anything
from utils.report.layer_figure_parts import (
    OTHER,
    count_on,
    draw_points,
    fit,
    fit_groups,
    fit_list,
    label_axes,
    lay_out,
    sides,
    size_in_points,
    titled_parts,
    write_text,
)
from utils.report.plots import SUBTLE, fitted
from utils.report.sheets import SCREEN

MOST_CLASSES = 10
MOST_CHANNELS = 20
MOST_GROUPS = 8
BIN = 0.05


def overview_figure(channels, gamma, guide, name, title, subtitle, sheet=SCREEN):
    """How many classes the channels serve, the cosines of all pairs, what gamma can go by, and polysemantic channels.

    Parameters
    ----------
    channels : ChannelClasses
    gamma : float
    guide : dict
        Of ``stages.gamma.gamma_guide``.
    name : function of a class's output
    title, subtitle : str
    sheet : Sheet

    Returns
    -------
    matplotlib.figure.Figure
        Panels that would be empty are left out.
    """
    cosines, found = channels.pairs.cosine.numpy(), channels.polysemantic(gamma)
    shown, guided = found[:MOST_CHANNELS], len(cosines) and has_anything(guide)
    counted = (3.6 if len(cosines) else 1.8) if sheet.narrow else 2.3
    rows = (0.27 if sheet.width is None else 0.23) * len(shown) + 0.85
    heights = [counted, *([2.5 if sheet.narrow else 1.9] if guided else []), *([rows] if shown else [])]
    if not shown:
        subtitle += f"; no pair is under γ = {gamma:g}" if len(cosines) else "; no channel is relevant for two classes"
    figure, parts = titled_parts(7.0 if len(cosines) else 4.2, heights, title, subtitle, sheet)
    number = 2 if len(cosines) else 1
    panels = parts[0].subplots(*((number, 1) if sheet.narrow else (1, number)), squeeze=False).ravel()
    _draw_class_counts(panels[0], channels.num_classes, sheet)
    if len(cosines):
        _draw_cosines(panels[1], cosines, gamma, sheet)
    if guided:
        draw_gamma(parts[1].subplots(), guide, gamma, sheet)
    if shown:
        _draw_channels(parts[-1], channels, shown, len(found), gamma, name, sheet)
    return figure


def _draw_class_counts(axes, num_classes, sheet):
    """A bar for every number of classes, the large ones gathered in the last."""
    counts = np.bincount(np.minimum(num_classes, MOST_CLASSES), minlength=3)
    labels = [str(number) for number in range(len(counts))]
    if max(num_classes) > MOST_CLASSES:
        labels[-1] = f"{MOST_CLASSES}–{max(num_classes)}"
    axes.bar_label(axes.bar(labels, counts, color=OTHER[0]), fontsize=sheet.type(7), padding=1)
    log = counts[0] > 5 * counts[1:].max() > 0  # else the others could not be seen
    axes.set_yscale("log" if log else "linear")
    count_on(axes.yaxis)
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(0.5 if log else 0, counts.max() * (3 if log else 1.12))
    label_axes(axes, "classes that a channel is relevant for", "channels (log scale)" if log else "channels", sheet)


def _draw_cosines(axes, cosines, gamma, sheet):
    """Histogram with gamma at the edge of a bin, so that each bar is on one side of it."""
    edges = gamma + BIN * np.arange(np.floor((-1 - gamma) / BIN) - 1, np.ceil((1 - gamma) / BIN) + 2)
    for colour, _, part, which in sides(cosines, gamma):
        label = f"{which} γ = {gamma:g}: {part.sum()}"
        axes.hist(cosines[part], edges, color=colour, edgecolor="white", linewidth=0.5, label=label)
    axes.set_xlim(min(cosines.min(), gamma, 0) - BIN, 1 + BIN)
    axes.axvline(gamma, color=SUBTLE, linewidth=1, linestyle="--")
    count_on(axes.yaxis)
    label_axes(axes, "cosine of two classes' ARVs", "pairs of classes", sheet)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=sheet.type(7), frameon=False)


def _draw_channels(figure, channels, shown, total, gamma, name, sheet):
    """A row a channel: the cosines of its pairs, the names of the two that differ most, and below them the others."""
    axes, text = figure.subplots(1, 2, width_ratios=(2, 3))
    text.set_axis_off()
    more = f" (the first {len(shown)} of {total}, all are in the table)" if total > len(shown) else ""
    title, size, small = f"polysemantic channels, lowest cosine first{more}", sheet.type(8), sheet.type(6.5)
    figure.suptitle(fitted(title, sheet.wide(7.0) - 0.2, sheet.type(9), lines=2), fontsize=sheet.type(9))
    pairs = [channels.pairs_of(channel) for channel in shown]
    x = np.concatenate([of_channel.cosine.numpy() for of_channel in pairs])
    rows = np.repeat(np.arange(len(shown)), list(map(len, pairs)))
    margin = 0.03 * (1 - x.min())
    axes.set(xlim=(min(x.min(), 0) - margin, 1 + margin), ylim=(len(shown) - 0.4, -0.6))
    text.set_ylim(axes.get_ylim())
    axes.set_yticks(range(len(shown)), shown)
    axes.hlines(range(len(shown)), *axes.get_xlim(), color="#dddddd", linewidth=0.5, zorder=0)
    axes.axvline(gamma, color=SUBTLE, linewidth=1, linestyle="--")
    label_axes(axes, "cosine of two classes' ARVs", "channel", sheet)
    lay_out(figure)
    draw_points(axes, x, rows, gamma)
    width = size_in_points(text)[0]
    for row, channel in enumerate(shown):
        _, first, second, _ = next(pairs[row][:1].rows())
        below = _groups_text(channels, channel, (first, second), name, width, small)
        both = " / ".join(fit(name(output), width / 2 - size, size) for output in (first, second))
        write_text(text, 0, row - 0.02, both, size, va="bottom" if below else "center")
        write_text(text, 0, row + 0.02, below, small, va="top", color=SUBTLE)


def _groups_text(channels, channel, extremes, name, width, size):
    """What a line in small print says of a channel: how its classes are grouped, beyond the two that differ most."""
    groups = channels.groups(channel)
    others = [fit(name(other), 0.7 * width, size) for other in channels.classes(channel) if other not in extremes]
    if len(groups) < 2:
        return fit_list(others, width, size, "one group, also " if others else "one group")
    if not others:
        return ""
    shown = sorted(sorted(groups, key=len, reverse=True)[:MOST_GROUPS])  # of equal size those of the smallest outputs
    more = f"the {MOST_GROUPS} largest of {len(groups)} groups: " if len(shown) < len(groups) else ""
    return fit_groups([[name(output) for output in group] for group in shown], width, size, more)
