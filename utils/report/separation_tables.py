"""Tables of separation: a row for each concept and a summary of each layer, as CSV, Markdown, LaTeX and print.

A separation is a dictionary as ``utils.store.separations.Separations`` stores it.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.defaults import SEPARATION_DRAWS
from utils.divisions.division_registry import DIVISIONS
from utils.divisions.nulls import FITTED, SHARES, WEIGHTS
from utils.method.significance import ENOUGH_REACHED, mean_with_interval
from utils.report.latex import BEFORE, comment, joined, stacked
from utils.report.numbers import HYPHEN, csv_number, formatted, interval_text
from utils.report.separation_headline import LARGEST_Q, headline, null_precision
from utils.report.tables import Table, short_name, warn_of, write_settled
from utils.store.scores import (
    IRRELEVANT,
    MEAN_DIFFERENCE,
    NEW,
    ORIGINAL,
    OTHER_GROUPINGS,
    OWN_LOGIT,
    PROBE,
    unit_of,
)
from utils.store.separations import VALUES, Separations, judged_together, newest_rows

SHOWN = 40  # rows that are printed
FIRST_COLUMNS = ("run", "layer", "channel", "concept", "classes", "name", "images")
VALUE_COLUMNS = tuple(name for name in VALUES if name not in (IRRELEVANT.ap, IRRELEVANT.pearson, IRRELEVANT.auroc))
COLUMNS = (*FIRST_COLUMNS, *VALUE_COLUMNS, "null_reached", "null_draws", "most_draws", "split", "rho")
GROUPED_OTHERWISE = "classes grouped otherwise"
CHANNELS = {
    "original": ORIGINAL,
    "new channel c'_k": NEW,
    **{null.words: unit_of(null) for null in (SHARES, WEIGHTS, FITTED)},
    "irrelevant channels": IRRELEVANT,
    GROUPED_OTHERWISE: OTHER_GROUPINGS,
    "mean difference of the layer's input": MEAN_DIFFERENCE,
    "linear probe of the layer's input": PROBE,
    "the class's own logit": OWN_LOGIT,
}
AGAINST_ALL = (
    "AP, Pearson's correlation and AUROC compare a concept's images with all other validation images, misclassified "
    "ones included (whatever --only_correct)"
)
WHY_AP = """\
AP leads and AUROC follows, because a concept is rare among the images: AUROC can be near 1 although most of the images
ranked first are not of the concept. It also fails the sanity checks of NeuronEval (arXiv 2506.05774), which average
precision (the area under the precision-recall curve) and Pearson's correlation pass."""
TO_DELETE = (
    "To take a separation out: delete its file in separation/ (its name is the heading's), and run get_results.py "
    "--summary."
)
REACHED_BY = (
    "reached by: number of draws of the primary null with at least the new channel's AP, of those up to its end; the "
    f"draws of a concept end when {ENOUGH_REACHED} reach it, or at {{most}}"
)
OTHERS = "AUROC, others: only against images of the channel's other concepts, which almost any weights separate"
EXPLANATION = f"""\
All validation images are used, misclassified ones included (whatever --only_correct): the images of a concept's classes
are ranked against all others. The first line counts the concepts whose average precision (AP) is above that of their
primary null at q < {LARGEST_Q}.

The primary null of the paper's rule is permuted weights: the same rule on the channel's weights shuffled over its
inputs, with ARVs and owners or shares computed anew. What permuted weights reach comes from choosing inputs for the
concepts; only the gain over them can be attributed to this channel. Least squares finds little in permuted weights,
because it fits the shuffled channel. Its primary null is therefore "permuted weights, fitted": shares of permuted
weights, fitted so that they give the real channel.

AUROC against the channel's other concepts ("others") is no evidence of its own: for two concepts the rule is a
sign-linear discriminant of the layer's input, which separates two classes with almost any weights (0.99).

{WHY_AP}

p: sequential test of Besag and Clifford (1991) against the primary null. Every concept has {SEPARATION_DRAWS} draws.
A concept stops at the draw l at which {ENOUGH_REACHED} have at least its AP, with p = {ENOUGH_REACHED} / l; the others
continue to the largest number of draws n (--draws), with p = (number of draws with at least their AP + 1) / (n + 1).
reached by: this number, of the draws up to the one at which the concept stopped. q: false discovery rate
(Benjamini-Hochberg) among the concepts measured together.

prevalence: share of the images that are the concept's; it is the AP of chance. original: the channel before the split.
owners permuted: as many inputs for each concept, drawn at random. irrelevant: the same rule on channels that are
relevant for no class of the channel's concepts; p irrelevant: the share of them with at least the new channel's AP,
(1 + number) / (1 + all); q irrelevant: shown if all irrelevant channels were used. For least squares they are only
measured with --irrelevant_channels; if there are too many, they are sampled.

classes grouped otherwise: the same rule on other groupings of the channel's classes into groups of the same sizes
({SEPARATION_DRAWS} groupings, or all that exist), each group judged on its own images. The gain over a group's
prevalence, (AP - prevalence) / (1 - prevalence), is averaged and shown at the prevalence of the concept. Single classes
have no other grouping.

mean difference, probe: two linear readouts of the layer's whole input, summed over space and standardised by the
training images: the mean of the concept minus the mean of the others, and a logistic regression (squared norm
penalised, the factor chosen on halves of the training images; others are a weighted sample). They use labels as the
split does, but are not restricted to the channel, so they are no upper bound for it.

logit: the network's own logit; the largest one if a concept has several classes. Pearson: correlation between a
channel's sums and the concept's indicator (1 for its images, 0 for others); 0 is chance. AUROC: 0.5 is chance. Both are
signed: a value below chance is the wrong direction. Values of nulls are means over {SEPARATION_DRAWS} draws. An empty
field or - cannot be measured: the concept has no image, or the channel is the same for all images.
"""


