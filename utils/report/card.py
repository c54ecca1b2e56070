"""The channel card: one figure of a channel and of the new channels that it is split into."""

import math
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.method.evaluation import Summary
from utils.report.card_panels import MOST_BARS, AnyPanel, Densities, fractions_panel, panel_gap, panels_below
from utils.report.layout import Page, line_height
from utils.report.plots import GREY, SUBTLE, Line, Panel, fitted, framed, symbols, text_width
from utils.report.sheets import SCREEN, WIDTHS, Sheet
from utils.stages.split_measures import Patch

# In inches: every part is placed explicitly, so that nothing overlaps for any names and any number of concepts
MARGIN = 0.15
PANEL_GAP = 0.45  # beside pictures
PRINTED_GAP = 0.15
BLOCK_GAP = 0.3
PRINTED_BLOCK_GAP = 0.2
PICTURE = 0.8
COLUMN_HEIGHT = 4.5  # of a card in a column of a paper, at most
DENSITY_WIDTH = 3.0  # of the panel beside pictures
WIDTH_OF_COLUMN = WIDTHS["column"] - 2 * MARGIN
LEAST_NAME = 0.5  # width of a concept's name in the title
LEAST_LABEL = 0.8  # width of a block with "for" in its label
LEAST_SCORE_WIDTH = 1.1  # of a block in a column that says how well its concept stands out

MOST_NOTE_LINES = 6  # below the pictures
MOST_BESIDE = 5  # blocks of pictures in a row
# Blocks beside each other in a column of a paper, and the patches of each
COLUMN_BLOCKS = ((1, 6), (2, 3), (3, 2), (5, 1))

Captioned = tuple[np.ndarray, str]  # a picture, and the text below it


