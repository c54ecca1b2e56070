"""Overview of a layer: how many classes its channels are relevant for, and the classes of the polysemantic ones."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
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
from utils.report.layer_tables import ChannelClasses
from utils.report.plots import SUBTLE, fitted
from utils.report.sheets import SCREEN, Sheet, Titles

MOST_CLASSES = 10
MOST_CHANNELS = 20
MOST_GROUPS = 8
BIN = 0.05


def overview_figure(
    channels: ChannelClasses,
    gamma: float,
    guide: dict[str, Any],
    *,
    name: Callable[[int], str],
    titles: Titles,
    sheet: Sheet = SCREEN,
) -> Figure:
    """Numbers of classes, cosines of all pairs, diagnostics for choosing gamma, and the polysemantic channels.

    Panels that would be empty are left out.

    Parameters
    ----------
    channels
    gamma
    guide
        From ``stages.gamma_diagnostics.gamma_guide``.
    name
        The name of a class's output.
    titles
    sheet
    """
    cosines = channels.pairs.cosine.numpy()
    polysemantic = channels.polysemantic(gamma)
    shown = polysemantic[:MOST_CHANNELS]
    guided = bool(len(cosines)) and has_anything(guide)
    first_height = (3.6 if len(cosines) else 1.8) if sheet.narrow else 2.3
    rows_height = (0.27 if sheet.width is None else 0.23) * len(shown) + 0.85
    heights = [first_height, *([2.5 if sheet.narrow else 1.9] if guided else []), *([rows_height] if shown else [])]
    subtitle = titles.subtitle
    if not shown:
        subtitle += f"; no pair is under γ = {gamma:g}" if len(cosines) else "; no channel is relevant for two classes"
    width = 7.0 if len(cosines) else 4.2
    figure, parts = titled_parts(width, heights, Titles(titles.title, subtitle), sheet)
    number = 2 if len(cosines) else 1
    panels = parts[0].subplots(*((number, 1) if sheet.narrow else (1, number)), squeeze=False).ravel()
    _draw_class_counts(panels[0], channels.num_classes, sheet)
    if len(cosines):
        _draw_cosines(panels[1], cosines, gamma, sheet)
    if guided:
        draw_gamma(parts[1].subplots(), guide, gamma, sheet)
    if shown:
        parts[-1].suptitle(_channels_title(len(shown), len(polysemantic), sheet), fontsize=sheet.type(9))
        _draw_channels(parts[-1], channels, shown, gamma, name=name, sheet=sheet)
    return figure


def _draw_class_counts(axes: Axes, num_classes: Sequence[int], sheet: Sheet) -> None:
    """A bar for every number of classes; the last one is for all large numbers."""
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


def _draw_cosines(axes: Axes, cosines: np.ndarray, gamma: float, sheet: Sheet) -> None:
    """Histogram with gamma at the edge of a bin, so that each bar is on one side of it."""
    edges = gamma + BIN * np.arange(np.floor((-1 - gamma) / BIN) - 1, np.ceil((1 - gamma) / BIN) + 2)
    for side in sides(cosines, gamma):
        label = f"{side.name} γ = {gamma:g}: {side.members.sum()}"
        axes.hist(
            cosines[side.members], edges.tolist(), color=side.colour, edgecolor="white", linewidth=0.5, label=label
        )
    axes.set_xlim(min(cosines.min(), gamma, 0) - BIN, 1 + BIN)
    axes.axvline(gamma, color=SUBTLE, linewidth=1, linestyle="--")
    count_on(axes.yaxis)
    label_axes(axes, "cosine of two classes' ARVs", "pairs of classes", sheet)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=sheet.type(7), frameon=False)


def _channels_title(shown: int, total: int, sheet: Sheet) -> str:
    more = f" (the first {shown} of {total}, all are in the table)" if total > shown else ""
    title = f"polysemantic channels, lowest cosine first{more}"
    return fitted(title, sheet.wide(7.0) - 0.2, sheet.type(9), lines=2)


def _draw_channels(
    figure: SubFigure,
    channels: ChannelClasses,
    shown: list[int],
    gamma: float,
    *,
    name: Callable[[int], str],
    sheet: Sheet,
) -> None:
    """A row for each channel: the cosines of its pairs, the two classes that differ most, and the others below."""
    axes, text = figure.subplots(1, 2, width_ratios=(2, 3))
    text.set_axis_off()
    size = sheet.type(8)
    small = sheet.type(6.5)
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
        below = _groups_text(channels, channel, (first, second), name=name, width=width, size=small)
        both = " / ".join(fit(name(output), width / 2 - size, size) for output in (first, second))
        write_text(text, 0, row - 0.02, both, size, va="bottom" if below else "center")
        write_text(text, 0, row + 0.02, below, small, va="top", color=SUBTLE)


def _groups_text(
    channels: ChannelClasses,
    channel: int,
    extremes: tuple[int, int],
    *,
    name: Callable[[int], str],
    width: float,
    size: float,
) -> str:
    """A line in small print on a channel: the groups of its classes, or its classes besides the two ``extremes``."""
    groups = channels.groups(channel)
    others = [fit(name(output), 0.7 * width, size) for output in channels.classes(channel) if output not in extremes]
    if len(groups) < 2:
        return fit_list(others, width, size, "one group, also " if others else "one group")
    if not others:
        return ""
    shown = sorted(sorted(groups, key=len, reverse=True)[:MOST_GROUPS])  # of equal size those of the smallest outputs
    more = f"the {MOST_GROUPS} largest of {len(groups)} groups: " if len(shown) < len(groups) else ""
    return fit_groups([[name(output) for output in group] for group in shown], width, size, more)
