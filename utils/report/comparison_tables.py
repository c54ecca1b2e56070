"""Tables of comparisons: a row for each method and null, as CSV, Markdown and print.

A comparison is a dictionary as ``utils.store.comparisons.Comparisons`` stores it.
"""

from pathlib import Path
from typing import Any

import numpy as np

from utils.defaults import COMPARISON_DRAWS
from utils.method.embedding_scores import mean_distances
from utils.method.significance import mean_with_interval, ratio_with_interval
from utils.report.numbers import HYPHEN, csv_number, formatted, interval_text
from utils.report.separation_tables import WHY_AP
from utils.report.tables import Table, write_settled
from utils.store.comparisons import MONOSEMANTICITY, OF_CONCEPTS, PATCHES, Comparisons
from utils.store.scores import NEW

NULLS = {
    "weights_permuted": "permuted weights",
    "weights_permuted_same_sets": "permuted weights, same sets",
    "weights_permuted_real_target": "permuted weights, fitted",
    "owners_permuted": "owners permuted",
    "references_partitioned": "references partitioned",
    "units_random": "units at random",
}
PROBE_METHOD = "probe"
NEEDS = ("labels", "images", "changes_weights", "same_output")
WITH_INTERVAL = (*OF_CONCEPTS, "ari", *MONOSEMANTICITY)
ABOVE_NULL = (NEW.ap, NEW.pearson, NEW.auroc)  # scores of which a method's difference from its null is shown
INTERVALS = tuple(f"{name}{end}" for name in WITH_INTERVAL for end in ("_low", "_high"))
DIFFERENCES = tuple(f"{name}_above{end}" for name in ABOVE_NULL for end in ("", "_low", "_high"))
WAY = f"{NEW.ap}_way"  # from a null to the linear probe, as a share
WAYS = tuple(f"{WAY}{end}" for end in ("", "_low", "_high"))
PATCH_COLUMNS = ("patch_intra", "patch_inter", "patch_any", "patch_gap")
COLUMNS = (
    "method",
    "null",
    "k",
    "channels",
    "concepts",
    *WITH_INTERVAL,
    *INTERVALS,
    *DIFFERENCES,
    *WAYS,
    *PATCH_COLUMNS,
    *NEEDS,
    "draws",
    "comparison",
)
HEADINGS = {
    NEW.ap: "AP, all",
    f"{NEW.ap}_above": "AP above the null",
    WAY: "of the way to the probe",
    NEW.pearson: "Pearson, all",
    NEW.auroc: "AUROC, all",
    NEW.auroc_others: "AUROC, others",
    "ari": "ARI",
    "monosemanticity": "monosemanticity",
    "monosemanticity_corrected": "corrected for chance",
    "monosemanticity_strongest": "of the strongest 100",
}
MATCHED = (
    "Each labelled concept is matched to that unit of a method, among its k units of the channel, which ranks the "
    "concept's training images best above those of the channel's other concepts (AUROC). One unit may be matched to "
    "several concepts. The match is judged on validation images only, as all nulls are."
)
HOW_TO_READ = (
    "Only the gain over its own null can be attributed to a method: with more units, AUROC against the other concepts "
    "rises for nulls as well, as they may also choose the best of k. Of the way to the probe: this gain as a share of "
    "the linear probe's gain over the same null."
)
EXPLANATION = f"""\
{MATCHED} {HOW_TO_READ}

AP (average precision), Pearson (correlation between a unit's scores and the concept's indicator, 1 for its images and 0
for others) and AUROC, all: a concept's validation images against all others. Others: against those of the channel's
other concepts only. {WHY_AP}

ARI: adjusted Rand index between the clusters of a channel's reference images and the groups of classes, among reference
images of these classes. k: mean number of units per channel. Values are means over concepts (ARI: over channels), with
95 % intervals by resampling channels. An empty field or - cannot be measured.

Nulls have {COMPARISON_DRAWS} draws each, unless a line below the table names fewer:
- permuted weights: the whole method on the channel's weights shuffled over its inputs, with reference images and
  clusters of its own
- permuted weights, same sets: shuffled weights, divided among the sets of images that the real channel has led to
- permuted weights, fitted: shares of shuffled weights, fitted for these sets so that they give the real channel
- owners permuted: the shares of the inputs shuffled
- references partitioned: the channel's reference images divided at random into sets of the same sizes
- units at random: as many units of the dictionary, whatever their weight at the channel

A unit that is constant over all images counts as chance. A draw that cannot be made is left out.

Monosemanticity is also shown corrected for chance, and for only the 100 images of largest value of a unit (the rest set
to 0), because many weak images outweigh a concept of few images. For these and for the patch gap a null has one draw.
Patches are those of the 100 validation images in which the unit is largest, each assigned to the nearest centroid; gap
is (mean distance between clusters - mean distance within) / mean distance.

What a method needs: labels, or a pass of the network over images (everything else is in the stores). The table also
shows whether the method changes the network's weights, and whether the network with its units in place of the channel
gives the same output; if not, the share of validation predictions that change when a dictionary's reconstruction
replaces the layer's output.

A TopK autoencoder describes the layer's output at each position by a few of its units. NMF describes what follows the
layer's own BatchNorm and activation (or max(0, a)) as sums of components. A unit's value in an image is the sum of its
code over space. A channel's units are those of largest decoder weight at the channel, as many as it has circuits; "best
of all units" may choose any unit of the dictionary, also for the control. The control of an autoencoder has a random
decoder that is never trained: what its units reach is due to the choice among many units, and to the encoder.
"""
EMBEDDING = (
    "Scores without labels (monosemanticity of the units, distances of patches of the clusters) need an embedding: "
    "add --embedding MODEL to the command."
)


