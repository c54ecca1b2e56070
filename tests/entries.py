"""Made-up entries of the files of results, and objects that hold some."""

import math
from math import nan

import numpy as np
import torch
from torch import nn

from tests.stores import TRANSFORM, split_file
from utils.store.comparisons import Comparisons
from utils.store.edit_results import VALUES as EDIT_VALUES
from utils.store.edit_results import Edits
from utils.store.effects import Effects
from utils.store.separations import VALUES, Separations
from utils.store.splits import write_split


def measured_images(seed, n, num_concepts=2, own=0):
    """Made-up measurements of a concept's images: the parts of ``own`` are the largest."""
    random = np.random.default_rng(seed)
    sums = random.normal(0, 1, (n, num_concepts + 1))
    sums[:, own] += 4
    original = sums[:, :-1].sum(1) - (num_concepts - 1) * sums[:, -1]
    return {
        "paths": [f"{seed}/{number}.png" for number in range(n)],
        "targets": [seed] * n,
        "predictions": [seed if number % 2 else 0 for number in range(n)],
        "original": original.tolist(),
        "sums": sums.tolist(),
        "shares": [0.5] * n,
        "included": (random.random(n) < 0.7).tolist(),
    }


def pair_result(channel, concepts=((1,), (2,)), cosines=((1.0, 0.25), (0.25, 1.0)), **changes):
    """A result of a channel's split, of as many concepts as given."""
    k, words = len(concepts), "_".join("-".join(map(str, concept)) for concept in concepts)
    return {
        **{"split": f"net_channel{channel}_{words}", "split_sha256": "00", "evaluation": 1},
        **{"precision": "fp32", "decoding": "pil", "transform": {"crop_size": 24, "mean": [0.5, 0.5, 0.5]}},
        "validation": {f"folder {channel} {k}": "digest" for concept in concepts for k in concept},
        **{"run": "net", "weights_sha256": "0", "layer": "last", "only_correct": False, "channel": channel},
        "concepts": [list(concept) for concept in concepts],
        "concept_names": [f"name {concept[0]}" for concept in concepts],
        **{"split_by": "arv", "background": None, "concepts_from": "classes", "assignment": None},
        "found_by": {"from": "classes"},
        **{"cosines": [list(row) for row in cosines], "rho": 0.95, "division": {"objective": "positive"}, "tau": 0.03},
        "images": [measured_images(10 * channel + c + 1, 6 + c, k, c) for c in range(k)],
        **changes,
    }


def result_of_three(channel):
    cosines = ((1.0, 0.1, 0.3), (0.1, 1.0, 0.2), (0.3, 0.2, 1.0))
    return pair_result(channel, ((1,), (2,), (3, 4)), cosines)


def separation_row(split="net_channel3_1_2", concept=1, **values):
    """A concept's row of a separation; each value is another one."""
    measured = {name: round(0.1 * number % 1, 3) for number, name in enumerate(VALUES)}
    return {
        **{"split": split, "split_by": "arv", "rho": 0.9, "channel": int(split.split("_")[1][7:]), "concept": concept},
        **{"classes": [concept], "name": f"name {concept}", "images": 20, "irrelevant": 9, "irrelevant_there": 9},
        **{"null_reached": 0, "null_draws": 199, "most_draws": 199},
        **{"auroc_draws": [0.5, 0.6], "ap_draws": [0.1, nan], "ap_draws_real_target": [nan], **measured, **values},
    }


def separation(name="net_pairs", rows=None, **changes):
    """A separation of these rows, or of two concepts of channel 3."""
    rows = rows or [separation_row(), separation_row(concept=2, ap_all=nan)]
    return {
        **{"name": name, "run": "net", "layer": "last", "weights_sha256": "00", "transform": {}, "precision": "fp32"},
        **{"decoding": "pil", "validation_sha256": "0", "training_sha256": "1", "draws": 199, "irrelevant": None},
        "splits": {one["split"]: ["no digest", one["rho"], 0.03, 0.75] for one in rows},
        **{"images": 400, "rows": rows, "evaluation": 1, **changes},
    }


def with_splits(folder, found, seed=0):
    """Write the splits that a separation is of; the separation with their digests."""
    for name, values in found["splits"].items():
        torch.manual_seed(seed)
        file = split_file(nn.Conv2d(2, 20, 1), int(name.split("_")[1][7:]), num_channels=20)
        write_split(folder / "models" / f"{name}.pt", file)
        values[0] = file.sha256
    return found


def separations_of(folder, *given):
    separations = Separations(folder / "out", folder / "models")
    for one in given:
        separations.write(one)
    return separations


def random_separation_rows(channels=6, **values):
    random = np.random.default_rng(0)
    return [
        separation_row(
            f"net_channel{channel}_1_2", k, **{**dict(zip(VALUES, random.random(len(VALUES)), strict=True)), **values}
        )
        for channel in range(channels)
        for k in (1, 2)
    ]


