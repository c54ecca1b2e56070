"""Tables of results: rows of single images, and a summary for each network, tau and number of concepts.

A result is a dictionary as ``utils.store.results.Results`` stores it.
"""

import json
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np

from utils.concept_sources.source_registry import SOURCES
from utils.divisions.division_registry import DIVISIONS
from utils.method.evaluation import (
    ConceptAreas,
    Summary,
    failed_conditions,
    fractions_of_original,
    overshoots,
    separation,
    summarise,
)
from utils.processes import progress
from utils.report.latex import BEFORE, comment, escaped, joined
from utils.report.numbers import DASH, csv_number, formatted
from utils.report.tables import Table, grouped, short_name

STATISTICS = ("mean", "std", "median")  # of the fractions
EXPLANATION = """\
c'_k, residual: spatial sum of the new channel and of the residual as a fraction of the original channel's, mean ±
standard deviation (median) over the included images. Included are images in which the channel has a relative
attribution of at least tau; those in which its sum is not positive are not counted. In each image the fractions of the
new channels, minus (K-1) times the residual's, add up to 1, because c = sum c'_k - (K-1) r. A fraction can
therefore be above 1 or below 0.
AUROC: how well c'_k ranks the images of concept k above those of the channel's other concepts / how well the original
channel does, in its better direction. Average precision is left out, as a concept is not rare among these images
(--get_separation has both).
clean: the own fraction is at least 0.8 and every other one at most 0.2; otherwise the column names what fails.
"overshoots" is added, whether clean or not, if a new channel's mean fraction is below -0.25 or above 1.25.
"Clean" is measured on images of the channel's concepts and has no null. The verdict of a separation (clear, partly,
doubtful) is measured on all validation images, against a null. A concept may pass one and fail the other.
top-1: share of these images that the network, original or split, classifies correctly; each image counts once.
cosine: between the ARVs of the concept and of the closest other one. Rows "all": fractions and top-1 are means over
images, the rest are means over pairs."""

TO_DELETE = "To take a result out: delete its file in pairs/, and run get_results.py --summary."
WITHOUT_INCLUSION = "Left out, as no image has a relative attribution of tau (--proportion_attribution_required)"


# --------------------------------------------------------------------------------------------------------------------
# What was measured, concept by concept


def has_included_images(result: dict[str, Any]) -> bool:
    """Whether the channel has a relative attribution of at least tau in any image of a result."""
    return any(any(of_concept["included"]) for of_concept in result["images"])


@dataclass(frozen=True)
class MeasuredConcept:
    """Measured values of the n images of a concept; a concept without labels may have no image.

    ``original`` [n] has the spatial sums of the original channel, ``sums`` [n, K + 1] those of the new channels and the
    residual; ``included`` [n] are the images in which the channel has a relative attribution of at least tau.
    """

    original: np.ndarray
    sums: np.ndarray
    included: np.ndarray

    def included_fractions(self) -> np.ndarray:
        """Fractions of the original channel in the included images, [included, K + 1]."""
        return fractions_of_original(self.original[self.included], self.sums[self.included])


def measured(result: dict[str, Any]) -> list[MeasuredConcept]:
    """The measured values of each concept of a result."""
    number = max(len(sums) for of_concept in result["images"] for sums in of_concept["sums"])
    return [
        MeasuredConcept(
            original=np.array(of_concept["original"]),
            sums=np.array(of_concept["sums"]).reshape(-1, number),
            included=np.array(of_concept["included"], dtype=bool),
        )
        for of_concept in result["images"]
    ]


@dataclass(frozen=True)
class Row:
    """A concept of one result, or of several results together.

    ``concept`` counts from 0. ``cosine`` is between the ARVs of the concept and the closest other one, ``top1`` the
    accuracy of the network, and ``clean`` says whether the split is clean.
    """

    name: str
    concept: int
    cosine: float
    summary: Summary
    aurocs: ConceptAreas
    top1: float
    clean: str


def result_rows(result: dict[str, Any]) -> list[Row]:
    """A Row for each concept of a result."""
    concepts = measured(result)
    areas = separation([concept.original for concept in concepts], [concept.sums for concept in concepts])
    top1 = _accuracy([result])
    rows = []
    for k, concept in enumerate(concepts):
        summary = summarise(concept.original, concept.sums, concept.included)
        rows.append(
            Row(
                name=result["concept_names"][k],
                concept=k,
                cosine=max((cosine for j, cosine in enumerate(result["cosines"][k]) if j != k), default=np.nan),
                summary=summary,
                aurocs=areas[k],
                top1=top1,
                clean=verdict(summary, k),
            )
        )
    return rows


def verdict(summary: Summary, concept: int) -> str:
    """Whether a concept's summary is clean, and which conditions fail."""
    failed = failed_conditions(summary, concept)
    note = " (overshoots)" if summary.counted and overshoots(summary) else ""
    return ("no: " + ", ".join(failed) if failed else "yes") + note