def summary_rows(comparison: dict[str, Any]) -> list[dict[str, Any]]:
    """A dictionary with COLUMNS for each method and null; NaN for what could not be measured."""
    keys = dict.fromkeys((row["method"], row["null"]) for row in comparison["channels"])
    return [_summary_row(comparison, method, null) for method, null in keys]


def _summary_row(comparison: dict[str, Any], method: str, null: str) -> dict[str, Any]:
    of_concepts = _rows(comparison["concepts"], method, null)
    of_channels = _rows(comparison["channels"], method, null)
    row = {
        "method": method,
        "null": null,
        "k": float(np.mean([channel["k"] for channel in of_channels])),
        "channels": len(of_channels),
        "concepts": len(of_concepts),
        "draws": max(channel["draws"] for channel in of_channels),
        "comparison": comparison["name"],
    }
    for name in WITH_INTERVAL:
        rows = of_concepts if name in OF_CONCEPTS else of_channels
        row |= _with_interval(name, [part[name] for part in rows], [part["channel"] for part in rows])
    rows_of_method = _rows(comparison["concepts"], method, "")
    row |= _above(rows_of_method, of_concepts, null)
    row |= _way(rows_of_method, of_concepts, _rows(comparison["concepts"], PROBE_METHOD, ""), null)
    distances = mean_distances([tuple(channel[name] for name in PATCHES) for channel in of_channels])
    row |= {f"patch_{name}": value for name, value in distances._asdict().items()}
    row["patch_gap"] = distances.gap
    return row | {name: comparison["methods"][method][name] for name in NEEDS}


def _rows(rows: list[dict[str, Any]], method: str, null: str) -> list[dict[str, Any]]:
    return [row for row in rows if (row["method"], row["null"]) == (method, null)]


def _with_interval(name: str, values: list[float], channels: list[int]) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), mean_with_interval(values, channels), strict=True))


def _above(rows: list[dict[str, Any]], null_rows: list[dict[str, Any]], null: str) -> dict[str, float]:
    """The difference between a method and its null, on the concepts that both have."""
    null_row_of = {(row["channel"], row["concept"]): row for row in null_rows}
    rows = [row for row in rows if (row["channel"], row["concept"]) in null_row_of]
    differences: dict[str, float] = {}
    for name in ABOVE_NULL:
        values = [row[name] - null_row_of[row["channel"], row["concept"]][name] if null else np.nan for row in rows]
        differences |= _with_interval(f"{name}_above", values, [row["channel"] for row in rows])
    return differences


