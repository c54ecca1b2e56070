"""Figures of a layer: which classes its channels serve, and how WordNet relates those that share one."""

import textwrap
from itertools import count

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from utils.report.layer_tables import polysemantic
from utils.report.plots import ORIGINAL, text_width
from utils.report.wordnet import most_surprising

# Colour and marker: told apart in grey print too
UNDER_GAMMA = ("#dc267f", "^")
OTHER = (ORIGINAL[0], "o")
GREY = "#555555"
NAME_LENGTH = 40
MOST_CLASSES = 10
MOST_CHANNELS = 20
BIN = 0.05
STRIP = 0.05  # at either side of the points, as a share of their range
LARGEST_POINT, SMALLEST_POINT = 6.0, 0.3  # points of print


# --------------------------------------------------------------------------------------------------------------------
# Overview


def overview_figure(channels, gamma, name, title, subtitle):
    """How many classes the channels serve, the cosines of all pairs, and the classes of the polysemantic channels.

    Parameters
    ----------
    channels : list of ChannelClasses
        All channels of the layer.
    gamma : float
    name : function of a class's output
    title, subtitle : str

    Returns
    -------
    matplotlib.figure.Figure
        Panels that would be empty are left out.
    """
    cosines = np.array([cosine for channel in channels for *_, cosine in channel.pairs])
    found = polysemantic(channels, gamma)
    shown = found[:MOST_CHANNELS]
    heights = [2.3, 0.27 * len(shown) + 0.85] if shown else [2.3]
    if not shown:
        subtitle += f"; no pair is under γ = {gamma:g}" if len(cosines) else "; no channel is relevant for two classes"
    figure, parts = _titled_parts(7.0 if len(cosines) else 4.2, heights, title, subtitle)
    panels = parts[0].subplots(1, 2 if len(cosines) else 1, squeeze=False)[0]
    _draw_class_counts(panels[0], [len(channel.classes) for channel in channels])
    if len(cosines):
        _draw_cosines(panels[1], cosines, gamma)
    if shown:
        _draw_channels(parts[1], shown, len(found), gamma, name)
    return figure


def _draw_class_counts(axes, num_classes):
    """A bar for every number of classes, the large ones gathered in the last."""
    counts = np.bincount(np.minimum(num_classes, MOST_CLASSES), minlength=3)
    labels = [str(number) for number in range(len(counts))]
    if max(num_classes) > MOST_CLASSES:
        labels[-1] = f"{MOST_CLASSES}–{max(num_classes)}"
    axes.bar_label(axes.bar(labels, counts, color=OTHER[0]), fontsize=7, padding=1)
    log = counts[0] > 5 * counts[1:].max() > 0  # else the others could not be seen
    axes.set_yscale("log" if log else "linear")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(0.5 if log else 0, counts.max() * (3 if log else 1.12))
    _label(axes, "classes that a channel is relevant for", "channels (log scale)" if log else "channels")


def _draw_cosines(axes, cosines, gamma):
    """Histogram with gamma at the edge of a bin, so that each bar is on one side of it."""
    edges = gamma + BIN * np.arange(np.floor((-1 - gamma) / BIN) - 1, np.ceil((1 - gamma) / BIN) + 2)
    for colour, _, part, which in _sides(cosines, gamma):
        label = f"{which} γ = {gamma:g}: {part.sum()}"
        axes.hist(cosines[part], edges, color=colour, edgecolor="white", linewidth=0.5, label=label)
    axes.set_xlim(min(cosines.min(), gamma, 0) - BIN, 1 + BIN)
    axes.axvline(gamma, color=GREY, linewidth=1, linestyle="--")
    _label(axes, "cosine of two classes' ARVs", "pairs of classes")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=7, frameon=False)


