"""Figures: one colour for one thing everywhere, told apart in grey print by their lines."""

import re
import textwrap

from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

ORIGINAL = ("#222222", "-")
EVERYTHING_ELSE = ("#6b6b6b", (0, (1, 2)))  # the channel of a background
SUBTLE = "#555555"  # what is said in small print
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


def density_figure(samples, grid, curves, colours, title, subtitle):
    """Density of the spatial sums of the original channel and of each disentangled one.

    Parameters
    ----------
    samples : dict of label -> array [n]
        The original channel first, then ``c'_1 .. c'_K``.
    grid, curves
        Of ``evaluation.density_curves``. A sample without a density is drawn as ticks, with a note.
    colours : list of (colour, line)
        Of each sample.
    title, subtitle : str

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    density_axes(axes, samples, grid, curves, colours)
    axes.set_xlim(*density_limits(samples, grid, curves))
    axes.set_xlabel("activation, summed over space")
    wide = sum(map(len, axes.get_legend_handles_labels()[1])) > 90
    figure.legend(loc="outside lower center", frameon=False, fontsize=9, ncols=1 if wide else len(samples))
    below = textwrap.fill(subtitle, 90)
    plain = {"ha": "center", "parse_math": False}  # a class may be called $
    axes.text(0.5, 1.02, below, transform=axes.transAxes, va="bottom", fontsize=8, color=SUBTLE, **plain)
    axes.set_title(textwrap.fill(title, 60), fontsize=11, pad=8 + 11 * len(below.split("\n")), **plain)
    return figure


def density_axes(axes, samples, grid, curves, colours):
    """Draw the densities of ``density_figure`` into axes, with labels for a legend."""
    styles = zip(samples.items(), colours, strict=True)
    for position, ((label, sample), (colour, line)) in enumerate(styles):
        name = symbols(fitted(label, 3.4, 9))
        if curves[label] is None:
            name += f": {sample[0]:.3g} in every image, no density"
            size = 30 - 3 * position  # so that none hides another at the same place
            axes.plot(sample, [0] * len(sample), "|", color=colour, markersize=size, markeredgewidth=2, label=name)
        else:
            axes.plot(grid, curves[label], color=colour, linestyle=line, linewidth=1.8, label=name)
            axes.fill_between(grid, curves[label], color=colour, alpha=0.08, linewidth=0)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("density")
    axes.yaxis.set_visible(any(curve is not None for curve in curves.values()))
    axes.spines[["top", "right"]].set_visible(False)


def density_limits(samples, grid, curves):
    """Where any curve is above a hundredth of its height, or a tick stands: lowest and highest activation to show."""
    shown = [grid[curve > 0.01 * curve.max()] for curve in curves.values() if curve is not None]
    shown += [sample for label, sample in samples.items() if curves[label] is None]
    low, high = min(part.min() for part in shown), max(part.max() for part in shown)
    margin = 0.03 * (high - low) or 1.0
    return low - margin, high + margin


def pictures_figure(rows, title, subtitle):
    """Rows of framed pictures, one a channel.

    Parameters
    ----------
    rows : dict of label -> list of (picture [H, W, 3], colour of its frame)
        The original channel first, then ``c'_1 .. c'_K``.
    title, subtitle : str

    Returns
    -------
    matplotlib.figure.Figure
    """
    columns = max(map(len, rows.values()))
    wide = max(columns, 6)  # or the title does not fit
    side = 0.72 * wide / columns
    figure = Figure(figsize=(0.72 * wide + 1.6, (side + 0.06) * len(rows) + 0.95), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes_row, (label, pictures) in zip(grid, rows.items(), strict=True):
        for axes in axes_row[len(pictures) :]:
            axes.set_axis_off()
        for axes, (picture, colour) in zip(axes_row, pictures, strict=False):
            framed(axes, picture, colour)
        name = symbols(fitted(label, 1.35, 10, lines=4))
        axes_row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10)
    figure.suptitle(fitted(title, 0.72 * wide + 1.5, 12, lines=2), fontsize=12, parse_math=False)
    figure.supxlabel(fitted(subtitle, 0.72 * wide + 1.5, 8, lines=2), fontsize=8, color=SUBTLE, parse_math=False)
    return figure


def framed(axes, picture, colour):
    """Show a picture [H, W, 3] in a frame of a colour."""
    axes.imshow(picture)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color=colour, linewidth=3)


def fitted(text, width, size, lines=1):
    """Text of a font size in points, wrapped to so many lines of ``width`` inches, cut where it is longer."""
    for length in range(min(len(text), 300), 1, -1):
        wrapped = textwrap.wrap(text, length)
        if len(wrapped) > lines:
            wrapped = [*wrapped[: lines - 1], wrapped[lines - 1][: length - 1] + "…"]
        if all(text_width(line, size) <= 72 * width for line in wrapped):
            return "\n".join(wrapped)
    return text[:1]


def text_width(text, size):
    """Width in points of print; pixels can make a small text a little wider."""
    return 1.06 * text_to_path.get_text_width_height_descent(text, FontProperties(size=size), False)[0]


def symbols(text):
    """Typeset ``c'_1`` as the paper does."""
    return re.sub(r"c'_(\d)", r"$c'_{\1}$", text.replace("$", r"\$"))
