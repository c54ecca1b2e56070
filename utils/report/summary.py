"""The quantitative summary: one table for each network, tau and number of concepts, made from all pairs' stored rows.

A pair is a dictionary as ``results.PairResults`` stores it.
"""

import csv
import io
from dataclasses import dataclass
from itertools import chain

import numpy as np

from utils.method.evaluation import Summary, fractions_of_original, separation, summarise


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
    """One concept of one pair, or of all pairs: ``pair`` is the pair or None, ``concept`` counts from 0.

    ``summary`` of the fractions; ``aurocs`` of ``c'_k`` and the original channel; ``top1`` of the original and the
    split network.
    """

    pair: dict | None
    name: str
    concept: int
    cosine: float
    summary: Summary
    aurocs: tuple
    top1: tuple


def group_of(pair):
    """What pairs in one table have in common: RUN, tau and K."""
    return pair["run"], pair["tau"], len(pair["concepts"])


def groups(pairs):
    """The pairs of each table, by ``group_of``; sorted by channel and concepts, in whatever order they were made."""
    found = {}
    for pair in sorted(pairs, key=lambda pair: (*group_of(pair), pair["channel"], pair["concepts"])):
        found.setdefault(group_of(pair), []).append(pair)
    return found


def pair_rows(pair):
    """A Row for each concept of a pair."""
    parts = [{name: np.array(part[name]) for name in ("original", "sums", "included")} for part in pair["images"]]
    areas = separation([part["original"] for part in parts], [part["sums"] for part in parts])
    top1 = tuple(_accuracy(pair["images"], who) for who in ("predictions", "split_predictions"))
    rows = []
    for k, (part, name) in enumerate(zip(parts, pair["concept_names"], strict=True)):
        cosine = max(value for j, value in enumerate(pair["cosines"][k]) if j != k)
        rows.append(Row(pair, name, k, cosine, summarise(**part), areas[k], top1))
    return rows


def overall_rows(pairs):
    """A Row for each concept number, over all pairs."""
    by_concept = list(zip(*map(pair_rows, pairs), strict=True))
    everything = list(chain.from_iterable(pair["images"] for pair in pairs))
    top1 = tuple(_accuracy(everything, who) for who in ("predictions", "split_predictions"))
    rows = []
    for k, of_pairs in enumerate(by_concept):
        images = [pair["images"][k] for pair in pairs]
        summary = summarise(
            *(np.concatenate([part[name] for part in images]) for name in ("original", "sums", "included"))
        )
        areas = tuple(np.mean([row.aurocs for row in of_pairs], axis=0))
        cosine = np.mean([row.cosine for row in of_pairs])
        rows.append(Row(None, f"concept {k + 1}", k, cosine, summary, areas, top1))
    return rows


def _accuracy(parts, predictions):
    correct = np.concatenate([np.array(part[predictions]) == np.array(part["targets"]) for part in parts])
    return correct.mean()


def markdown(pairs, shown=None):
    """The aligned Markdown table of the pairs of one group; those ``shown`` (default: all) have rows of their own."""
    rows = [*chain.from_iterable(map(pair_rows, pairs if shown is None else shown)), *overall_rows(pairs)]
    num_concepts = len(pairs[0]["concepts"])
    header = ["channel", "concept", "cosine", "rho", "included"]
    header += [*(f"c'_{k}" for k in range(1, num_concepts + 1)), "residual", "AUROC c'_k / c", "top-1"]
    cells = [header, *(_cells(row, len(pairs)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def _cells(row, num_pairs):
    """A row of the Markdown table."""
    left_out = row.summary.included - row.summary.counted
    of = f"{row.summary.included} of {row.summary.images}" + (f", {left_out} not counted" if left_out else "")
    first = (str(row.pair["channel"]), f"{row.pair['rho']:.2f}") if row.pair else (f"all {num_pairs}", "")
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


def document(pairs):
    """The whole summary in Markdown: a heading and a table for each group."""
    parts = []
    for (run, tau, num_concepts), group in groups(pairs).items():
        what = f"{num_concepts} concepts, " if num_concepts > 2 else ""
        parts.append(f"### {run}, layer {group[0]['layer']}, {what}tau {tau}\n\n{markdown(group)}\n")
    return "\n".join([*parts, EXPLANATION]) + "\n"


def comma_separated(pairs):
    """The whole summary as CSV, with a header; rows of all pairs have no channel. Empty where there is no value."""
    most = max(len(pair["concepts"]) for pair in pairs)
    parts = [*(f"c{k}" for k in range(1, most + 1)), "residual"]
    statistics = ("mean", "std", "median")
    columns = [*("run", "layer", "tau", "channel", "concept", "classes", "name", "only_correct", "cosine", "rho")]
    columns += ["images", "included", "counted", *(f"{part}_{name}" for part in parts for name in statistics)]
    columns += ["auroc", "auroc_original", "top1_original", "top1_split"]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for (run, tau, num_concepts), group in groups(pairs).items():
        for row in [*chain.from_iterable(map(pair_rows, group)), *overall_rows(group)]:
            values = {"run": run, "layer": group[0]["layer"], "tau": tau, "concept": row.concept + 1, "name": row.name}
            if row.pair:
                values |= {name: row.pair[name] for name in ("channel", "only_correct", "rho")}
                values["classes"] = " ".join(map(str, row.pair["concepts"][row.concept]))
            names = [*parts[:num_concepts], "residual"]
            for statistic in statistics:
                of_parts = getattr(row.summary, statistic)
                values |= {f"{part}_{statistic}": _number(value) for part, value in zip(names, of_parts, strict=True)}
            values |= {name: getattr(row.summary, name) for name in ("images", "included", "counted")}
            values |= {"auroc": _number(row.aurocs[0]), "auroc_original": _number(row.aurocs[1])}
            values |= {"top1_original": _number(row.top1[0]), "top1_split": _number(row.top1[1])}
            writer.writerow({**values, "cosine": _number(row.cosine)})
    return buffer.getvalue()


def _number(value):
    return "" if np.isnan(value) else f"{value:.6g}"