def overall_rows(results: list[dict[str, Any]], rows: list[list[Row]]) -> list[Row]:
    """A Row for each concept number over all results, of which ``rows`` are the Rows."""
    top1 = _accuracy(results)
    concepts = [measured(result) for result in results]
    overall = []
    for k in range(len(rows[0])):
        of_results = [of_result[k] for of_result in rows]
        summary = summarise(
            np.concatenate([of_result[k].original for of_result in concepts]),
            np.concatenate([of_result[k].sums for of_result in concepts]),
            np.concatenate([of_result[k].included for of_result in concepts]),
        )
        num_clean = sum(not failed_conditions(row.summary, k) for row in of_results)
        overall.append(
            Row(
                name=f"concept {k + 1}",
                concept=k,
                cosine=float(np.mean([row.cosine for row in of_results])),
                summary=summary,
                aurocs=ConceptAreas(
                    new=_mean_of_measured([row.aurocs.new for row in of_results]),
                    original=_mean_of_measured([row.aurocs.original for row in of_results]),
                ),
                top1=top1,
                clean=f"{num_clean} of {len(of_results)}",
            )
        )
    return overall


def _mean_of_measured(areas: list[float]) -> float:
    """The mean of the areas that are not NaN: a concept without labels may have no image."""
    numbers = [area for area in areas if not np.isnan(area)]
    return float(np.mean(numbers)) if numbers else np.nan


def _accuracy(results: list[dict[str, Any]]) -> float:
    """Share of the images that are classified correctly, each counted once."""
    is_correct: dict[str, bool] = {}
    for of_concept in chain.from_iterable(result["images"] for result in results):
        hits = np.array(of_concept["predictions"]) == np.array(of_concept["targets"])
        is_correct |= dict(zip(of_concept["paths"], hits.tolist(), strict=True))
    return float(np.mean(list(is_correct.values())))


# --------------------------------------------------------------------------------------------------------------------
# Results that are summarised together


@dataclass(frozen=True)
class ResultGroup:
    """Results that may be summarised together, the Rows of each, and the Rows over all: computed once."""

    results: list[dict[str, Any]]
    rows: list[list[Row]]
    overall: list[Row]

    def table(self, shown: set[tuple] | None = None, with_median: bool = True) -> Table:
        """The Table of the results named in ``shown`` (split, rho; default: all), with the rows over all at its end."""
        cells = [
            [str(result["channel"]), *_cells(row, formatted(result["rho"]), with_median)]
            for result, rows in zip(self.results, self.rows, strict=True)
            if shown is None or (result["split"], result["rho"]) in shown
            for row in rows
        ]
        totals = [[f"all {len(self.results)}", *_cells(row, "", with_median)] for row in self.overall]
        return Table(_header(self.results[0]), cells, totals)

    def called(self, names: Mapping[str, Sequence[str]]) -> "ResultGroup":
        """The same with other names of the concepts of some splits."""
        rows = [
            [replace(row, name=names[result["split"]][row.concept]) for row in of_result]
            if result["split"] in names
            else of_result
            for result, of_result in zip(self.results, self.rows, strict=True)
        ]
        return replace(self, rows=rows)


def group_of(result: dict[str, Any]) -> tuple[Hashable, ...]:
    """The values that agree between results in one table: RUN, tau, K, and how they were measured."""
    return (
        result["run"],
        result["tau"],
        len(result["concepts"]),
        json.dumps(result["found_by"], sort_keys=True),
        result["split_by"],
        -1 if result["background"] is None else result["background"],
        result["precision"],
        result["decoding"],
        json.dumps(result["transform"], sort_keys=True),
    )


def result_groups(results: Sequence[dict[str, Any]]) -> list[ResultGroup]:
    """The ResultGroups of all results, sorted by channel and concepts."""
    ordered = sorted(results, key=lambda result: (*group_of(result), result["channel"], result["split"]))
    groups = []
    with progress(total=len(ordered), desc="summarising", unit=" results", delay=2, leave=False) as bar:
        for group in grouped(ordered, group_of):
            rows = []
            for result in group:
                rows.append(result_rows(result))
                bar.update()
            groups.append(ResultGroup(group, rows, overall_rows(group, rows)))
    return groups


def where_from(entry: dict[str, Any]) -> str:
    """Where concepts without labels come from, and which validation images are theirs."""
    source = SOURCES.get(entry["concepts_from"])
    settings = ", ".join(source.settings_words(entry["found_by"]))
    return f"concepts from {source.words}, {settings} ({entry['assignment']})"


# --------------------------------------------------------------------------------------------------------------------
# Tables


def markdown(group: ResultGroup, shown: set[tuple] | None = None) -> str:
    """A ResultGroup in Markdown; the results named in ``shown`` (split, rho; default: all) have rows of their own."""
    return group.table(shown).as_markdown()


def document(groups: list[ResultGroup], left_out: Sequence[str] = ()) -> str:
    """The whole summary in Markdown: a heading and a table each; ``left_out`` are results without an included image."""
    parts = [f"### {heading(group)}\n\n{markdown(group)}\n" for group in groups]
    parts += [EXPLANATION, TO_DELETE]
    parts += [f"{WITHOUT_INCLUSION}: {', '.join(left_out)}"] if left_out else []
    return "\n".join(parts) + "\n"


