"""The channel card: one figure of a channel and of the new channels that it is split into."""

import math
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.method.evaluation import Summary
from utils.report.card_panels import Densities, Fractions
from utils.report.layout import Page, line_height
from utils.report.plots import DISENTANGLED, GREY, SUBTLE, Line, Panel, fitted, framed, symbols
from utils.report.sheets import SCREEN, Sheet
from utils.stages.split_measures import Patch

# In inches: every part is placed explicitly, so that nothing overlaps for any names and any number of concepts
MARGIN = 0.15
PANEL_GAP = 0.45
PRINTED_GAP = 0.15
BLOCK_GAP = 0.3
PRINTED_BLOCK_GAP = 0.2
PICTURE = 0.8
DENSITY_WIDTH = 3.0
DENSITY_HEIGHT = 0.9
PRINTED_DENSITY_HEIGHT = 0.68

MOST_BESIDE = 5  # blocks of pictures in a row on a screen

Captioned = tuple[np.ndarray, str]  # a picture, and the text below it
Box = tuple[float, float, float]  # left, top, height


@dataclass
class Card:
    """The content of a channel card: K concepts, R channels (the original, the concepts', that of the background).

    ``names`` [K] are the concepts', ``labels`` and ``colours`` [R] the channels'. ``patches`` [R] has lists of Patch,
    ``patch_note`` says which patches these are. ``visualizations`` [R] has lists of captioned pictures, or is None.
    ``densities`` [K] has, for each concept's images, the spatial sums by label and their (grid, curves), as
    ``plots.density_axes`` takes them. ``summaries`` [K] are Summaries of the fractions of the R - 1 new channels, and
    of the residual if ``residual``; ``fractions`` [K] those of the single images, [n, R - 1 or R]; ``fractions_note``
    says which of them follow from others.
    """

    channel: int
    subtitle: str
    names: list[str]
    labels: list[str]
    colours: list[Line]
    patches: list[list[Patch]]
    patch_note: str
    visualizations: list[list[Captioned]] | None
    densities: list[Panel]
    summaries: list[Summary]
    fractions: list[np.ndarray]
    fractions_note: str
    residual: bool = True


@dataclass
class Blocks:
    """Layout of the pictures: a block of ``rows`` x ``columns`` for each channel, ``beside`` blocks in a line.

    ``picture`` is the side of a picture and ``gap`` the space between two, in inches; ``name_lines`` is the number of
    lines of text below a picture, ``label_lines`` that above a block.
    """

    sheet: Sheet
    columns: int
    rows: int
    beside: int
    picture: float
    gap: float
    name_lines: int
    label_lines: int

    @property
    def width(self) -> float:
        return self.columns * (self.picture + self.gap) - self.gap

    @property
    def between(self) -> float:
        """The space between two blocks."""
        return BLOCK_GAP if self.sheet.width is None else PRINTED_BLOCK_GAP

    @property
    def label_height(self) -> float:
        return line_height(self.sheet.type(9), self.label_lines) + 0.05

    @property
    def row_height(self) -> float:
        """The height of a row of patches, with the names of their classes below them."""
        return self.picture + line_height(self.sheet.type(6.5), self.name_lines) + self.gap

    def height(self, card: Card) -> float:
        """The height of one block."""
        below = 0 if card.visualizations is None else line_height(self.sheet.type(7)) + self.row_height + 0.05
        return self.label_height + self.rows * self.row_height + below

    def lines(self, card: Card) -> int:
        """The number of lines of blocks."""
        return math.ceil(len(card.labels) / self.beside)