def _draw_channels(figure, shown, total, gamma, name):
    """A row a channel: the cosines of its pairs, the names of the two that differ most, and below them the others."""
    axes, text = figure.subplots(1, 2, width_ratios=(2, 3))
    text.set_axis_off()
    more = f" (the first {len(shown)} of {total}, all are in the table)" if total > len(shown) else ""
    figure.suptitle(f"polysemantic channels, lowest cosine first{more}", fontsize=9)
    points = [(cosine, row) for row, channel in enumerate(shown) for *_, cosine in channel.pairs]
    x, rows = map(np.array, zip(*points, strict=True))
    margin = 0.03 * (1 - x.min())
    axes.set(xlim=(min(x.min(), 0) - margin, 1 + margin), ylim=(len(shown) - 0.4, -0.6))
    text.set_ylim(axes.get_ylim())
    axes.set_yticks(range(len(shown)), [channel.channel for channel in shown])
    axes.hlines(range(len(shown)), *axes.get_xlim(), color="#dddddd", linewidth=0.5, zorder=0)
    axes.axvline(gamma, color=GREY, linewidth=1, linestyle="--")
    _label(axes, "cosine of two classes' ARVs", "channel")
    _lay_out(figure)
    _draw_points(axes, x, rows, gamma)
    width = _size_in_points(text)[0]
    for row, channel in enumerate(shown):
        (first, second, _), *_ = channel.pairs
        others = [_fit(name(other), 0.7 * width, 6.5) for other in channel.classes if other not in (first, second)]
        both = " / ".join(_fit(name(output), width / 2 - 8, 8) for output in (first, second))
        _write(text, 0, row - 0.02, both, 8, va="bottom" if others else "center")
        _write(text, 0, row + 0.02, _fit_list(others, width, 6.5), 6.5, va="top", color=GREY)


# --------------------------------------------------------------------------------------------------------------------
# WordNet


def wordnet_figure(pairs, similarities, gamma, name, title, subtitle):
    """WordNet path similarity over the cosine of the ARVs, for all pairs of classes that share a relevant channel.

    The similarity is 1 / (1 + path length): a row for each, in which points are stacked, so that none hides another.
    Of the pairs whose two ranks differ most, three of either kind are numbered, and named in a key below.

    Parameters
    ----------
    pairs : list of (channel, class1, class2, cosine)
        At least one.
    similarities : list of float
    gamma : float
    name : function of a class's output
    title, subtitle : str

    Returns
    -------
    matplotlib.figure.Figure
    """
    cosines = np.array([pair[3] for pair in pairs])
    rows = np.rint(1 / np.array(similarities)).astype(int)  # synsets on the path
    surprising = most_surprising(pairs, similarities)
    lines = sum(len(part) + 1 for part in surprising if part)
    pitch = 0.18 + 0.12 * min(len(pairs) / 10000, 1)  # a page for the most
    heights = [max(2.4, 0.8 + pitch * (np.ptp(rows) + 1)), *([0.17 * lines + 0.1] if lines else [])]
    figure, parts = _titled_parts(6.4, heights, title, subtitle)
    axes = parts[0].subplots()
    _prepare_wordnet(axes, cosines, rows, gamma)
    parts[0].legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    if lines:
        key = parts[1].subplots()
        key.set_axis_off()
    _lay_out(figure)
    points = _draw_points(axes, cosines, rows, gamma)
    if lines:
        _number(axes, points, surprising)
        _write_key(key, pairs, rows, surprising, name)
    return figure


def _prepare_wordnet(axes, cosines, rows, gamma):
    """All but the points: limits with room for numbers, a tick for every length of a path, gamma, and the legend."""
    low, high = min(cosines.min(), gamma), max(cosines.max(), gamma)
    strip = STRIP * (high - low) or STRIP
    axes.set(xlim=(low - strip, high + strip), ylim=(rows.max() + 0.5, rows.min() - 0.5))
    ticks = range(rows.min(), rows.max() + 1)
    axes.set_yticks(ticks, [f"1/{row}" for row in ticks])
    axes.hlines(ticks, *axes.get_xlim(), color="#eeeeee", linewidth=0.5, zorder=0)
    axes.axvline(gamma, color=GREY, linewidth=1, linestyle="--", label=f"γ = {gamma:g}")
    for colour, marker, part, which in _sides(cosines, gamma):
        if part.any():
            axes.scatter([], [], c=colour, marker=marker, s=20, linewidths=0, label=f"pairs {which} γ: {part.sum()}")
    _label(axes, "cosine of the two classes' ARVs", "WordNet path similarity\n1 / number of synsets on the path")


def _number(axes, points, surprising):
    """Ring and number the most surprising points: numbers in the empty strips at the right and left, on thin lines."""
    height = _size_in_points(axes)[1]
    left, right = axes.get_xlim()
    inside = STRIP / (1 + 2 * STRIP) * (right - left) / 2
    numbers = count(1)
    for part, edge in zip(surprising, (right - inside, left + inside), strict=True):
        levels = _spread(points[part, 1], 9 * np.ptp(axes.get_ylim()) / height, *sorted(axes.get_ylim()))
        for (x, y), level in zip(points[part], levels, strict=True):
            axes.plot([x, edge], [y, level], color=GREY, linewidth=0.5, zorder=1)
            axes.plot(x, y, "o", color=GREY, markersize=9, markerfacecolor="none", markeredgewidth=0.8)
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            _write(axes, edge, level, str(next(numbers)), 7, weight="bold", ha="center", bbox=box)


