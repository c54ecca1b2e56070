"""How the cosines of pairs relate to the classes' distance in WordNet (supplement, Fig. 4)."""

from itertools import count
from pathlib import Path

import numpy as np

from utils.method.polysemanticity import gamma_polysemantic
from utils.report.figure_files import write_figure
from utils.report.layer_figure_parts import (
    OTHER,
    draw_points,
    fit,
    label_axes,
    lay_out,
    sides,
    size_in_points,
    titled_parts,
    write_text,
)
from utils.report.plots import SUBTLE, text_width
from utils.report.sheets import SCREEN
from utils.report.tables import Table
from utils.report.wordnet import most_surprising, path_similarities, rank_correlation

STRIP = 0.05  # at either side of the points, as a share of their range; at least so many points of print:
LEAST_STRIP, LABEL = 22, 12  # of which so many are for numbers, the others for lines that lead to them


def plot_wordnet(table, output_dir, pairs, synsets, classes, gamma, title, settings, sheet=SCREEN):
    """Draw, write and sum up the WordNet path similarity of all pairs, beside stage 2's ``table`` of pairs: the paths.

    Parameters
    ----------
    table : Path
    output_dir : Path or str
    pairs : ClassPairs
    synsets : dict of output -> nltk Synset
    classes : ClassMap
    gamma : float
    title, settings : str
        ``settings`` says what chose the pairs.
    sheet : Sheet
    """
    if not len(pairs):
        print("no two classes share a relevant channel: there is no WordNet figure")
        return []
    similarities = path_similarities(pairs, synsets)
    correlation = rank_correlation(pairs.cosine.numpy(), similarities)
    ranks = "" if correlation is None else f"; Spearman's rank correlation {correlation:.2f}"
    subtitle = f"{settings}; {len(pairs)} pairs of classes that share a channel{ranks}"
    values = table.with_name(f"{table.stem}_wordnet.csv")
    write_similarities(values, pairs, similarities)
    figure = wordnet_figure(pairs, similarities, gamma, classes.name, title, subtitle, sheet)
    drawn = write_figure(Path(output_dir) / "plots" / values.stem, figure, sheet)
    print(similarity_summary(pairs, similarities, gamma, correlation))
    return [values, drawn]


def write_similarities(path, pairs, similarities):
    """Write (channel, class1, class2, cosine) rows with the WordNet path similarity of each."""
    header = ("Channel", "Class1", "Class2", "CosineSimilarity", "PathSimilarity")
    both = zip(pairs.rows(), similarities, strict=True)
    rows = [(*pair[:3], f"{pair[3]:.6f}", f"{value:.6f}") for pair, value in both]
    Table(header, rows).write_csv(path)


def similarity_summary(pairs, similarities, gamma, correlation):
    """What the WordNet figure shows, in a sentence."""
    values = np.array(similarities)
    under = gamma_polysemantic(pairs.cosine.numpy(), gamma)
    parts = [
        f"{np.median(part):.3f} over {len(part)} pairs {which} gamma = {gamma:g}"
        for part, which in ((values[under], "under"), (values[~under], "at or above"))
        if len(part)
    ]
    ranks = "" if correlation is None else f"; rank correlation with the cosine {correlation:.2f}"
    return f"WordNet path similarity, median: {', '.join(parts)}{ranks}"


def wordnet_figure(pairs, similarities, gamma, name, title, subtitle, sheet=SCREEN):
    """WordNet path similarity over the cosine of the ARVs, for all pairs of classes that share a relevant channel.

    The similarity is 1 / (1 + path length): a row for each, in which points are stacked, so that none hides another.
    Of the pairs whose two ranks differ most, three of either kind are numbered, and named in a key below.

    Parameters
    ----------
    pairs : ClassPairs
        At least one.
    similarities : list of float
    gamma : float
    name : function of a class's output
    title, subtitle : str
    sheet : Sheet

    Returns
    -------
    matplotlib.figure.Figure
    """
    cosines = pairs.cosine.numpy()
    rows = np.rint(1 / np.array(similarities)).astype(int)  # synsets on the path
    surprising = most_surprising(pairs, similarities)
    lines = sum(len(part) + 1 for part in surprising if part)
    pitch = 0.18 + 0.12 * min(len(pairs) / 10000, 1)  # a page for the most
    heights = [max(2.4, 0.8 + pitch * (np.ptp(rows) + 1)), *([0.17 * lines + 0.1] if lines else [])]
    figure, parts = titled_parts(6.4, heights, title, subtitle, sheet)
    axes = parts[0].subplots()
    _prepare_wordnet(axes, cosines, rows, gamma, sheet)
    columns = 1 if sheet.narrow else 3
    parts[0].legend(loc="outside lower center", ncols=columns, fontsize=sheet.type(8), frameon=False)
    if lines:
        key = parts[1].subplots()
        key.set_axis_off()
    lay_out(figure)
    points = draw_points(axes, cosines, rows, gamma)
    if lines:
        _number_points(axes, points, surprising, sheet)
        kinds = f"cosine > {np.median(cosines):.2f}, WordNet < 1/{np.median(rows):g} (medians)"
        kinds = kinds, kinds.translate(str.maketrans("<>", "><"))
        _write_key(key, pairs, rows, surprising, kinds, name, sheet)
    return figure