# --------------------------------------------------------------------------------------------------------------------
# The summary of a separation


def summary(separation: dict[str, Any]) -> str:
    """The summary of a separation as Markdown: its headline, then the means of all channels, and other counts."""
    rows = separation["rows"]
    lines = [f"### {separation['name']}", ""]
    for line in headline_lines(rows):
        lines += [line, ""]
    lines += [f"{heading(separation)}:", "", *_table_of_means(rows), ""]
    lines += [*_differences(rows), *_discoveries(rows)]
    empty = [row for row in rows if not row["images"]]
    lines += [f"- without validation images: {_names(empty)}"] if empty else []
    return "\n".join(lines) + "\n"


def headline_lines(rows: list[dict[str, Any]]) -> list[str]:
    """The lines that lead, and others where they need an explanation; or one that there is nothing to count."""
    leading = headline(rows)
    if leading is None:
        return ["No concept could be measured."]
    lines = (leading.count, leading.precision, leading.of_the_way, leading.of_mean_alone, leading.caution)
    return [line for line in lines if line]


def _table_of_means(rows: list[dict[str, Any]]) -> list[str]:
    """The lines of a table with the mean scores of all kinds of channels that were measured."""
    lines = ["| | AP, all | Pearson, all | AUROC, all | AUROC, others |", "|---|---|---|---|---|"]
    for words, unit in CHANNELS.items():
        cells = [_mean(rows, column) for column in (unit.ap, unit.pearson, unit.auroc, unit.auroc_others)]
        lines += [f"| {words} | {' | '.join(cells)} |"] if cells[0] != HYPHEN else []
    return lines