def _spread(heights, gap, low, high):
    """Move heights as little as makes them ``gap`` apart, inside ``low .. high``; in their order."""
    order = np.argsort(heights, kind="stable")
    steps = gap * np.arange(len(order))
    moved = np.maximum.accumulate(np.asarray(heights)[order] - steps) + steps
    limits = high - gap / 2 - steps[::-1]
    placed = np.empty(len(order))
    placed[order] = np.maximum(np.minimum(moved, limits), low + gap / 2 + steps)
    return placed


def _write_key(axes, pairs, rows, surprising, name):
    """Name the numbered pairs: a line each, under a heading for either kind."""
    half = 0.36 * _size_in_points(axes)[0]
    numbers, lines = count(1), []
    kinds = ("high cosine, far apart in WordNet", "low cosine, close in WordNet")
    for kind, part in zip(kinds, surprising, strict=True):
        lines += [("", kind, "channel", "cosine", "WordNet")] * bool(part)
        for position in part:
            channel, *outputs, cosine = pairs[position]
            names = " / ".join(_fit(name(output), half - 5, 7.5) for output in outputs)
            lines.append((next(numbers), names, channel, f"{cosine:.2f}", f"1/{rows[position]}"))
    axes.set(xlim=(0, 1), ylim=(len(lines) - 0.5, -0.5))
    columns = (0.02, "right"), (0.035, "left"), (0.82, "right"), (0.905, "right"), (1.0, "right")
    for height, line in enumerate(lines):
        colour = GREY if line[0] == "" else OTHER[0]
        for (x, align), cell in zip(columns, line, strict=True):
            _write(axes, x, height, str(cell), 7.5, color=colour, ha=align)


# --------------------------------------------------------------------------------------------------------------------
# Both


def _titled_parts(width, heights, title, subtitle):
    """A figure of parts above one another, of these widths and heights in inches, and its parts."""
    figure = Figure(figsize=(width, sum(heights) + 0.5), layout="constrained")
    figure.suptitle(textwrap.fill(title, int(10 * width)), fontsize=11, parse_math=False)
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    parts[0].suptitle(textwrap.fill(subtitle, int(15.5 * width)), fontsize=8, color=GREY, parse_math=False)
    return figure, parts


def _sides(cosines, gamma):
    """Colour, marker, members and name of the pairs under gamma, and of the others."""
    return (*UNDER_GAMMA, cosines < gamma, "under"), (*OTHER, cosines >= gamma, "at or above")


def _draw_points(axes, x, rows, gamma):
    """Stack the points of each row so that none hides another, as large as the most crowded place allows.

    Returns the points' places, array [n, 2]. The axes must have their final size.
    """
    width, height = _size_in_points(axes)
    across, room = x * width / np.ptp(axes.get_xlim()), 0.95 * height / np.ptp(axes.get_ylim())
    members = [np.flatnonzero(rows == row) for row in np.unique(rows)]
    for size in np.geomspace(LARGEST_POINT, SMALLEST_POINT, 40):
        if max(_crowd(across[own], size) for own in members) * size <= room:
            break
    y = rows.astype(float)
    for own in members:
        y[own] += _offsets(across[own], size, room) * np.ptp(axes.get_ylim()) / height
    for colour, marker, part, _ in _sides(x, gamma):
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


def _lay_out(figure):
    """Give the axes their final sizes, which text and points are then fitted to."""
    figure.canvas.figure.draw_without_rendering()


def _size_in_points(axes):
    return axes.bbox.size * 72 / axes.figure.dpi


def _label(axes, x, y):
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _write(axes, x, y, text, size, **options):
    """Text that does not move the axes, and in which a $ is a $."""
    axes.text(x, y, text, fontsize=size, parse_math=False, **{"va": "center", **options}).set_in_layout(False)


def _short(name, length=NAME_LENGTH):
    name = " ".join(name.split())
    return name if len(name) <= length else f"{name[: length - 3]}..."


def _fit(name, width, size):
    """Shorten a name to what is at most ``width`` points wide."""
    return next((text for n in range(NAME_LENGTH, 4, -1) if text_width(text := _short(name, n), size) <= width), "...")


def _fit_list(names, width, size):
    """As many of the names as fit, and how many more there are."""
    text = ""
    for n in range(1, len(names) + 1):
        more = f" and {len(names) - n} more" if n < len(names) else ""
        longer = f"also {', '.join(names[:n])}{more}"
        if n > 1 and text_width(longer, size) > width:
            break
        text = longer
    return text
