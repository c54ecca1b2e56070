"""The channel card: one figure of what a channel was and of what it has become."""

import math
from dataclasses import dataclass

from utils.report.card_panels import Densities, Fractions
from utils.report.layout import Page, line_height
from utils.report.plots import DISENTANGLED, GREY, SUBTLE, fitted, framed, symbols
from utils.report.sheets import SCREEN

# In inches: everything is placed by hand, so that nothing overlaps whatever the names and the number of concepts
MARGIN, PANEL_GAP, PRINTED_GAP, PICTURE, MOST_BESIDE = 0.15, 0.45, 0.15, 0.8, 5
DENSITY_WIDTH, DENSITY_HEIGHT, PRINTED_DENSITY_HEIGHT = 3.0, 0.9, 0.68


@dataclass
class Card:
    """What a channel card shows; K concepts, R channels: the original one, those of the concepts, perhaps one more.

    ``names`` [K] are the concepts', ``labels`` and ``colours`` [R] the channels'. ``patches`` [R] has lists of Patch,
    ``patch_note`` says which they are. ``visualizations`` [R] has lists of (picture, what is written below), or is
    None. ``samples`` [K] has of each concept's images the spatial sums by label, ``curves`` [K] their (grid,
    densities), as ``plots.density_axes`` takes them. ``summaries`` [K] are Summaries of the fractions of the R - 1 new
    channels, and of the residual where ``residual``; ``fractions`` [K] those of the single images, [n, R - 1 or R];
    ``fractions_note`` says which of them follow from others.
    """

    channel: int
    subtitle: str
    names: list
    labels: list
    colours: list
    patches: list
    patch_note: str
    visualizations: list | None
    samples: list
    curves: list
    summaries: list
    fractions: list
    fractions_note: str
    residual: bool = True


@dataclass
class Blocks:
    """How the pictures of the channels are laid out: a block each, so many of them beside each other."""

    sheet: object
    columns: int
    rows: int
    beside: int
    picture: float
    gap: float
    name_lines: int
    label_lines: int

    @property
    def width(self):
        return self.columns * (self.picture + self.gap) - self.gap

    @property
    def label_height(self):
        return line_height(self.sheet.type(9), self.label_lines) + 0.05

    @property
    def row_height(self):
        """A row of patches, with the names of their classes below them."""
        return self.picture + line_height(self.sheet.type(6.5), self.name_lines) + self.gap

    def height(self, card):
        """Of one block."""
        below = 0 if card.visualizations is None else line_height(self.sheet.type(7)) + self.row_height + 0.05
        return self.label_height + self.rows * self.row_height + below

    def lines(self, card):
        """How many lines of blocks there are."""
        return math.ceil(len(card.labels) / self.beside)


def _blocks(card, sheet):
    """Blocks of six patches: two or three beside each other, or all of them in a column of a paper."""
    if sheet.narrow:
        gap = 0.04
        picture = (sheet.width - 2 * MARGIN + gap) / 6 - gap
        names = {patch.name for patches in card.patches for patch in patches}
        lines = max(len(fitted(name, picture, sheet.type(6.5), 2).split("\n")) for name in names)
        return Blocks(sheet, 6, 1, 1, picture, gap, lines, 1)
    if sheet.width:
        gap, block = 0.05, (sheet.width - 2 * MARGIN - 2 * 0.2) / 3
        return Blocks(sheet, 3, 2, 3, (block + gap) / 3 - gap, gap, 1, 2)
    lines = math.ceil(len(card.labels) / MOST_BESIDE)
    return Blocks(sheet, 2, 3, math.ceil(len(card.labels) / lines), PICTURE, 0.07, 1, 2)