def _differences(rows: list[dict[str, Any]]) -> list[str]:
    """Lines with the mean difference between the new channel and each null, with 95 % intervals."""
    channels = [row["channel"] for row in rows]
    lines = []
    too_few = False
    for words in ("original", WEIGHTS.words, FITTED.words, GROUPED_OTHERWISE):
        texts = []
        unit = CHANNELS[words]
        for new_column, null_column in ((NEW.ap, unit.ap), (NEW.pearson, unit.pearson), (NEW.auroc, unit.auroc)):
            differences = [row[new_column] - row.get(null_column, np.nan) for row in rows]
            mean, low, high = mean_with_interval(differences, channels)
            if np.isfinite(mean):
                texts.append(f"{HEADINGS[new_column]} {mean:+.3f}{interval_text(low, high)}")
                too_few |= bool(np.isnan(low))
        lines += [f"- new channel minus {words}: {', '.join(texts)}"] if texts else []
    regrouped = sum(not np.isnan(row[OTHER_GROUPINGS.ap]) for row in rows)
    if regrouped < len(rows):
        lines += [f"- {GROUPED_OTHERWISE}: {regrouped} of {len(rows)} concepts; others have no other grouping"]
    return [*lines, "- too few channels for an interval"] if too_few else lines


def _discoveries(rows: list[dict[str, Any]]) -> list[str]:
    """Lines with the numbers of concepts that stand above irrelevant channels, which do not decide."""
    lines = []
    for letter in "pq":
        values = np.array([row[f"{letter}_irrelevant"] for row in rows])
        measured = values[~np.isnan(values)]
        count = f"{(measured < 0.05).sum()} of {len(measured)} concepts"
        lines += [f"- against irrelevant channels {letter} < 0.05: {count}"] if len(measured) else []
    drawn = [row["irrelevant"] for row in rows if row["irrelevant"] < row["irrelevant_there"]]
    if drawn:
        least = f"{1 / (1 + max(drawn)):.2g}"
        lines += [f"- irrelevant channels are a sample: no p of theirs is below {least}, and there is no q"]
    if not any(row["irrelevant"] for row in rows):
        lines += ["- irrelevant channels: not measured (--irrelevant_channels all or a number)"]
    return lines


def divisions_of(rows: list[dict[str, Any]]) -> str:
    """How the inputs of the splits of some rows were divided, in words."""
    return " and ".join(sorted({DIVISIONS.get(row["split_by"]).words for row in rows}))


def heading(separation: dict[str, Any]) -> str:
    """The heading of a separation, with how it was measured, in one line."""
    rows = separation["rows"]
    division = divisions_of(rows)
    rhos = {row["rho"] for row in rows if row["rho"] is not None}
    division += f", rho {_range(rhos)}" if rhos else ""
    channels = len({row["channel"] for row in rows})
    thresholds = sorted({tuple(values[2:]) for values in separation["splits"].values()})
    at = " or ".join(f"tau {tau}, p {p}" for tau, p in thresholds)
    number = _number_of_irrelevant(rows)
    irrelevant = f"{number} irrelevant channels at {at}" if number else "irrelevant channels not measured"
    draws = f"{SEPARATION_DRAWS} draws of each null"
    draws += f" (of the primary one up to {separation['draws']})" if separation["draws"] > SEPARATION_DRAWS else ""
    return (
        f"{separation['run']}, layer {separation['layer']}, split by {division}; {len(rows)} concepts of {channels} "
        f"channels, {separation['images']} images, {draws}, {irrelevant}"
    )


def _number_of_irrelevant(rows: list[dict[str, Any]]) -> str:
    """How many irrelevant channels were used for each split, and of how many; empty if none were."""
    measured = [row for row in rows if row["irrelevant"]]
    if not measured:
        return ""
    used = [row["irrelevant"] for row in measured]
    available = [row["irrelevant_there"] for row in measured]
    return f"all {_range(available)}" if used == available else f"{_range(used)} of {_range(available)}"


def _range(numbers: Iterable[float]) -> str:
    values = sorted(set(numbers))
    return str(values[0]) if len(values) == 1 else f"{values[0]} to {values[-1]}"


