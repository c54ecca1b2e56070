"""The two panels of a channel card: densities of the activation, and fractions of the original channel.

Each panel includes the text above and below its axes. It is placed by its upper left corner and its height, in inches.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes

from utils.method.evaluation import Summary
from utils.report.layout import Page, line_height
from utils.report.plots import (
    DISENTANGLED,
    GREY,
    HANDLE,
    SUBTLE,
    density_axes,
    density_limits,
    fitted,
    symbols,
    text_width,
)
from utils.report.sheets import Sheet

if TYPE_CHECKING:
    from utils.report.card import Card

BAR = 0.24  # least width of a bar, in inches
PRINTED_BAR = 0.15
LEAST_AXES = 1.5  # height of the axes of fractions
AXIS = 0.42  # room for ticks and numbers at the left of these axes
FRACTIONS = (-1.0, 2.0)  # limits of all axes of fractions; they grow by steps if a mean is outside
STEP = 0.5
BLACK = "#222222"


def _symbol(label: str) -> str:
    """``c'_1`` of "c'_1, for dogs", typeset as in the paper."""
    return symbols(label.split(",")[0])


class Densities:
    """The panel of densities: the axes of all concepts' images, below each other, on one scale.

    Parameters
    ----------
    card : Card
    sheet : Sheet
    width : float
        Width of the panel, in inches.
    each : float
        Least height of the axes of one concept with their title, in inches.
    """

    def __init__(self, card: Card, sheet: Sheet, width: float, each: float) -> None:
        self.card = card
        self.sheet = sheet
        self.width = width
        self.each = each
        self.names = ["original", *map(_symbol, card.labels[1:])]
        size = sheet.type(7)
        widest = max(text_width(name, size) for name in self.names) + HANDLE + 1.8 * size
        self.columns = max(1, min(len(self.names), int(72 * width / widest)))
        self.legend_height = line_height(size, math.ceil(len(self.names) / self.columns))
        self.axis_height = 0.1 + line_height(size, 1.2) + line_height(sheet.type(8), 1.2)  # ticks and label

    def height(self) -> float:
        """The least height of the panel."""
        return len(self.card.names) * self.each + self.axis_height + self.legend_height

    def draw(self, page: Page, left: float, top: float, height: float) -> None:
        densities = self.card.densities
        limits = density_limits(densities)
        each = (height - self.axis_height - self.legend_height) / len(densities)
        axes_height = each - line_height(self.sheet.type(8), 1.4)  # without the title
        for k in range(len(densities)):
            axes = page.axes(left, top - (k + 1) * each, self.width, axes_height)
            samples, (grid, curves) = densities[k]
            density_axes(axes, samples, grid, curves, colours=self.card.colours, limits=limits)
            last = k == len(densities) - 1
            axes.set(yticks=[], ylabel="")
            axes.tick_params(labelsize=self.sheet.type(7), bottom=last, labelbottom=last)
            self._draw_title(axes, k)
            if all(curve is None for curve in curves.values()):
                text = "one value, no density"
                axes.text(0.5, 0.6, text, transform=axes.transAxes, ha="center", fontsize=self.sheet.type(7))
        axes.set_xlabel("activation, summed over space", fontsize=self.sheet.type(8), labelpad=2)
        self._draw_legend(axes, axes_height)

    def _draw_title(self, axes: Axes, k: int) -> None:
        size = self.sheet.type(8)
        samples, _ = self.card.densities[k]
        count = f", n = {len(samples[self.card.labels[0]])}"
        name = fitted(f"images of {self.card.names[k]}", self.width - text_width(count, size) / 72, size)
        axes.set_title(name + count, fontsize=size, color=DISENTANGLED[k][0], pad=3, parse_math=False)

    def _draw_legend(self, axes: Axes, axes_height: float) -> None:
        """Draw the legend of the channels below the last axes."""
        size = self.sheet.type(7)
        axes.legend(
            [axes.plot([], [], color=colour, linestyle=line)[0] for colour, line in self.card.colours],
            self.names,
            fontsize=size,
            ncols=self.columns,
            loc="upper center",
            bbox_to_anchor=(0.5, -(self.axis_height - 0.05) / axes_height),
            columnspacing=1.2,
            handlelength=HANDLE / size,
            labelspacing=0.3,
            handletextpad=0.5,
            frameon=False,
            borderaxespad=0,
            borderpad=0,
        )


# --------------------------------------------------------------------------------------------------------------------
# Fractions


def fraction_limits(summaries: list[Summary]) -> tuple[float, float]:
    """The limits of axes of fractions: the same for all cards, unless a mean is outside."""
    means = np.concatenate([summary.mean for summary in summaries])
    means = means[np.isfinite(means)]
    low, high = FRACTIONS
    while len(means) and means.min() < low:
        low -= STEP
    while len(means) and means.max() > high:
        high += STEP
    return low, high


