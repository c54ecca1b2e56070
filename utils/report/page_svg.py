"""Small drawings of the report's pages as inline SVG, in the colours of the project's figures.

Colours and dashes are classes of the style sheet, so that they follow light and dark; text is escaped.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from markupsafe import Markup, escape
from scipy.cluster.hierarchy import dendrogram

from utils.method.evaluation import Summary
from utils.method.grouping import linkage_of
from utils.report.plots import DISENTANGLED, HIGHEST

MOST_NUMBERS = 12  # rows of a matrix with a number in every cell
STRONG = 0.7  # where a number is white on its cell
TREE = 90  # pixels, the width of a dendrogram
GAP = 8  # pixels, between it and the matrix
CHARACTER = 6.2  # pixels, the width of a letter
LONGEST = 34  # letters of a class's name
DENSITY_POINTS = 72


def tag(name: str, *children: str, **attributes: Any) -> Markup:
    """An element; ``class_`` stands for class, other underscores for hyphens. All text is escaped."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_number(value))}"' for key, value in attributes.items()
    )
    return Markup(f"<{name}{written}>{''.join(map(escape, children))}</{name}>")


def svg(width: float, height: float, label: str, *children: str, class_: str = "drawing") -> Markup:
    """A drawing of width x height pixels that shrinks with its page; ``label`` describes it for screen readers."""
    view = {"viewBox": f"0 0 {_number(width)} {_number(height)}", "width": width, "height": height}
    return tag("svg", *children, class_=class_, role="img", aria_label=label, **view)


def _number(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float | np.floating) else value


def style_of(concept: int) -> str:
    """The style class of a concept's channel, from 0; those beyond the palette share one."""
    return f"s{concept + 1}" if concept < len(DISENTANGLED) else "more"


def share_bar(share: float, p: float, style: str) -> Markup:
    """A bar from 0 to 1 with a mark at p."""
    bar = tag("rect", width=100 * float(share), height=10, class_=f"bar {style}")
    mark = tag("path", d=f"M{100 * p:.4g} -2V12", class_="mark")
    track = tag("rect", width=100, height=10, class_="track")
    view = {"viewBox": "0 -2 100 14", "preserveAspectRatio": "none", "aria_hidden": "true"}
    return tag("svg", track, bar, mark, class_="share", **view)


def before_after(before: float, after: float, reference: float, style: str = "s1") -> Markup:
    """Average precision before (a ring) and after (a disc), from 0 to 1, with a mark at what permuted weights reach."""

    def across(value: float) -> float:
        return float(4 + 92 * value)

    words = f"AP {before:.2f} before, {after:.2f} after"
    parts = [
        tag("path", d="M4 10H96", class_="axis"),
        tag("path", d=f"M{across(before):.4g} 10H{across(after):.4g}", class_=f"line {style} solid"),
    ]
    if np.isfinite(reference):
        parts.append(tag("path", d=f"M{across(reference):.4g} 3V17", class_="mark"))
        words += f", permuted weights {reference:.2f}"
    parts += [
        tag("circle", cx=across(before), cy=10, r=3.2, class_="ring"),
        tag("circle", cx=across(after), cy=10, r=3.6, class_=f"bar {style}"),
    ]
    return svg(100, 20, words, *parts, class_="before-after")


