"""Figures: one colour for one thing everywhere, told apart in grey print by their lines."""

import re
from functools import lru_cache

from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from utils.report.sheets import SCREEN

SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
ORIGINAL = ("#222222", "-")
EVERYTHING_ELSE = ("#6b6b6b", (0, (1, 2)))  # the channel of a background
SUBTLE = "#555555"  # what is said in small print
HANDLE = 22  # points of a line in a legend: a whole period of most dashes
GREY = "#a0a0a0"  # the residual, and pictures of other classes
DISENTANGLED = (
    ("#0072b2", "--"),
    ("#d55e00", "-."),
    ("#009e73", (0, (1, 1))),
    ("#cc79a7", (0, (5, 1, 1, 1, 1, 1))),
    ("#e69f00", (0, (8, 2))),
    ("#56b4e9", (0, (3, 3))),
    ("#7b5ea7", (0, (6, 1, 1, 1))),
    ("#8c6d31", (0, (2, 2))),
)


def density_figure(samples, grid, curves, colours, limits, title, subtitle, sheet=SCREEN):
    """Density of the spatial sums of the original channel and of each disentangled one.

    Parameters
    ----------
    samples : dict of label -> array [n]
        The original channel first, then ``c'_1 .. c'_K``.
    grid, curves
        Of ``evaluation.density_curves``. A sample without a density is drawn as ticks, with a note.
    colours : list of (colour, line)
        Of each sample.
    limits : (low, high), top
        Of the axes, from ``density_limits``.
    title, subtitle : str
    sheet : Sheet

    Returns
    -------
    matplotlib.figure.Figure
    """
    width = sheet.wide(6.4)
    figure = Figure(figsize=(width, 1.3 + 0.42 * width), layout="constrained")
    axes, between = figure.subplots(), ":\n" if sheet.narrow else ": "
    density_axes(axes, samples, grid, curves, colours, limits)
    axes.set_xlabel("activation, summed over space", fontsize=sheet.type(10))
    axes.set_ylabel("density", fontsize=sheet.type(10))
    axes.tick_params(labelsize=sheet.type(10))
    size, names = sheet.type(9), []
    for label, sample in samples.items():
        constant = f"{between}{sample[0]:.3g} in every image, no density" if curves[label] is None else ""
        names.append(symbols(fitted(label, min(3.4, width - 0.6), size)) + constant)
    beside = not sheet.narrow and sum(text_width(name, size) + HANDLE + 3 * size for name in names) < 72 * width
    how = {"frameon": False, "fontsize": size, "ncols": len(names) if beside else 1, "handlelength": HANDLE / size}
    figure.legend(axes.lines, names, loc="outside lower center", **how)
    plain = {"parse_math": False}  # a class may be called $
    figure.suptitle(fitted(title, width - 0.2, sheet.type(11), lines=3), fontsize=sheet.type(11), **plain)
    below = fitted(subtitle, width - 0.2, sheet.type(8), lines=4)
    axes.set_title(below, fontsize=sheet.type(8), color=SUBTLE, **plain)
    return figure


def density_axes(axes, samples, grid, curves, colours, limits):
    """Draw the densities of ``density_figure`` into axes: a line each, in their order."""
    across, top = limits
    for position, ((label, sample), (colour, line)) in enumerate(zip(samples.items(), colours, strict=True)):
        if curves[label] is None:
            size = 30 - 3 * position  # so that none hides another at the same place
            axes.plot(sample, [0] * len(sample), "|", color=colour, markersize=size, markeredgewidth=2)
        else:
            axes.plot(grid, curves[label], color=colour, linestyle=line, linewidth=1.8)
            axes.fill_between(grid, curves[label], color=colour, alpha=0.08, linewidth=0)
    axes.set(xlim=across, ylim=(0, top))
    axes.yaxis.set_visible(any(curve is not None for curve in curves.values()))
    axes.spines[["top", "right"]].set_visible(False)