class Fractions:
    """The panel of fractions: a group of bars for the images of each concept.

    A bar shows the mean, with the standard deviation and a dot for each image. As many groups as fit into the width are
    side by side; the others follow in lines below.

    Parameters
    ----------
    card : Card
    sheet : Sheet
    width : float, optional
        Width of the panel, in inches; default: wide enough for all groups in one line.
    """

    def __init__(self, card: Card, sheet: Sheet, width: float | None = None) -> None:
        self.card = card
        self.sheet = sheet
        self.limits = fraction_limits(card.summaries)
        self.num_bars = len(card.labels) - 1 + card.residual
        least_group_width = (BAR if sheet.width is None else PRINTED_BAR) * (self.num_bars + 1)
        num_groups = len(card.names)
        self.width = width or AXIS + max(2.7, least_group_width * num_groups)
        num_lines = math.ceil(num_groups / max(1, int((self.width - AXIS) / least_group_width + 1e-6)))
        groups_per_line = math.ceil(num_groups / num_lines)
        self.lines = [
            range(num_groups)[start : start + groups_per_line] for start in range(0, num_groups, groups_per_line)
        ]
        self.group_width = (self.width - AXIS) / groups_per_line
        self.title = fitted(
            "fraction of the original channel: mean ± s.d., a dot an image", self.width, sheet.type(8), 3
        )
        self.note = fitted(card.fractions_note, self.width, sheet.type(7), 5)
        self.title_height = line_height(sheet.type(8), self.title.count("\n") + 1.2)
        self.height_above = self.title_height + line_height(sheet.type(7), self.note.count("\n") + 1.2)
        text_lines = [[self._caption(k).count("\n") + 2.6 for k in line] for line in self.lines]
        self.heights_below = [line_height(sheet.type(7), max(counts)) for counts in text_lines]

    def _caption(self, k: int) -> str:
        """The text below the bars of a concept."""
        low, high = self.limits
        outside = int(((self.card.fractions[k] < low) | (self.card.fractions[k] > high)).sum())
        name = fitted(f"images of {self.card.names[k]}", self.group_width - 0.05, self.sheet.type(7), lines=3)
        return f"{name}\nn = {self.card.summaries[k].counted}" + (f"\n{outside} dots outside" if outside else "")

    def height(self) -> float:
        """The least height of the panel."""
        return self.height_above + sum(self.heights_below) + len(self.lines) * LEAST_AXES

    def draw(self, page: Page, left: float, top: float, height: float) -> None:
        middle = left + self.width / 2
        page.text(middle, top, self.title, self.sheet.type(8), va="top")
        page.text(middle, top - self.title_height, self.note, self.sheet.type(7), va="top", color=SUBTLE)
        axes_height = (height - self.height_above - sum(self.heights_below)) / len(self.lines)
        upper = top - self.height_above
        for line, height_below in zip(self.lines, self.heights_below, strict=True):
            axes = page.axes(left + AXIS, upper - axes_height, self.group_width * len(line), axes_height)
            self._draw_groups(axes, line)
            upper -= axes_height + height_below

    def _draw_groups(self, axes: Axes, line: range) -> None:
        ticks: list[float] = []
        for number, k in enumerate(line):
            x = number * (self.num_bars + 1) + np.arange(self.num_bars)
            ticks += x.tolist()
            self._draw_group(axes, k, x)
        size = self.sheet.type(7)
        names = [*map(_symbol, self.card.labels[1:]), *(["r"] if self.card.residual else [])]
        axes.set_xticks(ticks, names * len(line), fontsize=size)
        axes.tick_params(axis="x", length=0)
        axes.tick_params(axis="y", labelsize=size)
        for level, style in ((0, "-"), (1, ":")):
            axes.axhline(level, color=BLACK, linewidth=0.8, linestyle=style, zorder=0.5)
        axes.set(xlim=(-1, ticks[-1] + 1), ylim=self.limits)
        axes.spines[["top", "right", "bottom"]].set_visible(False)

    def _draw_group(self, axes: Axes, k: int, x: np.ndarray) -> None:
        """Draw the bars of a concept at ``x``, and their caption."""
        card = self.card
        size = self.sheet.type(7)
        if card.summaries[k].counted:
            colours = [*(colour for colour, _ in card.colours[1:]), *([GREY] if card.residual else [])]
            _draw_bars(axes, x, card.summaries[k], card.fractions[k], colours=colours, limits=self.limits)
        else:
            axes.text(x.mean(), 0.5, "no image\nto measure", fontsize=size, ha="center", va="center")
        axes.annotate(
            self._caption(k),
            (x.mean(), 0),
            (0, -1.6 * size),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=size,
            color=DISENTANGLED[k][0],
            parse_math=False,
        )


def _draw_bars(
    axes: Axes,
    x: np.ndarray,
    summary: Summary,
    fractions: np.ndarray,
    *,
    colours: list[str],
    limits: tuple[float, float],
) -> None:
    """Draw a bar for the mean of each channel, over it a dot for each image, and over these mean and deviation."""
    axes.bar(x, summary.mean, color=colours, width=0.8, alpha=0.4, zorder=1)
    low, high = limits
    strip = 0.6 * ((np.arange(len(fractions)) * (math.sqrt(5) - 1) / 2) % 1 - 0.5)  # evenly spread, not random
    dot: dict[str, Any] = {"linestyle": "none", "markersize": 2.2, "markeredgewidth": 0, "alpha": 0.7, "zorder": 2}
    for bar_x, values, colour in zip(x, fractions.T, colours, strict=True):
        across = bar_x + strip[np.argsort(np.argsort(values, kind="stable"), kind="stable")]
        inside = (values >= low) & (values <= high)
        for part, marker in ((values < low, "v"), (inside, "o"), (values > high, "^")):
            axes.plot(across[part], np.clip(values[part], low, high), marker, color=colour, clip_on=False, **dot)
    axes.errorbar(x, summary.mean, summary.std, linestyle="none", ecolor=BLACK, elinewidth=1, capsize=2, zorder=3)
    axes.hlines(summary.mean, x - 0.4, x + 0.4, color=BLACK, linewidth=1.4, zorder=4)
