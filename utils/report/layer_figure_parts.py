"""What the figures of a layer share: titles, colours of the two kinds of pairs, stacked points, names that fit."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from utils.errors import listed
from utils.method.polysemanticity import gamma_polysemantic
from utils.report.layout import line_height
from utils.report.plots import ORIGINAL, SUBTLE, fitted, text_width
from utils.report.sheets import SCREEN
from utils.report.tables import short_name

# Colour and marker: told apart in grey print too
UNDER_GAMMA = ("#dc267f", "^")
OTHER = (ORIGINAL[0], "o")
NAME_LENGTH = 40
LARGEST_POINT, SMALLEST_POINT = 6.0, 0.3  # points of print


def titled_parts(width, heights, title, subtitle, sheet=SCREEN):
    """A figure of parts above one another, of this width on a screen and these heights in inches, and its parts."""
    width, size, small = sheet.wide(width), sheet.type(11), sheet.type(8)
    title, subtitle = fitted(title, width - 0.2, size, lines=3), fitted(subtitle, width - 0.2, small, lines=6)
    heights = [heights[0] + line_height(small, subtitle.count("\n")), *heights[1:]]
    above = 0.5 + line_height(size, title.count("\n"))
    figure = Figure(figsize=(width, sum(heights) + above), layout="constrained")
    figure.suptitle(title, fontsize=size, parse_math=False)
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    parts[0].suptitle(subtitle, fontsize=small, color=SUBTLE, parse_math=False)
    return figure, parts


def sides(cosines, gamma):
    """Colour, marker, members and name of the pairs under gamma, and of the others."""
    under = gamma_polysemantic(cosines, gamma)
    return (*UNDER_GAMMA, under, "under"), (*OTHER, ~under, "at or above")


def draw_points(axes, x, rows, gamma):
    """Stack the points of each row so that none hides another, as large as the most crowded place allows.

    Returns the points' places, array [n, 2]. The axes must have their final size.
    """
    width, height = size_in_points(axes)
    across, room = x * width / np.ptp(axes.get_xlim()), 0.95 * height / np.ptp(axes.get_ylim())
    members = [np.flatnonzero(rows == row) for row in np.unique(rows)]
    for size in np.geomspace(LARGEST_POINT, SMALLEST_POINT, 40):
        if max(_crowd(across[own], size) for own in members) * size <= room:
            break
    y = rows.astype(float)
    for own in members:
        y[own] += _offsets(across[own], size, room) * np.ptp(axes.get_ylim()) / height
    for colour, marker, part, _ in sides(x, gamma):
        axes.scatter(x[part], y[part], s=size**2, c=colour, marker=marker, linewidths=0, zorder=2)
    return np.stack([x, y], axis=1)


def _crowd(x, size):
    """How many points of width ``size`` lie over one another at the most crowded place; odd, so as to be centred."""
    x = np.sort(x)
    return (np.searchsorted(x, x + size) - np.arange(len(x))).max() | 1


def _offsets(x, size, room):
    """Distance of each point from the middle of its row: the nearest free place, taken from left to right.

    Where ``room`` is too little even for the smallest points, they overlap.
    """
    ends, levels = [], np.empty(len(x), dtype=int)
    most = max(int(room / size), 1)
    for i in np.argsort(x, kind="stable"):
        level = next((k for k, end in enumerate(ends) if end <= x[i]), None)
        if level is None:
            level = len(ends) if len(ends) < most else int(np.argmin(ends))
        ends[level : level + 1] = [x[i] + size]
        levels[i] = level
    return size * np.where(levels % 2, 1, -1) * ((levels + 1) // 2)


def lay_out(figure):
    """Give the axes their final sizes, which text and points are then fitted to. ``figure`` may be a part of one."""
    whole = figure.canvas.figure
    whole.draw_without_rendering()
    whole.set_layout_engine("none")


def size_in_points(axes):
    return axes.bbox.size * 72 / axes.figure.dpi


def label_axes(axes, x, y, sheet=SCREEN):
    axes.set_xlabel(x, fontsize=sheet.type(8))
    axes.set_ylabel(y, fontsize=sheet.type(8))
    axes.tick_params(labelsize=sheet.type(7))
    axes.spines[["top", "right"]].set_visible(False)


def count_on(axis):
    """Ticks of whole numbers alone on an axis that counts, in plain digits."""
    if axis.get_scale() == "linear":
        axis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 or value == 0 else "")


def write_text(axes, x, y, text, size, **options):
    """Text that does not move the axes, and in which a $ is a $."""
    axes.text(x, y, text, fontsize=size, parse_math=False, **{"va": "center", **options}).set_in_layout(False)


def _short(name, length=NAME_LENGTH):
    return short_name(" ".join(name.split()), length)


def fit(name, width, size):
    """Shorten a name to what is at most ``width`` points wide."""
    return next((text for n in range(NAME_LENGTH, 4, -1) if text_width(text := _short(name, n), size) <= width), "...")


def fit_list(names, width, size, before="also "):
    """As many of the names as fit, behind a word or two, and how many more there are."""
    text = "" if names else before
    for n in range(1, len(names) + 1):
        longer = f"{before}{listed(names, n)}"
        if n > 1 and text_width(longer, size) > width:
            break
        text = longer
    return text


def fit_groups(groups, width, size, before=""):
    """Lists of names as ``{a, b}, {c}``: names shortened, else one of each group, and what does not fit is counted.

    Where that is still too long it is cut.
    """
    brief = [[group[0], *([f"+{len(group) - 1}"] if group[1:] else [])] for group in groups]
    tries = [(groups, length, "") for length in (NAME_LENGTH, 30, 24, 20, 16, 12)] + [(brief, 18, ""), (brief, 12, "")]
    tries += [(brief[:n], 12, f" and {len(groups) - n} more") for n in range(len(groups) - 1, 0, -1)]
    for shown, length, more in tries:
        names = [", ".join(_short(name, length) for name in group) for group in shown]
        text = f"{before}{', '.join(f'{{{one}}}' for one in names)}{more}"
        if text_width(text, size) <= width:
            return text
    return fitted(text, width / 72, size)
