"""Parts that the figures of a layer share: titles, colours of the two kinds of pairs, stacked points, fitted names."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from utils.errors import listed
from utils.method.polysemanticity import gamma_polysemantic
from utils.report.layout import line_height
from utils.report.plots import ORIGINAL, SUBTLE, fitted, text_width
from utils.report.sheets import SCREEN, Sheet, Titles
from utils.report.tables import short_name

# Colour and marker, which differ in grey print too
UNDER_GAMMA = ("#dc267f", "^")
OTHER = (ORIGINAL[0], "o")
NAME_LENGTH = 40
LARGEST_POINT = 6.0  # points of print
SMALLEST_POINT = 0.3


class Side(NamedTuple):
    """The pairs under gamma, or the others: ``members`` bool [n] of all pairs, and how they are drawn and named."""

    colour: str
    marker: str
    members: np.ndarray
    name: str


def titled_parts(
    width: float, heights: list[float], titles: Titles, sheet: Sheet = SCREEN
) -> tuple[Figure, np.ndarray]:
    """A figure of parts above one another, of this width on a screen and these heights in inches, and its parts."""
    width = sheet.wide(width)
    size = sheet.type(11)
    small = sheet.type(8)
    title = fitted(titles.title, width - 0.2, size, lines=3)
    subtitle = fitted(titles.subtitle, width - 0.2, small, lines=6)
    heights = [heights[0] + line_height(small, subtitle.count("\n")), *heights[1:]]
    above = 0.5 + line_height(size, title.count("\n"))
    figure = Figure(figsize=(width, sum(heights) + above), layout="constrained")
    figure.suptitle(title, fontsize=size, parse_math=False)
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    parts[0].suptitle(subtitle, fontsize=small, color=SUBTLE, parse_math=False)
    return figure, parts


def sides(cosines: np.ndarray, gamma: float) -> tuple[Side, Side]:
    """The pairs under gamma, and the others."""
    under = gamma_polysemantic(cosines, gamma)
    return Side(*UNDER_GAMMA, under, "under"), Side(*OTHER, ~under, "at or above")


def draw_points(axes: Axes, x: np.ndarray, rows: np.ndarray, gamma: float) -> np.ndarray:
    """Stack the points of each row so that none hides another, as large as the most crowded position allows.

    Returns the points' coordinates, array [n, 2]. The axes must have their final size.
    """
    width, height = size_in_points(axes)
    x_points = x * width / np.ptp(axes.get_xlim())
    row_height = 0.95 * height / np.ptp(axes.get_ylim())
    members = [np.flatnonzero(rows == row) for row in np.unique(rows)]
    for size in np.geomspace(LARGEST_POINT, SMALLEST_POINT, 40):
        if max(_crowd(x_points[row], size) for row in members) * size <= row_height:
            break
    y = rows.astype(float)
    for row in members:
        y[row] += _offsets(x_points[row], size, row_height) * np.ptp(axes.get_ylim()) / height
    for side in sides(x, gamma):
        part = side.members
        axes.scatter(x[part], y[part], s=size**2, c=side.colour, marker=side.marker, linewidths=0, zorder=2)
    return np.stack([x, y], axis=1)


def _crowd(x: np.ndarray, size: float) -> int:
    """How many points of width ``size`` overlap at the most crowded position; odd, so that they can be centred."""
    x = np.sort(x)
    return (np.searchsorted(x, x + size) - np.arange(len(x))).max() | 1


def _offsets(x: np.ndarray, size: float, room: float) -> np.ndarray:
    """Distance of each point from the middle of its row: the nearest free level, assigned from left to right.

    If ``room`` is too little even for the smallest points, they overlap.
    """
    ends: list[float] = []
    levels = np.empty(len(x), dtype=int)
    most = max(int(room / size), 1)
    for i in np.argsort(x, kind="stable"):
        level = next((k for k, end in enumerate(ends) if end <= x[i]), None)
        if level is None:
            level = len(ends) if len(ends) < most else int(np.argmin(ends))
        ends[level : level + 1] = [x[i] + size]
        levels[i] = level
    return size * np.where(levels % 2, 1, -1) * ((levels + 1) // 2)


def lay_out(figure: Figure | SubFigure) -> None:
    """Give the axes of the whole figure their final sizes, so that text and points can be fitted to them."""
    whole: Any = figure.canvas.figure
    whole.draw_without_rendering()
    whole.set_layout_engine("none")


def size_in_points(axes: Axes) -> np.ndarray:
    """Width and height of axes in points of print."""
    return np.asarray(axes.bbox.size) * 72 / axes.figure.dpi


def label_axes(axes: Axes, x_label: str, y_label: str, sheet: Sheet = SCREEN) -> None:
    axes.set_xlabel(x_label, fontsize=sheet.type(8))
    axes.set_ylabel(y_label, fontsize=sheet.type(8))
    axes.tick_params(labelsize=sheet.type(7))
    axes.spines[["top", "right"]].set_visible(False)


def count_on(axis: Axis) -> None:
    """Give an axis of counts ticks at whole numbers only, in plain digits."""
    if axis.get_scale() == "linear":
        axis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 or value == 0 else "")


def write_text(axes: Axes, x: float, y: float, text: str, size: float, **options: Any) -> None:
    """Write text that does not affect the layout of the axes, and in which a $ is a $."""
    options = {"va": "center", **options}
    axes.text(x, y, text, fontsize=size, parse_math=False, **options).set_in_layout(False)


def _short(name: str, length: int = NAME_LENGTH) -> str:
    return short_name(" ".join(name.split()), length)


def fit(name: str, width: float, size: float) -> str:
    """Shorten a name so that it is at most ``width`` points wide."""
    return next((text for n in range(NAME_LENGTH, 4, -1) if text_width(text := _short(name, n), size) <= width), "...")


def fit_list(names: Sequence[str], width: float, size: float, before: str = "also ") -> str:
    """As many of the names as fit, after the words ``before``, and the number of the others."""
    text = "" if names else before
    for n in range(1, len(names) + 1):
        longer = f"{before}{listed(names, n)}"
        if n > 1 and text_width(longer, size) > width:
            break
        text = longer
    return text


def fit_groups(groups: list[list[str]], width: float, size: float, before: str = "") -> str:
    """Lists of names as ``{a, b}, {c}``: with shortened names, else one name of each group, else of some groups.

    A text that is still too long is cut.
    """
    brief = [[group[0], *([f"+{len(group) - 1}"] if group[1:] else [])] for group in groups]
    tries = [(groups, length, "") for length in (NAME_LENGTH, 30, 24, 20, 16, 12)] + [(brief, 18, ""), (brief, 12, "")]
    tries += [(brief[:n], 12, f" and {len(groups) - n} more") for n in range(len(groups) - 1, 0, -1)]
    for shown, length, more in tries:
        names = [", ".join(_short(name, length) for name in group) for group in shown]
        text = f"{before}{', '.join(f'{{{group}}}' for group in names)}{more}"
        if text_width(text, size) <= width:
            return text
    return fitted(text, width / 72, size)
