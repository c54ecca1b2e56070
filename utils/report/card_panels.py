"""The panels of a channel card: densities of the activation, and fractions of the original channel.

Fractions are bars, or a table in colours where there are many. Each panel includes the text above and below its axes.
It is placed by its upper left corner and its height, in inches.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from utils.method.evaluation import Summary
from utils.report.layout import Page, line_height
from utils.report.plots import (
    GREY,
    HANDLE,
    SCALED,
    SUBTLE,
    activation_label,
    density_axes,
    density_limits,
    fitted,
    symbols,
    text_width,
    visible_densities,
)
from utils.report.sheets import Sheet

if TYPE_CHECKING:
    from utils.report.card import Card

MOST_BARS = 4  # concepts whose fractions are bars
GAP = 0.35  # between panels below the pictures
COLUMN_GAP = 0.2
BAR = 0.24  # least width of a bar, in inches
PRINTED_BAR = 0.15
COLUMN_BAR = 0.12
LEAST_AXES = 1.5  # height of the axes of fractions
COLUMN_AXES = 0.75
AXIS = 0.42  # room for ticks and numbers at the left of these axes
COLUMN_AXIS = 0.3
FRACTIONS = (-1.0, 2.0)  # limits of all axes of fractions; they grow by steps if a mean is outside
STEP = 0.5
CELL = 0.45  # largest height of a cell of the table
WIDE_CELL = 0.29  # width from which its numbers have two digits
ROW_NAME = 0.36  # share of the table's width for the names of its rows
BLACK = "#222222"
NEGATIVE = "#d55e00"
POSITIVE = "#0072b2"
NO_IMAGE = "no image to measure"


def _symbol(label: str) -> str:
    """``c'_1`` of "c'_1, for dogs", typeset as in the paper."""
    return symbols(label.split(",")[0])


def panel_gap(sheet: Sheet) -> float:
    """The distance of panels below the pictures."""
    return COLUMN_GAP if sheet.narrow else GAP


def panels_below(card: Card, sheet: Sheet, width: float) -> list[AnyPanel]:
    """The panels below the pictures, over their whole width: in a column of a paper only those that have room."""
    half = (width - panel_gap(sheet)) / 2
    if not sheet.narrow or Fractions.fit(card, sheet, half):
        return [Densities(card, sheet, half), fractions_panel(card, sheet, half)]
    return [fractions_panel(card, sheet, width)]


def fractions_panel(card: Card, sheet: Sheet, width: float | None = None) -> Fractions | FractionTable:
    """The panel of fractions in a width, by default as wide as it needs to be: bars if they fit, else a table."""
    return Fractions(card, sheet, width) if Fractions.fit(card, sheet, width) else FractionTable(card, sheet, width)


