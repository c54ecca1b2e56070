"""The two panels of a channel card: densities of the activation, and fractions of the original channel.

Both have room for what is written above and below their axes: they are placed by their upper left corner, their width
and their height, in inches.
"""

import math

import numpy as np

from utils.report.layout import line_height
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

BAR, PRINTED_BAR = 0.24, 0.15  # at least
LEAST_AXES, AXIS = 1.5, 0.42  # height of the axes of fractions; room for ticks and numbers at their left
FRACTIONS, STEP = (-1.0, 2.0), 0.5  # what all axes of fractions show; they grow by steps where a mean lies outside
BLACK = "#222222"


def _symbol(label):
    """``c'_1`` of "c'_1, for dogs", typeset as the paper does."""
    return symbols(label.split(",")[0])


class Densities:
    """One above the other, the densities in the images of each concept, on one scale."""

    def __init__(self, card, sheet, width, each):
        self.card, self.sheet, self.width, self.each = card, sheet, width, each
        self.names, size = ["original", *map(_symbol, card.labels[1:])], sheet.type(7)
        widest = max(text_width(name, size) for name in self.names) + HANDLE + 1.8 * size
        self.columns = max(1, min(len(self.names), int(72 * width / widest)))
        self.legend = line_height(size, math.ceil(len(self.names) / self.columns))
        self.axis = 0.1 + line_height(size, 1.2) + line_height(sheet.type(8), 1.2)  # ticks and label

    def height(self):
        """What it needs, with ``each`` for every concept."""
        return len(self.card.names) * self.each + self.axis + self.legend

    def draw(self, page, left, top, height):
        card, size, small = self.card, self.sheet.type(8), self.sheet.type(7)
        panels = list(zip(card.samples, card.curves, strict=True))
        limits, title = density_limits(panels), line_height(size, 1.4)
        each = (height - self.axis - self.legend) / len(panels)
        for k, (samples, curves) in enumerate(panels):
            axes = page.axes(left, top - (k + 1) * each, self.width, each - title)
            density_axes(axes, samples, *curves, colours=card.colours, limits=limits)
            axes.set(yticks=[], ylabel="")
            last = k == len(panels) - 1
            axes.tick_params(labelsize=small, bottom=last, labelbottom=last)
            count = f", n = {len(samples[card.labels[0]])}"
            said = fitted(f"images of {card.names[k]}", self.width - text_width(count, size) / 72, size) + count
            axes.set_title(said, fontsize=size, color=DISENTANGLED[k][0], pad=3, parse_math=False)
            if not any(curve is not None for curve in curves[1].values()):
                axes.text(0.5, 0.6, "one value, no density", transform=axes.transAxes, ha="center", fontsize=small)
        axes.set_xlabel("activation, summed over space", fontsize=size, labelpad=2)
        handles = [axes.plot([], [], color=colour, linestyle=line)[0] for colour, line in card.colours]
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, -(self.axis - 0.05) / (each - title))}
        spaces = {"columnspacing": 1.2, "handlelength": HANDLE / small, "labelspacing": 0.3, "handletextpad": 0.5}
        none = {"frameon": False, "borderaxespad": 0, "borderpad": 0}
        axes.legend(handles, self.names, fontsize=small, ncols=self.columns, **place, **spaces, **none)


# --------------------------------------------------------------------------------------------------------------------
# Fractions


def fraction_limits(summaries):
    """The limits of axes of fractions: the same for all cards, unless a mean lies outside."""
    means = np.concatenate([summary.mean for summary in summaries])
    means = means[np.isfinite(means)]
    low, high = FRACTIONS
    while len(means) and means.min() < low:
        low -= STEP
    while len(means) and means.max() > high:
        high += STEP
    return low, high