@dataclass
class Card:
    """The content of a channel card: K concepts, R channels (the original, the concepts', that of the background).

    ``names`` [K] are the concepts', ``labels`` and ``colours`` [R] the channels'. ``patches`` [R] has lists of Patch,
    ``patch_note`` says which patches these are. ``visualizations`` [R] has lists of captioned pictures, or is None.
    ``densities`` [K] has, for each concept's images, the spatial sums by label and their (grid, curves), as
    ``plots.density_axes`` takes them. ``summaries`` [K] are Summaries of the fractions of the R - 1 new channels, and
    of the residual if ``residual``; ``fractions`` [K] those of the single images, [n, R - 1 or R]; ``fractions_note``
    says which of them follow from others. ``stands_out`` [R] says how well a channel's concept does, or is None;
    ``score_note`` explains it, and ``count`` says how many of them stand out.
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
    stands_out: list[str] | None = None
    score_note: str = ""
    count: str = ""

    def colour_of(self, concept: int) -> str:
        """The colour of a concept, from 0: that of its channel."""
        return self.colours[concept + 1][0]


@dataclass
class Blocks:
    """Layout of the pictures: a block of ``rows`` x ``columns`` patches for each channel, ``beside`` blocks in a line.

    ``picture`` is the side of a picture and ``gap`` the space between two, in inches; ``name_lines`` is the number of
    lines of text below a picture, ``label_lines`` that of a channel's label and ``score_lines`` that of how well its
    concept stands out. Visualizations are in ``maximised`` columns after the patches, in a row below them (0), or not
    there (None).
    """

    sheet: Sheet
    columns: int
    rows: int
    beside: int
    picture: float
    gap: float
    label_lines: int = 2
    name_lines: int = 1
    score_lines: int = 0
    maximised: int | None = None

    @property
    def width(self) -> float:
        return (self.columns + (self.maximised or 0)) * (self.picture + self.gap) - self.gap

    @property
    def between(self) -> float:
        """The space between two blocks."""
        return BLOCK_GAP if self.sheet.width is None else PRINTED_BLOCK_GAP

    @property
    def score_height(self) -> float:
        return line_height(self.sheet.type(6.5), self.score_lines)

    @property
    def label_height(self) -> float:
        return line_height(self.sheet.type(9), self.label_lines) + self.score_height + 0.05

    @property
    def row_height(self) -> float:
        """The height of a row of patches, with the names of their classes below them."""
        return self.picture + line_height(self.sheet.type(6.5), self.name_lines) + self.gap

    @property
    def height(self) -> float:
        """The height of one block."""
        below = line_height(self.sheet.type(7)) + self.row_height + 0.05 if self.maximised == 0 else 0
        return self.label_height + self.rows * self.row_height + below

    def corner(self, number: int, total: int) -> tuple[float, float]:
        """The upper left corner of a block: how far it is right of the first one, and below it; lines are centred."""
        line, column = divmod(number, self.beside)
        missing = self.beside - min(self.beside, total - line * self.beside)
        return (column + missing / 2) * (self.width + self.between), line * self.line_height

    @property
    def line_height(self) -> float:
        return self.height + (0.03 if self.sheet.narrow else 0.1)


def _blocks(card: Card, sheet: Sheet) -> list[Blocks]:
    """The Blocks to choose among: those that show most come first."""
    number = len(card.labels)
    scored = 2 if card.stands_out is not None and any(card.stands_out) else 0
    pictured = card.visualizations is not None
    if sheet.width is None:
        beside = math.ceil(number / math.ceil(number / MOST_BESIDE))
        maximised = 0 if pictured else None
        return [Blocks(sheet, 2, 3, beside, picture=PICTURE, gap=0.07, score_lines=scored, maximised=maximised)]
    room = sheet.width - 2 * MARGIN
    if sheet.narrow:
        return [_column_blocks(card, sheet, beside, columns, scored) for beside, columns in COLUMN_BLOCKS]
    # as few empty places at the end of the last line as possible, then as large pictures as possible
    beside = min((3, 4, 5), key=lambda most: -number % most) if number > 3 else number
    columns, rows = (3, 2) if beside <= 3 else (2, 3)
    maximised = int(rows == 2) if pictured else None
    gap = 0.05
    across = beside * (columns + (maximised or 0))
    picture = (room - (beside - 1) * PRINTED_BLOCK_GAP - (across - beside) * gap) / across
    return [Blocks(sheet, columns, rows, beside, picture=picture, gap=gap, score_lines=scored, maximised=maximised)]


def _column_blocks(card: Card, sheet: Sheet, beside: int, columns: int, scored: int) -> Blocks:
    """Blocks of one row of patches, in a column of a paper; how well a concept stands out is there if it fits."""
    gap = 0.04
    room = WIDTH_OF_COLUMN - (beside - 1) * PRINTED_BLOCK_GAP - beside * (columns - 1) * gap
    lines = 2 if columns == 1 else 1
    blocks = Blocks(sheet, columns, 1, beside, picture=room / (beside * columns), gap=gap, label_lines=lines)
    if scored and blocks.width > LEAST_SCORE_WIDTH:
        blocks.score_lines = 1 if beside == 1 else 2
    return blocks


class _Layout:
    """Where the parts of a card are, in inches from the lower left corner of the figure.

    The panels of few concepts are beside the pictures of a screen. Elsewhere they are below the pictures, beside each
    other. In a column the first of the Blocks is taken that leaves room for the panels.
    """

    def __init__(self, card: Card, sheet: Sheet) -> None:
        is_beside = sheet.width is None and len(card.names) <= MOST_BARS
        choices = _blocks(card, sheet)
        first = choices[0]
        width = first.beside * (first.width + first.between) - first.between
        self.pictures_width = sheet.wide(width + 2 * MARGIN) - 2 * MARGIN
        self.panels: list[AnyPanel]
        if is_beside:
            self.panels = [Densities(card, sheet, DENSITY_WIDTH), fractions_panel(card, sheet)]
            self.width = MARGIN + self.pictures_width + sum(PANEL_GAP + panel.width for panel in self.panels) + MARGIN
        else:
            self.panels = panels_below(card, sheet, self.pictures_width)
            self.width = self.pictures_width + 2 * MARGIN
        self.title, self.subtitle = _titles(card, sheet, self.width)
        title_height = line_height(sheet.type(12), self.title.count("\n") + 1)
        margin = 0.05 if sheet.narrow else MARGIN
        self.above = margin + title_height + line_height(sheet.type(8), self.subtitle.count("\n") + 1) + 0.1
        panels_height = max(panel.height() for panel in self.panels)
        gap = 0.08 if sheet.narrow else PRINTED_GAP

        def note_of(blocks: Blocks) -> str:
            """The text below the pictures."""
            scored = [card.score_note] if blocks.score_lines else []
            notes = [note for note in (card.count, card.patch_note, *scored) if note]
            lines = 3 * len(notes) if sheet.narrow else MOST_NOTE_LINES
            return fitted("; ".join(notes), self.pictures_width, sheet.type(8), lines)

        def note_height_of(blocks: Blocks) -> float:
            return line_height(sheet.type(8), note_of(blocks).count("\n") + 1)

        def height_of(blocks: Blocks) -> float:
            """The height of a whole card."""
            pictures = math.ceil(len(card.labels) / blocks.beside) * blocks.line_height + note_height_of(blocks)
            below = max(pictures, panels_height) if is_beside else pictures + gap + panels_height
            return self.above + below + 0.08

        fits = [blocks for blocks in choices if height_of(blocks) <= COLUMN_HEIGHT]
        self.blocks = fits[0] if fits else choices[-1]
        self.note = note_of(self.blocks)
        self.height = height_of(self.blocks)
        self.upper = self.height - self.above
        self.below = self.upper - math.ceil(len(card.labels) / self.blocks.beside) * self.blocks.line_height
        left = MARGIN + self.pictures_width + PANEL_GAP if is_beside else MARGIN
        top = self.upper if is_beside else self.below - note_height_of(self.blocks) - gap
        self.panels_height = self.upper - 0.08 if is_beside else panels_height
        self.corners = []
        for panel in self.panels:
            self.corners.append((left, top))
            left += panel.width + (PANEL_GAP if is_beside else panel_gap(sheet))


def card_figure(card: Card, sheet: Sheet = SCREEN) -> Figure:
    """Draw a Card: patches of each channel, then densities and fractions in the images of each concept.

    A column of a paper has no room for all of it: it has fewer patches of many channels, no visualizations, densities
    beside the fractions of few concepts alone, and is at most ``COLUMN_HEIGHT`` high unless names are very long.
    """
    layout = _Layout(card, sheet)
    page = Page(layout.width, layout.height)
    top = 0.04 if sheet.narrow else 0.1
    page.text(page.width / 2, page.height - top, layout.title, sheet.type(12), va="top")
    page.text(page.width / 2, layout.upper + 0.06, layout.subtitle, sheet.type(8), color=SUBTLE, va="bottom")
    for channel in range(len(card.labels)):
        right, down = layout.blocks.corner(channel, len(card.labels))
        _draw_pictures(page, card, layout.blocks, channel, corner=(MARGIN + right, layout.upper - down))
    middle = MARGIN + layout.pictures_width / 2
    page.text(middle, layout.below, layout.note, sheet.type(8), color=SUBTLE, va="top")
    for panel, (left, upper) in zip(layout.panels, layout.corners, strict=True):
        panel.draw(page, left, upper, layout.panels_height)
    return page.figure


def _titles(card: Card, sheet: Sheet, width: float) -> tuple[str, str]:
    """The title, with the concepts' names as long as fit, and the small print below it."""
    size = sheet.type(12)
    num_concepts = len(card.names)
    is_short = sheet.narrow or (sheet.width is None and num_concepts <= MOST_BARS)
    lines = 1 if is_short else 2
    before = f"Channel {card.channel}: "
    between = " and " if num_concepts == 2 else ", "
    title = fitted(before + between.join(card.names), width - 0.2, size, lines)
    if title.endswith("…"):
        name_width = lines * (width - text_width(before, size) / 72 - 0.2) / num_concepts - 0.15 * size / 12
        names = [fitted(name, name_width, size) for name in card.names]
        words = between.join(names) if name_width > LEAST_NAME else f"{num_concepts} concepts"
        title = fitted(before + words, width - 0.2, size, lines)
    return title, fitted(card.subtitle, width - 0.3, sheet.type(8), 2 if is_short else 4)


