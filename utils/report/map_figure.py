"""A map of a channel: its reference images on a plane, coloured by concept, beside each concept's reference patches."""

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from PIL import Image

from utils.report.layout import Page
from utils.report.plots import DISENTANGLED, GREY, SUBTLE, fitted, framed, text_width

# Lengths are in inches.
PICTURE = 0.43  # side of a picture on the map, with its frame
FRAME = 0.035
ROOM = 1.06  # distance of the centres of two pictures at least, as a multiple of a picture's side
MARGIN = 0.35
TOP = 0.8
BOTTOM = 0.9
PANEL_GAP = 0.35
HEADING = 0.24
SCORE_LINE = 0.15  # below a heading
BLOCK_GAP = 0.1
GAP = 0.06
MAP = 7.2  # side of the map
LEFT = MARGIN + MAP + PANEL_GAP  # of the patches next to it
WIDTH = 5.1  # of the patches
LEAST_WIDTH = 4.2
COLUMNS = 8  # patches in a row
COLUMNS_OF_FEW = 4  # where there are at most FEW concepts, which have two rows of patches each
FEW = 4
# The side of a picture with its gap, as a share of the distance between the centres of the outermost images
PICTURE_SIDE = ROOM * PICTURE / (MAP - ROOM * PICTURE)
SCORE = 7.5  # size of the type of a concept's score, and of the note after its name
NOTE_GAP = 0.08  # before this note
MOST_LINES = 5  # of notes
SHARP = 250  # pixels an inch
DROPPED = "#d4d4d4"
OTHERS = -1  # the number of images of concepts that are not shown
LEFT_OUT = -2  # the number of images of no concept


@dataclass(frozen=True)
class MapPage:
    """The content of a map of n images and K concepts, at most eight.

    ``scores`` [n, 2] are the images' principal components, ``shares`` [2] the share of the variance that each explains.
    ``concepts`` [n] is the concept of each image: one of those shown (from 0), ``OTHERS`` or ``LEFT_OUT``. ``pictures``
    {image: array [H, W, 3]} are drawn at the images' positions. ``numbers``, ``names`` and ``sizes`` [K] are those of
    the concepts, ``name_notes`` [K] small print after the names, which may be empty; ``stands_out`` [K] is how well, in
    words or empty. ``patches`` [K] has lists of arrays [h, w, 3]; ``notes`` are below them.
    """

    title: str
    subtitle: str
    scores: np.ndarray
    shares: np.ndarray
    concepts: np.ndarray
    pictures: dict[int, np.ndarray]
    numbers: list[int]
    names: list[str]
    name_notes: list[str]
    sizes: list[int]
    stands_out: list[str]
    patches: list[list[np.ndarray]]
    notes: list[str]


def map_figure(page: MapPage) -> Figure:
    """Draw a MapPage."""
    heading = HEADING + (SCORE_LINE if any(page.stands_out) else 0)
    columns, patch = _columns(len(page.names), heading)
    width = columns * (patch + GAP) - GAP
    sheet = Page(LEFT + max(width, LEAST_WIDTH) + MARGIN, TOP + MAP + BOTTOM)
    sheet.text(sheet.width / 2, sheet.height - 0.34, fitted(page.title, sheet.width - 0.4, 12), 12)
    subtitle = fitted(page.subtitle, sheet.width - 0.4, 8)
    sheet.text(sheet.width / 2, sheet.height - 0.58, subtitle, 8, color=SUBTLE)
    _draw_map(sheet.axes(MARGIN, BOTTOM, MAP, MAP), page)
    for k in range(len(page.names)):
        _draw_concept(sheet, page, k, columns=columns, patch=patch, heading=heading)
    _draw_notes(sheet, page)
    return sheet.figure


def _columns(num_concepts: int, heading: float) -> tuple[int, float]:
    """The number of patches in a row, and their side, so that all concepts have room next to the map."""
    columns = COLUMNS_OF_FEW if num_concepts <= FEW else COLUMNS
    rows = COLUMNS // columns
    highest = (MAP / num_concepts - heading - BLOCK_GAP + GAP) / rows - GAP
    return columns, min(highest, (WIDTH + GAP) / columns - GAP)