def _mean(rows: list[dict[str, Any]], name: str) -> str:
    values = np.array([row.get(name, np.nan) for row in rows])
    values = values[~np.isnan(values)]
    return _number(values.mean()) if len(values) else HYPHEN


def _number(value: float) -> str:
    return formatted(value, ".3f", missing=HYPHEN)


def _names(rows: list[dict[str, Any]]) -> str:
    return ", ".join(f"{row['name']} (channel {row['channel']})" for row in rows)


# --------------------------------------------------------------------------------------------------------------------
# Rows

NULL_AP = "ap_null"  # of the primary null
HEADINGS = {
    "prevalence": "prevalence",
    NULL_AP: "AP null",
    "null_reached": "reached by",
    "p_null": "p",
    "q_null": "q",
    "p_irrelevant": "p irrelevant",
    "q_irrelevant": "q irrelevant",
    NEW.ap: "AP",
    NEW.pearson: "Pearson",
    NEW.auroc: "AUROC",
    NEW.auroc_others: "AUROC others",
}
# By the end of a column's name
WORDS_OF_UNITS = {
    "own_logit": "logit",
    "random_groups": "grouped otherwise",
    **{null.column: null.words for null in (SHARES, WEIGHTS, FITTED)},
}
LEADING = (  # as many as fit across a page in LaTeX; the original's Pearson and AUROC are among the others
    "prevalence",
    ORIGINAL.ap,
    NEW.ap,
    NULL_AP,
    PROBE.ap,
    "null_reached",
    "p_null",
    "q_null",
    NEW.pearson,
    NEW.auroc,
    "p_irrelevant",
    "q_irrelevant",
)
ALL_COLUMNS = (*LEADING, *(name for name in VALUE_COLUMNS if name not in LEADING))


def reached_by(row: dict[str, Any]) -> str:
    """How many draws of the primary null have reached the new channel's AP, of how many."""
    return f"{row['null_reached']} of {row['null_draws']}" if row["null_draws"] else HYPHEN


def table(rows: list[dict[str, Any]], columns: Sequence[str] = ALL_COLUMNS) -> Table:
    """The Table of rows, without columns that have no value.

    If splits were made in several ways, a column names the way.
    """
    rows = [{**row, NULL_AP: null_precision(row)} for row in rows]
    several = len({row["split_by"] for row in rows}) > 1
    columns = [name for name in columns if not all(np.isnan(row[name]) for row in rows)]
    header = ["channel", "concept", *(["split by"] if several else []), "images", *map(_heading_of, columns)]
    cells = [
        [
            row["channel"],
            f"{row['concept']} {short_name(row['name'])}",
            *([DIVISIONS.get(row["split_by"]).words] if several else []),
            row["images"],
            *(reached_by(row) if column == "null_reached" else _number(row[column]) for column in columns),
        ]
        for row in rows
    ]
    return Table(header, cells)


def _heading_of(column: str) -> str:
    for name in (NEW.ap, NEW.pearson, NEW.auroc, NEW.auroc_others):
        if column.startswith(name) and column not in HEADINGS:
            ending = column.removeprefix(f"{name}_")
            return f"{HEADINGS[name]} {WORDS_OF_UNITS.get(ending, ending.replace('_', ' '))}"
    return HEADINGS[column]


def _in_order(pairs: list[tuple[dict, dict]]) -> list[tuple[dict, dict]]:
    return sorted(pairs, key=lambda pair: (pair[0]["run"], pair[1]["channel"], pair[1]["split"], pair[1]["concept"]))


def document(separations: list[dict[str, Any]]) -> str:
    """All separations in Markdown: the summary of each, what the columns are, and a table of the rows of each RUN."""
    parts = [
        "# Separation from all other images\n",
        *map(summary, separations),
        "### How to read it\n",
        EXPLANATION,
        f"{TO_DELETE}\n",
    ]
    for (run, layer), rows in _rows_by_run(separations).items():
        parts.append(f"### {run}, layer {layer}\n\n{table(rows).as_markdown()}\n")
    return "\n".join(parts)


