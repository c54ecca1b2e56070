"""A map of a channel: its reference images on a plane, coloured by concept, beside each concept's reference patches."""

from dataclasses import dataclass

import numpy as np
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from PIL import Image

from utils.report.layout import Page
from utils.report.plots import DISENTANGLED, GREY, SUBTLE, fitted, framed, text_width

# In inches, as the channel card
PICTURE, FRAME, ROOM = 0.43, 0.035, 1.06  # on the map; of its side, how far two pictures' middles are apart
MARGIN, TOP, BOTTOM, PANEL_GAP = 0.35, 0.8, 0.6, 0.35
HEADING, BLOCK_GAP, GAP = 0.24, 0.1, 0.06
MAP, WIDTH, LEAST_WIDTH = 7.2, 5.1, 4.2  # side of the map; of what is beside it
FEW, COLUMNS, COLUMNS_OF_FEW = 4, 8, 4  # concepts of which there are so few have two rows of patches each
# The side of a picture, and what is between two, of the way between the outermost images' middles
PICTURE_SIDE = ROOM * PICTURE / (MAP - ROOM * PICTURE)
SHARP = 250  # pixels an inch
DROPPED = "#d4d4d4"
OTHERS, LEFT_OUT = -1, -2


@dataclass
class MapPage:
    """What a map shows of n images and of K concepts, at most eight.

    ``scores`` [n, 2] are the images' principal components, ``shares`` [2] what these explain of the variance;
    ``concepts`` [n] says whose an image is: one of those shown (from 0), ``OTHERS``' or nobody's (``LEFT_OUT``).
    ``pictures`` {image: array [H, W, 3]} are shown at their places. ``numbers``, ``names`` and ``sizes`` [K] are the
    concepts', ``patches`` [K] has lists of arrays [h, w, 3]; ``notes`` are lines below them.
    """

    title: str
    subtitle: str
    scores: np.ndarray
    shares: np.ndarray
    concepts: np.ndarray
    pictures: dict
    numbers: list
    names: list
    sizes: list
    patches: list
    notes: list


def map_figure(page):
    """Draw a MapPage.

    Returns
    -------
    matplotlib.figure.Figure
    """
    columns, patch = _columns(len(page.names))
    left, width = MARGIN + MAP + PANEL_GAP, columns * (patch + GAP) - GAP
    sheet = Page(left + max(width, LEAST_WIDTH) + MARGIN, TOP + MAP + BOTTOM)
    sheet.text(sheet.width / 2, sheet.height - 0.34, fitted(page.title, sheet.width - 0.4, 12), 12)
    subtitle = fitted(page.subtitle, sheet.width - 0.4, 8)
    sheet.text(sheet.width / 2, sheet.height - 0.58, subtitle, 8, color=SUBTLE)
    _draw_map(sheet.axes(MARGIN, BOTTOM, MAP, MAP), page)
    for place in range(len(page.names)):
        _draw_concept(sheet, page, place, left, columns, patch)
    _draw_notes(sheet, page, left)
    return sheet.figure


def _columns(num_concepts):
    """How many patches are in a row, and their side, so that all concepts have room beside the map."""
    columns = COLUMNS_OF_FEW if num_concepts <= FEW else COLUMNS
    rows = COLUMNS // columns
    highest = (MAP / num_concepts - HEADING - BLOCK_GAP + GAP) / rows - GAP
    return columns, min(highest, (WIDTH + GAP) / columns - GAP)


def _draw_map(axes, page):
    """Dots, and the pictures of those that have room for one; both in the colours of their concepts."""
    for place, colour in reversed([*enumerate(_colours(page)), (OTHERS, GREY), (LEFT_OUT, DROPPED)]):
        own = page.concepts == place
        axes.plot(*page.scores[own].T, "o", color=colour, markersize=4.5, markeredgecolor="white", markeredgewidth=0.5)
    low, high = page.scores.min(0), page.scores.max(0)
    span = np.where(high > low, high - low, 1)
    edge = span * PICTURE_SIDE / 2
    (left, bottom), (right, top) = low - edge - (high <= low) / 2, high + edge + (high <= low) / 2
    axes.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[])
    which = zip(("first", "second"), page.shares, strict=True)
    what = [f"{one} principal component, {share:.0%} of the variance" for one, share in which]
    axes.set_xlabel(f"{what[0]} (each axis has a scale of its own)", fontsize=8, color=SUBTLE)
    axes.set_ylabel(what[1], fontsize=8, color=SUBTLE)
    axes.spines[:].set_color("#cccccc")
    for image, picture in page.pictures.items():
        _draw_picture(axes, page, image, _reduced(picture, PICTURE))


def _draw_picture(axes, page, image, picture):
    """A picture at its place in the frame of its concept, whose number tells it in grey print, too."""
    place, at = int(page.concepts[image]), page.scores[image]
    colour, inside = _colour(page, place), 72 * (PICTURE - FRAME)
    frame = {"edgecolor": colour, "linewidth": 72 * FRAME, "boxstyle": "square,pad=0"}
    axes.add_artist(AnnotationBbox(OffsetImage(picture, zoom=inside / len(picture)), at, pad=0, bboxprops=frame))
    if place >= 0:
        box = {"facecolor": colour, "edgecolor": "none", "boxstyle": "square,pad=0.12"}
        corner = {"xytext": (-inside / 2, inside / 2), "textcoords": "offset points", "ha": "left", "va": "top"}
        axes.annotate(str(page.numbers[place]), at, fontsize=5, color="white", bbox=box, zorder=5, **corner)


def _draw_concept(sheet, page, place, left, columns, patch):
    """A concept's number, name and size, and its patches below."""
    top, colour = BOTTOM + MAP * (1 - place / len(page.names)), _colour(page, place)
    box = {"facecolor": colour, "edgecolor": "none", "boxstyle": "square,pad=0.25"}
    sheet.text(left + 0.05, top - 0.14, str(page.numbers[place]), 8, color="white", ha="left", bbox=box)
    size = f", {counted(page.sizes[place])}"
    width = sheet.width - MARGIN - left - 0.3 - text_width(size, 9) / 72
    sheet.text(left + 0.3, top - 0.14, fitted(page.names[place], width, 9) + size, 9, color=colour, ha="left")
    for number, picture in enumerate(page.patches[place]):
        row, column = divmod(number, columns)
        corner = left + column * (patch + GAP), top - HEADING - row * (patch + GAP) - patch
        framed(sheet.axes(*corner, patch, patch), _reduced(picture, patch), colour)


def _draw_notes(sheet, page, left):
    """What is grey, and what is to be known of the patches."""
    width = sheet.width - MARGIN - left
    lines = [fitted(line, width, 8) for line in page.notes]
    sheet.text(left, BOTTOM - 0.1, "\n".join(lines), 8, color=SUBTLE, ha="left", va="top")


def counted(number):
    """A number of images, in words."""
    return f"{number} image{'s' if number != 1 else ''}"


def _colours(page):
    return [DISENTANGLED[place][0] for place in range(len(page.names))]


def _colour(page, place):
    return {OTHERS: GREY, LEFT_OUT: DROPPED}.get(place) or _colours(page)[place]


def _reduced(picture, inches):
    """A picture with no more pixels than are seen: a page of them is large else."""
    pixels = round(SHARP * inches)
    if len(picture) <= pixels:
        return picture
    return np.array(Image.fromarray(picture).resize((pixels, pixels), Image.Resampling.LANCZOS))
