"""Tables of edits: a row for each concept and method, and each method over a layer, as CSV, Markdown, LaTeX and print.

An edit is a dictionary as ``utils.store.edit_results.Edits`` stores it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.divisions.division_registry import DIVISIONS
from utils.method.selectivity import MOST_STRENGTH, TARGET_SHARE, Selectivity, selectivity_of_layer
from utils.method.significance import Interval, mean_with_interval, ratio_with_interval
from utils.report.latex import BEFORE, comment, joined, stacked
from utils.report.numbers import DASH, csv_number, formatted, interval_text
from utils.report.result_tables import where_from
from utils.report.tables import Table, grouped, short_name, warn_of, write_settled
from utils.stages.edit_methods import METHODS, PART
from utils.store.edit_results import IS_LEAST, NUMBERS, SELECTIVITY, VALUES, Edits

SHOWN = 10  # splits that are printed
TOO_FEW = "too few channels for intervals"
LEADING = (PART, "whole_channel", "shares_permuted")  # of the headline: the first against the others
FIRST_COLUMNS = ("run", "layer", "channel", "concept", "name", "method")
LEADING_VALUES = (
    *("change_own", "change_other", "change_rest"),
    *("selectivity", "selectivity_rest", "strength", "harm_at_equal_effect"),
)
COLUMNS = (
    *FIRST_COLUMNS,
    *LEADING_VALUES,
    *(name for name in VALUES if name not in LEADING_VALUES),
    *IS_LEAST,
    *NUMBERS,
    "classes",
    "split",
    "rho",
)
EXPLANATION = f"""\
The effect of removing a concept from a channel, on validation images, with everything after the layer running.
change: mean change of the logit of an image's own class, in logits: on own images (the concept's), on other images (of
the channel's other concepts) and on the rest (all other images, the same for all channels, without the channel's
concepts). selectivity: |mean change on own images| / mean |change| on other images ("rest": on the rest). For a layer
it is the ratio of the sums over concepts, with a 95 % interval by resampling channels. ">x": only a lower bound is
known, because the mean in the denominator is smaller than the half width of its interval.

Methods. part: c'_k - r is set to its training mean. whole channel: the channel is set to its training mean. permuted
shares: the part's shares, permuted over the inputs. permuted weights: shares that the split's primary null finds in
permuted weights, multiplied into the real weights. random half: a random half of the inputs. range: positions whose
value is in the central 95 % of the values in the concept's training images are set to the channel's mean (NeuronLens).
PURE's gate: the channel is set to its mean in images whose nearest PURE centroid is the concept's.

At equal effect: an edit of strength s is original + s (edited - original). s is chosen on training images so that the
mean change on the concept's images is {TARGET_SHARE:g} of the change by the full part; it is at most {MOST_STRENGTH:g}
("not reached" otherwise). harm at equal effect: mean |change| on other images at that strength, over the concepts that
reach it. times the part's: ratio of the sums of this harm, over the concepts that both methods reach."""


# --------------------------------------------------------------------------------------------------------------------
# A method over a layer


@dataclass(frozen=True)
class MethodSummary:
    """A method over all concepts of some edits; intervals resample channels.

    Parameters
    ----------
    method
    effect
        Mean |change| of a concept's own images, of the mean change of each concept.
    harm, harm_rest
        Mean |change| of other images, and of the rest.
    selectivity, selectivity_rest
        With their intervals.
    top1
        Mean change of top-1 on own, other and rest images.
    reached
        Share of the concepts that reach equal effect, of those for which it is asked (``edit_rows``).
    harm_at_equal_effect
        Of the concepts that reach it.
    times_part
        The sum of harms at equal effect over that of the part, for the concepts that both reach.
    """

    method: str
    effect: Interval
    harm: Interval
    harm_rest: Interval
    selectivity: tuple[Selectivity, Interval]
    selectivity_rest: tuple[Selectivity, Interval]
    top1: tuple[float, ...]
    reached: float
    harm_at_equal_effect: Interval
    times_part: Interval

    @property
    def words(self) -> str:
        """The method in words."""
        return METHODS.get(self.method).words


def summaries(rows: Sequence[dict[str, Any]]) -> list[MethodSummary]:
    """The MethodSummary of each method of rows that have a ``channel``, in the order of the registry."""
    by_method: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_method.setdefault(row["method"], []).append(row)
    part_of = {(row["split"], row["concept"]): row["harm_at_equal_effect"] for row in by_method.get(PART, ())}
    return [_summary(by_method[name], name, part_of) for name in METHODS if name in by_method]