def _rows_by_run(separations: list[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The rows of each (RUN, layer), in order, judged together."""
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for separation, row in _in_order(newest_rows(separations)):
        rows.setdefault((separation["run"], separation["layer"]), []).append(row)
    return {run: judged_together(of_run) for run, of_run in rows.items()}


def latex(separations: list[dict[str, Any]]) -> str:
    """The leading columns of all rows in LaTeX, a table for each RUN, whose caption begins with the headline."""
    parts = [BEFORE, comment(EXPLANATION)]
    for (run, layer), rows in _rows_by_run(separations).items():
        leading = " ".join(f"{line.removesuffix('.')}." for line in headline_lines(rows))
        caption = f"{leading} Separation from all other images: {run}, layer {layer}."
        parts.append(table(rows, LEADING).as_latex(caption, heading=stacked, label=f"separation {run} {layer}"))
    return joined(parts)


def comma_separated(separations: list[dict[str, Any]]) -> str:
    """The rows of all separations as CSV, with a header; a cell without a value is empty."""
    rows = [
        {
            **row,
            "run": separation["run"],
            "layer": separation["layer"],
            "classes": " ".join(map(str, row["classes"])),
            **{name: csv_number(row[name]) for name in VALUE_COLUMNS},
        }
        for separation, row in _in_order(newest_rows(separations))
    ]
    return Table(COLUMNS, [[row[name] for name in COLUMNS] for row in rows]).as_csv()


def write_separation_tables(separations: Separations) -> list[Path]:
    """Write ``separation.csv``, ``.md`` and ``.tex`` of all ``Separations``; return their paths."""
    texts = {"separation.csv": comma_separated, "separation.md": document, "separation.tex": latex}
    return write_settled(separations, texts)


def meanings_of_nulls(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each null that has a value in some rows: how it is made, and whether it decides."""
    primary = {DIVISIONS.get(row["split_by"]).primary_null for row in rows}
    lines = []
    for null in (SHARES, WEIGHTS, FITTED):
        if any(not np.isnan(row[unit_of(null).ap]) for row in rows):
            decides = "; the primary null: what it reaches is due to choosing inputs alone" if null in primary else ""
            lines.append(f"{null.words}: {null.meaning}{decides}")
    return lines


def print_headlines(separations: Separations) -> None:
    """Print the lines that lead of each separation, and warn of splits that have changed."""
    for separation in separations.read_all():
        print("\n".join([f"\n### {separation['name']}\n", *headline_lines(separation["rows"])]))
    if separations.paths():
        print(f"\n{AGAINST_ALL}")
    _print_doubts(separations)


def print_separation(separation: dict[str, Any], separations: Separations) -> None:
    """Print the summary of a separation and its first rows, and warn of splits of all separations that have changed."""
    rows = sorted(separation["rows"], key=lambda row: (row["channel"], row["split"], row["concept"]))
    print(f"\n{summary(separation)}\n{table(rows[:SHOWN], LEADING).as_markdown()}")
    if len(rows) > SHOWN:
        print(f"... {len(rows) - SHOWN} more in {separations.folder / 'separation.md'}")
    print("\n".join([AGAINST_ALL, *meanings_of_nulls(rows), REACHED_BY.format(most=separation["draws"]), OTHERS]))
    _print_doubts(separations)
    empty = [row for row in separation["rows"] if not row["images"]]
    if empty:
        print(f"warning: without validation images, not measured: {_names(empty)}", file=sys.stderr)


def _print_doubts(separations: Separations) -> None:
    """Name splits that are left out of the tables of separations as they have changed, and unchecked ones."""
    warn_of(separations.stale, "split", "left out, changed since: measure again")
    warn_of(separations.unchecked, "split", f"not checked, not found in {separations.model_dir}")
