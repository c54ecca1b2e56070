"""Figures: a channel has the same colour in all of them, and a style of line that grey print also shows."""

import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from utils.report.sheets import SCREEN, Sheet, Titles

Line = tuple[str, str | tuple]  # a colour, and matplotlib's style of a line
AxesLimits = tuple[tuple[float, float], float]  # lowest and highest activation, and the top
Panel = tuple[dict[str, np.ndarray], tuple[np.ndarray, dict[str, np.ndarray | None]]]  # samples, (grid, curves)

SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
ORIGINAL = ("#222222", "-")
EVERYTHING_ELSE = ("#6b6b6b", (0, (1, 2)))  # the channel of a background
SUBTLE = "#555555"  # small print
HANDLE = 22  # points of a line in a legend: a whole period of most dashes
GREY = "#a0a0a0"  # the residual, and pictures of other classes
HIGHEST = 3  # densities are cut where they are this many times as high as the original channel's
LEAST_PEAK = 0.1  # share of the axes' height that the peak of a density has, or else all are scaled to their own peaks
SCALED = "each density scaled to its own peak"
DISENTANGLED: tuple[Line, ...] = (
    ("#0072b2", "--"),
    ("#d55e00", "-."),
    ("#009e73", (0, (1, 1))),
    ("#cc79a7", (0, (5, 1, 1, 1, 1, 1))),
    ("#e69f00", (0, (8, 2))),
    ("#56b4e9", (0, (3, 3))),
    ("#7b5ea7", (0, (6, 1, 1, 1))),
    ("#8c6d31", (0, (2, 2))),
)


def density_figure(
    samples: dict[str, np.ndarray],
    grid: np.ndarray,
    curves: dict[str, np.ndarray | None],
    *,
    colours: Sequence[Line],
    limits: AxesLimits,
    titles: Titles,
    sheet: Sheet = SCREEN,
) -> Figure:
    """Density of the spatial sums of the original channel and of each disentangled one.

    Parameters
    ----------
    samples
        Arrays [n] by label: the original channel first, then ``c'_1 .. c'_K``.
    grid, curves
        From ``evaluation.density_curves``. A sample without a density is drawn as ticks, with a note.
    colours
        The colour and the line of each sample.
    limits
        Limits of the axes, from ``density_limits``.
    titles
    sheet
    """
    width = sheet.wide(6.4)
    figure = Figure(figsize=(width, 1.3 + 0.42 * width), layout="constrained")
    axes = figure.subplots()
    density_axes(axes, samples, grid, curves, colours=colours, limits=limits)
    axes.set_xlabel(activation_label([(samples, (grid, curves))], limits), fontsize=sheet.type(10))
    axes.set_ylabel("density", fontsize=sheet.type(10))
    axes.tick_params(labelsize=sheet.type(10))
    size = sheet.type(9)
    names = []
    between = ":\n" if sheet.narrow else ": "
    for label, sample in samples.items():
        constant = f"{between}{sample[0]:.3g} in every image: no density" if curves[label] is None else ""
        names.append(symbols(fitted(label, min(3.4, width - 0.6), size)) + constant)
    beside = not sheet.narrow and sum(text_width(name, size) + HANDLE + 3 * size for name in names) < 72 * width
    figure.legend(
        axes.lines,
        names,
        loc="outside lower center",
        frameon=False,
        fontsize=size,
        ncols=len(names) if beside else 1,
        handlelength=HANDLE / size,
    )
    title = fitted(titles.title, width - 0.2, sheet.type(11), lines=3)
    subtitle = fitted(titles.subtitle, width - 0.2, sheet.type(8), lines=4)
    figure.suptitle(title, fontsize=sheet.type(11), parse_math=False)  # a class may be called $
    axes.set_title(subtitle, fontsize=sheet.type(8), color=SUBTLE, parse_math=False)
    return figure


def density_axes(
    axes: Axes,
    samples: dict[str, np.ndarray],
    grid: np.ndarray,
    curves: dict[str, np.ndarray | None],
    *,
    colours: Sequence[Line],
    limits: AxesLimits,
) -> None:
    """Draw the densities of ``density_figure`` into axes: a line for each, in their order."""
    across, top = limits
    for position, ((label, sample), (colour, line)) in enumerate(zip(samples.items(), colours, strict=True)):
        curve = curves[label]
        if curve is None:
            size = 30 - 3 * position  # so that none hides another at the same place
            axes.plot(sample, [0] * len(sample), "|", color=colour, markersize=size, markeredgewidth=2)
        else:
            axes.plot(grid, curve, color=colour, linestyle=line, linewidth=1.8)
            axes.fill_between(grid, curve, color=colour, alpha=0.08, linewidth=0)
    axes.set(xlim=across, ylim=(0, top))
    axes.yaxis.set_visible(any(curve is not None for curve in curves.values()))
    axes.spines[["top", "right"]].set_visible(False)