def _draw_map(axes: Axes, page: MapPage) -> None:
    """Dots, and the pictures of those that have room for one; both in the colours of their concepts."""
    for k in (LEFT_OUT, OTHERS, *reversed(range(len(page.names)))):
        x, y = page.scores[page.concepts == k].T
        axes.plot(x, y, "o", color=_colour(k), markersize=4.5, markeredgecolor="white", markeredgewidth=0.5)
    low = page.scores.min(0)
    high = page.scores.max(0)
    edge = np.where(high > low, high - low, 1) * PICTURE_SIDE / 2
    left, bottom = low - edge - (high <= low) / 2
    right, top = high + edge + (high <= low) / 2
    axes.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[])
    first, second = (f"principal component, {share:.0%} of the variance" for share in page.shares)
    axes.set_xlabel(f"first {first} (the axes have different scales)", fontsize=8, color=SUBTLE)
    axes.set_ylabel(f"second {second}", fontsize=8, color=SUBTLE)
    axes.spines[:].set_color("#cccccc")
    for image, picture in page.pictures.items():
        _draw_picture(axes, page, image, _reduced(picture, PICTURE))


def _draw_picture(axes: Axes, page: MapPage, image: int, picture: np.ndarray) -> None:
    """Draw a picture in the frame of its concept, with the concept's number, which is also legible in grey print."""
    k = int(page.concepts[image])
    centre = page.scores[image]
    side = 72 * (PICTURE - FRAME)  # points
    frame = {"edgecolor": _colour(k), "linewidth": 72 * FRAME, "boxstyle": "square,pad=0"}
    axes.add_artist(AnnotationBbox(OffsetImage(picture, zoom=side / len(picture)), centre, pad=0, bboxprops=frame))
    if k >= 0:
        axes.annotate(
            str(page.numbers[k]),
            centre,
            fontsize=5,
            color="white",
            bbox={"facecolor": _colour(k), "edgecolor": "none", "boxstyle": "square,pad=0.12"},
            zorder=5,
            xytext=(-side / 2, side / 2),
            textcoords="offset points",
            ha="left",
            va="top",
        )


def _draw_concept(sheet: Page, page: MapPage, k: int, *, columns: int, patch: float, heading: float) -> None:
    """A concept's number, name and size, and its patches below, which have sides of ``patch`` inches."""
    top = BOTTOM + MAP * (1 - k / len(page.names))
    colour = _colour(k)
    box = {"facecolor": colour, "edgecolor": "none", "boxstyle": "square,pad=0.25"}
    sheet.text(LEFT + 0.05, top - 0.14, str(page.numbers[k]), 8, color="white", ha="left", bbox=box)
    size = counted(page.sizes[k])
    note = f"{size}, {page.name_notes[k]}" if page.name_notes[k] else size
    width = sheet.width - MARGIN - LEFT - 0.3 - NOTE_GAP
    name = fitted(page.names[k], width - text_width(f"{size}, …", SCORE) / 72, 9)
    name_width = text_width(name, 9) / 72
    sheet.text(LEFT + 0.3, top - 0.14, name, 9, color=colour, ha="left")
    note = fitted(note, width - name_width, SCORE)
    sheet.text(LEFT + 0.3 + name_width + NOTE_GAP, top - 0.14, note, SCORE, color=SUBTLE, ha="left")
    sheet.text(LEFT + 0.3, top - HEADING - 0.05, page.stands_out[k], SCORE, color=SUBTLE, ha="left")
    for number, picture in enumerate(page.patches[k]):
        row, column = divmod(number, columns)
        x = LEFT + column * (patch + GAP)
        y = top - heading - row * (patch + GAP) - patch
        framed(sheet.axes(x, y, patch, patch), _reduced(picture, patch), colour)


def _draw_notes(sheet: Page, page: MapPage) -> None:
    """Draw the notes: the meaning of grey, and how to read the patches."""
    width = sheet.width - MARGIN - LEFT
    last = max(1, MOST_LINES + 1 - len(page.notes))
    lines = [fitted(line, width, 8, lines=last if line is page.notes[-1] else 1) for line in page.notes]
    sheet.text(LEFT, BOTTOM - 0.1, "\n".join(lines), 8, color=SUBTLE, ha="left", va="top")


def counted(number: int) -> str:
    """A number of images, in words."""
    return f"{number} image{'s' if number != 1 else ''}"


def _colour(k: int) -> str:
    """The colour of a concept that is shown, of OTHERS or of LEFT_OUT."""
    return {OTHERS: GREY, LEFT_OUT: DROPPED}.get(k) or DISENTANGLED[k][0]


def _reduced(picture: np.ndarray, inches: float) -> np.ndarray:
    """A picture with no more pixels than are visible; otherwise a page of them is large."""
    pixels = round(SHARP * inches)
    if len(picture) <= pixels:
        return picture
    return np.array(Image.fromarray(picture).resize((pixels, pixels), Image.Resampling.LANCZOS))
