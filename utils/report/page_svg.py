"""Small drawings of the report's pages as inline SVG, in the colours of the project's figures.

Colours and dashes are classes of the style sheet, so that they follow light and dark; text is escaped.
"""

import numpy as np
from markupsafe import Markup, escape
from scipy.cluster.hierarchy import dendrogram

from utils.method.grouping import linkage_of
from utils.report.plots import DISENTANGLED

MOST_NUMBERS = 12  # rows of a matrix with a number in every cell
STRONG = 0.7  # where a number is white on its cell
TREE, GAP, CHARACTER, LONGEST = 90, 8, 6.2, 34  # pixels, and characters of a name
DENSITY_POINTS, HIGHEST = 72, 4  # curves are cut where they are this many times as high as the original channel's


def tag(name, *children, **attributes):
    """An element; ``class_`` stands for class, other underscores for hyphens. All text is escaped."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_number(value))}"' for key, value in attributes.items()
    )
    return Markup(f"<{name}{given}>{''.join(map(escape, children))}</{name}>")


def svg(width, height, label, *children, class_="drawing"):
    """A drawing of width x height pixels that shrinks with its page; ``label`` says what it shows."""
    view = {"viewBox": f"0 0 {_number(width)} {_number(height)}", "width": width, "height": height}
    return tag("svg", *children, class_=class_, role="img", aria_label=label, **view)


def _number(value):
    return f"{value:.4g}" if isinstance(value, float | np.floating) else value


def style_of(concept):
    """The style class of a concept's channel, from 0; those beyond the palette share one."""
    return f"s{concept + 1}" if concept < len(DISENTANGLED) else "more"


def share_bar(share, p, style):
    """A bar from 0 to 1 with a mark at p."""
    bar = tag("rect", width=100 * float(share), height=10, class_=f"bar {style}")
    mark = tag("path", d=f"M{100 * p:.4g} -2V12", class_="mark")
    track = tag("rect", width=100, height=10, class_="track")
    view = {"viewBox": "0 -2 100 14", "preserveAspectRatio": "none", "aria_hidden": "true"}
    return tag("svg", track, bar, mark, class_="share", **view)


def before_after(before, after, reference, style="s1"):
    """Average precision before (a ring) and after (a disc), from 0 to 1, with a mark at what chance weights reach."""
    at = {name: 4 + 92 * value for name, value in (("before", before), ("after", after), ("reference", reference))}
    words = f"AP {before:.2f} before, {after:.2f} after"
    parts = [
        tag("path", d="M4 10H96", class_="axis"),
        tag("path", d=f"M{at['before']:.4g} 10H{at['after']:.4g}", class_=f"line {style} solid"),
    ]
    if np.isfinite(reference):
        parts.append(tag("path", d=f"M{at['reference']:.4g} 3V17", class_="mark"))
        words += f", permuted weights {reference:.2f}"
    parts += [
        tag("circle", cx=float(at["before"]), cy=10, r=3.2, class_="ring"),
        tag("circle", cx=float(at["after"]), cy=10, r=3.6, class_=f"bar {style}"),
    ]
    return svg(100, 20, words, *parts, class_="before-after")


