"""Tables of separation: a row for each concept, and a summary of each layer, as CSV, Markdown and print.

A separation is a dictionary as ``utils.store.separations.Separations`` stores it.
"""

import sys

import numpy as np

from utils.divisions.division_registry import DIVISIONS
from utils.divisions.nulls import FITTED, SHARES, WEIGHTS
from utils.errors import listed
from utils.method.significance import mean_with_interval
from utils.report.latex import BEFORE, comment, stacked
from utils.report.numbers import HYPHEN, csv_number, formatted, interval_text
from utils.report.tables import Table, short_name, write_settled
from utils.store.separations import VALUES, newest_rows

SHOWN = 40  # rows that are printed
FIRST = ("run", "layer", "channel", "concept", "classes", "name", "images")
COLUMNS = (
    *FIRST,
    *(value for value in VALUES if not value.endswith("_irrelevant") or value[0] in "pq"),
    "split",
    "rho",
)
CHANNELS = {
    "original": "_original",
    "new channel c'_k": "",
    **{null.words: f"_{null.column}" for null in (SHARES, WEIGHTS, FITTED)},
    "irrelevant channels": "_irrelevant",
}
HOW_TO_READ = (
    "read them beside those of permuted weights, the same rule on the channel's weights shuffled over its inputs; what "
    "these reach, choosing inputs does alone"
)
DRAWS_REACH = (
    'permuted >= AP: share of draws of permuted weights that reach the new channel\'s AP ("real": of the real target)'
)
OTHERS = "AUROC, others: against the images of the channel's other concepts alone, which almost any weights tell apart"
EXPLANATION = f"""\
Measured on all validation images: those of a concept's classes against all others. The headline is the new channel's
AUROC and average precision (AP) against all other images, beside those of permuted weights: the same rule on the
channel's weights shuffled over its inputs, ARVs and owners or shares made anew. What permuted weights reach comes
from choosing inputs for the concepts alone, and only the difference is this channel's. Least squares finds little in
permuted weights, as it asks for what the shuffled channel does; what choosing inputs does alone is there the "real
target": shares fitted for permuted weights so that they give the real channel. AUROC against the other concepts of
the channel alone ("others") must not be the headline: for two concepts the rule is a sign-linear discriminant of the
layer's input, which tells two classes apart with almost any weights (0.99).

prevalence: share of the images that are the concept's, the AP of chance. original: the channel before. owners
permuted: the same number of inputs each, drawn at random. irrelevant: the same rule on channels that are relevant for
no class of the channel's concepts; p: their share with at least the new channel's AP, (1 + number) / (1 + all); q:
false discovery rate (Benjamini-Hochberg) among the concepts of one run, where all irrelevant channels were used.
{DRAWS_REACH}.
logit: AP of the network's own logit, of several classes' the largest. AUROC is signed: 0.5 is chance, below it the
wrong way round. Permuted values are means over draws. An empty field or - cannot be measured: no image of the concept,
or a channel that is the same for all images.
"""


def summary(separation):
    """What a separation says of its layer, as Markdown: the means of all channels, and differences with intervals."""
    rows = separation["rows"]
    channels = [row["channel"] for row in rows]
    lines = [
        f"### {separation['name']}",
        "",
        f"{heading(separation)}:",
        "",
        "| | AUROC, all | AP, all | AUROC, others |",
        "|---|---|---|---|",
    ]
    for what, kind in CHANNELS.items():
        cells = [_mean(rows, f"{name}{kind}") for name in ("auroc_all", "ap_all", "auroc_others")]
        lines += [f"| {what} | {' | '.join(cells)} |"] if cells[:2] != ["-", "-"] else []
    lines += [f"| the class's own logit | - | {_mean(rows, 'ap_all_own_logit')} | - |", ""]
    too_few = False
    for what in ("original", WEIGHTS.words, FITTED.words):
        found = []
        for name, column in (("AP", "ap_all"), ("AUROC", "auroc_all")):
            values = [row[column] - row[f"{column}{CHANNELS[what]}"] for row in rows]
            mean, low, high = mean_with_interval(values, channels)
            interval = interval_text(low, high)
            too_few |= np.isfinite(mean) and not interval
            found += [f"{name} {mean:+.3f}{interval}"] if np.isfinite(mean) else []
        lines += [f"- new channel minus {what}: {', '.join(found)}"] if found else []
    lines += ["- too few channels for an interval"] if too_few else []
    for letter in "pq":
        values = np.array([row[f"{letter}_irrelevant"] for row in rows])
        known = ~np.isnan(values)
        lines += [f"- {letter} < 0.05: {(values < 0.05).sum()} of {known.sum()} concepts"] if known.any() else []
    empty = [row for row in rows if not row["images"]]
    lines += [f"- without validation images: {_names(empty)}"] if empty else []
    return "\n".join(lines) + "\n"


