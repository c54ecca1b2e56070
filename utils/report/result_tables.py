"""Tables of results: rows of single images, and a summary for each network, tau and number of concepts.

A result is a dictionary as ``utils.store.results.Results`` stores it.
"""

import csv
import io
from dataclasses import dataclass
from itertools import chain

import numpy as np

from utils.errors import UserError
from utils.method.evaluation import Summary, fractions_of_original, separation, summarise
from utils.store.files import write_bytes


def included_rows(images):
    """Fractions of the included images of one concept's results: array [n, K + 1]."""
    included = np.array(images["included"], dtype=bool)
    return fractions_of_original(np.array(images["original"])[included], np.array(images["sums"])[included])


EXPLANATION = """\
c'_k, residual: fractions of the original channel, mean ± standard deviation (median) over the included images, those in
which the channel has a relative attribution of at least tau; where its sum is not positive an image is not counted.
AUROC: of c'_k for the images of concept k against the others / of the original channel in its better direction.
top-1: share of all these images that the original network / the split network classifies correctly.
cosine: of the ARVs of the concept and the closest other one. all: fractions, top-1 over images, the rest over pairs."""


@dataclass
class Row:
    """One concept of one result, or of all results: ``result`` is the result or None, ``concept`` counts from 0.

    ``summary`` of the fractions; ``aurocs`` of ``c'_k`` and the original channel; ``top1`` of the original and the
    split network.
    """

    result: dict | None
    name: str
    concept: int
    cosine: float
    summary: Summary
    aurocs: tuple
    top1: tuple


def group_of(result):
    """What results in one table have in common: RUN, tau and K."""
    return result["run"], result["tau"], len(result["concepts"])


def groups(results):
    """The results of each table, by ``group_of``; sorted by channel and concepts, in whatever order they were made."""
    found = {}
    for result in sorted(results, key=lambda result: (*group_of(result), result["channel"], result["concepts"])):
        found.setdefault(group_of(result), []).append(result)
    return found


def result_rows(result):
    """A Row for each concept of a result."""
    parts = [{name: np.array(part[name]) for name in ("original", "sums", "included")} for part in result["images"]]
    areas = separation([part["original"] for part in parts], [part["sums"] for part in parts])
    top1 = tuple(_accuracy(result["images"], who) for who in ("predictions", "split_predictions"))
    rows = []
    for k, (part, name) in enumerate(zip(parts, result["concept_names"], strict=True)):
        cosine = max(value for j, value in enumerate(result["cosines"][k]) if j != k)
        rows.append(Row(result, name, k, cosine, summarise(**part), areas[k], top1))
    return rows


def overall_rows(results):
    """A Row for each concept number, over all results."""
    by_concept = list(zip(*map(result_rows, results), strict=True))
    everything = list(chain.from_iterable(result["images"] for result in results))
    top1 = tuple(_accuracy(everything, who) for who in ("predictions", "split_predictions"))
    rows = []
    for k, of_results in enumerate(by_concept):
        images = [result["images"][k] for result in results]
        summary = summarise(
            *(np.concatenate([part[name] for part in images]) for name in ("original", "sums", "included"))
        )
        areas = tuple(np.mean([row.aurocs for row in of_results], axis=0))
        cosine = np.mean([row.cosine for row in of_results])
        rows.append(Row(None, f"concept {k + 1}", k, cosine, summary, areas, top1))
    return rows


def _accuracy(parts, predictions):
    correct = np.concatenate([np.array(part[predictions]) == np.array(part["targets"]) for part in parts])
    return correct.mean()


def markdown(results, shown=None):
    """The aligned Markdown table of the results of one group; those ``shown`` (default: all) have rows of their own."""
    rows = [*chain.from_iterable(map(result_rows, results if shown is None else shown)), *overall_rows(results)]
    num_concepts = len(results[0]["concepts"])
    header = ["channel", "concept", "cosine", "rho", "included"]
    header += [*(f"c'_{k}" for k in range(1, num_concepts + 1)), "residual", "AUROC c'_k / c", "top-1"]
    cells = [header, *(_cells(row, len(results)) for row in rows)]
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
        " / ".join(f"{share:.3f}" for share in row.top1),
    ]


def _fraction(mean, std, median):
    if np.isnan(mean):
        return "–"
    return f"{mean:.2f} ± {std:.2f} ({median:.2f})" if np.isfinite(std) else f"{mean:.2f} ({median:.2f})"


