"""Tables of results: rows of single images, and a summary for each network, tau and number of concepts.

A result is a dictionary as ``utils.store.results.Results`` stores it.
"""

import csv
import io
import json
import sys
from dataclasses import dataclass
from itertools import chain

import numpy as np

from utils.errors import UserError
from utils.method.evaluation import Summary, fractions_of_original, separation, summarise
from utils.store.files import write_bytes

LEFT_OUT = "as their splits have changed since: evaluate them again"


def included_rows(images):
    """Fractions of the included images of one concept's results: array [n, K + 1]."""
    included = np.array(images["included"], dtype=bool)
    return fractions_of_original(np.array(images["original"])[included], np.array(images["sums"])[included])


USUAL = {"precision": "fp32", "decoding": "pil"}  # others are named in the names of files
EXPLANATION = """\
c'_k, residual: fractions of the original channel, mean ± standard deviation (median) over the included images, those in
which the channel has a relative attribution of at least tau; where its sum is not positive an image is not counted.
AUROC: of c'_k for the images of concept k against the others / of the original channel in its better direction.
top-1: share of all these images that the network, original or split, classifies correctly.
cosine: of the ARVs of the concept and the closest other one. all: fractions, top-1 over images, the rest over pairs."""


@dataclass
class Row:
    """One concept of one result, or of all results: ``result`` is the result or None, ``concept`` counts from 0.

    ``summary`` of the fractions; ``aurocs`` of ``c'_k`` and the original channel; ``top1`` of the network.
    """

    result: dict | None
    name: str
    concept: int
    cosine: float
    summary: Summary
    aurocs: tuple
    top1: float


def group_of(result):
    """What results in one table have in common: RUN, tau, K, and how they were measured."""
    transform = json.dumps(result["transform"], sort_keys=True)
    return result["run"], result["tau"], len(result["concepts"]), result["precision"], result["decoding"], transform


def groups(results):
    """The results of each table, as lists sorted by channel and concepts, in whatever order they were made.

    Two results whose images of one class folder differ are never in one table.
    """
    found = {}
    for result in sorted(results, key=lambda result: (*group_of(result), result["channel"], result["split"])):
        alike = found.setdefault(group_of(result), [])
        for validation, group in alike:
            if all(validation.get(folder, digest) == digest for folder, digest in result["validation"].items()):
                validation |= result["validation"]
                group.append(result)
                break
        else:
            alike.append((dict(result["validation"]), [result]))
    return [group for alike in found.values() for _, group in alike]


def result_rows(result):
    """A Row for each concept of a result."""
    parts = [{name: np.array(part[name]) for name in ("original", "sums", "included")} for part in result["images"]]
    areas = separation([part["original"] for part in parts], [part["sums"] for part in parts])
    top1 = _accuracy([result])
    rows = []
    for k, (part, name) in enumerate(zip(parts, result["concept_names"], strict=True)):
        cosine = max(value for j, value in enumerate(result["cosines"][k]) if j != k)
        rows.append(Row(result, name, k, cosine, summarise(**part), areas[k], top1))
    return rows


def overall_rows(results, rows):
    """A Row for each concept number, over all results; ``rows`` are those of each of them."""
    top1, overall = _accuracy(results), []
    for k, of_results in enumerate(zip(*rows, strict=True)):
        images = [result["images"][k] for result in results]
        summary = summarise(
            *(np.concatenate([part[name] for part in images]) for name in ("original", "sums", "included"))
        )
        areas = tuple(np.mean([row.aurocs for row in of_results], axis=0))
        cosine = np.mean([row.cosine for row in of_results])
        overall.append(Row(None, f"concept {k + 1}", k, cosine, summary, areas, top1))
    return overall


def _accuracy(results):
    """Share of the images that are classified correctly, each counted once."""
    correct = {}
    for part in chain.from_iterable(result["images"] for result in results):
        hits = np.array(part["predictions"]) == np.array(part["targets"])
        correct |= dict(zip(part["paths"], hits, strict=True))
    return np.mean(list(correct.values()))