def divisions_of(rows):
    """How the inputs of the splits of some rows were divided, in words."""
    return " and ".join(sorted({DIVISIONS.get(row["split_by"]).words for row in rows}))


def heading(separation):
    """What a separation is of, and how it was measured, in a line."""
    rows = separation["rows"]
    how = divisions_of(rows)
    rhos = sorted({row["rho"] for row in rows if row["rho"] is not None})
    how += f", rho {rhos[0]}" + (f" to {rhos[-1]}" if len(rhos) > 1 else "") if rhos else ""
    channels = len({row["channel"] for row in rows})
    used, there = ([row[name] for row in rows] for name in ("irrelevant", "irrelevant_there"))
    number = f"all {_range(there)}" if used == there else f"{_range(used)} of {_range(there)}"
    thresholds = sorted({tuple(values[2:]) for values in separation["splits"].values()})
    at = " or ".join(f"tau {tau}, p {p}" for tau, p in thresholds)
    return (
        f"{separation['run']}, layer {separation['layer']}, split by {how}; {len(rows)} concepts of {channels} "
        f"channels, {separation['images']} images, {separation['draws']} draws, {number} irrelevant channels at {at}"
    )


def _range(numbers):
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def _mean(rows, name):
    values = np.array([row.get(name, np.nan) for row in rows])
    return _number(values[~np.isnan(values)].mean()) if not np.isnan(values).all() else "-"


def _number(value):
    return formatted(value, ".3f", missing=HYPHEN)


def _names(rows):
    return ", ".join(f"{row['name']} (channel {row['channel']})" for row in rows)


# --------------------------------------------------------------------------------------------------------------------
# Rows

WORDS = {
    **{"prevalence": "prevalence", "ap_all_own_logit": "AP logit", "p_irrelevant": "p", "q_irrelevant": "q"},
    **{"ap_all": "AP", "auroc_all": "AUROC", "auroc_others": "AUROC others"},
    **{"draws": "permuted >= AP", "draws_real_target": "real >= AP"},
}
REACHED = {WEIGHTS.draws_column: "ap_draws", FITTED.draws_column: "ap_draws_real_target"}
HEADLINE = (
    *("prevalence", "ap_all", "ap_all_original", "ap_all_weights_permuted", "draws", "ap_all_real_target"),
    *("draws_real_target", "auroc_all", "auroc_all_original", "auroc_all_weights_permuted", "p_irrelevant"),
    "q_irrelevant",
)


def draws_reached(row):
    """The shares of draws of permuted weights, without and with the real target, that reach the new channel's AP."""
    found = {}
    for name, draws in REACHED.items():
        values = np.array(row[draws])
        values = values[~np.isnan(values)]
        known = len(values) and not np.isnan(row["ap_all"])
        found[name] = float((values >= row["ap_all"]).mean()) if known else np.nan
    return found


def table(rows, columns=(*VALUES, *REACHED)):
    """Rows as an aligned Markdown table."""
    return table_of(rows, columns).as_markdown()


