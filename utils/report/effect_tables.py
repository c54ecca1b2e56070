"""Tables of effects: a row for each concept, and means over all of them, as CSV, Markdown and print.

An effect is a dictionary as ``utils.store.effects.Effects`` stores it.
"""

import json
import sys

import numpy as np

from utils.divisions.division_registry import DIVISIONS
from utils.errors import listed
from utils.method.significance import mean_with_interval
from utils.report.numbers import csv_number, formatted, interval_text
from utils.report.result_tables import where_from
from utils.report.tables import Table, short_name, write_settled

LEAST_TOTAL = 0.1  # logits: below, what share of it a part has says nothing
SHOWN = 10  # splits that are printed
LOGITS = ("total", "own", "others", "background", "residual", "own_permuted", "others_permuted")
SHARES = ("share_own", "share_others", "share_own_permuted")
MARGINS = ("margin_total", "margin_own", "margin_others")
LOGIT_COLUMNS = tuple(f"logit_{name}" for name in LOGITS)
COLUMNS = (
    *("run", "layer", "channel", "split", "rho", "replaced_by", "concept", "classes", "name", "images"),
    *LOGIT_COLUMNS,
    *SHARES,
    *("images_of_shares", *MARGINS),
)
EXPLANATION = f"""\
What the parts of a channel add to the logit of an image's own class, in logits, on validation images of each concept:
the mean Shapley value over who else is replaced. A part that is replaced is the same at every position: its mean over
the training images, or zero. total: the whole channel against its mean; it is the sum of own (what is this concept's
alone, c'_k - r), others (the other concepts'), everything else and residual. permuted: of a split with as many inputs
for each concept, drawn at random. share: own or others over the total, in the images in which the total is at least
{LEAST_TOTAL} logits (their number stands beside it; the others are left out). A positive number supports the class.
margin: the same of that logit minus the mean of all other logits, so that what moves all classes alike does not count.

Behind the last layer before pooling and a linear classifier all parts of a channel move the logits in the same
proportions, the classifier's column of that channel: there, parts differ in when they fire, not in which logits they
move. These numbers are Shapley values, means over who else is there; ablated() takes a part out of the whole network
while all others stay, so that the two differ wherever something behind the layer is not linear."""


def concept_rows(effect):
    """A dictionary of ``COLUMNS`` for each concept of an effect; NaN where there is nothing to measure."""
    rows = []
    for k, part in enumerate(effect["images"]):
        values = {"": np.array(part["effects"]), "_permuted": np.array(part["effects_permuted"])}
        row = {name: effect[name] for name in ("run", "layer", "channel", "split", "rho")}
        row |= {"replaced_by": effect["to"], "concept": k + 1, "classes": effect["concepts"][k]}
        row |= {"name": effect["concept_names"][k], "images": len(part["paths"])}
        num_own = len(effect["concepts"])
        logits = {}
        for kind, effects in values.items():
            if effects.size:
                others = [j for j in range(num_own) if j != k]
                logits[f"own{kind}"], logits[f"others{kind}"] = effects[:, k], effects[:, others].sum(1)
                logits[f"total{kind}"], logits[f"residual{kind}"] = effects.sum(1), effects[:, -1]
                logits[f"background{kind}"] = effects[:, num_own:-1].sum(1)
        row |= {f"logit_{name}": float(logits[name].mean()) if logits else np.nan for name in LOGITS}
        margins = np.array(part["margins"])
        enough = {kind: logits[f"total{kind}"] >= LEAST_TOTAL if logits else np.zeros(0, bool) for kind in values}
        row["images_of_shares"] = int(enough[""].sum())
        for name in SHARES:
            kind = "_permuted" if name.endswith("_permuted") else ""
            part_of = name.removeprefix("share_")
            shares = logits[part_of][enough[kind]] / logits[f"total{kind}"][enough[kind]] if enough[kind].any() else []
            row[name] = float(np.mean(shares)) if len(shares) else np.nan
        row |= dict.fromkeys(MARGINS, np.nan)
        if margins.size:
            of = margins.mean(0)
            values = of.sum(), of[k], of[:num_own].sum() - of[k]
            row |= dict(zip(MARGINS, map(float, values), strict=True))
        rows.append(row)
    return rows


