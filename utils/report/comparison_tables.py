"""Tables of comparisons: a row for each method and null, as CSV, Markdown and print.

A comparison is a dictionary as ``utils.store.comparisons.Comparisons`` stores it.
"""

import numpy as np

from utils.defaults import COMPARISON_DRAWS
from utils.method.embedding_scores import mean_distances
from utils.method.significance import mean_with_interval
from utils.report.numbers import HYPHEN, csv_number, formatted, interval_text
from utils.report.tables import Table, write_settled
from utils.store.comparisons import MONOSEMANTICITY, OF_CONCEPTS, PATCHES

NULLS = {
    "weights_permuted": "weights permuted",
    "weights_permuted_same_sets": "weights permuted, same sets",
    "weights_permuted_real_target": "weights permuted, real target",
    "owners_permuted": "owners permuted",
    "references_partitioned": "references partitioned",
}
NEEDS = ("labels", "images", "changes_weights", "same_output")
WITH_INTERVAL = (*OF_CONCEPTS, "ari", *MONOSEMANTICITY)
COLUMNS = (
    *("method", "null", "k", "channels", "concepts"),
    *WITH_INTERVAL,
    *(f"{name}{end}" for name in WITH_INTERVAL for end in ("_low", "_high")),
    *(f"{name}_above{end}" for name in ("auroc_all", "ap_all") for end in ("", "_low", "_high")),
    *("patch_intra", "patch_inter", "patch_any", "patch_gap", *NEEDS, "draws", "comparison"),
)
MATCHED = (
    "Of a method's k units each labelled concept of a channel has the one that ranks the concept's training images "
    "best above those of the channel's other concepts (AUROC; one unit may serve several concepts); it is judged on "
    "validation images alone, and so are all nulls."
)
HOW_TO_READ = (
    "A method's value minus that of its own null is the method's own: AUROC against the other concepts rises with k, "
    "under nulls that may choose the best of k as well."
)
EXPLANATION = f"""\
{MATCHED} {HOW_TO_READ}

AUROC and AP (average precision), all: a concept's validation images against all others. Others: against those of the
channel's other concepts alone. ARI: adjusted Rand index between the clusters of a channel's reference images and the
groups of classes, among references of these classes. k: units of a channel, their mean. Means over concepts (ARI: over
channels), with 95 % intervals by resampling channels. Nulls, \
{COMPARISON_DRAWS} draws each: weights permuted, the whole method on the
channel's weights shuffled over its inputs, with references and clusters of its own; same sets, those weights divided
among the sets of images that the channel itself has led to; real target, shares fitted for those weights and these sets
so that they give the real channel; owners permuted, the shares of the inputs shuffled; references partitioned, the
channel's references divided at random into sets of the same sizes. A unit that is the same for all images counts as
chance; a draw that cannot be made is left out. An empty field or - cannot be measured. Monosemanticity also corrected
for chance, and so with all but a unit's 100 largest images set to 0, as weak images outweigh a concept of few. Of these
and of patch gap a null has one draw; patches are those of the 100 validation images in which the unit is largest, each
given to the nearest centroid, and gap is (mean distance between clusters - within) / mean distance.

What a method needs: labels, or a pass of the network over images (all else is in the stores). Whether it changes the
network's weights, and whether that computes what it did with the units in the channel's place.
"""
EMBEDDING = (
    "Scores without labels (monosemanticity of the units, distances of patches of the clusters) were not asked for: "
    "add --embedding MODEL to the command."
)


def summary_rows(comparison):
    """A dictionary for each method and null, with COLUMNS; NaN where a value cannot be."""
    rows = []
    keys = dict.fromkeys((row["method"], row["null"]) for row in comparison["channels"])
    for method, null in keys:
        own, of_channels = (_rows(comparison[what], method, null) for what in ("concepts", "channels"))
        row = {"method": method, "null": null, "k": float(np.mean([one["k"] for one in of_channels]))}
        row |= {"channels": len(of_channels), "concepts": len(own), "draws": max(one["draws"] for one in of_channels)}
        for name in WITH_INTERVAL:
            those = own if name in OF_CONCEPTS else of_channels
            row |= _with_interval(name, [one[name] for one in those], [one["channel"] for one in those])
        row |= _above(_rows(comparison["concepts"], method, ""), own, null)
        distances = mean_distances([tuple(one[name] for name in PATCHES) for one in of_channels])
        row |= {**{f"patch_{name}": value for name, value in distances._asdict().items()}, "patch_gap": distances.gap}
        row |= {name: comparison["methods"][method][name] for name in NEEDS}
        rows.append({**row, "comparison": comparison["name"]})
    return rows