def table_of(rows, columns):
    """The Table of rows; columns without any value are left out.

    Where splits were made in several ways, a column says how.
    """
    rows, several = [{**row, **draws_reached(row)} for row in rows], len({row["split_by"] for row in rows}) > 1
    columns = [
        name for name in columns if name in (*COLUMNS, *REACHED) and not all(np.isnan(row[name]) for row in rows)
    ]
    header = ["channel", "concept", *(["split by"] if several else []), "images", *map(_words, columns)]
    cells = [
        [
            row["channel"],
            f"{row['concept']} {short_name(row['name'])}",
            *([DIVISIONS.get(row["split_by"]).words] if several else []),
            row["images"],
            *(_number(row[column]) for column in columns),
        ]
        for row in rows
    ]
    return Table(header, cells)


def _words(column):
    for name in ("ap_all", "auroc_all", "auroc_others"):
        if column.startswith(name) and column not in WORDS:
            return f"{WORDS[name]} {column.removeprefix(f'{name}_').replace('_', ' ')}"
    return WORDS[column]


def _in_order(pairs):
    return sorted(pairs, key=lambda pair: (pair[0]["run"], pair[1]["channel"], pair[1]["split"], pair[1]["concept"]))


def document(separations):
    """All separations in Markdown: what the columns are, the summary of each, and a table of the rows of each RUN."""
    parts = ["# Separation from all other images\n", EXPLANATION, *map(summary, separations)]
    for (run, layer), rows in _rows_by_run(separations).items():
        parts.append(f"### {run}, layer {layer}\n\n{table(rows)}\n")
    return "\n".join(parts)


def _rows_by_run(separations):
    """The rows of each (RUN, layer), in order."""
    found = {}
    for one, row in _in_order(newest_rows(separations)):
        found.setdefault((one["run"], one["layer"]), []).append(row)
    return found


def latex(separations):
    """The headline columns of all rows in LaTeX, a table for each RUN."""
    parts = [BEFORE, comment(EXPLANATION)]
    for (run, layer), rows in _rows_by_run(separations).items():
        caption = f"Separation from all other images: {run}, layer {layer}."
        parts.append(table_of(rows, HEADLINE).as_latex(caption, heading=_latex_heading))
    return "\n".join(parts)


def _latex_heading(heading):
    return stacked(heading.replace(">=", "≥"))


def comma_separated(separations):
    """The rows of all separations as CSV, with a header; empty where there is no value."""
    rows = [
        {
            **row,
            "run": separation["run"],
            "layer": separation["layer"],
            "classes": " ".join(map(str, row["classes"])),
            **{name: csv_number(row[name]) for name in COLUMNS if name in VALUES},
        }
        for separation, row in _in_order(newest_rows(separations))
    ]
    return Table(COLUMNS, [[row[name] for name in COLUMNS] for row in rows]).as_csv()


def write_separation_tables(separations):
    """Make ``separation.csv``, ``.md`` and ``.tex`` anew from all ``Separations``: the paths."""
    texts = {"separation.csv": comma_separated, "separation.md": document, "separation.tex": latex}
    return write_settled(separations, texts)


def print_separation(separation, separations):
    """Print the summary of a separation, the first of its rows, and which splits have changed since all were made."""
    rows = sorted(separation["rows"], key=lambda row: (row["channel"], row["split"], row["concept"]))
    print(f"\n{summary(separation)}\n{table(rows[:SHOWN], HEADLINE)}")
    if len(rows) > SHOWN:
        print(f"... {len(rows) - SHOWN} more in {separations.folder / 'separation.md'}")
    print("AP and AUROC against all other images: " + HOW_TO_READ)
    print(f"{DRAWS_REACH}\n{OTHERS}")
    for names, what in (
        (separations.stale, "are left out, as they have changed since: measure them again"),
        (separations.unchecked, f"were not checked, as they are not in {separations.model_dir}"),
    ):
        if names:
            print(f"warning: {len(names)} splits {what} ({listed(names)})", file=sys.stderr)
    empty = [row for row in separation["rows"] if not row["images"]]
    if empty:
        print(f"warning: without validation images, not measured: {_names(empty)}", file=sys.stderr)
