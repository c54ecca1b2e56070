"""Comparisons in files: values that cannot be come back as NaN; what was asked decides whether one is reused."""

import math

import pytest

from utils.errors import UserError
from utils.store.comparisons import OF_CHANNELS, OF_CONCEPTS, Comparisons

KNOWN = {
    **{"name": "net_groups", "run": "net", "layer": "l", "weights_sha256": "00", "precision": "fp32"},
    **{"decoding": "pil", "validation_sha256": "11", "training_sha256": "22", "asked": [[3, [[0], [1]]]]},
    "settings": {"rho": 1.0, "only_correct": False, "draws": 3, "concepts": None, "references": None},
    "methods": {},
}


def method(words="split by circuits", labels=False):
    needs = {"labels": labels, "images": False, "changes_weights": True, "same_output": True}
    return {"words": words, **needs}


def comparison(channels=6, **changes):
    """A made-up comparison of two methods, the first with a null; the values tell method, null and concept."""
    methods = {"circuits": method(), "classes": method("split by classes", True)}
    kinds = {("circuits", ""): 0.6, ("circuits", "weights_permuted"): 0.2, ("classes", ""): 0.9}
    concepts = [
        {"method": name, "null": null, "channel": channel, "concept": k, "auroc_all": value, "auroc_others": 0.5}
        | {"ap_all": value + 0.01 * k + 0.002 * channel}
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
    entry = {**KNOWN, "asked": [[channel, [[0], [1]]] for channel in range(channels)], "images": 20}
    entry["settings"] = {**KNOWN["settings"], "embedding": None, "embedder": []}
    return {**entry, "methods": methods, "concepts": concepts, "channels": rows, "problems": [], **changes}


def comparisons_of(tmp_path, *entries):
    found = Comparisons(tmp_path, tmp_path / "models")
    for entry in entries:
        found.write(entry)
    return found


def test_values_that_are_not_there_are_nan(tmp_path):
    (found,) = comparisons_of(tmp_path, comparison()).read_all()
    rows = [row for row in found["channels"] if row["method"] == "classes"]
    assert all(math.isnan(row[name]) for row in rows for name in OF_CHANNELS)
    assert not any(math.isnan(row[name]) for row in found["concepts"] for name in OF_CONCEPTS)
    assert "NaN" not in (tmp_path / "results_quantitative/comparison/net_groups.json").read_text()


def test_an_equal_one_is_reused_and_another_is_not(tmp_path):
    entry = comparison()
    found = comparisons_of(tmp_path, entry)
    known = {name: entry[name] for name in KNOWN}
    assert found.find(known)["concepts"] == found.read_all()[0]["concepts"]
    assert found.find({**known, "settings": {**known["settings"], "rho": 0.5}}) is None
    with pytest.raises(UserError, match="other weights"):
        found.check("net", "33")


def test_damage_is_one_line(tmp_path):
    found = comparisons_of(tmp_path, comparison())
    path = found.path(KNOWN)
    path.write_text(path.read_text().replace("0.25", "0.26", 1))
    with pytest.raises(UserError, match=r"net_groups\.json"):
        found.read_all()