def card_figure(card, sheet=SCREEN):
    """Draw a Card: patches of each channel, then densities and fractions in the images of each concept.

    Returns
    -------
    matplotlib.figure.Figure
    """
    blocks, small = _blocks(card, sheet), sheet.type(8)
    between = 0.3 if sheet.width is None else 0.2
    pictures_width = sheet.wide(blocks.beside * (blocks.width + between) - between + 2 * MARGIN) - 2 * MARGIN
    note = fitted(card.patch_note, pictures_width, small, lines=4)
    lines = blocks.lines(card)
    pictures = lines * (blocks.height(card) + 0.1) + line_height(small, note.count("\n") + 1)
    if sheet.width is None:
        panels = Densities(card, sheet, DENSITY_WIDTH, DENSITY_HEIGHT), Fractions(card, sheet)
        width = MARGIN + pictures_width + sum(PANEL_GAP + panel.width for panel in panels) + MARGIN
        height = max(pictures, *(panel.height() for panel in panels))
    else:
        room, width = sheet.width - 2 * MARGIN, sheet.width
        room = room if sheet.narrow else (room - PANEL_GAP) / 2
        panels = Densities(card, sheet, room, PRINTED_DENSITY_HEIGHT), Fractions(card, sheet, room)
        heights = [panel.height() for panel in panels]
        height = pictures + PRINTED_GAP + (sum(heights) + PRINTED_GAP if sheet.narrow else max(heights))
    title, subtitle, title_size = *_titles(card, sheet, width), sheet.type(12)
    top = MARGIN + line_height(title_size, title.count("\n") + 1) + line_height(small, subtitle.count("\n") + 1) + 0.1
    page = Page(width, height + top + 0.08)
    page.text(width / 2, page.height - 0.1, title, title_size, va="top")
    page.text(width / 2, page.height - top + 0.1, subtitle, small, color=SUBTLE, va="bottom")
    upper = page.height - top
    for channel in range(len(card.labels)):
        line, place = divmod(channel, blocks.beside)
        left = MARGIN + place * (blocks.width + between)
        _pictures(page, card, blocks, channel, left, upper - line * (blocks.height(card) + 0.1))
    middle, below = MARGIN + pictures_width / 2, upper - lines * (blocks.height(card) + 0.1)
    page.text(middle, below, note, small, color=SUBTLE, va="top")
    lower = upper - pictures - PRINTED_GAP
    if sheet.width is None:
        left = MARGIN + pictures_width + PANEL_GAP
        places = [(left, upper, height), (left + DENSITY_WIDTH + PANEL_GAP, upper, height)]
    elif sheet.narrow:
        places = [(MARGIN, lower, heights[0]), (MARGIN, lower - heights[0] - PRINTED_GAP, heights[1])]
    else:
        places = [(left, lower, max(heights)) for left in (MARGIN, width - MARGIN - room)]
    for panel, place in zip(panels, places, strict=True):
        panel.draw(page, *place)
    return page.figure


def _titles(card, sheet, width):
    """The title, with the concepts' names as long as fit, and what is in small print below it."""
    size, lines, num_concepts = sheet.type(12), 1 if sheet.width is None else 2, len(card.names)
    each = lines * (width - 1.8 * size / 12) / num_concepts - 0.5
    names = (" and " if num_concepts == 2 else ", ").join(fitted(name, each, size) for name in card.names)
    title = fitted(f"Channel {card.channel}: {names}", width - 0.2, size, lines)
    return title, fitted(card.subtitle, width - 0.3, sheet.type(8), 1 if sheet.width is None else 4)


def _pictures(page, card, blocks, channel, left, top):
    """The patches of one channel, in rows from the upper left, under its name; visualizations below them."""
    (colour, _), label, sheet = card.colours[channel], card.labels[channel], blocks.sheet
    size, middle = sheet.type(9), left + blocks.width / 2
    name = symbols(fitted(label, blocks.width + 0.1, size, blocks.label_lines))
    page.text(middle, top - blocks.label_height + 0.05, name, size, color=colour, parse_math=True, va="bottom")
    upper = top - blocks.label_height
    for place, patch in enumerate(card.patches[channel]):
        row, column = divmod(place, blocks.columns)
        frame = DISENTANGLED[patch.concept][0] if patch.concept >= 0 else GREY
        corner = left + column * (blocks.picture + blocks.gap), upper - row * blocks.row_height - blocks.picture
        axes = _picture(page, blocks, corner, patch.picture, frame, patch.name)
        _rank(axes, sheet, patch.rank, frame)
    if card.visualizations is not None:
        upper -= blocks.rows * blocks.row_height + line_height(sheet.type(7)) + 0.05
        page.text(left, upper + 0.04, "activation maximised", sheet.type(7), color=SUBTLE, ha="left")
        for column, (picture, caption) in enumerate(card.visualizations[channel][: blocks.columns]):
            corner = left + column * (blocks.picture + blocks.gap), upper - blocks.picture
            _picture(page, blocks, corner, picture, colour, caption)


def _picture(page, blocks, corner, picture, colour, caption):
    """A framed picture and what is written below it: its axes."""
    axes, size = page.axes(*corner, blocks.picture, blocks.picture), blocks.sheet.type(6.5)
    framed(axes, picture, colour)
    text = fitted(caption, blocks.picture + 0.5 * blocks.gap, size, blocks.name_lines)
    page.text(corner[0] + blocks.picture / 2, corner[1] - 0.03, text, size, color=SUBTLE, va="top", linespacing=1.0)
    return axes


def _rank(axes, sheet, rank, colour):
    """How many images activate the channel at least as much, in the corner of a patch."""
    box = {"facecolor": colour, "edgecolor": "none", "boxstyle": "square,pad=0.15"}
    place = {"transform": axes.transAxes, "ha": "left", "va": "top"}
    axes.text(0.03, 0.97, f"{rank}", fontsize=sheet.type(6.5), color="white", bbox=box, **place)