def _summary(rows: list[dict[str, Any]], method: str, part_of: dict[tuple, float]) -> MethodSummary:
    channels = [row["channel"] for row in rows]

    def column(name: str) -> np.ndarray:
        return np.array([row[name] for row in rows], dtype=float)

    effects = np.abs(column("change_own"))
    part_harms = np.array([part_of.get((row["split"], row["concept"]), np.nan) for row in rows])
    harms = column("harm_at_equal_effect")
    is_asked = column("is_asked") > 0
    is_reached = ~np.isnan(column("strength"))
    return MethodSummary(
        method=method,
        effect=mean_with_interval(effects, channels),
        harm=mean_with_interval(column("harm_other"), channels),
        harm_rest=mean_with_interval(column("harm_rest"), channels),
        selectivity=selectivity_of_layer(effects, column("harm_other"), channels),
        selectivity_rest=selectivity_of_layer(effects, column("harm_rest"), channels),
        top1=tuple(mean_with_interval(column(f"top1_{kind}"), channels).mean for kind in ("own", "other", "rest")),
        reached=float(is_reached[is_asked].mean()) if is_asked.any() else np.nan,
        harm_at_equal_effect=mean_with_interval(harms, channels),
        times_part=ratio_with_interval(harms, np.where(np.isnan(harms), np.nan, part_harms), channels),
    )


def headline_lines(of_methods: Sequence[MethodSummary]) -> list[str]:
    """The lines that lead: part against whole channel and permuted shares, by selectivity and by harm.

    Harms are compared over the concepts that both methods reach: a method that fails on hard concepts would else look
    harmless.
    """
    leading = {summary.method: summary for summary in of_methods if summary.method in LEADING}
    if PART not in leading or np.isnan(leading[PART].effect.mean):
        return ["No concept could be measured."]
    part, *others = order = [leading[name] for name in LEADING if name in leading]
    selectivities = ", ".join(f"{summary.words} {_with_interval(*summary.selectivity)}" for summary in order)
    times = ", ".join(
        f"{summary.words} {_mean_text(summary.times_part, '.2f')} times that, reached by "
        f"{formatted(summary.reached, '.0%')}"
        for summary in others
    )
    return [
        f"Selectivity against the channel's other concepts (95 % intervals over channels): {selectivities}; "
        f"{_above_the_others([summary.selectivity[1] for summary in order])}.",
        f"Harm at equal effect: part {_mean_text(part.harm_at_equal_effect)} logits; over the concepts that both "
        f"reach, {times}; {_above_one([summary.times_part for summary in others])}.",
    ]


def _above_the_others(intervals: Sequence[Interval]) -> str:
    """Whether the first of some intervals lies above all others, in words."""
    first, *others = intervals
    if any(np.isnan(interval.low) for interval in intervals):
        return TOO_FEW
    lies = all(first.low > other.high for other in others)
    return "the part's interval lies above the others" if lies else "the part's interval does not lie above all others"


def _above_one(intervals: Sequence[Interval]) -> str:
    """Whether all intervals of harms, in times the part's, lie above 1, in words."""
    if any(np.isnan(interval.low) for interval in intervals):
        return TOO_FEW
    lie = all(interval.low > 1 for interval in intervals)
    return "the others' intervals lie above 1" if lie else "not all of these intervals lie above 1"


def _with_interval(ratio: Selectivity, interval: Interval) -> str:
    return selectivity_text(ratio.value, ratio.is_least) + interval_text(interval.low, interval.high, ".2f", "")


def selectivity_text(value: float, is_least: bool) -> str:
    """A selectivity as text: ">x" where only a lower bound is known."""
    return f">{value:.2f}" if is_least and not np.isnan(value) else formatted(value)


def summary_table(of_methods: Sequence[MethodSummary]) -> Table:
    """A row for each method over a layer."""
    header = [
        *("method", "effect", "harm", "selectivity", "harm rest", "selectivity rest"),
        *("top-1 own", "top-1 other", "top-1 rest", "reached", "harm at equal effect", "times the part's"),
    ]
    rows = [
        [
            summary.words,
            _mean_text(summary.effect),
            _mean_text(summary.harm),
            _with_interval(*summary.selectivity),
            _mean_text(summary.harm_rest),
            _with_interval(*summary.selectivity_rest),
            *(formatted(value, "+.1%") for value in summary.top1),
            formatted(summary.reached, ".0%"),
            _mean_text(summary.harm_at_equal_effect),
            _mean_text(summary.times_part, ".2f"),
        ]
        for summary in of_methods
    ]
    return Table(header, rows)


def _mean_text(interval: Interval, spec: str = ".3f") -> str:
    return formatted(interval.mean, spec) + interval_text(interval.low, interval.high, spec, "")


# --------------------------------------------------------------------------------------------------------------------
# Rows


