"""Figures: one colour for one thing everywhere, told apart in grey print by their lines."""

import re
import textwrap

from matplotlib.figure import Figure

ORIGINAL = ("#222222", "-")
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


def density_figure(samples, grid, curves, title, subtitle):
    """Density of the spatial sums of the original channel and of each disentangled one.

    Parameters
    ----------
    samples : dict of label -> array [n]
        The original channel first, then ``c'_1 .. c'_K``.
    grid, curves
        Of ``evaluation.density_curves``. A sample without a density is drawn as ticks, with a note.
    title, subtitle : str

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    styles = zip(samples.items(), (ORIGINAL, *DISENTANGLED), strict=False)
    for position, ((label, sample), (colour, line)) in enumerate(styles):
        name = _symbols(textwrap.shorten(label, 50, placeholder=" ..."))
        if curves[label] is None:
            name += f": {sample[0]:.3g} in every image, no density"
            size = 30 - 3 * position  # so that none hides another at the same place
            axes.plot(sample, [0] * len(sample), "|", color=colour, markersize=size, markeredgewidth=2, label=name)
        else:
            axes.plot(grid, curves[label], color=colour, linestyle=line, linewidth=1.8, label=name)
            axes.fill_between(grid, curves[label], color=colour, alpha=0.08, linewidth=0)
    axes.set_ylim(bottom=0)
    axes.set_xlim(*_visible(samples, grid, curves))
    axes.set_xlabel("activation, summed over space")
    axes.set_ylabel("density")
    axes.spines[["top", "right"]].set_visible(False)
    wide = sum(map(len, axes.get_legend_handles_labels()[1])) > 90
    axes.yaxis.set_visible(any(curve is not None for curve in curves.values()))
    figure.legend(loc="outside lower center", frameon=False, fontsize=9, ncols=1 if wide else len(samples))
    below = textwrap.fill(subtitle, 90)
    plain = {"ha": "center", "parse_math": False}  # a class may be called $
    axes.text(0.5, 1.02, below, transform=axes.transAxes, va="bottom", fontsize=8, color="#555555", **plain)
    axes.set_title(textwrap.fill(title, 60), fontsize=11, pad=8 + 11 * len(below.split("\n")), **plain)
    return figure


def top_pictures_figure(rows, frames, title, subtitle):
    """Rows of the pictures that activate a channel most, each framed in the colour of its concept.

    Parameters
    ----------
    rows : dict of label -> list of (picture [H, W, 3], concept name)
        The original channel first, then ``c'_1 .. c'_K``; most activating first.
    frames : list of str
        The concepts' names in order: the first is framed in the colour of ``c'_1``, and so on.
    title, subtitle : str

    Returns
    -------
    matplotlib.figure.Figure
    """
    columns = max(map(len, rows.values()))
    figure = Figure(figsize=(0.72 * columns + 1.6, 0.78 * len(rows) + 0.95), layout="constrained")
    colours = dict(zip(frames, (colour for colour, _ in DISENTANGLED), strict=False))
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes_row, (label, pictures) in zip(grid, rows.items(), strict=True):
        for axes in axes_row:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        for axes, (picture, name) in zip(axes_row, pictures, strict=False):
            axes.imshow(picture)
            axes.spines[:].set(visible=True, color=colours[name], linewidth=3)
        axes_row[0].set_ylabel(_symbols(textwrap.fill(label, 16)), rotation=0, ha="right", va="center", fontsize=10)
    figure.suptitle(title, fontsize=12, parse_math=False)
    figure.supxlabel(subtitle, fontsize=8, color="#555555", parse_math=False)
    return figure


def _symbols(text):
    """Typeset ``c'_1`` as the paper does."""
    return re.sub(r"c'_(\d)", r"$c'_{\1}$", text.replace("$", r"\$"))


def _visible(samples, grid, curves):
    """Where any curve is above a hundredth of its height, or a tick stands."""
    shown = [grid[curve > 0.01 * curve.max()] for curve in curves.values() if curve is not None]
    shown += [sample for label, sample in samples.items() if curves[label] is None]
    low, high = min(part.min() for part in shown), max(part.max() for part in shown)
    margin = 0.03 * (high - low) or 1.0
    return low - margin, high + margin