def latex(groups: list[ResultGroup]) -> str:
    """The whole summary in LaTeX: the tables of the Markdown, without medians."""
    parts = [BEFORE, comment(f"{EXPLANATION}\nMedians: in summary.md and summary.csv.")]
    for group in groups:
        parts.append(group.table(with_median=False).as_latex(f"{heading(group)}.", heading=_latex_heading))
    return joined(parts)


def _latex_heading(heading: str) -> str:
    return re.sub(r"c'\\_(k|\d+)", r"$c'_{\1}$", escaped(heading))


def heading(group: ResultGroup) -> str:
    """The heading of a ResultGroup, in one line."""
    result = group.results[0]
    num_concepts = len(result["concepts"])
    division = DIVISIONS.get(result["split_by"])
    parts = [
        f"{result['run']}, layer {result['layer']}",
        f"{num_concepts} concepts" if num_concepts != 2 else "",
        where_from(result) if result["assignment"] else "",
        division.words_of(result["division"]) if division.usual_suffix() else "",
        f"everything else of weight {result['background']:g}" if result["background"] else "",
        f"tau {result['tau']}, {result['precision']}, {result['decoding']}",
    ]
    return ", ".join(filter(None, parts))


def _header(first: dict[str, Any]) -> list[str]:
    """The headings of a table whose ``first`` result is given."""
    header = ["channel", "concept", "cosine", "rho", "included"]
    header += [f"c'_{k}" for k in range(1, len(first["concepts"]) + 1)]
    header += ["everything else"] if first["background"] else []
    return [*header, "residual", "clean", "AUROC c'_k / c", "top-1"]


def _cells(row: Row, rho: str, with_median: bool) -> list[str]:
    """A row of the table, without its channel."""
    summary = row.summary
    left_out = summary.included - summary.counted
    fractions = zip(summary.mean, summary.std, summary.median, strict=True)
    return [
        short_name(row.name),
        formatted(row.cosine),
        rho,
        f"{summary.included} of {summary.images}" + (f", {left_out} not counted" if left_out else ""),
        *(_fraction(mean, std, median if with_median else None) for mean, std, median in fractions),
        row.clean,
        " / ".join(map(formatted, row.aurocs)),
        f"{row.top1:.3f}",
    ]


def _fraction(mean: float, std: float, median: float | None) -> str:
    if np.isnan(mean):
        return DASH
    spread = f" ± {std:.2f}" if np.isfinite(std) else ""
    return f"{mean:.2f}{spread}" + ("" if median is None else f" ({median:.2f})")


def comma_separated(groups: list[ResultGroup]) -> str:
    """The whole summary as CSV, with a header; rows of all results have no channel. A cell without a value is empty."""
    most = max((len(group.results[0]["concepts"]) for group in groups), default=0)
    parts = [*(f"c{k}" for k in range(1, most + 1)), "background", "residual"]
    columns = ["run", "layer", "tau", "channel", "concept", "classes", "name", "only_correct", "cosine", "rho"]
    columns += ["concepts_from", "split_by", "background", "precision", "decoding"]
    columns += ["images", "included", "counted", *(f"{part}_{name}" for part in parts for name in STATISTICS)]
    columns += ["clean", "auroc", "auroc_original", "top1"]
    rows = []
    for group in groups:
        first = group.results[0]
        for result, of_result in zip(group.results, group.rows, strict=True):
            rows += [_csv_row(row, first) | _csv_values_of(result, row.concept) for row in of_result]
        rows += [_csv_row(row, first) for row in group.overall]
    return Table(columns, [[row.get(name, "") for name in columns] for row in rows]).as_csv()


def _csv_row(row: Row, first: dict[str, Any]) -> dict[str, Any]:
    """The values of a Row in the CSV, by column; ``first`` is the first result of its ResultGroup."""
    of_group = ("run", "layer", "tau", "concepts_from", "split_by", "background", "precision", "decoding")
    parts = [f"c{k}" for k in range(1, len(first["concepts"]) + 1)]
    parts += ["background", "residual"] if first["background"] else ["residual"]
    values = {name: first[name] for name in of_group}
    values |= {"concept": row.concept + 1, "name": row.name, "clean": row.clean}
    for statistic in STATISTICS:
        of_parts = getattr(row.summary, statistic)
        values |= {f"{part}_{statistic}": csv_number(value) for part, value in zip(parts, of_parts, strict=True)}
    values |= {name: getattr(row.summary, name) for name in ("images", "included", "counted")}
    values |= {"auroc": csv_number(row.aurocs.new), "auroc_original": csv_number(row.aurocs.original)}
    return values | {"cosine": csv_number(row.cosine), "top1": csv_number(row.top1)}


def _csv_values_of(result: dict[str, Any], concept: int) -> dict[str, Any]:
    """The columns of the CSV that only rows of single results have."""
    values = {name: result[name] for name in ("channel", "only_correct", "rho")}
    return values | {"classes": " ".join(map(str, result["concepts"][concept]))}
