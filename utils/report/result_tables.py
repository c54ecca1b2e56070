"""Tables of results: rows of single images, and a summary for each network, tau and number of concepts.

A result is a dictionary as ``utils.store.results.Results`` stores it.
"""

import json
import re
from dataclasses import dataclass
from itertools import chain

import numpy as np

from utils.concept_sources.source_registry import SOURCES
from utils.divisions.division_registry import DIVISIONS
from utils.method.evaluation import (
    Summary,
    failed_conditions,
    fractions_of_original,
    overshoots,
    separation,
    summarise,
)
from utils.report.latex import BEFORE, comment, escaped
from utils.report.numbers import DASH, csv_number, formatted
from utils.report.tables import Table, grouped, short_name


def measured(result):
    """What was measured of the images of each concept: dictionaries of ``original`` [n], ``sums`` [n, K + 1] and
    ``included`` [n]. A concept without labels may have no image."""
    number = max(len(sums) for part in result["images"] for sums in part["sums"])
    return [
        {
            "original": np.array(part["original"]),
            "sums": np.array(part["sums"]).reshape(-1, number),
            "included": np.array(part["included"], dtype=bool),
        }
        for part in result["images"]
    ]


def included_rows(part):
    """Fractions of the included images of one concept, of ``measured``: array [n, K + 1]."""
    included = part["included"]
    return fractions_of_original(part["original"][included], part["sums"][included])


STATISTICS = ("mean", "std", "median")  # of the fractions
EXPLANATION = """\
c'_k, residual: fractions of the original channel, mean ± standard deviation (median) over the included images, those in
which the channel has a relative attribution of at least tau; where its sum is not positive an image is not counted.
AUROC: of c'_k for the images of concept k against the others / of the original channel in its better direction.
clean: own fraction at least 0.8 and every other one at most 0.2, else what fails; "overshoots" beyond -0.25 or 1.25.
top-1: share of all these images that the network, original or split, classifies correctly, each image counted once.
cosine: of the ARVs of the concept and the closest other one. all: fractions, top-1 over images, the rest over pairs."""


@dataclass
class Row:
    """One concept of one result, or of all results: ``result`` is the result or None, ``concept`` counts from 0.

    ``summary`` of the fractions; ``aurocs`` of ``c'_k`` and the original channel; ``top1`` of the network. ``clean`` is
    the verdict in words.
    """

    result: dict | None
    name: str
    concept: int
    cosine: float
    summary: Summary
    aurocs: tuple
    top1: float
    clean: str


def group_of(result):
    """What results in one table have in common: RUN, tau, K, and how they were measured."""
    transform = json.dumps(result["transform"], sort_keys=True)
    background = -1 if result["background"] is None else result["background"]
    division = json.dumps(result["found_by"], sort_keys=True), result["split_by"], background
    how = result["precision"], result["decoding"], transform
    return result["run"], result["tau"], len(result["concepts"]), *division, *how


def groups(results):
    """The results of each table, as lists sorted by channel and concepts, in whatever order they were made.

    Two results whose images of one class folder differ are never in one table.
    """
    ordered = sorted(results, key=lambda result: (*group_of(result), result["channel"], result["split"]))
    return grouped(ordered, group_of)


def where_from(entry):
    """Where concepts without labels come from, and which validation images are theirs."""
    source = SOURCES.get(entry["concepts_from"])
    return (
        f"concepts from {source.words}, {', '.join(source.settings_words(entry['found_by']))} ({entry['assignment']})"
    )


def result_rows(result):
    """A Row for each concept of a result."""
    parts = measured(result)
    areas = separation([part["original"] for part in parts], [part["sums"] for part in parts])
    top1 = _accuracy([result])
    rows = []
    for k, (part, name) in enumerate(zip(parts, result["concept_names"], strict=True)):
        cosine = max((value for j, value in enumerate(result["cosines"][k]) if j != k), default=np.nan)
        summary = summarise(**part)
        rows.append(Row(result, name, k, cosine, summary, areas[k], top1, verdict(summary, k)))
    return rows