def cosine_matrix(cosines, concept_of, names, gamma):
    """Cosines of classes' ARVs in the order of their dendrogram, which is beside them; groups are framed.

    Parameters
    ----------
    cosines : Tensor [n, n]
        Two classes or more.
    concept_of : list of n ints
        The group of each class.
    names : list of n str
    gamma : float
        Where the dendrogram is cut.
    """
    count = len(cosines)
    cell = 30 if count <= MOST_NUMBERS else max(7, 400 // count)
    merges = linkage_of(cosines)
    drawn = dendrogram(merges, no_plot=True)
    order, farthest = drawn["leaves"], max(merges[:, 2].max(), 1 - gamma, 1e-9)

    def left_of(distance):
        return TREE - (TREE - 4) * distance / farthest

    tree = []
    for places, heights in zip(drawn["icoord"], drawn["dcoord"], strict=True):
        points = [(left_of(x), y / 10 * cell) for x, y in zip(heights, places, strict=True)]
        tree.append("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points))
    side, cells = cell * count, []
    for row, one in enumerate(order):
        for column, other in enumerate(order):
            value = float(cosines[one, other])
            box = {"x": TREE + GAP + column * cell, "y": row * cell, "width": cell, "height": cell}
            style = "cell" if value >= 0 else "cell negative"
            cells.append(tag("rect", class_=style, fill_opacity=round(abs(value), 2), **box))
            if count <= MOST_NUMBERS:
                style = "number strong" if abs(value) > STRONG else "number"
                middle = {"x": box["x"] + cell / 2, "y": (row + 0.5) * cell + 3.5, "class_": style}
                cells.append(tag("text", f"{value:.2f}".replace("0.", ".").replace("1.00", "1"), **middle))
    text_left = TREE + GAP + side + 8
    labels, frames = [], []
    sizes = [(group, [place for place, leaf in enumerate(order) if concept_of[leaf] == group]) for group in
             sorted(set(concept_of))]  # fmt: skip
    for group, places in sizes:
        first, extent = min(places) * cell, len(places) * cell
        frame = {"x": TREE + GAP + first, "y": first, "width": extent, "height": extent}
        frames.append(tag("rect", class_=f"frame {style_of(group)}", **frame))
    for place, leaf in enumerate(order):
        name = names[leaf] if len(names[leaf]) <= LONGEST else names[leaf][: LONGEST - 1] + "…"
        where = {"x": text_left, "y": (place + 0.5) * cell + 4, "font_size": min(12, cell + 3)}
        group = concept_of[leaf]
        labels.append(tag("text", f"{group + 1}  {name}", class_=f"name {style_of(group)}", **where))
    width = text_left + CHARACTER * 1.1 * (4 + max(min(len(name), LONGEST) for name in names))
    cut = left_of(1 - gamma)
    parts = [
        tag("path", d="".join(tree), class_="tree"),
        tag("path", d=f"M{cut:.1f} 0V{side}", class_="cut"),
        *cells,
        *frames,
        *labels,
    ]
    words = "; ".join(f"group {group + 1}: {', '.join(names[order[one]] for one in places)}" for group, places in sizes)
    lowest = float(cosines.min())
    return svg(width, side + 2, f"cosines of {count} classes, the lowest {lowest:.2f}; {words}", *parts)


def densities(samples, grid, curves, styles, limits):
    """Densities of spatial sums of several channels on one scale.

    Parameters
    ----------
    samples, grid, curves
        As ``plots.density_axes`` takes them.
    styles : list of str
        Style class of each sample.
    limits : (lowest, highest) activation
    """
    width, height, bottom = 600, 192, 160  # shown at half the size, so that whole pixels are fine enough
    low, high = limits
    shown = np.linspace(low, high, DENSITY_POINTS)
    heights = {label: np.interp(shown, grid, curve) for label, curve in curves.items() if curve is not None}
    top = max([float(values.max()) for values in heights.values()] or [1.0])
    first = heights.get(next(iter(samples)))
    if first is not None:  # the peak of a channel that is silent in these images would hide all others
        top = min(top, HIGHEST * float(first.max()))

    def across(value):
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


def _steps(x, y):
    """A path in whole pixels, each point relative to the one before: short, as there are thousands on a page."""
    at = np.round(np.stack([x, y])).astype(int)
    moves = np.diff(at, axis=1).T.tolist()
    return f"M{at[0, 0]} {at[1, 0]}l" + " ".join(f"{right} {down}" for right, down in moves)


def fractions(summary, labels, styles):
    """Mean and standard deviation of the fractions of the original channel, a bar each."""
    step, height = 34, 120
    means, spread = np.asarray(summary.mean), np.nan_to_num(np.asarray(summary.std))
    low, high = min(-0.3, float((means - spread).min())), max(1.3, float((means + spread).max()))
    low, high = max(low, -2), min(high, 3)
    bottom, width = height - 16, step * len(labels) + 26

    def up(value):
        return float(4 + (bottom - 4) * (high - min(max(value, low), high)) / (high - low))

    parts = []
    for level, style in ((0, "axis"), (1, "cut")):
        parts.append(tag("path", d=f"M20 {up(level):.1f}H{width}", class_=style))
        parts.append(tag("text", str(level), x=14, y=up(level) + 4, class_="tick end"))
    for place, (mean, std, label, style) in enumerate(zip(means, spread, labels, styles, strict=True)):
        left = 26 + place * step
        top, base = sorted((up(mean), up(0)))
        parts.append(tag("rect", x=left, y=top, width=step - 12, height=max(base - top, 0.5), class_=f"bar {style}"))
        middle = left + (step - 12) / 2
        parts.append(tag("path", d=f"M{middle} {up(mean - std):.1f}V{up(mean + std):.1f}", class_="whisker"))
        parts.append(tag("text", label, x=middle, y=height - 3, class_="tick"))
    bars = zip(labels, means, spread, strict=True)
    words = ", ".join(f"{label} {mean:.2f} ± {std:.2f}" for label, mean, std in bars)
    return svg(width, height, f"fractions of the original channel: {words}", *parts)