def _way(
    rows: list[dict[str, Any]], null_rows: list[dict[str, Any]], probe_rows: list[dict[str, Any]], null: str
) -> dict[str, float]:
    """How far a method goes from its null to the linear probe, on the concepts that all three have: a ratio of means.

    NaN for the method itself, and where the null is above the probe.
    """
    null_value_of, probe_value_of = (
        {(row["channel"], row["concept"]): row[NEW.ap] for row in of_unit} for of_unit in (null_rows, probe_rows)
    )
    shared = null_value_of.keys() & probe_value_of.keys()
    rows = [row for row in rows if null and (row["channel"], row["concept"]) in shared]
    null_values = np.array([null_value_of[row["channel"], row["concept"]] for row in rows])
    gains = np.array([row[NEW.ap] for row in rows]) - null_values
    probe_gains = np.array([probe_value_of[row["channel"], row["concept"]] for row in rows]) - null_values
    ratio = ratio_with_interval(gains, probe_gains, [row["channel"] for row in rows])
    is_below_probe = bool(np.nansum(probe_gains) > 0)
    return dict(zip(WAYS, ratio if is_below_probe else [np.nan] * 3, strict=True))


# --------------------------------------------------------------------------------------------------------------------
# Text


def _number(value: float) -> str:
    return formatted(value, ".3f", missing=HYPHEN)


def _cell(row: dict[str, Any], name: str) -> str:
    return _number(row[name]) + interval_text(row[f"{name}_low"], row[f"{name}_high"], ".3f", label="")


def k_text(k: float) -> str:
    """A mean number of units: 2.12, 2,048."""
    return f"{k:.3g}" if k < 100 else f"{k:,.0f}"


def table(comparison: dict[str, Any]) -> str:
    """The rows of a comparison as a Markdown table: each method, and its nulls below it."""
    rows = summary_rows(comparison)
    shown = [name for name in HEADINGS if not all(np.isnan(row[name]) for row in rows)]
    has_gaps = not all(np.isnan(row["patch_gap"]) for row in rows)
    header = ["method", "k", "channels", "concepts", *(HEADINGS[name] for name in shown)]
    header += ["patch gap"] if has_gaps else []
    cells = []
    for row in rows:
        words = f"- {NULLS[row['null']]}" if row["null"] else method_words(comparison, row["method"])
        line = [words, k_text(row["k"]), row["channels"], row["concepts"], *(_cell(row, name) for name in shown)]
        cells.append([*line, *([_number(row["patch_gap"])] if has_gaps else [])])
    return Table(header, cells).as_markdown()


def needs_table(comparison: dict[str, Any]) -> str:
    """A Markdown table of what each method needs, and whether it changes the network."""
    header = ["method", "labels", "a pass over images", "changes weights", "output unchanged"]
    header.append("predictions changed when inserted")
    rows = [
        [
            method_words(comparison, name),
            *("yes" if method[need] else "no" for need in NEEDS),
            _changed(comparison, name),
        ]
        for name, method in comparison["methods"].items()
    ]
    return Table(header, rows).as_markdown()


def method_words(comparison: dict[str, Any], name: str) -> str:
    """A method in words: those of a dictionary say what it describes."""
    words = comparison["methods"][name]["words"]
    reconstruction = comparison["reconstructions"].get(name)
    if reconstruction is None:
        return words
    dictionary, _, units = words.partition(", ")
    return f"{dictionary} of {reconstruction['of']}, {units}"


def _changed(comparison: dict[str, Any], name: str) -> str:
    """The share of predictions that change where a method's units are in the place of the network's, as text."""
    if comparison["methods"][name]["same_output"]:
        return "0"
    reconstruction = comparison["reconstructions"].get(name)
    return HYPHEN if reconstruction is None else _share(reconstruction["changed"])


def _share(value: float) -> str:
    return formatted(value, ".1%", missing=HYPHEN)