class Fractions:
    """Mean, standard deviation and single images' fractions, a group of bars for the images of each concept.

    As many groups as ``width`` has room for stand beside each other, the others in lines below.
    """

    def __init__(self, card, sheet, width=None):
        self.card, self.sheet = card, sheet
        self.num_bars = len(card.labels) - 1 + card.residual
        group, number = (BAR if sheet.width is None else PRINTED_BAR) * (self.num_bars + 1), len(card.names)
        self.width = width or AXIS + max(2.7, group * number)
        lines = math.ceil(number / max(1, int((self.width - AXIS) / group + 1e-6)))
        beside = math.ceil(number / lines)
        self.lines = [range(number)[start : start + beside] for start in range(0, number, beside)]
        self.each, self.limits = (self.width - AXIS) / beside, fraction_limits(card.summaries)
        text = "fraction of the original channel: mean ± s.d., a dot an image"
        self.title = fitted(text, self.width, sheet.type(8), 3)
        self.note = fitted(card.fractions_note, self.width, sheet.type(7), 5)
        self.head = line_height(sheet.type(8), self.title.count("\n") + 1.2)
        self.above = self.head + line_height(sheet.type(7), self.note.count("\n") + 1.2)
        notes = [[self._words(k).count("\n") + 2.6 for k in line] for line in self.lines]
        self.below = [line_height(sheet.type(7), max(counts)) for counts in notes]

    def _words(self, k):
        """What is written below the bars of a concept."""
        low, high = self.limits
        outside = int(((self.card.fractions[k] < low) | (self.card.fractions[k] > high)).sum())
        name = fitted(f"images of {self.card.names[k]}", self.each - 0.05, self.sheet.type(7), lines=3)
        return f"{name}\nn = {self.card.summaries[k].counted}" + (f"\n{outside} dots outside" if outside else "")

    def height(self):
        """What it needs, with axes that are as low as can be."""
        return self.above + sum(self.below) + len(self.lines) * LEAST_AXES

    def draw(self, page, left, top, height):
        middle, sheet = left + self.width / 2, self.sheet
        page.text(middle, top, self.title, sheet.type(8), va="top")
        page.text(middle, top - self.head, self.note, sheet.type(7), va="top", color=SUBTLE)
        tall, upper = (height - self.above - sum(self.below)) / len(self.lines), top - self.above
        for line, below in zip(self.lines, self.below, strict=True):
            self._draw_groups(page.axes(left + AXIS, upper - tall, self.each * len(line), tall), line)
            upper -= tall + below

    def _draw_groups(self, axes, line):
        card, size, ticks = self.card, self.sheet.type(7), []
        colours = [*(colour for colour, _ in card.colours[1:]), *([GREY] if card.residual else [])]
        for number, k in enumerate(line):
            places = number * (self.num_bars + 1) + np.arange(self.num_bars)
            ticks += places.tolist()
            if card.summaries[k].counted:
                _draw_bars(axes, places, card.summaries[k], card.fractions[k], colours, self.limits)
            else:
                axes.text(places.mean(), 0.5, "no image\nto measure", fontsize=size, ha="center", va="center")
            axes.annotate(self._words(k), (places.mean(), 0), (0, -1.6 * size), xycoords=("data", "axes fraction"),
                          textcoords="offset points", ha="center", va="top", fontsize=size,
                          color=DISENTANGLED[k][0], parse_math=False)  # fmt: skip
        labels = [*map(_symbol, card.labels[1:]), *(["r"] if card.residual else [])]
        axes.set_xticks(ticks, labels * len(line), fontsize=size)
        axes.tick_params(axis="x", length=0)
        axes.tick_params(axis="y", labelsize=size)
        for level, style in ((0, "-"), (1, ":")):
            axes.axhline(level, color=BLACK, linewidth=0.8, linestyle=style, zorder=0.5)
        axes.set(xlim=(-1, ticks[-1] + 1), ylim=self.limits)
        axes.spines[["top", "right", "bottom"]].set_visible(False)


def _draw_bars(axes, places, summary, fractions, colours, limits):
    """A bar for the mean of each channel; over it a dot for each image, in a strip; over these mean and deviation."""
    axes.bar(places, summary.mean, color=colours, width=0.8, alpha=0.4, zorder=1)
    strip = 0.6 * ((np.arange(len(fractions)) * (math.sqrt(5) - 1) / 2) % 1 - 0.5)  # evenly spread, without chance
    dot = {"linestyle": "none", "markersize": 2.2, "markeredgewidth": 0, "alpha": 0.7, "zorder": 2}
    for place, column, colour in zip(places, fractions.T, colours, strict=True):
        across = place + strip[np.argsort(np.argsort(column, kind="stable"), kind="stable")]
        low, high = limits
        for part, marker in ((column < low, "v"), ((column >= low) & (column <= high), "o"), (column > high, "^")):
            axes.plot(across[part], np.clip(column[part], low, high), marker, color=colour, clip_on=False, **dot)
    axes.errorbar(places, summary.mean, summary.std, linestyle="none", ecolor=BLACK, elinewidth=1, capsize=2, zorder=3)
    axes.hlines(summary.mean, places - 0.4, places + 0.4, color=BLACK, linewidth=1.4, zorder=4)
