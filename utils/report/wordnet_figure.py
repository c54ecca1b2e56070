"""How the cosines of pairs relate to the classes' distance in WordNet (supplement, Fig. 4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.method.polysemanticity import ClassPairs, gamma_polysemantic
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
from utils.report.sheets import SCREEN, Sheet, Titles
from utils.report.tables import Table
from utils.report.wordnet import most_surprising, path_similarities, rank_correlation

if TYPE_CHECKING:
    from nltk.corpus.reader.wordnet import Synset  # nltk may be missing

STRIP = 0.05  # at either side of the points, as a share of their range
LEAST_STRIP = 22  # points of print that a strip has at least
LABEL = 12  # points of a strip that are for numbers; the others are for lines that lead to them


def plot_wordnet(
    pairs: ClassPairs,
    synsets: dict[int, Synset],
    gamma: float,
    *,
    name: Callable[[int], str],
    titles: Titles,
    table: Path,
    output_dir: Path | str,
    sheet: Sheet = SCREEN,
) -> list[Path]:
    """Draw, write and sum up the WordNet path similarity of all pairs; returns the paths of the files.

    Parameters
    ----------
    pairs
    synsets
        The synset of each class's output.
    gamma
    name
        The name of a class's output.
    titles
        The subtitle has the settings that chose the pairs.
    table
        Path of stage 2's table of pairs; the similarities are written next to it.
    output_dir
    sheet
    """
    if not len(pairs):
        print("no two classes share a relevant channel: there is no WordNet figure")
        return []
    similarities = path_similarities(pairs, synsets)
    correlation = rank_correlation(pairs.cosine.numpy(), similarities)
    ranks = "" if correlation is None else f"; Spearman's rank correlation {correlation:.2f}"
    subtitle = f"{titles.subtitle}; {len(pairs)} pairs of classes that share a channel{ranks}"
    values = table.with_name(f"{table.stem}_wordnet.csv")
    write_similarities(values, pairs, similarities)
    figure = wordnet_figure(pairs, similarities, gamma, name=name, titles=Titles(titles.title, subtitle), sheet=sheet)
    drawn = write_figure(Path(output_dir) / "plots" / values.stem, figure, sheet)
    print(similarity_summary(pairs, similarities, gamma, correlation))
    return [values, drawn]


def write_similarities(path: Path, pairs: ClassPairs, similarities: list[float]) -> None:
    """Write (channel, class1, class2, cosine) rows with the WordNet path similarity of each."""
    header = ("Channel", "Class1", "Class2", "CosineSimilarity", "PathSimilarity")
    both = zip(pairs.rows(), similarities, strict=True)
    rows = [(*pair[:3], f"{pair[3]:.6f}", f"{value:.6f}") for pair, value in both]
    Table(header, rows).write_csv(path)


def similarity_summary(pairs: ClassPairs, similarities: list[float], gamma: float, correlation: float | None) -> str:
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


def wordnet_figure(
    pairs: ClassPairs,
    similarities: list[float],
    gamma: float,
    *,
    name: Callable[[int], str],
    titles: Titles,
    sheet: Sheet = SCREEN,
) -> Figure:
    """WordNet path similarity over the cosine of the ARVs, for all pairs of classes that share a relevant channel.

    The similarity is 1 / (1 + path length). Each value has a row, in which points are stacked so that none hides
    another. Of the pairs whose two ranks differ most, three of either kind are numbered and named in a key below.

    Parameters
    ----------
    pairs
        At least one.
    similarities
    gamma
    name
        The name of a class's output.
    titles
    sheet
    """
    cosines = pairs.cosine.numpy()
    rows = np.rint(1 / np.array(similarities)).astype(int)  # synsets on the path
    surprising = most_surprising(pairs, similarities)
    lines = sum(len(part) + 1 for part in surprising if part)
    pitch = 0.18 + 0.12 * min(len(pairs) / 10000, 1)  # a page for the most
    heights = [max(2.4, 0.8 + pitch * (np.ptp(rows) + 1)), *([0.17 * lines + 0.1] if lines else [])]
    figure, parts = titled_parts(6.4, heights, titles, sheet)
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
        high = f"cosine > {np.median(cosines):.2f}, WordNet < 1/{np.median(rows):g} (medians)"
        low = high.translate(str.maketrans("<>", "><"))
        groups = [
            KeyGroup(heading, pairs[positions], rows[positions])
            for heading, positions in zip((high, low), surprising, strict=True)
            if positions
        ]
        _write_key(key, groups, name, sheet)
    return figure


def _prepare_wordnet(axes: Axes, cosines: np.ndarray, rows: np.ndarray, gamma: float, sheet: Sheet) -> None:
    """All but the points: limits with room for numbers, a tick for every length of a path, gamma, and the legend."""
    low = min(cosines.min(), gamma)
    high = max(cosines.max(), gamma)
    across = 72 * (sheet.wide(6.4) - 1.1)  # points, approximately: the axes have no final size yet
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


def _number_points(axes: Axes, points: np.ndarray, surprising: list[list[int]], sheet: Sheet) -> None:
    """Ring and number the most surprising points: thin lines lead to numbers in the empty strips at the sides.

    The lines end next to the numbers, which are stacked, so that no line crosses a number.
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
            x_number = edge + LABEL / 2 * inwards
            write_text(axes, x_number, level, str(next(numbers)), sheet.type(7), weight="bold", ha="center")


def _spread(heights: np.ndarray, gap: float, low: float, high: float) -> np.ndarray:
    """Move heights as little as possible, so that they are ``gap`` apart and inside ``low .. high``, in their order."""
    order = np.argsort(heights, kind="stable")
    steps = gap * np.arange(len(order))
    moved = np.maximum.accumulate(np.asarray(heights)[order] - steps) + steps
    limits = high - gap / 2 - steps[::-1]
    placed = np.empty(len(order))
    placed[order] = np.maximum(np.minimum(moved, limits), low + gap / 2 + steps)
    return placed


@dataclass(frozen=True)
class KeyGroup:
    """Numbered pairs of one kind in the key: ``steps`` [n] are the synsets on the path between each two classes."""

    heading: str
    pairs: ClassPairs
    steps: np.ndarray


def _write_key(axes: Axes, groups: list[KeyGroup], name: Callable[[int], str], sheet: Sheet) -> None:
    """Name the numbered pairs, one in a line, under a heading for either kind."""
    size = sheet.type(7.5)
    width = size_in_points(axes)[0]
    right_columns: list[tuple[float, str]] = []  # those of numbers, from the right
    edge = 1.0
    for word in ("WordNet", "cosine", "channel"):
        right_columns.insert(0, (edge, "right"))
        edge -= (text_width(word, size) + size) / width
    number = 1.2 * text_width("6", size) / width
    half = (edge - number) * width / 2 - size
    numbers = count(1)
    lines: list[tuple] = []
    for group in groups:
        lines.append(("", group.heading, "channel", "cosine", "WordNet"))
        for (channel, *outputs, cosine), steps in zip(group.pairs.rows(), group.steps, strict=True):
            names = " / ".join(fit(name(output), half, size) for output in outputs)
            lines.append((next(numbers), names, channel, f"{cosine:.2f}", f"1/{steps}"))
    axes.set(xlim=(0, 1), ylim=(len(lines) - 0.5, -0.5))
    columns = (number, "right"), (number + size / 2 / width, "left"), *right_columns
    for height, line in enumerate(lines):
        colour = SUBTLE if line[0] == "" else OTHER[0]
        for (x, align), cell in zip(columns, line, strict=True):
            write_text(axes, x, height, str(cell), size, color=colour, ha=align)