def cosine_matrix(cosines: torch.Tensor, group_of: list[int], names: list[str], gamma: float) -> Markup:
    """Cosines of classes' ARVs in the order of their dendrogram, which is drawn next to them; groups are framed.

    Parameters
    ----------
    cosines : Tensor [n, n]
        Cosines between at least two classes.
    group_of, names
        The group and the name of each class.
    gamma
        The dendrogram is cut at 1 - gamma.
    """
    count = len(cosines)
    cell = 30 if count <= MOST_NUMBERS else max(7, 400 // count)
    merges = linkage_of(cosines)
    farthest = max(merges[:, 2].max(), 1 - gamma, 1e-9)
    drawn = dendrogram(merges, no_plot=True)
    order = drawn["leaves"]
    rows_of = {group: [row for row, leaf in enumerate(order) if group_of[leaf] == group] for group in set(group_of)}

    def left_of(distance: float) -> float:
        return TREE - (TREE - 4) * distance / farthest

    tree = []
    for heights_across, heights in zip(drawn["icoord"], drawn["dcoord"], strict=True):
        points = [(left_of(x), y / 10 * cell) for x, y in zip(heights, heights_across, strict=True)]
        tree.append("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points))
    side = cell * count
    cut = left_of(1 - gamma)
    text_left = TREE + GAP + side + 8
    width = text_left + CHARACTER * 1.1 * (4 + max(min(len(name), LONGEST) for name in names))
    words = "; ".join(
        f"group {group + 1}: {', '.join(names[order[row]] for row in rows)}" for group, rows in sorted(rows_of.items())
    )
    return svg(
        width,
        side + 2,
        f"cosines of {count} classes; the lowest is {float(cosines.min()):.2f}; {words}",
        tag("path", d="".join(tree), class_="tree"),
        tag("path", d=f"M{cut:.1f} 0V{side}", class_="cut"),
        *_cells(cosines, order, cell),
        *(_frame(group, rows, cell) for group, rows in sorted(rows_of.items())),
        *(_class_name(names[leaf], group_of[leaf], row, cell, left=text_left) for row, leaf in enumerate(order)),
    )


def _cells(cosines: torch.Tensor, order: list[int], cell: int) -> Iterator[Markup]:
    """A square for each cosine, and its number where few classes leave room for it."""
    for row, class1 in enumerate(order):
        for column, class2 in enumerate(order):
            value = float(cosines[class1, class2])
            x = TREE + GAP + column * cell
            style = "cell" if value >= 0 else "cell negative"
            yield tag(
                "rect", class_=style, fill_opacity=round(abs(value), 2), x=x, y=row * cell, width=cell, height=cell
            )
            if len(order) <= MOST_NUMBERS:
                text = f"{value:.2f}".replace("0.", ".").replace("1.00", "1")
                style = "number strong" if abs(value) > STRONG else "number"
                yield tag("text", text, x=x + cell / 2, y=(row + 0.5) * cell + 3.5, class_=style)


def _frame(group: int, rows: list[int], cell: int) -> Markup:
    """The frame of a group: the squares of its classes, which lie side by side."""
    first = min(rows) * cell
    extent = len(rows) * cell
    style = f"frame {style_of(group)}"
    return tag("rect", class_=style, x=TREE + GAP + first, y=first, width=extent, height=extent)


def _class_name(name: str, group: int, row: int, cell: int, *, left: float) -> Markup:
    shown = name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
    return tag(
        "text",
        f"{group + 1}  {shown}",
        class_=f"name {style_of(group)}",
        x=left,
        y=(row + 0.5) * cell + 4,
        font_size=min(12, cell + 3),
    )


def densities(
    samples: dict[str, np.ndarray],
    grid: np.ndarray,
    curves: dict[str, np.ndarray | None],
    *,
    styles: list[str],
    limits: tuple[float, float],
) -> Markup:
    """Densities of spatial sums of several channels on one scale.

    Parameters
    ----------
    samples, grid, curves
        As ``plots.density_axes`` takes them.
    styles
        The style class of each sample.
    limits
        The lowest and the highest activation.
    """
    width = 600  # drawings are shown at half this size, so that whole pixels are fine enough
    height = 192
    bottom = 160
    low, high = limits
    shown = np.linspace(low, high, DENSITY_POINTS)
    heights = {label: np.interp(shown, grid, curve) for label, curve in curves.items() if curve is not None}
    top = max([float(values.max()) for values in heights.values()] or [1.0])
    first = heights.get(next(iter(samples)))
    if first is not None:  # the peak of a channel that is silent in these images would hide all others
        top = min(top, HIGHEST * float(first.max()))

    def across(value: Any) -> Any:
        return width * (value - low) / (high - low)

    parts = [tag("path", d=f"M0 {bottom}H{width}", class_="axis")]
    for (label, sample), style in zip(samples.items(), styles, strict=True):
        if label in heights:
            path = _steps(across(shown), bottom - (bottom - 4) * (heights[label] / top).clip(max=1))
            parts.append(tag("path", d=path, class_=f"line {style}"))
        else:
            ticks = "".join(f"M{across(value):.1f} {bottom - 24}V{bottom}" for value in np.unique(sample)[:50])
            parts.append(tag("path", d=ticks, class_=f"line {style} solid"))
    if low < 0 < high:
        parts.append(tag("path", d=f"M{across(0):.1f} 8V{bottom}", class_="cut"))
        parts.append(tag("text", "0", x=float(across(0)), y=height - 6, class_="tick"))
    parts.append(tag("text", f"{low:.3g}", x=0, y=height - 6, class_="tick start"))
    parts.append(tag("text", f"{high:.3g}", x=width, y=height - 6, class_="tick end"))
    count = len(next(iter(samples.values())))
    return svg(width, height, f"densities of {len(samples)} channels in {count} images", *parts, class_="densities")


def _steps(x: np.ndarray, y: np.ndarray) -> str:
    """A path in whole pixels, each point relative to the previous one: short, as a page has thousands of points."""
    points = np.round(np.stack([x, y])).astype(int)
    moves = np.diff(points, axis=1).T.tolist()
    return f"M{points[0, 0]} {points[1, 0]}l" + " ".join(f"{right} {down}" for right, down in moves)


def fractions(summary: Summary, labels: list[str], styles: list[str]) -> Markup:
    """A bar for the mean of each fraction of the original channel, with its standard deviation."""
    means = np.asarray(summary.mean)
    spread = np.nan_to_num(np.asarray(summary.std))
    low = max(min(-0.3, float((means - spread).min())), -2)
    high = min(max(1.3, float((means + spread).max())), 3)
    step = 34
    height = 120
    bottom = height - 16
    width = step * len(labels) + 26

    def up(value: float) -> float:
        return float(4 + (bottom - 4) * (high - min(max(value, low), high)) / (high - low))

    parts = []
    for level, style in ((0, "axis"), (1, "cut")):
        parts.append(tag("path", d=f"M20 {up(level):.1f}H{width}", class_=style))
        parts.append(tag("text", str(level), x=14, y=up(level) + 4, class_="tick end"))
    for number, (mean, std, label, style) in enumerate(zip(means, spread, labels, styles, strict=True)):
        left = 26 + number * step
        top, base = sorted((up(mean), up(0)))
        parts.append(tag("rect", x=left, y=top, width=step - 12, height=max(base - top, 0.5), class_=f"bar {style}"))
        middle = left + (step - 12) / 2
        parts.append(tag("path", d=f"M{middle} {up(mean - std):.1f}V{up(mean + std):.1f}", class_="whisker"))
        parts.append(tag("text", label, x=middle, y=height - 3, class_="tick"))
    bars = zip(labels, means, spread, strict=True)
    words = ", ".join(f"{label} {mean:.2f} ± {std:.2f}" for label, mean, std in bars)
    return svg(width, height, f"fractions of the original channel: {words}", *parts)