class Densities:
    """The panel of densities: axes for each concept's images, on one scale, below each other; many in two columns.

    Parameters
    ----------
    card : Card
    sheet : Sheet
    width : float
        Width of the panel, in inches.
    """

    def __init__(self, card: Card, sheet: Sheet, width: float) -> None:
        self.card = card
        self.sheet = sheet
        self.width = width
        self.densities, scaled = visible_densities(card.densities)
        self.limits = density_limits(self.densities)
        self.across = 1 if len(card.names) <= MOST_BARS else 2
        self.down = math.ceil(len(card.names) / self.across)
        self.each = 0.9 if sheet.width is None else 0.36 if sheet.narrow else 0.68  # height of axes with their title
        self.handle = 16 if sheet.narrow else HANDLE
        self.names = ["c" if sheet.narrow else "original", *map(_symbol, card.labels[1:])]
        size = sheet.type(7)
        widest = max(text_width(name, size) for name in self.names) + self.handle + 1.8 * size
        self.columns = max(1, min(len(self.names), int(72 * width / widest)))
        self.legend_height = line_height(size, math.ceil(len(self.names) / self.columns))
        label = activation_label(self.densities, self.limits) + (f"; {SCALED}" if scaled else "")
        self.label = fitted(label, width, sheet.type(8), 2)
        label_lines = self.label.count("\n") + 1.2
        self.axis_height = 0.1 + line_height(size, 1.2) + line_height(sheet.type(8), label_lines)  # ticks and label

    def height(self) -> float:
        """The least height of the panel."""
        return self.down * self.each + self.axis_height + self.legend_height

    def draw(self, page: Page, left: float, top: float, height: float) -> None:
        each = (height - self.axis_height - self.legend_height) / self.down
        axes_height = each - line_height(self.sheet.type(8), 1.4)  # without the title
        gap = 0.15 * (self.across - 1)
        width = (self.width - gap) / self.across
        number = len(self.densities)
        for k, (samples, (grid, curves)) in enumerate(self.densities):
            column, row = divmod(k, self.down)
            axes = page.axes(left + column * (width + gap), top - (row + 1) * each, width, axes_height)
            density_axes(axes, samples, grid, curves, colours=self.card.colours, limits=self.limits)
            last = row == self.down - 1 or k == number - 1
            axes.set(yticks=[], ylabel="")
            axes.tick_params(labelsize=self.sheet.type(7), bottom=last, labelbottom=last)
            self._draw_title(axes, k, width)
            if all(curve is None for curve in curves.values()):
                text = "one value, no density"
                axes.text(0.5, 0.6, text, transform=axes.transAxes, ha="center", fontsize=self.sheet.type(7))
        middle = left + self.width / 2
        label_size = self.sheet.type(8)
        lowest = top - self.down * each - self.axis_height
        page.text(middle, lowest + line_height(label_size, 0.2), self.label, label_size, va="bottom")
        self._draw_legend(page, middle, lowest)

    def _draw_title(self, axes: Axes, k: int, width: float) -> None:
        size = self.sheet.type(8)
        samples, _ = self.card.densities[k]
        count = f", n = {len(samples[self.card.labels[0]])}"
        before = "" if self.sheet.narrow or self.across > 1 else "images of "
        name = fitted(f"{before}{self.card.names[k]}", width - text_width(count, size) / 72, size)
        axes.set_title(name + count, fontsize=size, color=self.card.colour_of(k), pad=3, parse_math=False)

    def _draw_legend(self, page: Page, middle: float, top: float) -> None:
        """Draw the legend of the channels, centred below ``top``."""
        size = self.sheet.type(7)
        page.figure.legend(
            handles=[Line2D([], [], color=colour, linestyle=cast(Any, line)) for colour, line in self.card.colours],
            labels=self.names,
            fontsize=size,
            ncols=self.columns,
            loc="upper center",
            bbox_to_anchor=(middle / page.width, top / page.height),
            columnspacing=1.2,
            handlelength=self.handle / size,
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


def _measured(card: Card) -> list[int]:
    """The concepts (from 0) that have an image in which fractions were measured."""
    return [k for k, summary in enumerate(card.summaries) if summary.counted]


def _without_image(card: Card) -> str:
    """The names of the concepts that have none."""
    names = [name for name, summary in zip(card.names, card.summaries, strict=True) if not summary.counted]
    return f"{NO_IMAGE}: {', '.join(names)}" if names else ""


def _num_bars(card: Card) -> int:
    """The new channels, and the residual if it is shown."""
    return len(card.labels) - 1 + card.residual


class Fractions:
    """The panel of fractions: a group of bars for the images of each concept.

    A bar shows the mean, with the standard deviation and a dot for each image. Concepts without a measured image are
    named.

    Parameters
    ----------
    card : Card
    sheet : Sheet
    width : float, optional
        Width of the panel, in inches; default: wide enough for all groups.
    """

    def __init__(self, card: Card, sheet: Sheet, width: float | None = None) -> None:
        self.card = card
        self.sheet = sheet
        self.limits = fraction_limits(card.summaries)
        self.num_bars = _num_bars(card)
        self.shown = _measured(card)
        self.axis = COLUMN_AXIS if sheet.narrow else AXIS
        self.width = width or AXIS + max(2.7, BAR * (self.num_bars + 1) * len(card.names))
        self.group_width = (self.width - self.axis) / max(1, len(self.shown))
        words = (
            "mean fraction of c ± s.d."
            if sheet.narrow
            else "fraction of the original channel: mean ± s.d., one dot per image"
        )
        self.title = fitted(words, self.width, sheet.type(8), 3)
        notes = [_without_image(card), "" if sheet.narrow else card.fractions_note]
        size = sheet.type(7)
        self.note = "\n".join(fitted(note, self.width, size, 5) for note in notes if note)
        self.title_height = line_height(sheet.type(8), self.title.count("\n") + 1.2)
        note_lines = self.note.count("\n") + 1.2 if self.note else 0.3
        self.height_above = self.title_height + line_height(size, note_lines)
        lines = max([self._caption(k).count("\n") for k in self.shown], default=0)
        self.height_below = line_height(size, lines + 2.6)

    @classmethod
    def fit(cls, card: Card, sheet: Sheet, width: float | None) -> bool:
        """Whether there is room for the bars of all concepts; a screen without a ``width`` has room for some."""
        if width is None or len(card.names) > MOST_BARS:
            return len(card.names) <= MOST_BARS
        bar, axis = (COLUMN_BAR, COLUMN_AXIS) if sheet.narrow else (PRINTED_BAR, AXIS)
        return bar * (_num_bars(card) + 1) * len(card.names) <= width - axis

    def _caption(self, k: int) -> str:
        """The text below the bars of a concept."""
        low, high = self.limits
        outside = int(((self.card.fractions[k] < low) | (self.card.fractions[k] > high)).sum())
        before = "" if self.sheet.narrow else "images of "
        name = fitted(f"{before}{self.card.names[k]}", self.group_width - 0.05, self.sheet.type(7), lines=3)
        dots = f"\n{outside} dots outside" if outside and not self.sheet.narrow else ""
        return f"{name}\nn = {self.card.summaries[k].counted}{dots}"

    def height(self) -> float:
        """The least height of the panel."""
        return self.height_above + self.height_below + (COLUMN_AXES if self.sheet.narrow else LEAST_AXES)

    def draw(self, page: Page, left: float, top: float, height: float) -> None:
        middle = left + self.width / 2
        page.text(middle, top, self.title, self.sheet.type(8), va="top")
        page.text(middle, top - self.title_height, self.note, self.sheet.type(7), va="top", color=SUBTLE)
        if not self.shown:
            return
        axes_height = height - self.height_above - self.height_below
        bottom = top - self.height_above - axes_height
        axes = page.axes(left + self.axis, bottom, self.width - self.axis, axes_height)
        ticks: list[float] = []
        for number, k in enumerate(self.shown):
            x = number * (self.num_bars + 1) + np.arange(self.num_bars)
            ticks += x.tolist()
            self._draw_group(axes, k, x)
        size = self.sheet.type(7)
        names = [*map(_symbol, self.card.labels[1:]), *(["r"] if self.card.residual else [])]
        axes.set_xticks(ticks, names * len(self.shown), fontsize=size)
        axes.tick_params(axis="x", length=0)
        axes.tick_params(axis="y", labelsize=size)
        if self.sheet.narrow:
            axes.set_yticks([tick for tick in (-2, -1, 0, 1, 2, 3) if self.limits[0] <= tick <= self.limits[1]])
        for level, style in ((0, "-"), (1, ":")):
            axes.axhline(level, color=BLACK, linewidth=0.8, linestyle=style, zorder=0.5)
        axes.set(xlim=(-1, ticks[-1] + 1), ylim=self.limits)
        axes.spines[["top", "right", "bottom"]].set_visible(False)

    def _draw_group(self, axes: Axes, k: int, x: np.ndarray) -> None:
        """Draw the bars of a concept at ``x``, and their caption."""
        card = self.card
        size = self.sheet.type(7)
        colours = [*(colour for colour, _ in card.colours[1:]), *([GREY] if card.residual else [])]
        _draw_bars(axes, x, card.summaries[k], card.fractions[k], colours=colours, limits=self.limits)
        axes.annotate(
            self._caption(k),
            (x.mean(), 0),
            (0, -1.6 * size),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=size,
            color=card.colour_of(k),
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


class FractionTable:
    """The panel of fractions of many concepts: a row for the images of each, a column for each new channel.

    A cell has the mean fraction as a number and a colour, blue above and orange below 0; a concept's own channel is
    framed. Concepts without a measured image are named.

    Parameters
    ----------
    card : Card
    sheet : Sheet
    width : float, optional
        Width of the panel, in inches.
    """

    def __init__(self, card: Card, sheet: Sheet, width: float | None = None) -> None:
        self.card = card
        self.sheet = sheet
        self.width = width or 4.5
        self.size = sheet.type(7)
        self.shown = _measured(card)
        self.name_width = ROW_NAME * self.width
        self.cell_width = (self.width - self.name_width) / _num_bars(card)
        words = "mean fraction of the original channel, by concept of the images"
        self.title = fitted(words, self.width, sheet.type(8), 2)
        self.note = fitted(_without_image(card), self.width, self.size, 5)
        self.title_height = line_height(sheet.type(8), self.title.count("\n") + 1.2)
        self.head_height = line_height(self.size, 1.4)
        self.note_height = line_height(self.size, self.note.count("\n") + 1.6) if self.note else 0.05

    def height(self) -> float:
        """The least height of the panel."""
        cells = len(self.shown) * line_height(self.size, 1.25)
        return self.title_height + self.head_height + cells + self.note_height

    def draw(self, page: Page, left: float, top: float, height: float) -> None:
        page.text(left + self.width / 2, top, self.title, self.sheet.type(8), va="top")
        upper = top - self.title_height - self.head_height
        room = height - self.title_height - self.head_height - self.note_height
        cell = min(CELL, room / max(1, len(self.shown)))
        bottom = upper - cell * len(self.shown)
        page.text(left + self.width / 2, bottom - 0.05, self.note, self.size, va="top", color=SUBTLE)
        if not self.shown:
            return
        num_channels = _num_bars(self.card)
        axes = page.axes(left + self.name_width, bottom, self.width - self.name_width, cell * len(self.shown))
        axes.set(xlim=(0, num_channels), ylim=(len(self.shown), 0), yticks=[])
        names = [*map(_symbol, self.card.labels[1:]), *(["r"] if self.card.residual else [])]
        axes.set_xticks(np.arange(num_channels) + 0.5, names, fontsize=self.size)
        axes.tick_params(length=0, labeltop=True, labelbottom=False, pad=1)
        axes.spines[:].set_visible(False)
        for row, k in enumerate(self.shown):
            self._draw_row(axes, row, k)
            words = f", n = {self.card.summaries[k].counted}"
            name = fitted(self.card.names[k], self.name_width - 0.08 - text_width(words, self.size) / 72, self.size)
            middle = bottom + cell * (len(self.shown) - row - 0.5)
            colour = self.card.colour_of(k)
            right = left + self.name_width - 0.06
            page.text(right, middle, name + words, self.size, color=colour, ha="right", va="center")

    def _draw_row(self, axes: Axes, row: int, k: int) -> None:
        """Draw the cells of the images of a concept."""
        digits = 2 if self.cell_width >= WIDE_CELL else 1
        for column, mean in enumerate(self.card.summaries[k].mean.tolist()):
            colour = POSITIVE if mean > 0 else NEGATIVE
            corner = (column + 0.03, row + 0.05)
            axes.add_patch(Rectangle(corner, 0.94, 0.9, color=colour, alpha=min(1, abs(mean)) * 0.6, linewidth=0))
            text = f"{mean:.{digits}f}"
            text = text.replace("-", "−") if float(text) else text.removeprefix("-")
            axes.text(column + 0.5, row + 0.52, text, fontsize=self.size, ha="center", va="center_baseline")
        axes.add_patch(Rectangle((k + 0.03, row + 0.05), 0.94, 0.9, fill=False, edgecolor=BLACK, linewidth=1))


AnyPanel = Densities | Fractions | FractionTable