def reconstructions_table(comparison: dict[str, Any]) -> str:
    """A Markdown table of the dictionaries of a comparison: how well they reconstruct, and what inserting that does."""
    header = ["dictionary", "of", "units", "active", "at a position", "explained, training", "explained, validation"]
    header += ["images", "top-1", "top-1 inserted", "predictions changed"]
    by_dictionary = {row["dictionary"]: row for row in comparison["reconstructions"].values()}
    rows = []
    for row in by_dictionary.values():
        line = [row["dictionary"], row["of"], row["units"], row["active_units"], f"{row['units_at_position']:.1f}"]
        line += [_share(row["explained_training"]), _share(row["explained"]), row["images"]]
        rows.append([*line, *(_share(row[name]) for name in ("top1", "top1_inserted", "changed"))])
    return Table(header, rows).as_markdown()


def channels_text(comparison: dict[str, Any]) -> str:
    """The numbers of concepts and channels of a comparison, and of how many channels these are a sample."""
    num_channels = len(comparison["asked"])
    num_concepts = sum(len(concepts) for _, concepts in comparison["asked"])
    available = comparison["available_channels"]
    sample = f" (a sample of {available})" if available > num_channels else ""
    return f"{num_concepts} concepts of {num_channels} channels{sample}"


def heading(comparison: dict[str, Any]) -> str:
    """The heading of a comparison, with how it was measured, in one line."""
    settings = [
        name.replace("_", " ") if value is True else f"{name.replace('_', ' ')} {value}"
        for name, value in comparison["settings"].items()
        if value and name not in ("embedder", "defaults")
    ]
    return (
        f"{comparison['run']}, layer {comparison['layer']}: {channels_text(comparison)}, "
        f"{comparison['images']} validation images; {', '.join(settings)}"
    )


def fewer_draws(comparison: dict[str, Any]) -> list[str]:
    """A line with the methods whose nulls have fewer draws than others; none if there is no such method."""
    most: dict[str, int] = {}
    for row in comparison["channels"]:
        if row["null"]:
            most[row["method"]] = max(most.get(row["method"], 0), row["draws"])
    fewer = {name: draws for name, draws in most.items() if draws < comparison["settings"]["draws"]}
    words = [f"{comparison['methods'][name]['words']} ({draws})" for name, draws in fewer.items()]
    return [f"Fewer draws of each null than {comparison['settings']['draws']}: {', '.join(words)}."] if words else []


def document(comparisons: list[dict[str, Any]]) -> str:
    """All comparisons in Markdown."""
    parts = ["# Methods side by side\n", EXPLANATION]
    for comparison in comparisons:
        parts.append(f"### {comparison['name']}\n\n{heading(comparison)}\n")
        parts += [f"{table(comparison)}\n", *(f"{line}\n" for line in fewer_draws(comparison))]
        parts += [f"{needs_table(comparison)}\n"]
        parts += [f"{reconstructions_table(comparison)}\n"] if comparison["reconstructions"] else []
        parts += [] if comparison["settings"]["embedding"] else [f"{EMBEDDING}\n"]
        problems = comparison["problems"]
        parts += [f"Could not be measured: {'; '.join(problems)}\n"] if problems else []
    return "\n".join(parts)


def comma_separated(comparisons: list[dict[str, Any]]) -> str:
    """The rows of all comparisons as CSV, with a header; a cell without a value is empty."""
    rows = [row for comparison in comparisons for row in summary_rows(comparison)]
    return Table(COLUMNS, [[_csv_cell(row[name]) for name in COLUMNS] for row in rows]).as_csv()


def _csv_cell(value: bool | float | int | str) -> int | str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return csv_number(value) if isinstance(value, float) else value


def write_comparison_tables(comparisons: Comparisons) -> list[Path]:
    """Write ``comparison.csv`` and ``comparison.md`` of all ``Comparisons``; return their paths."""
    return write_settled(comparisons, {"comparison.csv": comma_separated, "comparison.md": document})


def print_comparison(comparison: dict[str, Any]) -> None:
    """Print the table of a comparison, and how to read it."""
    print(f"\n{heading(comparison)}\n\n{table(comparison)}\n\n{needs_table(comparison)}\n")
    print("\n".join([*fewer_draws(comparison), MATCHED, HOW_TO_READ]))
    if comparison["reconstructions"]:
        print(f"\n{reconstructions_table(comparison)}\n")
    if not comparison["settings"]["embedding"]:
        print(EMBEDDING)