def effect(channel=3, **changes):
    """An effect of two concepts on two images and on one."""
    images = [
        {"paths": ["a/1", "a/2"], "effects": [[1.0, 0.5, 0.25], [3.0, 0.5, 0.25]]},
        {"paths": ["b/1"], "effects": [[-1.0, 2.0, 1.0]]},
    ]
    for part in images:
        part["margins"] = [[value + 0.125 for value in values] for values in part["effects"]]
        part["effects_permuted"] = [values[::-1] for values in part["effects"]]
    return {
        **{"run": "net", "split": f"net_channel{channel}_0_1", "split_sha256": "no digest", "weights_sha256": "00"},
        **{"layer": "last", "transform": TRANSFORM, "precision": "fp32", "decoding": "pil", "channel": channel},
        **{"concepts": [[0], [1]], "concept_names": ["a", "b"], "background": None, "split_by": "arv", "rho": 0.9},
        **{"concepts_from": "classes", "found_by": {"from": "classes"}, "assignment": None},
        **{"to": "mean", "validation": {"a": "0", "b": "1"}, "images": images, **changes},
    }


def with_split_of_effect(folder, given, seed=0):
    """Write the split that an effect is of; the effect with its digest."""
    torch.manual_seed(seed)
    file = split_file(nn.Conv2d(2, 20, 1), given["channel"], num_channels=20)
    write_split(folder / "models" / f"{given['split']}.pt", file)
    return {**given, "split_sha256": file.sha256}


def effects_of(folder, *given):
    effects = Effects(folder / "out", folder / "models")
    for one in given:
        effects.write(one)
    return effects


def edit(channel=3, factor=1.0, **changes):
    """A made-up edit of two concepts by three methods; the part is twice as selective as the whole channel.

    The permuted shares reach equal effect for the first concept alone, and the second has no images of others.
    """
    effects = {
        "part": (0.4, 0.2, 0.5, 0.1),
        "whole_channel": (0.6, 0.6, 0.25, 0.15),
        "shares_permuted": (0.1, 0.1, 2.5, 0.3),
    }
    rows = []
    for k in (1, 2):
        for method, (own, other, strength, harm) in effects.items():
            is_reached = method != "shares_permuted" or k == 1
            values = dict.fromkeys(EDIT_VALUES, 0.125)
            values |= {"change_own": -own * factor, "change_other": -other / 2, "harm_other": other}
            values |= {"selectivity": own * factor / other, "selectivity_rest": math.inf, "harm_rest": 0.0}
            values |= {"strength": strength if is_reached else math.nan}
            values |= {"harm_at_equal_effect": harm if is_reached else math.nan}
            row = {"concept": k, "name": "ab"[k - 1], "method": method, **values}
            row |= {"selectivity_is_least": k == 2, "selectivity_rest_is_least": False, "training_images": 50}
            rows.append({**row, "images_own": 2, "images_other": 3, "images_rest": 5})
    return {
        **{"run": "net", "split": f"net_channel{channel}_0_1", "split_sha256": "no digest", "weights_sha256": "00"},
        **{"layer": "last", "transform": TRANSFORM, "precision": "fp32", "decoding": "pil", "channel": channel},
        **{"classes": [[0], [1]], "background": 1.0, "split_by": "least_squares", "rho": None},
        **{"concepts_from": "classes", "found_by": {"from": "classes"}, "assignment": None},
        **{"numbers": {"others": 5, "training": 50}, "training_sha256": "11", "methods": list(effects)},
        **{"validation": {"a": "0", "b": "1"}, "rows": rows, **changes},
    }


def edits_of(folder, *given):
    edits = Edits(folder / "out", folder / "models")
    for one in given:
        edits.write(one)
    return edits


COMPARED = {
    **{"name": "net_groups", "run": "net", "layer": "l", "weights_sha256": "00", "precision": "fp32"},
    **{"decoding": "pil", "validation_sha256": "11", "training_sha256": "22", "asked": [[3, [[0], [1]]]]},
    "available_channels": 1,
    "settings": {"rho": 1.0, "only_correct": False, "draws": 3, "concepts": None, "references": None},
    "methods": {},
}


def compared_method(words="split by circuits", labels=False):
    needs = {"labels": labels, "images": False, "changes_weights": True, "same_output": True}
    return {"words": words, **needs}


def comparison(channels=6, **changes):
    """A made-up comparison of two methods, the first with a null; the values tell method, null and concept."""
    methods = {"circuits": compared_method(), "classes": compared_method("split by classes", True)}
    kinds = {("circuits", ""): 0.6, ("circuits", "weights_permuted"): 0.2, ("classes", ""): 0.9}
    concepts = [
        {"method": name, "null": null, "channel": channel, "concept": k, "auroc_all": value, "auroc_others": 0.5}
        | {"ap_all": value + 0.01 * k + 0.002 * channel, "pearson_all": value - 0.1}
        for (name, null), value in kinds.items()
        for channel in range(channels)
        for k in (1, 2)
    ]
    rows = [
        {"method": name, "null": null, "channel": channel, "k": 4, "draws": 3 if null else 1}
        | {"ari": math.nan if name == "classes" else 0.25}
        for name, null in kinds
        for channel in range(channels)
    ]
    asked = [[channel, [[0], [1]]] for channel in range(channels)]
    entry = {**COMPARED, "asked": asked, "available_channels": channels, "images": 20}
    entry["settings"] = {**COMPARED["settings"], "embedding": None, "embedder": []}
    return {
        **entry,
        "methods": methods,
        "concepts": concepts,
        "channels": rows,
        "reconstructions": {},
        "problems": [],
        **changes,
    }


def comparisons_of(tmp_path, *entries):
    found = Comparisons(tmp_path, tmp_path / "models")
    for entry in entries:
        found.write(entry)
    return found