@dataclass
class Table:
    """Results that may be summed up together, the Rows of each, and those over all: everything is computed once."""

    results: list
    rows: list
    overall: list


def make_tables(results):
    """The Tables of all results."""
    tables = []
    for group in groups(results):
        rows = list(map(result_rows, group))
        tables.append(Table(group, rows, overall_rows(group, rows)))
    return tables


def markdown(table, shown=None):
    """A Table as aligned Markdown; the results named in ``shown`` (split, rho; default: all) have rows of their own."""
    own = [
        rows
        for result, rows in zip(table.results, table.rows, strict=True)
        if shown is None or (result["split"], result["rho"]) in shown
    ]
    num_concepts = len(table.results[0]["concepts"])
    header = ["channel", "concept", "cosine", "rho", "included"]
    header += [*(f"c'_{k}" for k in range(1, num_concepts + 1)), "residual", "AUROC c'_k / c", "top-1"]
    rows = [*chain.from_iterable(own), *table.overall]
    cells = [header, *(_cells(row, len(table.results)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def _cells(row, num_results):
    """A row of the Markdown table."""
    left_out = row.summary.included - row.summary.counted
    of = f"{row.summary.included} of {row.summary.images}" + (f", {left_out} not counted" if left_out else "")
    first = (str(row.result["channel"]), f"{row.result['rho']:.2f}") if row.result else (f"all {num_results}", "")
    fractions = zip(row.summary.mean, row.summary.std, row.summary.median, strict=True)
    name = row.name if len(row.name) <= 40 else row.name[:37] + "..."
    return [
        first[0],
        name.replace("|", "\\|"),
        f"{row.cosine:.2f}",
        first[1],
        of,
        *(_fraction(*values) for values in fractions),
        " / ".join(f"{area:.2f}" for area in row.aurocs),
        f"{row.top1:.3f}",
    ]


def _fraction(mean, std, median):
    if np.isnan(mean):
        return "–"
    return f"{mean:.2f} ± {std:.2f} ({median:.2f})" if np.isfinite(std) else f"{mean:.2f} ({median:.2f})"


def heading(table):
    """What a Table is of, in a line."""
    result, num_concepts = table.results[0], len(table.results[0]["concepts"])
    what = f"{num_concepts} concepts, " if num_concepts > 2 else ""
    how = f"{result['precision']}, {result['decoding']}"
    return f"{result['run']}, layer {result['layer']}, {what}tau {result['tau']}, {how}"


def document(tables):
    """The whole summary in Markdown: a heading and a table each."""
    parts = [f"### {heading(table)}\n\n{markdown(table)}\n" for table in tables]
    return "\n".join([*parts, EXPLANATION]) + "\n"


def comma_separated(tables):
    """The whole summary as CSV, with a header; rows of all results have no channel. Empty where there is no value."""
    most = max(len(table.results[0]["concepts"]) for table in tables)
    parts = [*(f"c{k}" for k in range(1, most + 1)), "residual"]
    statistics = ("mean", "std", "median")
    columns = [*("run", "layer", "tau", "channel", "concept", "classes", "name", "only_correct", "cosine", "rho")]
    columns += ["precision", "decoding"]
    columns += ["images", "included", "counted", *(f"{part}_{name}" for part in parts for name in statistics)]
    columns += ["auroc", "auroc_original", "top1"]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for table in tables:
        shared = {name: table.results[0][name] for name in ("run", "layer", "tau", "precision", "decoding")}
        names = [*parts[: len(table.results[0]["concepts"])], "residual"]
        for row in [*chain.from_iterable(table.rows), *table.overall]:
            values = {**shared, "concept": row.concept + 1, "name": row.name}
            if row.result:
                values |= {name: row.result[name] for name in ("channel", "only_correct", "rho")}
                values["classes"] = " ".join(map(str, row.result["concepts"][row.concept]))
            for statistic in statistics:
                of_parts = getattr(row.summary, statistic)
                values |= {f"{part}_{statistic}": _cell(value) for part, value in zip(names, of_parts, strict=True)}
            values |= {name: getattr(row.summary, name) for name in ("images", "included", "counted")}
            values |= {"auroc": _cell(row.aurocs[0]), "auroc_original": _cell(row.aurocs[1])}
            writer.writerow({**values, "cosine": _cell(row.cosine), "top1": _cell(row.top1)})
    return buffer.getvalue()


def _cell(value):
    return "" if np.isnan(value) else f"{value:.6g}"


# --------------------------------------------------------------------------------------------------------------------
# Files


def write_tables(results):
    """Make the rows of images and the summaries anew from all results.

    Others may write results at the same time: all is made again until nothing has changed meanwhile, so that whoever
    ends last has seen everything. (A lock would need a file system that has them.)

    Parameters
    ----------
    results : Results

    Returns
    -------
    tables : list of Table
    paths : list of Path
    """
    state = None
    while state != results.state():
        state, found = results.state(), results.read_all()
        if not found and results.stale:
            raise UserError(
                f"{results.folder} has only results that are left out, {LEFT_OUT} ({_named(results.stale)})"
            )
        if not found:
            raise UserError(f"there are no results in {results.folder}: run get_results.py --get_quantitative first")
        tables = make_tables(found)
        paths = _write_rows(results.folder, found)
        for name, text in (("summary.csv", comma_separated(tables)), ("summary.md", document(tables))):
            write_bytes(results.folder / name, text.encode())
            paths.append(results.folder / name)
    return tables, paths


def _write_rows(folder, found):
    """Comma-separated fractions without header: one file for each concept, tau and K (and RUN, if several)."""
    several = len({result["run"] for result in found}) > 1
    files, names = {}, set()
    for result in found:
        suffix = f"_K{len(result['concepts'])}" if len(result["concepts"]) > 2 else ""
        suffix += "".join(f"_{result[how]}" for how, usual in USUAL.items() if result[how] != usual)
        for k, images in enumerate(result["images"], start=1):
            plain = f"quantitative_concept{k}_required{result['tau']}{suffix}.txt"
            named = f"{result['run']}_{plain}"
            names |= {plain, named}
            files.setdefault(named if several else plain, []).append(included_rows(images))
    for name, rows in files.items():
        text = "".join(",".join(f"{value:.6f}" for value in row) + "\n" for row in np.concatenate(rows))
        write_bytes(folder / name, text.encode())
    for name in names - set(files):  # the same rows under the name they had when there were fewer RUNs
        (folder / name).unlink(missing_ok=True)
    return [folder / name for name in sorted(files)]


# --------------------------------------------------------------------------------------------------------------------
# Print


def print_results(results, tables, shown):
    """Print the Tables of the results that are ``shown``, with the rows of all so far."""
    names = {(result["split"], result["rho"]) for result in shown}
    for table in tables:
        if any((result["split"], result["rho"]) in names for result in table.results):
            print(f"\n{markdown(table, names)}")
    print(f"\n{EXPLANATION}")
    _print_doubts(results)


def print_summary(results):
    """Print the summary of all results, and make its files anew."""
    tables, paths = write_tables(results)
    print(document(tables))
    _print_doubts(results)
    print("wrote " + "\n      ".join(map(str, paths)))


def _print_doubts(results):
    """Name results that are left out because their split has changed, and those whose split was not found."""
    for names, what in (
        (results.stale, f"left out, {LEFT_OUT}"),
        (results.unchecked, f"not checked, as their splits are not in {results.model_dir}"),
    ):
        if names:
            print(f"warning: {len(names)} results {what} ({_named(names)})", file=sys.stderr)


def _named(names):
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def warn_of_empty_inclusion(result):
    """Say where no image of a concept counts, for which tau some would."""
    for name, part in zip(result["concept_names"], result["images"], strict=True):
        if not any(part["included"]):
            print(
                f"warning: channel {result['channel']}: none of {len(part['paths'])} images of {name} has a relative "
                f"attribution of tau = {result['tau']}; the largest is {max(part['shares']):.3g} "
                "(--proportion_attribution_required)",
                file=sys.stderr,
            )