def _blocks(card: Card, sheet: Sheet) -> Blocks:
    """Blocks of six patches: two or three patches side by side, or all six in a column of a paper."""
    if sheet.width is None:
        lines = math.ceil(len(card.labels) / MOST_BESIDE)
        beside = math.ceil(len(card.labels) / lines)
        return Blocks(sheet, columns=2, rows=3, beside=beside, picture=PICTURE, gap=0.07, name_lines=1, label_lines=2)
    if sheet.narrow:
        gap = 0.04
        picture = (sheet.width - 2 * MARGIN + gap) / 6 - gap
        names = {patch.name for patches in card.patches for patch in patches}
        lines = max(len(fitted(name, picture, sheet.type(6.5), 2).split("\n")) for name in names)
        return Blocks(sheet, columns=6, rows=1, beside=1, picture=picture, gap=gap, name_lines=lines, label_lines=1)
    gap = 0.05
    picture = ((sheet.width - 2 * MARGIN - 2 * PRINTED_BLOCK_GAP) / 3 + gap) / 3 - gap
    return Blocks(sheet, columns=3, rows=2, beside=3, picture=picture, gap=gap, name_lines=1, label_lines=2)


class _Layout:
    """Where the parts of a card are, in inches from the lower left corner of the figure.

    On a screen the pictures and the two panels are side by side. On paper the panels are below the pictures: beside
    each other, or one below the other in a column.
    """

    def __init__(self, card: Card, sheet: Sheet) -> None:
        self.blocks = _blocks(card, sheet)
        pictures_width = self.blocks.beside * (self.blocks.width + self.blocks.between) - self.blocks.between
        self.pictures_width = sheet.wide(pictures_width + 2 * MARGIN) - 2 * MARGIN
        self.note = fitted(card.patch_note, self.pictures_width, sheet.type(8), lines=4)
        self.line_height = self.blocks.height(card) + 0.1
        self.blocks_height = self.blocks.lines(card) * self.line_height
        pictures_height = self.blocks_height + line_height(sheet.type(8), self.note.count("\n") + 1)
        self.panels: list[Densities | Fractions]
        if sheet.width is None:
            self.panels = [Densities(card, sheet, DENSITY_WIDTH, DENSITY_HEIGHT), Fractions(card, sheet)]
            self.width = MARGIN + self.pictures_width + sum(PANEL_GAP + panel.width for panel in self.panels) + MARGIN
            height = max(pictures_height, *(panel.height() for panel in self.panels))
        else:
            self.width = sheet.width
            room = self.width - 2 * MARGIN if sheet.narrow else (self.width - 2 * MARGIN - PANEL_GAP) / 2
            self.panels = [Densities(card, sheet, room, PRINTED_DENSITY_HEIGHT), Fractions(card, sheet, room)]
            heights = [panel.height() for panel in self.panels]
            panels_height = sum(heights) + PRINTED_GAP if sheet.narrow else max(heights)
            height = pictures_height + PRINTED_GAP + panels_height
        self.title, self.subtitle = _titles(card, sheet, self.width)
        title_height = line_height(sheet.type(12), self.title.count("\n") + 1)
        self.above = MARGIN + title_height + line_height(sheet.type(8), self.subtitle.count("\n") + 1) + 0.1
        self.height = height + self.above + 0.08
        self.upper = self.height - self.above
        self.boxes = self._panel_boxes(sheet, height, self.upper - pictures_height - PRINTED_GAP)

    def _panel_boxes(self, sheet: Sheet, height: float, lower: float) -> list[Box]:
        """The boxes of the two panels; ``lower`` is the top of panels below the pictures."""
        first, second = (panel.height() for panel in self.panels)
        if sheet.width is None:
            left = MARGIN + self.pictures_width + PANEL_GAP
            return [(left, self.upper, height), (left + DENSITY_WIDTH + PANEL_GAP, self.upper, height)]
        if sheet.narrow:
            return [(MARGIN, lower, first), (MARGIN, lower - first - PRINTED_GAP, second)]
        right = self.width - MARGIN - self.panels[1].width
        return [(left, lower, max(first, second)) for left in (MARGIN, right)]