def table(rows):
    """Rows as aligned Markdown, the means over concepts last."""
    header = ["channel", "concept", "images", *(name.replace("_", " ") for name in LOGITS)]
    header += [name.replace("_", " ") for name in (*SHARES, "images_of_shares", *MARGINS)]
    cells = [
        [
            row["channel"],
            short_name(row["name"]),
            row["images"],
            *(formatted(row[name], "+.3f") for name in (*LOGIT_COLUMNS, *SHARES)),
            f"{row['images_of_shares']} of {row['images']}",
            *(formatted(row[name], "+.3f") for name in MARGINS),
        ]
        for row in rows
    ]
    return Table(header, cells).as_markdown()


def summary(rows):
    """The means over concepts, with 95 % intervals that resample channels, in lines."""
    channels = [row["channel"] for row in rows]
    lines = [f"mean over {len(rows)} concepts of {len(set(channels))} channels, in logits:"]
    too_few = False
    for name in (*LOGITS, *SHARES, *MARGINS):
        column = f"logit_{name}" if name in LOGITS else name
        mean, low, high = mean_with_interval([row[column] for row in rows], channels)
        interval = interval_text(low, high)
        too_few |= np.isfinite(mean) and not interval
        if np.isfinite(mean):
            lines.append(f"- {name.replace('_', ' ')}: {mean:+.3f}{interval}")
    lines += ["- too few channels for an interval"] if too_few else []
    return "\n".join(lines)


def groups(effects):
    """Effects that may be averaged together: a list of (title, rows).

    As with results of pairs, two whose images of one class folder differ are never in one mean.
    """
    found = {}
    for effect in sorted(effects, key=lambda one: (one["run"], one["channel"], one["split"])):
        names = ("layer", "weights_sha256", "transform", "split_by", "background", "to", "precision", "decoding")
        names += ("found_by",)
        alike = found.setdefault(json.dumps([effect["run"], *(effect[name] for name in names)], sort_keys=True), [])
        for validation, group in alike:
            if all(validation.get(folder, digest) == digest for folder, digest in effect["validation"].items()):
                validation |= effect["validation"]
                group.append(effect)
                break
        else:
            alike.append((dict(effect["validation"]), [effect]))
    together = [group for alike in found.values() for _, group in alike]
    return [(_title(group[0]), [row for one in group for row in concept_rows(one)]) for group in together]


def _title(effect):
    how = DIVISIONS.get(effect["split_by"]).words
    how += f" and everything else of weight {effect['background']:g}" if effect["background"] else ""
    to = "zero" if effect["to"] == "zero" else "their mean"
    measured = f"parts replaced by {to}, {effect['precision']}, {effect['decoding']}"
    of = f", {where_from(effect)}" if effect["assignment"] else ""
    return f"{effect['run']}, layer {effect['layer']}, split by {how}, {measured}{of}"


def document(effects):
    """All effects in Markdown."""
    parts = ["# What the parts do behind the layer\n", EXPLANATION + "\n"]
    for title, rows in groups(effects):
        parts.append(f"### {title}\n\n{summary(rows)}\n\n{table(rows)}\n")
    return "\n".join(parts)


def comma_separated(effects):
    """All rows as CSV, with a header; empty where there is no value."""
    rows = [
        {
            **row,
            "classes": " ".join(map(str, row["classes"])),
            **{name: csv_number(row[name]) for name in (*LOGIT_COLUMNS, *SHARES, *MARGINS)},
        }
        for _, of_group in groups(effects)
        for row in of_group
    ]
    return Table(COLUMNS, [[row[name] for name in COLUMNS] for row in rows]).as_csv()


def write_effect_tables(effects):
    """Make ``effect.csv`` and ``effect.md`` anew from all ``Effects``: the paths."""
    return write_settled(effects, {"effect.csv": comma_separated, "effect.md": document})


def print_effects(measured, effects):
    """Print what was measured in this run: a table of the first splits, and the means of all."""
    for title, rows in groups(measured):
        shown = [row for row in rows if row["split"] in {one["split"] for one in measured[:SHOWN]}]
        print(f"\n{title}\n\n{table(shown)}")
        if len(shown) < len(rows):
            print(f"... {len(rows) - len(shown)} more in {effects.folder / 'effect.md'}")
        print(f"\n{summary(rows)}")
    print(f"\n{EXPLANATION}")
    for names, what in (
        (effects.stale, "left out, as their splits have changed since: measure them again"),
        (effects.unchecked, f"not checked, as their splits are not in {effects.model_dir}"),
    ):
        if names:
            print(f"warning: {len(names)} effects {what} ({listed(names)})", file=sys.stderr)
