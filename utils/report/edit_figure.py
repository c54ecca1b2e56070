"""One figure of the edits of a layer: what each method takes from a concept, and what it does to the others."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.method.significance import Interval
from utils.report.edit_tables import MethodSummary, groups, headline_lines, summaries
from utils.report.figure_files import write_figure
from utils.report.plots import DISENTANGLED, GREY, ORIGINAL, SUBTLE, fitted
from utils.report.sheets import SCREEN, Sheet
from utils.stages.edit_methods import PART

MARKS = {  # of each method: mark and colour, as nulls and channels have them elsewhere
    PART: ("o", DISENTANGLED[0][0]),
    "whole_channel": ("s", ORIGINAL[0]),
    "shares_permuted": ("^", GREY),
    "weights_permuted": ("P", DISENTANGLED[3][0]),
    "random_half": ("v", DISENTANGLED[1][0]),
    "range": ("D", DISENTANGLED[2][0]),
    "pure_gate": ("X", DISENTANGLED[4][0]),
}
OTHER_MARK = ("*", SUBTLE)  # of a method that was added


def write_edit_figure(
    output_dir: str | Path, name: str, edits: Sequence[dict[str, Any]], sheet: Sheet = SCREEN
) -> list[Path]:
    """Write a figure of each group of edits into ``plots/``; returns their paths, none without results.

    The names of the second and further ones, for example of splits of another division, end in ``_2``, ``_3``, ....
    """
    all_groups = [(title, rows) for title, rows in groups(edits) if not np.isnan(summaries(rows)[0].effect.mean)]
    stem = Path(output_dir) / "plots" / f"{name}_edits"
    return [
        write_figure(
            stem.with_name(f"{stem.name}_{number}") if number > 1 else stem, edit_figure(title, rows, sheet), sheet
        )
        for number, (title, rows) in enumerate(all_groups, 1)
    ]


def edit_figure(title: str, rows: Sequence[dict[str, Any]], sheet: Sheet = SCREEN) -> Figure:
    """Effect on a concept's images against harm to the channel's other concepts, and harm at equal effect.

    Parameters
    ----------
    title
        The edits in words.
    rows
        From ``edit_tables.groups``.
    sheet
    """
    of_methods = summaries(rows)
    width = sheet.wide(10.4)
    size = sheet.type(9)
    across, down = (1, 2) if sheet.narrow else (2, 1)
    figure = Figure(figsize=(width, 0.52 * width / across * 2 * down / across + 1.3), layout="constrained")
    full, equal = np.ravel(figure.subplots(down, across))
    _draw_in_full(full, of_methods)
    _draw_at_equal_effect(equal, of_methods)
    for axes in (full, equal):
        axes.tick_params(labelsize=size)
        axes.xaxis.label.set_fontsize(size)
        axes.yaxis.label.set_fontsize(size)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *full.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=2 if sheet.narrow else 4,
        frameon=False,
        fontsize=size,
    )
    lines = [fitted(line, width - 0.3, size, lines=5 if sheet.narrow else 3) for line in headline_lines(of_methods)]
    figure.suptitle("\n".join(lines), fontsize=size, parse_math=False)
    full.set_title(
        fitted(title, width / across - 0.3, sheet.type(8), lines=3),
        fontsize=sheet.type(8),
        color=SUBTLE,
        parse_math=False,
    )
    return figure


def _draw_in_full(axes: Axes, of_methods: Sequence[MethodSummary]) -> None:
    """A mark a method, with its 95 % intervals; on the line, the selectivity is the part's."""
    for summary in of_methods:
        mark, colour = MARKS.get(summary.method, OTHER_MARK)
        axes.errorbar(
            summary.harm.mean,
            summary.effect.mean,
            xerr=_error(summary.harm),
            yerr=_error(summary.effect),
            fmt=mark,
            color=colour,
            markersize=8,
            linewidth=1.2,
            label=summary.words,
        )
    part = next((summary for summary in of_methods if summary.method == PART), None)
    right = _farthest([summary.harm for summary in of_methods])
    top = _farthest([summary.effect for summary in of_methods])
    if part is not None and np.isfinite(part.selectivity[0].value) and part.selectivity[0].value > 0:
        end = min(right, top / part.selectivity[0].value)
        axes.plot([0, end], [0, part.selectivity[0].value * end], color=SUBTLE, linewidth=0.8, linestyle=":", zorder=0)
    axes.set_xlim(0, right)
    axes.set_ylim(0, top)
    axes.set_xlabel("harm: mean |change| on images of the channel's other concepts, in logits")
    axes.set_ylabel("effect: mean |change| of a concept, in logits")


def _draw_at_equal_effect(axes: Axes, of_methods: Sequence[MethodSummary]) -> None:
    """The harm of each method at equal effect, with its 95 % interval; the first method on top."""
    for place, summary in enumerate(reversed(of_methods)):
        mark, colour = MARKS.get(summary.method, OTHER_MARK)
        harm = summary.harm_at_equal_effect
        axes.errorbar(harm.mean, place, xerr=_error(harm), fmt=mark, color=colour, markersize=8, linewidth=1.2)
    names = [
        summary.words + ("" if np.isnan(summary.reached) else f"\n{summary.reached:.0%} reach it")
        for summary in reversed(of_methods)
    ]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlim(left=0)
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_xlabel("harm at equal effect, in logits")


def _farthest(intervals: Sequence[Interval]) -> float:
    """The end of an axis that shows these intervals from 0 on."""
    ends = [end for interval in intervals for end in (interval.mean, interval.high) if np.isfinite(end)]
    return 1.1 * max(ends, default=0.0) or 1.0


def _error(interval: Interval) -> list[list[float]] | None:
    """The distances of an interval's ends from its mean, as matplotlib takes them; None if they are not known."""
    if np.isnan(interval.low) or np.isnan(interval.mean):
        return None
    return [[max(0.0, interval.mean - interval.low)], [max(0.0, interval.high - interval.mean)]]