def density_limits(panels):
    """Limits that axes share, so that they can be compared: lowest and highest activation, and the top.

    All places where any curve is above a hundredth of its height, or a tick stands.

    Parameters
    ----------
    panels : list of (samples, (grid, curves))

    Returns
    -------
    (low, high), top
    """
    shown, tops = [], []
    for samples, (grid, curves) in panels:
        drawn = [curve for curve in curves.values() if curve is not None]
        shown += [grid[curve > 0.01 * curve.max()] for curve in drawn]
        shown += [sample for label, sample in samples.items() if curves[label] is None]
        tops += [curve.max() for curve in drawn]
    low, high = min(part.min() for part in shown), max(part.max() for part in shown)
    margin = 0.03 * (high - low) or 1.0
    return (low - margin, high + margin), 1.05 * max(tops, default=1.0)


def pictures_figure(rows, title, subtitle, sheet=SCREEN):
    """Rows of framed pictures, one a channel.

    Parameters
    ----------
    rows : dict of label -> list of (picture [H, W, 3], colour of its frame, what is written below)
        The original channel first, then ``c'_1 .. c'_K``.
    title, subtitle : str
    sheet : Sheet

    Returns
    -------
    matplotlib.figure.Figure
    """
    columns = max(map(len, rows.values()))
    room = max(columns, 6)  # or the title does not fit
    width = sheet.wide(0.72 * room + 1.6)
    beside = min(1.35, 0.3 * width)
    side = (width - beside - 0.25) / columns
    size, below = sheet.type(10), 0.15 * any(caption for row in rows.values() for _, _, caption in row)
    figure = Figure(figsize=(width, (side + 0.06 + below) * len(rows) + 0.95), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes_row, (label, pictures) in zip(grid, rows.items(), strict=True):
        for axes in axes_row[len(pictures) :]:
            axes.set_axis_off()
        for axes, (picture, colour, caption) in zip(axes_row, pictures, strict=False):
            framed(axes, picture, colour)
            axes.set_xlabel(caption, fontsize=sheet.type(8), labelpad=2)
        name = symbols(fitted(label, beside, size, lines=6))
        axes_row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=size)
    title_size, small = sheet.type(12), sheet.type(8)
    figure.suptitle(fitted(title, width - 0.1, title_size, lines=3), fontsize=title_size, parse_math=False)
    figure.supxlabel(fitted(subtitle, width - 0.1, small, lines=4), fontsize=small, color=SUBTLE, parse_math=False)
    return figure


def framed(axes, picture, colour):
    """Show a picture [H, W, 3] in a frame of a colour."""
    axes.imshow(picture)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color=colour, linewidth=3)


def fitted(text, width, size, lines=1):
    """Text of a font size in points, in so many lines of ``width`` inches: broken between words, cut where longer."""
    words, found = re.findall(r"[^ \t\r\n]+", text), []  # a no-break space holds words together
    while words and len(found) < lines - 1:
        count = next((n for n in range(len(words), 1, -1) if text_width(" ".join(words[:n]), size) <= 72 * width), 1)
        found.append(" ".join(words[:count]))
        words = words[count:]
    return "\n".join(_cut(line, 72 * width, size) for line in [*found, *([" ".join(words)] if words else [])])


def _cut(text, room, size):
    """As much of a text as fits, behind which three dots stand for the rest."""
    if text_width(text, size) <= room:
        return text
    return next((cut for n in range(len(text), 1, -1) if text_width(cut := f"{text[:n]}…", size) <= room), text[:1])


@lru_cache(10000)
def text_width(text, size):
    """Width in points of print; pixels can make a small text a little wider."""
    return 1.06 * text_to_path.get_text_width_height_descent(text, FontProperties(size=size), False)[0]


def symbols(text):
    """Typeset ``c'_1`` nearly as the paper does, in letters of full size; what remains is never taken for a formula."""
    return re.sub(r"c'_(\d+)", lambda found: f"c′{found[1].translate(SUBSCRIPTS)}", text.replace("$", r"\$"))