def document(results):
    """The whole summary in Markdown: a heading and a table for each group."""
    parts = []
    for (run, tau, num_concepts), group in groups(results).items():
        what = f"{num_concepts} concepts, " if num_concepts > 2 else ""
        parts.append(f"### {run}, layer {group[0]['layer']}, {what}tau {tau}\n\n{markdown(group)}\n")
    return "\n".join([*parts, EXPLANATION]) + "\n"


def comma_separated(results):
    """The whole summary as CSV, with a header; rows of all results have no channel. Empty where there is no value."""
    most = max(len(result["concepts"]) for result in results)
    parts = [*(f"c{k}" for k in range(1, most + 1)), "residual"]
    statistics = ("mean", "std", "median")
    columns = [*("run", "layer", "tau", "channel", "concept", "classes", "name", "only_correct", "cosine", "rho")]
    columns += ["images", "included", "counted", *(f"{part}_{name}" for part in parts for name in statistics)]
    columns += ["auroc", "auroc_original", "top1_original", "top1_split"]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for (run, tau, num_concepts), group in groups(results).items():
        for row in [*chain.from_iterable(map(result_rows, group)), *overall_rows(group)]:
            values = {"run": run, "layer": group[0]["layer"], "tau": tau, "concept": row.concept + 1, "name": row.name}
            if row.result:
                values |= {name: row.result[name] for name in ("channel", "only_correct", "rho")}
                values["classes"] = " ".join(map(str, row.result["concepts"][row.concept]))
            names = [*parts[:num_concepts], "residual"]
            for statistic in statistics:
                of_parts = getattr(row.summary, statistic)
                values |= {f"{part}_{statistic}": _cell(value) for part, value in zip(names, of_parts, strict=True)}
            values |= {name: getattr(row.summary, name) for name in ("images", "included", "counted")}
            values |= {"auroc": _cell(row.aurocs[0]), "auroc_original": _cell(row.aurocs[1])}
            values |= {"top1_original": _cell(row.top1[0]), "top1_split": _cell(row.top1[1])}
            writer.writerow({**values, "cosine": _cell(row.cosine)})
    return buffer.getvalue()


def _cell(value):
    return "" if np.isnan(value) else f"{value:.6g}"


# --------------------------------------------------------------------------------------------------------------------
# Files


def write_tables(results):
    """Make the rows of images and the summaries anew from all results: the paths of the files.

    Parameters
    ----------
    results : Results
    """
    return [*_write_rows(results), *write_summary(results)]


def write_summary(results):
    """Write ``summary.csv`` and ``summary.md`` of all results; return their paths."""
    found = results.read_all()
    if not found:
        raise UserError(f"there are no results in {results.folder}: run get_results.py --get_quantitative for a pair")
    texts = {"summary.csv": comma_separated(found), "summary.md": document(found)}
    for name, text in texts.items():
        write_bytes(results.folder / name, text.encode())
    return [results.folder / name for name in texts]


def _write_rows(results):
    """Comma-separated fractions without header: one file for each concept, tau and K (and RUN, if several)."""
    found = results.read_all()
    several = len({result["run"] for result in found}) > 1
    files, names = {}, set()
    for result in found:
        suffix = f"_K{len(result['concepts'])}" if len(result["concepts"]) > 2 else ""
        for k, images in enumerate(result["images"], start=1):
            plain = f"quantitative_concept{k}_required{result['tau']}{suffix}.txt"
            named = f"{result['run']}_{plain}"
            names |= {plain, named}
            files.setdefault(named if several else plain, []).append(included_rows(images))
    for name, rows in files.items():
        text = "".join(",".join(f"{value:.6f}" for value in row) + "\n" for row in np.concatenate(rows))
        write_bytes(results.folder / name, text.encode())
    for name in names - set(files):  # the same rows under the name they had when there were fewer RUNs
        (results.folder / name).unlink(missing_ok=True)
    return [results.folder / name for name in sorted(files)]


# --------------------------------------------------------------------------------------------------------------------
# Print


def print_results(results, shown):
    """Print the tables of the results that are ``shown`` and of all so far."""
    alike = groups(results.read_all())
    for group, own in groups(shown).items():
        print(f"\n{markdown(alike[group], own)}")
    print(f"\n{EXPLANATION}")


def print_summary(results):
    """Print the summary of all results, and make its files anew."""
    files = write_summary(results)
    print(document(results.read_all()))
    print(f"wrote {' and '.join(map(str, files))}")
