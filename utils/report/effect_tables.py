"""Tables of effects: a row for each concept, and means over all of them, as CSV, Markdown and print.

An effect is a dictionary as ``utils.store.effects.Effects`` stores it.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from utils.divisions.division_registry import DIVISIONS
from utils.method.significance import mean_with_interval
from utils.report.numbers import csv_number, formatted, interval_text
from utils.report.result_tables import where_from
from utils.report.tables import Table, grouped, short_name, warn_of, write_settled
from utils.store.effects import Effects

LEAST_TOTAL = 0.1  # logits; the share that a part has of a smaller total is meaningless
SHOWN = 10  # splits that are printed
LOGITS = ("total", "own", "others", "background", "residual", "own_permuted", "others_permuted")
LOGIT_COLUMNS = tuple(f"logit_{name}" for name in LOGITS)
SHARES = ("share_own", "share_others", "share_own_permuted")
MARGINS = ("margin_total", "margin_own", "margin_others")
OF_EFFECT = ("run", "layer", "channel", "split", "rho")
OF_CONCEPT = ("replaced_by", "concept", "classes", "name", "images")
COLUMNS = (*OF_EFFECT, *OF_CONCEPT, *LOGIT_COLUMNS, *SHARES, "images_of_shares", *MARGINS)
TO_DELETE = "To take an effect out: delete its file in effect/, and run get_results.py --summary."
EXPLANATION = f"""\
What the parts of a channel add to the logit of an image's own class, in logits, on validation images of each concept.
The values are Shapley values: means over which other parts are replaced. A replaced part has the same value at every
position: its mean over the training images, or zero. A positive number supports the class.
total: the whole channel compared with its mean. It is the sum of own (the exclusive part of this concept, c'_k - r),
others (of the other concepts), everything else and residual. permuted: the same for a split with as many inputs for
each concept, drawn at random. share: own or others divided by the total, over images in which the total is at least
{LEAST_TOTAL} logits (the number of these images is shown). margin: the same for that logit minus the mean of all other
logits, which leaves out what changes all classes equally.

If only pooling and a linear classifier follow the layer, all parts of a channel change the logits in the same
proportions, given by the classifier's weights of that channel. The parts then differ in when they are active, not in
which logits they change. ablated() removes a part from the whole network while all others stay, so it differs from
these values wherever something after the layer is not linear."""


def concept_rows(effect: dict[str, Any]) -> list[dict[str, Any]]:
    """A dictionary with ``COLUMNS`` for each concept of an effect; NaN for what could not be measured."""
    return [_concept_row(effect, k) for k in range(len(effect["images"]))]


def _concept_row(effect: dict[str, Any], k: int) -> dict[str, Any]:
    of_concept = effect["images"][k]
    num_concepts = len(effect["concepts"])
    logits = _logits(np.array(of_concept["effects"]), k, num_concepts)
    permuted = _logits(np.array(of_concept["effects_permuted"]), k, num_concepts)
    logits |= {f"{name}_permuted": values for name, values in permuted.items()}
    row = {name: effect[name] for name in OF_EFFECT}
    row |= {"replaced_by": effect["to"], "concept": k + 1, "classes": effect["concepts"][k]}
    row |= {"name": effect["concept_names"][k], "images": len(of_concept["paths"])}
    row |= {f"logit_{name}": float(logits[name].mean()) if logits else np.nan for name in LOGITS}
    row |= {name: _mean_share(logits, name.removeprefix("share_")) for name in SHARES}
    row["images_of_shares"] = int((logits["total"] >= LEAST_TOTAL).sum()) if logits else 0
    margins = np.array(of_concept["margins"])
    row |= dict.fromkeys(MARGINS, np.nan)
    if margins.size:
        means = margins.mean(0)
        row["margin_total"] = float(means.sum())
        row["margin_own"] = float(means[k])
        row["margin_others"] = float(means[:num_concepts].sum() - means[k])
    return row


def _logits(effects: np.ndarray, k: int, num_concepts: int) -> dict[str, np.ndarray]:
    """The effects on the logit in each image of concept k, from the effects of all parts [n, parts]."""
    if not effects.size:
        return {}
    others = [j for j in range(num_concepts) if j != k]
    return {
        "total": effects.sum(1),
        "own": effects[:, k],
        "others": effects[:, others].sum(1),
        "background": effects[:, num_concepts:-1].sum(1),
        "residual": effects[:, -1],
    }


def _mean_share(logits: dict[str, np.ndarray], part: str) -> float:
    """The mean of a part's share of the total, over the images in which the total is large enough."""
    if not logits:
        return np.nan
    total = logits["total_permuted" if part.endswith("_permuted") else "total"]
    is_enough = total >= LEAST_TOTAL
    return float(np.mean(logits[part][is_enough] / total[is_enough])) if is_enough.any() else np.nan


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table."""
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


def summary(rows: list[dict[str, Any]]) -> str:
    """The means over concepts, with 95 % intervals that resample channels, in lines."""
    channels = [row["channel"] for row in rows]
    lines = [f"mean over {len(rows)} concepts of {len(set(channels))} channels, in logits:"]
    too_few = False
    for column in (*LOGIT_COLUMNS, *SHARES, *MARGINS):
        mean, low, high = mean_with_interval([row[column] for row in rows], channels)
        if np.isfinite(mean):
            words = column.removeprefix("logit_").replace("_", " ")
            lines.append(f"- {words}: {mean:+.3f}{interval_text(low, high)}")
            too_few |= bool(np.isnan(low))
    lines += ["- too few channels for an interval"] if too_few else []
    return "\n".join(lines)


def groups(effects: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Effects that may be averaged together: a list of (title, rows)."""
    ordered = sorted(effects, key=lambda effect: (effect["run"], effect["channel"], effect["split"]))
    return [
        (_title(group[0]), [row for effect in group for row in concept_rows(effect)])
        for group in grouped(ordered, _settings_of)
    ]


def _settings_of(effect: dict[str, Any]) -> str:
    """The values that must agree between effects that are averaged together."""
    names = ("run", "layer", "weights_sha256", "transform", "split_by", "background", "to", "precision", "decoding")
    return json.dumps([effect[name] for name in (*names, "found_by")], sort_keys=True)


def _title(effect: dict[str, Any]) -> str:
    division = DIVISIONS.get(effect["split_by"]).words
    division += f" and everything else of weight {effect['background']:g}" if effect["background"] else ""
    to = "zero" if effect["to"] == "zero" else "their mean"
    measured = f"parts replaced by {to}, {effect['precision']}, {effect['decoding']}"
    source = f", {where_from(effect)}" if effect["assignment"] else ""
    return f"{effect['run']}, layer {effect['layer']}, split by {division}, {measured}{source}"


def document(effects: list[dict[str, Any]]) -> str:
    """All effects in Markdown."""
    parts = ["# Effect of the parts on logits\n", EXPLANATION + "\n", TO_DELETE + "\n"]
    for title, rows in groups(effects):
        parts.append(f"### {title}\n\n{summary(rows)}\n\n{table(rows)}\n")
    return "\n".join(parts)


def comma_separated(effects: list[dict[str, Any]]) -> str:
    """All rows as CSV, with a header; a cell without a value is empty."""
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


def write_effect_tables(effects: Effects) -> list[Path]:
    """Write ``effect.csv`` and ``effect.md`` of all ``Effects``; return their paths."""
    return write_settled(effects, {"effect.csv": comma_separated, "effect.md": document})


def print_effects(measured: list[dict[str, Any]], effects: Effects) -> None:
    """Print what was measured in this run: a table of the first splits, and the means of all."""
    first = {effect["split"] for effect in measured[:SHOWN]}
    for title, rows in groups(measured):
        shown = [row for row in rows if row["split"] in first]
        print(f"\n{title}\n\n{table(shown)}")
        if len(shown) < len(rows):
            print(f"... {len(rows) - len(shown)} more in {effects.folder / 'effect.md'}")
        print(f"\n{summary(rows)}")
    print(f"\n{EXPLANATION}")
    warn_of(effects.stale, "effect", "left out, as the split has changed since: measure again")
    warn_of(effects.unchecked, "effect", f"not checked, as the split is not in {effects.model_dir}")