def _rows(rows, method, null):
    return [row for row in rows if (row["method"], row["null"]) == (method, null)]


def _with_interval(name, values, channels):
    return dict(zip((name, f"{name}_low", f"{name}_high"), mean_with_interval(values, channels), strict=True))


def _above(own, null_rows, null):
    """How far a method is above its null, on the concepts that both have."""
    found, of = {}, {(row["channel"], row["concept"]): row for row in null_rows}
    both = [(row, of[row["channel"], row["concept"]]) for row in own if (row["channel"], row["concept"]) in of]
    for name in ("auroc_all", "ap_all"):
        values = [row[name] - other[name] if null else np.nan for row, other in both]
        found |= _with_interval(f"{name}_above", values, [row["channel"] for row, _ in both])
    return found


# --------------------------------------------------------------------------------------------------------------------
# Text


def _number(value):
    return formatted(value, ".3f", missing=HYPHEN)


def _cell(row, name):
    return _number(row[name]) + interval_text(row[f"{name}_low"], row[f"{name}_high"], ".3f", label="")


def table(comparison):
    """The rows of a comparison as an aligned Markdown table: each method, and its nulls below it."""
    words = {"auroc_all": "AUROC, all", "ap_all": "AP, all", "ap_all_above": "AP above the null"}
    words |= {"auroc_others": "AUROC, others", "ari": "ARI"}
    words |= {"monosemanticity": "monosemanticity", "monosemanticity_corrected": "corrected for chance"}
    words |= {"monosemanticity_strongest": "of the strongest 100"}
    rows = summary_rows(comparison)
    shown = [name for name in words if any(not np.isnan(row[name]) for row in rows)]
    gaps = any(not np.isnan(row["patch_gap"]) for row in rows)
    header = ["method", "k", "channels", "concepts", *(words[name] for name in shown), *(["patch gap"] * gaps)]
    cells = []
    for row in rows:
        what = f"- {NULLS[row['null']]}" if row["null"] else comparison["methods"][row["method"]]["words"]
        plain = [what, f"{row['k']:.3g}", row["channels"], row["concepts"]]
        cells.append([*plain, *(_cell(row, name) for name in shown), *([_number(row["patch_gap"])] * gaps)])
    return Table(header, cells).as_markdown()


def needs_table(comparison):
    """What each method needs, and what it leaves of the network."""
    header = ["method", "labels", "a pass over images", "changes weights", "output unchanged"]
    rows = [
        [method["words"], *("yes" if method[name] else "no" for name in NEEDS)]
        for method in comparison["methods"].values()
    ]
    return Table(header, rows).as_markdown()


def heading(comparison):
    """What a comparison is of, and how it was measured, in a line."""
    number = sum(len(concepts) for _, concepts in comparison["asked"])
    hidden, settings = ("embedder", "defaults"), comparison["settings"].items()
    given = [(name.replace("_", " "), value) for name, value in settings if name not in hidden]
    settings = ", ".join(name if value is True else f"{name} {value}" for name, value in given if value)
    return (
        f"{comparison['run']}, layer {comparison['layer']}: {number} concepts of {len(comparison['asked'])} channels, "
        f"{comparison['images']} validation images; {settings}"
    )


def document(comparisons):
    """All comparisons in Markdown."""
    parts = ["# Methods side by side\n", EXPLANATION]
    for one in comparisons:
        parts += [f"### {one['name']}\n\n{heading(one)}\n", f"{table(one)}\n", f"{needs_table(one)}\n"]
        parts += [] if one["settings"]["embedding"] else [f"{EMBEDDING}\n"]
        parts += [f"Could not be measured: {'; '.join(one['problems'])}\n"] if one["problems"] else []
    return "\n".join(parts)


def comma_separated(comparisons):
    """The rows of all comparisons as CSV, with a header; empty where there is no value."""
    rows = [row for comparison in comparisons for row in summary_rows(comparison)]
    return Table(COLUMNS, [[_csv_cell(row[name]) for name in COLUMNS] for row in rows]).as_csv()


def _csv_cell(value):
    if isinstance(value, bool):
        return "yes" if value else "no"
    return csv_number(value) if isinstance(value, float) else value


def write_comparison_tables(comparisons):
    """Make ``comparison.csv`` and ``comparison.md`` anew from all ``Comparisons``: the paths."""
    return write_settled(comparisons, {"comparison.csv": comma_separated, "comparison.md": document})


def print_comparison(comparison):
    """Print the table of a comparison, and how to read it."""
    print(f"\n{heading(comparison)}\n\n{table(comparison)}\n\n{needs_table(comparison)}\n\n{MATCHED}\n{HOW_TO_READ}")
    if not comparison["settings"]["embedding"]:
        print(EMBEDDING)
