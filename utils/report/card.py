"""The channel card: one figure of what a channel was and of what it has become."""

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from utils.report.plots import (
    DISENTANGLED,
    GREY,
    SUBTLE,
    density_axes,
    density_limits,
    fitted,
    framed,
    symbols,
)

# In inches: everything is placed by hand, so that nothing overlaps whatever the names and the number of concepts
PICTURE, GAP, COLUMNS, ROWS = 0.8, 0.07, 2, 3
BLOCK = COLUMNS * PICTURE + (COLUMNS - 1) * GAP
BLOCK_GAP, PANEL_GAP, MARGIN, TOP, BOTTOM = 0.3, 0.45, 0.15, 1.0, 0.85
DENSITY_WIDTH, DENSITY_HEIGHT, PANEL_TITLE, BAR = 2.7, 0.9, 0.26, 0.21


@dataclass
class Card:
    """What a channel card shows; K concepts, R channels: the original one, those of the concepts, perhaps one more.

    ``names`` [K] are the concepts', ``labels`` and ``colours`` [R] the channels'. ``patches`` [R] has the most
    activating patches as (picture [h, w, 3], concept from 0, or -1), ``patch_note`` is something to know about them,
    or None; ``visualizations`` [R] has lists of pictures, or is None. ``samples`` [K] has of each concept's images the
    spatial sums by label, as ``plots.density_axes`` takes them, ``curves`` [K] their (grid, densities); ``summaries``
    [K] are Summaries of the fractions of the R - 1 new channels and the residual.
    """

    channel: int
    subtitle: str
    names: list
    labels: list
    colours: list
    patches: list
    visualizations: list | None
    samples: list
    curves: list
    summaries: list
    patch_note: str | None = None


class Page:
    """A figure laid out in inches from its lower left corner."""

    def __init__(self, width, height):
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height))

    def axes(self, left, bottom, width, height):
        box = left / self.width, bottom / self.height, width / self.width, height / self.height
        return self.figure.add_axes(box)

    def text(self, left, bottom, text, size, **options):
        options = {"ha": "center", "parse_math": False, **options}
        self.figure.text(left / self.width, bottom / self.height, text, fontsize=size, **options)


def card_figure(card):
    """Draw a Card: patches of each channel, then densities and fractions in the images of each concept.

    Returns
    -------
    matplotlib.figure.Figure
    """
    num_concepts = len(card.names)
    pictures = ROWS * (PICTURE + GAP) + (-GAP if card.visualizations is None else PICTURE + PANEL_TITLE)
    height = max(pictures, num_concepts * DENSITY_HEIGHT)
    blocks = [MARGIN + k * (BLOCK + BLOCK_GAP) for k in range(len(card.labels))]
    densities = blocks[-1] + BLOCK + PANEL_GAP
    fractions = densities + DENSITY_WIDTH + PANEL_GAP + 0.2
    bars = max(2.4, BAR * (len(card.labels) + 1) * num_concepts)
    page = Page(fractions + bars + MARGIN, TOP + height + BOTTOM)
    each = (page.width - 1.8) / num_concepts - 0.5
    names = (" and " if num_concepts == 2 else ", ").join(fitted(name, each, 12) for name in card.names)
    title = f"Channel {card.channel}: {names}"
    page.text(page.width / 2, page.height - 0.3, title, 12)
    page.text(page.width / 2, page.height - 0.53, fitted(card.subtitle, page.width - 0.4, 8), 8, color=SUBTLE)
    for channel, left in enumerate(blocks):
        _pictures(page, card, channel, left, page.height - TOP)
    if card.patch_note is not None:
        width = blocks[-1] + BLOCK - MARGIN
        note = fitted(card.patch_note, width, 8, lines=2)
        page.text(MARGIN + width / 2, page.height - TOP - pictures - 0.1, note, 8, color=SUBTLE, va="top")
    _densities(page, card, densities, height)
    _fractions(page, card, fractions, bars, height)
    return page.figure


def _pictures(page, card, channel, left, top):
    """The patches of one channel, in rows from the upper left, under its name; visualizations below them."""
    (colour, _), label = card.colours[channel], card.labels[channel]
    page.text(
        left + BLOCK / 2, top + 0.09, symbols(fitted(label, BLOCK + 0.1, 9, lines=2)), 9, color=colour, parse_math=True
    )
    for place, (picture, concept) in enumerate(card.patches[channel]):
        row, column = divmod(place, COLUMNS)
        corner = left + column * (PICTURE + GAP), top - row * (PICTURE + GAP) - PICTURE
        _patch(page.axes(*corner, PICTURE, PICTURE), picture, concept)
    if card.visualizations is not None:
        below = top - ROWS * (PICTURE + GAP) - PANEL_TITLE
        page.text(left + BLOCK / 2, below + 0.08, "activation maximised", 7, color=SUBTLE)
        for column, picture in enumerate(card.visualizations[channel][:COLUMNS]):
            axes = page.axes(left + column * (PICTURE + GAP), below - PICTURE, PICTURE, PICTURE)
            framed(axes, picture, colour)