def card_figure(card: Card, sheet: Sheet = SCREEN) -> Figure:
    """Draw a Card: patches of each channel, then densities and fractions in the images of each concept."""
    layout = _Layout(card, sheet)
    blocks = layout.blocks
    page = Page(layout.width, layout.height)
    page.text(page.width / 2, page.height - 0.1, layout.title, sheet.type(12), va="top")
    page.text(page.width / 2, layout.upper + 0.1, layout.subtitle, sheet.type(8), color=SUBTLE, va="bottom")
    for channel in range(len(card.labels)):
        line, column = divmod(channel, blocks.beside)
        left = MARGIN + column * (blocks.width + blocks.between)
        _draw_pictures(page, card, blocks, channel, corner=(left, layout.upper - line * layout.line_height))
    below = layout.upper - layout.blocks_height
    page.text(MARGIN + layout.pictures_width / 2, below, layout.note, sheet.type(8), color=SUBTLE, va="top")
    for panel, (left, top, height) in zip(layout.panels, layout.boxes, strict=True):
        panel.draw(page, left, top, height)
    return page.figure


def _titles(card: Card, sheet: Sheet, width: float) -> tuple[str, str]:
    """The title, with the concepts' names as long as fit, and the small print below it."""
    size = sheet.type(12)
    lines = 1 if sheet.width is None else 2
    num_concepts = len(card.names)
    name_width = lines * (width - 1.8 * size / 12) / num_concepts - 0.5
    names = (" and " if num_concepts == 2 else ", ").join(fitted(name, name_width, size) for name in card.names)
    title = fitted(f"Channel {card.channel}: {names}", width - 0.2, size, lines)
    return title, fitted(card.subtitle, width - 0.3, sheet.type(8), 1 if sheet.width is None else 4)


def _draw_pictures(page: Page, card: Card, blocks: Blocks, channel: int, corner: tuple[float, float]) -> None:
    """The patches of one channel in rows from the upper left ``corner``, below its name; then visualizations."""
    left, top = corner
    sheet = blocks.sheet
    colour, _ = card.colours[channel]
    name = symbols(fitted(card.labels[channel], blocks.width + 0.1, sheet.type(9), blocks.label_lines))
    upper = top - blocks.label_height
    middle = left + blocks.width / 2
    page.text(middle, upper + 0.05, name, sheet.type(9), color=colour, parse_math=True, va="bottom")
    for number, patch in enumerate(card.patches[channel]):
        row, column = divmod(number, blocks.columns)
        frame = DISENTANGLED[patch.concept][0] if patch.concept >= 0 else GREY
        lower_left = (left + column * (blocks.picture + blocks.gap), upper - row * blocks.row_height - blocks.picture)
        axes = _draw_picture(page, blocks, lower_left, (patch.picture, patch.name), frame)
        _draw_rank(axes, sheet, patch.rank, frame)
    if card.visualizations is not None:
        upper -= blocks.rows * blocks.row_height + line_height(sheet.type(7)) + 0.05
        page.text(left, upper + 0.04, "activation maximised", sheet.type(7), color=SUBTLE, ha="left")
        for column, captioned in enumerate(card.visualizations[channel][: blocks.columns]):
            lower_left = (left + column * (blocks.picture + blocks.gap), upper - blocks.picture)
            _draw_picture(page, blocks, lower_left, captioned, colour)


def _draw_picture(page: Page, blocks: Blocks, corner: tuple[float, float], captioned: Captioned, colour: str) -> Axes:
    """Draw a framed picture at its lower left ``corner``, and its caption; returns its axes."""
    left, bottom = corner
    picture, caption = captioned
    axes = page.axes(left, bottom, blocks.picture, blocks.picture)
    framed(axes, picture, colour)
    size = blocks.sheet.type(6.5)
    text = fitted(caption, blocks.picture + 0.5 * blocks.gap, size, blocks.name_lines)
    middle = left + blocks.picture / 2
    page.text(middle, bottom - 0.03, text, size, color=SUBTLE, va="top", linespacing=1.0)
    return axes


def _draw_rank(axes: Axes, sheet: Sheet, rank: int, colour: str) -> None:
    """Draw, in the corner of a patch, its rank among the images by their activation."""
    axes.text(
        0.03,
        0.97,
        f"{rank}",
        fontsize=sheet.type(6.5),
        color="white",
        bbox={"facecolor": colour, "edgecolor": "none", "boxstyle": "square,pad=0.15"},
        transform=axes.transAxes,
        ha="left",
        va="top",
    )