def edit_rows(edit: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of an edit, with the fields that tell which split they are of.

    ``is_asked``: equal effect is asked of the methods. Where the part itself has no strength, as it has no effect or
    the concept no training image, there is nothing to reach.
    """
    asked = {row["concept"] for row in edit["rows"] if row["method"] == PART and not np.isnan(row["strength"])}
    shared = {name: edit[name] for name in ("run", "layer", "channel", "split", "rho")}
    return [
        {**shared, "classes": edit["classes"][row["concept"] - 1], "is_asked": row["concept"] in asked, **row}
        for row in edit["rows"]
    ]


def groups(edits: Sequence[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Edits that may be summarised together: a list of (title, rows)."""
    ordered = sorted(edits, key=lambda edit: (edit["run"], edit["channel"], edit["split"]))
    return [
        (_title(group[0]), [row for edit in group for row in edit_rows(edit)])
        for group in grouped(ordered, _settings_of)
    ]


def _settings_of(edit: dict[str, Any]) -> str:
    """The values that must agree between edits that are summarised together."""
    names = ("run", "layer", "weights_sha256", "transform", "split_by", "background", "precision", "decoding")
    return json.dumps([edit[name] for name in (*names, "found_by", "numbers", "training_sha256")], sort_keys=True)


def _title(edit: dict[str, Any]) -> str:
    division = DIVISIONS.get(edit["split_by"]).words
    division += f" and everything else of weight {edit['background']:g}" if edit["background"] else ""
    source = f", {where_from(edit)}" if edit["assignment"] else ""
    return f"{edit['run']}, layer {edit['layer']}, split by {division}, {edit['precision']}, {edit['decoding']}{source}"


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """The Table of rows: a line for each concept and method."""
    header = ["channel", "concept", "method", "images", "change own", "change other", "change rest"]
    header += ["selectivity", "selectivity rest", "strength", "harm at equal effect"]
    cells = [
        [
            row["channel"],
            f"{row['concept']} {short_name(row['name'])}",
            METHODS.get(row["method"]).words,
            "/".join(str(row[f"images_{kind}"]) for kind in ("own", "other", "rest")),
            *(formatted(row[f"change_{kind}"], "+.3f") for kind in ("own", "other", "rest")),
            *(selectivity_text(row[name], row[f"{name}_is_least"]) for name in SELECTIVITY.values()),
            strength_text(row),
            formatted(row["harm_at_equal_effect"], ".3f"),
        ]
        for row in rows
    ]
    return Table(header, cells)


def strength_text(row: dict[str, Any]) -> str:
    """The strength of equal effect of a row of ``edit_rows`` as text."""
    if np.isnan(row["strength"]):
        return "not reached" if row["is_asked"] else DASH
    return f"{row['strength']:.2f}"


def document(edits: Sequence[dict[str, Any]]) -> str:
    """All edits in Markdown."""
    parts = ["# Removing concepts from channels\n"]
    for title, rows in groups(edits):
        of_methods = summaries(rows)
        leading = "\n\n".join(headline_lines(of_methods))
        parts.append(f"### {title}\n\n{leading}\n\n{_counts(rows)}:\n\n{summary_table(of_methods).as_markdown()}\n")
    parts.append(f"### How to read it\n\n{EXPLANATION}\n")
    for title, rows in groups(edits):
        parts.append(f"### {title}, concept by concept\n\n{table(rows).as_markdown()}\n")
    return "\n".join(parts)


def _counts(rows: Sequence[dict[str, Any]]) -> str:
    concepts = {(row["split"], row["concept"]) for row in rows}
    return f"{len(concepts)} concepts of {len({row['channel'] for row in rows})} channels, in logits"


def latex(edits: Sequence[dict[str, Any]]) -> str:
    """Each method over a layer in LaTeX, a table for each group of edits, whose caption begins with the headline."""
    parts = [BEFORE, comment(EXPLANATION)]
    for title, rows in groups(edits):
        of_methods = summaries(rows)
        caption = f"{' '.join(headline_lines(of_methods))} {_counts(rows)}; {title}."
        parts.append(summary_table(of_methods).as_latex(caption, heading=stacked, label=f"edits {title}"))
    return joined(parts)


def comma_separated(edits: Sequence[dict[str, Any]]) -> str:
    """All rows as CSV, with a header; a cell without a value is empty."""
    rows = [
        {
            **row,
            "classes": " ".join(map(str, row["classes"])),
            **{name: csv_number(row[name]) for name in VALUES},
            **{name: int(row[name]) for name in IS_LEAST},
        }
        for _, of_group in groups(edits)
        for row in of_group
    ]
    return Table(COLUMNS, [[row[name] for name in COLUMNS] for row in rows]).as_csv()


def write_edit_tables(edits: Edits) -> list[Path]:
    """Write ``edits.csv``, ``.md`` and ``.tex`` of all ``Edits``; return their paths."""
    return write_settled(edits, {"edits.csv": comma_separated, "edits.md": document, "edits.tex": latex})


def print_edits(measured: Sequence[dict[str, Any]], edits: Edits) -> None:
    """Print what was measured in this run: the headline and each method, then the first splits."""
    first = {edit["split"] for edit in measured[:SHOWN]}
    for title, rows in groups(measured):
        of_methods = summaries(rows)
        print(f"\n{title}\n")
        print("\n".join(headline_lines(of_methods)))
        print(f"\n{_counts(rows)}:\n\n{summary_table(of_methods).as_markdown()}\n")
        shown = [row for row in rows if row["split"] in first]
        print(table(shown).as_markdown())
        if len(shown) < len(rows):
            print(f"... {len(rows) - len(shown)} more in {edits.folder / 'edits.md'}")
    print(f"\n{EXPLANATION}")
    warn_of(edits.stale, "edit", "left out, as the split has changed since: measure again")
    warn_of(edits.unchecked, "edit", f"not checked, as the split is not in {edits.model_dir}")