def _draw_pictures(page: Page, card: Card, blocks: Blocks, channel: int, corner: tuple[float, float]) -> None:
    """The patches of one channel in rows from the upper left ``corner``, below its name; and visualizations."""
    left, top = corner
    sheet = blocks.sheet
    colour, _ = card.colours[channel]
    label = card.labels[channel] if blocks.width > LEAST_LABEL else card.labels[channel].replace(", for ", " ")
    name = symbols(fitted(label, blocks.width + 0.1, sheet.type(9), blocks.label_lines))
    upper = top - blocks.label_height
    middle = left + blocks.width / 2
    lower = upper + 0.05 + blocks.score_height
    page.text(middle, lower, name, sheet.type(9), color=colour, parse_math=True, va="bottom")
    if blocks.score_lines and card.stands_out is not None:
        size = sheet.type(6.5)
        score = fitted(card.stands_out[channel], blocks.width + 0.1, size, blocks.score_lines)
        page.text(middle, lower - 0.01, score, size, color=SUBTLE, va="top", linespacing=1.1)
    step = blocks.picture + blocks.gap
    for number, patch in enumerate(card.patches[channel][: blocks.columns * blocks.rows]):
        row, column = divmod(number, blocks.columns)
        frame = card.colour_of(patch.concept) if patch.concept >= 0 else GREY
        lower_left = (left + column * step, upper - row * blocks.row_height - blocks.picture)
        axes = _draw_picture(page, blocks, lower_left, (patch.picture, patch.name), frame)
        _draw_rank(axes, sheet, patch.rank, frame)
    if card.visualizations is None or blocks.maximised is None:
        return
    if blocks.maximised:
        left += blocks.columns * step
        places = [(0, row) for row in range(blocks.rows)]
    else:
        upper -= blocks.rows * blocks.row_height + line_height(sheet.type(7)) + 0.05
        page.text(left, upper + 0.04, "activation maximised", sheet.type(7), color=SUBTLE, ha="left")
        places = [(column, 0) for column in range(blocks.columns)]
    for (column, row), captioned in zip(places, card.visualizations[channel], strict=False):
        lower_left = (left + column * step, upper - row * blocks.row_height - blocks.picture)
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