def density_limits(panels: Sequence[Panel]) -> AxesLimits:
    """Limits that axes share, so that they can be compared: lowest and highest activation, and the top.

    They hold all positions where a curve is above a hundredth of its height, and all ticks. The peak of a new channel
    that is silent in these images would hide all others: curves are cut far above those of the original channels.

    Parameters
    ----------
    panels
        (samples, (grid, curves)) of each.
    """
    shown = []
    tops = []
    originals = []
    for samples, (grid, curves) in panels:
        original = curves[next(iter(samples))]
        originals += [] if original is None else [original.max()]
        drawn = [curve for curve in curves.values() if curve is not None]
        shown += [grid[curve > 0.01 * curve.max()] for curve in drawn]
        shown += [sample for label, sample in samples.items() if curves[label] is None]
        tops += [curve.max() for curve in drawn]
    low = min(part.min() for part in shown)
    high = max(part.max() for part in shown)
    margin = 0.03 * (high - low) or 1.0
    top = max(tops, default=1.0)
    return (low - margin, high + margin), 1.05 * min(top, HIGHEST * max(originals, default=top))


def visible_densities(panels: Sequence[Panel]) -> tuple[list[Panel], bool]:
    """Panels whose densities all are visible on shared axes, and whether they had to be scaled.

    A density of few images or of a channel that is nearly silent is a spike, beside which others are flat: then the
    curves of all panels are divided by their own peaks.
    """
    _, top = density_limits(panels)
    peaks = [curve.max() for _, (_, curves) in panels for curve in curves.values() if curve is not None]
    if not peaks or min(peaks) >= LEAST_PEAK * top:
        return list(panels), False
    scaled: list[Panel] = []
    for samples, (grid, curves) in panels:
        scaled.append((samples, (grid, {label: _over_its_peak(curve) for label, curve in curves.items()})))
    return scaled, True


def _over_its_peak(curve: np.ndarray | None) -> np.ndarray | None:
    return None if curve is None else curve / curve.max()


def activation_label(panels: Sequence[Panel], limits: AxesLimits) -> str:
    """The label of the axis of densities, which says whether a curve is higher than the axes."""
    curves = [curve for _, (_, of_panel) in panels for curve in of_panel.values() if curve is not None]
    is_cut = any(curve.max() > limits[1] for curve in curves)
    return "activation, summed over space" + ("; higher peaks are cut" if is_cut else "")


def pictures_figure(rows: dict[str, list[tuple]], titles: Titles, sheet: Sheet = SCREEN) -> Figure:
    """Rows of framed pictures, one for each channel.

    Parameters
    ----------
    rows
        By label, lists of (picture [H, W, 3], colour of its frame, what is written below): the original channel first,
        then ``c'_1 .. c'_K``.
    titles
    sheet
    """
    columns = max(map(len, rows.values()))
    width = sheet.wide(0.72 * max(columns, 6) + 1.6)  # six columns leave room for a title
    beside = min(1.35, 0.3 * width)
    side = (width - beside - 0.25) / columns
    size = sheet.type(10)
    below = 0.15 * any(caption for row in rows.values() for _, _, caption in row)
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
    title_size = sheet.type(12)
    small = sheet.type(8)
    title = fitted(titles.title, width - 0.1, title_size, lines=3)
    subtitle = fitted(titles.subtitle, width - 0.1, small, lines=4)
    figure.suptitle(title, fontsize=title_size, parse_math=False)
    figure.supxlabel(subtitle, fontsize=small, color=SUBTLE, parse_math=False)
    return figure


def framed(axes: Axes, picture: np.ndarray, colour: str) -> None:
    """Show a picture [H, W, 3] in a frame of a colour."""
    axes.imshow(picture)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color=colour, linewidth=3)


def fitted(text: str, width: float, size: float, lines: int = 1) -> str:
    """Text of a font size in points, in at most ``lines`` lines of ``width`` inches.

    It is broken between words; a line that is too long is cut.
    """
    words = re.findall(r"[^ \t\r\n]+", text)  # a no-break space holds words together
    broken: list[str] = []
    while words and len(broken) < lines - 1:
        count = next((n for n in range(len(words), 1, -1) if text_width(" ".join(words[:n]), size) <= 72 * width), 1)
        broken.append(" ".join(words[:count]))
        words = words[count:]
    if words:
        broken.append(" ".join(words))
    return "\n".join(_cut(line, 72 * width, size) for line in broken)


def _cut(text: str, room: float, size: float) -> str:
    """As much of a text as fits; three dots stand for the rest."""
    if text_width(text, size) <= room:
        return text
    return next((cut for n in range(len(text), 1, -1) if text_width(cut := f"{text[:n]}…", size) <= room), text[:1])


@lru_cache(10000)
def text_width(text: str, size: float) -> float:
    """Width in points of print; pixels can make a small text a little wider."""
    return 1.06 * text_to_path.get_text_width_height_descent(text, FontProperties(size=size), False)[0]


def symbols(text: str) -> str:
    """Typeset ``c'_1`` nearly as the paper does, in letters of full size; what remains is never taken for a formula."""
    return re.sub(r"c'_(\d+)", lambda match: f"c′{match[1].translate(SUBSCRIPTS)}", text.replace("$", r"\$"))