def _patch(axes, picture, concept):
    """A patch in its concept's colour; the concept's number tells it in grey print, too."""
    colour = DISENTANGLED[concept][0] if concept >= 0 else GREY
    framed(axes, picture, colour)
    if concept >= 0:
        box = {"facecolor": colour, "edgecolor": "none", "boxstyle": "square,pad=0.15"}
        place = {"transform": axes.transAxes, "ha": "left", "va": "top"}
        axes.text(0.03, 0.97, f"{concept + 1}", fontsize=6.5, color="white", bbox=box, **place)


def _densities(page, card, left, height):
    """One above the other, the densities in the images of each concept, on one scale of activations."""
    each = (height + PANEL_TITLE) / len(card.names) - PANEL_TITLE
    limits = [density_limits(samples, *curves) for samples, curves in zip(card.samples, card.curves, strict=True)]
    for k, (samples, curves) in enumerate(zip(card.samples, card.curves, strict=True)):
        bottom = BOTTOM + (len(card.names) - 1 - k) * (each + PANEL_TITLE)
        axes = page.axes(left, bottom, DENSITY_WIDTH, each)
        density_axes(axes, samples, *curves, card.colours)
        axes.set(xlim=(min(low for low, _ in limits), max(high for _, high in limits)), yticks=[], ylabel="")
        axes.tick_params(labelsize=7, labelbottom=k == len(card.names) - 1)
        _panel_title(axes, card, k)
        if not any(curve is not None for curve in curves[1].values()):
            axes.text(0.5, 0.6, "one value, no density", transform=axes.transAxes, ha="center", fontsize=7)
    axes.set_xlabel("activation, summed over space", fontsize=8)
    channels = ["original", *map(_symbol, card.labels[1:])]
    handles = [axes.plot([], [], color=colour, linestyle=line)[0] for colour, line in card.colours]
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.36 / each), "borderaxespad": 0}
    columns = {"ncols": min(len(channels), 5), "columnspacing": 1.2, "handlelength": 2.2}
    axes.legend(handles, channels, fontsize=7, frameon=False, **place, **columns)


def _symbol(label):
    """``c'_1`` of "c'_1, for dogs", typeset as the paper does."""
    return symbols(label.split(",")[0])


def _panel_title(axes, card, k):
    colour = DISENTANGLED[k][0]
    title = fitted(f"images of {card.names[k]}", DENSITY_WIDTH, 8)
    axes.set_title(title, fontsize=8, color=colour, pad=3, parse_math=False)


def _fractions(page, card, left, width, height):
    """Mean and standard deviation of the fractions, a group of bars for the images of each concept."""
    axes, num_concepts, num_bars = page.axes(left, BOTTOM, width, height), len(card.names), len(card.labels)
    colours = [*(colour for colour, _ in card.colours[1:]), GREY]
    labels = [*map(_symbol, card.labels[1:]), "$r$"]
    ticks = []
    for k, summary in enumerate(card.summaries):
        places = k * (num_bars + 1) + np.arange(num_bars)
        ticks += places.tolist()
        middle = places.mean()
        if summary.counted:
            error = {"ecolor": "#222222", "elinewidth": 1, "capsize": 2}
            axes.bar(places, summary.mean, yerr=summary.std, color=colours, width=0.8, error_kw=error)
        else:
            axes.text(middle, 0.5, "no image\nto measure", fontsize=7, ha="center", va="center")
        note = f"images of\n{fitted(card.names[k], BAR * (num_bars + 0.6), 7, lines=2)}\nn = {summary.counted}"
        axes.annotate(note, (middle, 0), (0, -18), xycoords=("data", "axes fraction"), textcoords="offset points",
                      ha="center", va="top", fontsize=7, color=DISENTANGLED[k][0], parse_math=False)  # fmt: skip
    axes.set_xticks(ticks, labels * num_concepts, fontsize=7)
    axes.tick_params(axis="x", length=0)
    axes.tick_params(axis="y", labelsize=7)
    for level, line in ((0, "-"), (1, ":")):
        axes.axhline(level, color="#222222", linewidth=0.8, linestyle=line, zorder=0.5)
    axes.set_xlim(-0.9, ticks[-1] + 0.9)
    axes.set_title("fraction of the original channel, mean ± s.d.", fontsize=8, pad=3)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