def _prepare_wordnet(axes, cosines, rows, gamma, sheet):
    """All but the points: limits with room for numbers, a tick for every length of a path, gamma, and the legend."""
    low, high = min(cosines.min(), gamma), max(cosines.max(), gamma)
    across = 72 * (sheet.wide(6.4) - 1.1)  # about, in points: the axes have no final size yet
    strip = max(STRIP, LEAST_STRIP / (across - 2 * LEAST_STRIP)) * (high - low) or STRIP
    axes.set(xlim=(low - strip, high + strip), ylim=(rows.max() + 0.5, rows.min() - 0.5))
    ticks = range(rows.min(), rows.max() + 1)
    axes.set_yticks(ticks, [f"1/{row}" for row in ticks])
    axes.hlines(ticks, *axes.get_xlim(), color="#eeeeee", linewidth=0.5, zorder=0)
    axes.axvline(gamma, color=SUBTLE, linewidth=1, linestyle="--", label=f"γ = {gamma:g}")
    for colour, marker, part, which in sides(cosines, gamma):
        if part.any():
            axes.scatter([], [], c=colour, marker=marker, s=20, linewidths=0, label=f"pairs {which} γ: {part.sum()}")
    similarity = "WordNet path similarity\n1 / number of synsets on the path"
    label_axes(axes, "cosine of the two classes' ARVs", similarity, sheet)


def _number_points(axes, points, surprising, sheet):
    """Ring and number the most surprising points: numbers in the empty strips at the right and left, on thin lines.

    The lines end beside the numbers, which stand one above the other, so that none goes through a number.
    """
    width, height = size_in_points(axes)
    left, right = axes.get_xlim()
    unit = (right - left) / width
    numbers = count(1)
    for part, edge, inwards in zip(surprising, (right, left), (-unit, unit), strict=True):
        levels = _spread(points[part, 1], 9 * np.ptp(axes.get_ylim()) / height, *sorted(axes.get_ylim()))
        for (x, y), level in zip(points[part], levels, strict=True):
            axes.plot([x, edge + LABEL * inwards], [y, level], color=SUBTLE, linewidth=0.5, zorder=1)
            axes.plot(x, y, "o", color=SUBTLE, markersize=9, markerfacecolor="none", markeredgewidth=0.8)
            place = edge + LABEL / 2 * inwards, level
            write_text(axes, *place, str(next(numbers)), sheet.type(7), weight="bold", ha="center")


def _spread(heights, gap, low, high):
    """Move heights as little as makes them ``gap`` apart, inside ``low .. high``; in their order."""
    order = np.argsort(heights, kind="stable")
    steps = gap * np.arange(len(order))
    moved = np.maximum.accumulate(np.asarray(heights)[order] - steps) + steps
    limits = high - gap / 2 - steps[::-1]
    placed = np.empty(len(order))
    placed[order] = np.maximum(np.minimum(moved, limits), low + gap / 2 + steps)
    return placed


def _write_key(axes, pairs, rows, surprising, kinds, name, sheet):
    """Name the numbered pairs: a line each, under a heading for either kind."""
    size, width = sheet.type(7.5), size_in_points(axes)[0]
    columns, edge = [], 1.0  # those of numbers, from the right
    for word in ("WordNet", "cosine", "channel"):
        columns.insert(0, (edge, "right"))
        edge -= (text_width(word, size) + size) / width
    number = 1.2 * text_width("6", size) / width
    half = (edge - number) * width / 2 - size
    numbers, lines = count(1), []
    for kind, part in zip(kinds, surprising, strict=True):
        lines += [("", kind, "channel", "cosine", "WordNet")] * bool(part)
        for position in part:
            channel, *outputs, cosine = next(pairs[position : position + 1].rows())
            names = " / ".join(fit(name(output), half, size) for output in outputs)
            lines.append((next(numbers), names, channel, f"{cosine:.2f}", f"1/{rows[position]}"))
    axes.set(xlim=(0, 1), ylim=(len(lines) - 0.5, -0.5))
    columns = (number, "right"), (number + size / 2 / width, "left"), *columns
    for height, line in enumerate(lines):
        colour = SUBTLE if line[0] == "" else OTHER[0]
        for (x, align), cell in zip(columns, line, strict=True):
            write_text(axes, x, height, str(cell), size, color=colour, ha=align)