def verdict(summary, concept):
    """Whether a concept's summary is clean, and what fails."""
    failed = failed_conditions(summary, concept)
    more = " (overshoots)" if summary.counted and overshoots(summary) else ""
    return ("no: " + ", ".join(failed) if failed else "yes") + more


def overall_rows(results, rows):
    """A Row for each concept number, over all results; ``rows`` are those of each of them."""
    top1, overall = _accuracy(results), []
    by_concept = zip(*map(measured, results), strict=True)
    for k, (of_results, parts) in enumerate(zip(zip(*rows, strict=True), by_concept, strict=True)):
        summary = summarise(
            *(np.concatenate([part[name] for part in parts]) for name in ("original", "sums", "included"))
        )
        areas = tuple(map(_mean_of_known, zip(*(row.aurocs for row in of_results), strict=True)))
        cosine = np.mean([row.cosine for row in of_results])
        clean = f"{sum(row.clean.startswith('yes') for row in of_results)} of {len(of_results)}"
        overall.append(Row(None, f"concept {k + 1}", k, cosine, summary, areas, top1, clean))
    return overall


def _mean_of_known(areas):
    """The mean of those areas that are known: a concept without labels may have no image."""
    known = [area for area in areas if not np.isnan(area)]
    return np.mean(known) if known else np.nan


def _accuracy(results):
    """Share of the images that are classified correctly, each counted once."""
    correct = {}
    for part in chain.from_iterable(result["images"] for result in results):
        hits = np.array(part["predictions"]) == np.array(part["targets"])
        correct |= dict(zip(part["paths"], hits, strict=True))
    return np.mean(list(correct.values()))


@dataclass
class ResultGroup:
    """Results that may be summarised together, the Rows of each, and those over all: everything is computed once."""

    results: list
    rows: list
    overall: list

    def rows_of(self, shown=None):
        """The Rows of the results named in ``shown`` (split, rho; default: of all)."""
        return [
            row
            for result, rows in zip(self.results, self.rows, strict=True)
            if shown is None or (result["split"], result["rho"]) in shown
            for row in rows
        ]


def result_groups(results):
    """The ResultGroups of all results."""
    made = []
    for group in groups(results):
        rows = list(map(result_rows, group))
        made.append(ResultGroup(group, rows, overall_rows(group, rows)))
    return made


def markdown(group, shown=None):
    """A ResultGroup in Markdown; the results named in ``shown`` (split, rho; default: all) have rows of their own."""
    return _table(group, group.rows_of(shown)).as_markdown()


def latex(groups):
    """The whole summary in LaTeX: a table each, as in Markdown but for the medians."""
    parts = [BEFORE, comment(f"{EXPLANATION}\nMedians: in summary.md and summary.csv.")]
    for group in groups:
        table = _table(group, group.rows_of(), with_median=False)
        parts.append(table.as_latex(f"{heading(group)}.", heading=_latex_heading))
    return "\n".join(parts)


def _latex_heading(heading):
    return re.sub(r"c'\\_(k|\d+)", r"$c'_{\1}$", escaped(heading))


def _table(group, rows, with_median=True):
    """The Table of some rows of a ResultGroup, and of those over all results."""
    cells, totals = ([_cells(row, len(group.results), with_median) for row in part] for part in (rows, group.overall))
    return Table(_header(group.results[0]), cells, totals)


def _header(first):
    header = ["channel", "concept", "cosine", "rho", "included"]
    header += [f"c'_{k}" for k in range(1, len(first["concepts"]) + 1)]
    header += ["everything else"] if first["background"] else []
    return [*header, "residual", "clean", "AUROC c'_k / c", "top-1"]


def _cells(row, num_results, with_median=True):
    """A row of the table."""
    left_out = row.summary.included - row.summary.counted
    of = f"{row.summary.included} of {row.summary.images}" + (f", {left_out} not counted" if left_out else "")
    first = (f"all {num_results}", "")
    if row.result:
        first = (str(row.result["channel"]), formatted(row.result["rho"]))
    fractions = zip(row.summary.mean, row.summary.std, row.summary.median, strict=True)
    return [
        first[0],
        short_name(row.name),
        formatted(row.cosine),
        first[1],
        of,
        *(_fraction(*values, with_median) for values in fractions),
        row.clean,
        " / ".join(map(formatted, row.aurocs)),
        f"{row.top1:.3f}",
    ]


def _fraction(mean, std, median, with_median):
    if np.isnan(mean):
        return DASH
    spread = f" ± {std:.2f}" if np.isfinite(std) else ""
    return f"{mean:.2f}{spread}" + (f" ({median:.2f})" if with_median else "")


def heading(group):
    """What a ResultGroup is of, in a line."""
    result, num_concepts = group.results[0], len(group.results[0]["concepts"])
    what = f"{num_concepts} concepts, " if num_concepts != 2 else ""
    what += f"{where_from(result)}, " if result["assignment"] else ""
    division = DIVISIONS.get(result["split_by"])
    what += f"{division.words_of(result['division'])}, " if division.usual_suffix() else ""
    what += f"everything else of weight {result['background']:g}, " if result["background"] else ""
    how = f"{result['precision']}, {result['decoding']}"
    return f"{result['run']}, layer {result['layer']}, {what}tau {result['tau']}, {how}"


def document(groups):
    """The whole summary in Markdown: a heading and a table each."""
    parts = [f"### {heading(group)}\n\n{markdown(group)}\n" for group in groups]
    return "\n".join([*parts, EXPLANATION]) + "\n"


def comma_separated(groups):
    """The whole summary as CSV, with a header; rows of all results have no channel. Empty where there is no value."""
    most = max(len(group.results[0]["concepts"]) for group in groups)
    parts = [*(f"c{k}" for k in range(1, most + 1)), "background", "residual"]
    columns = [*("run", "layer", "tau", "channel", "concept", "classes", "name", "only_correct", "cosine", "rho")]
    columns += ["concepts_from", "split_by", "background", "precision", "decoding"]
    columns += ["images", "included", "counted", *(f"{part}_{name}" for part in parts for name in STATISTICS)]
    columns += ["clean", "auroc", "auroc_original", "top1"]
    rows = [_csv_row(row, group.results[0]) for group in groups for row in [*group.rows_of(), *group.overall]]
    return Table(columns, [[row.get(name, "") for name in columns] for row in rows]).as_csv()


def _csv_row(row, first):
    """What a Row has of the columns of the CSV; ``first`` is the first result of its ResultGroup."""
    of_group = ("run", "layer", "tau", "concepts_from", "split_by", "background", "precision", "decoding")
    values = {name: first[name] for name in of_group}
    values |= {"concept": row.concept + 1, "name": row.name, "clean": row.clean}
    if row.result:
        values |= {name: row.result[name] for name in ("channel", "only_correct", "rho")}
        values["classes"] = " ".join(map(str, row.result["concepts"][row.concept]))
    parts = [f"c{k}" for k in range(1, len(first["concepts"]) + 1)]
    parts += ["background", "residual"] if first["background"] else ["residual"]
    for statistic in STATISTICS:
        of_parts = getattr(row.summary, statistic)
        values |= {f"{part}_{statistic}": csv_number(value) for part, value in zip(parts, of_parts, strict=True)}
    values |= {name: getattr(row.summary, name) for name in ("images", "included", "counted")}
    values |= {"auroc": csv_number(row.aurocs[0]), "auroc_original": csv_number(row.aurocs[1])}
    return {**values, "cosine": csv_number(row.cosine), "top1": csv_number(row.top1)}
