"""Comparisons in files: values that cannot be come back as NaN; what was asked decides whether one is reused."""

import math

import pytest

from tests.entries import COMPARED, comparison, comparisons_of
from utils.errors import UserError
from utils.store.comparisons import OF_CHANNELS, OF_CONCEPTS


def test_values_that_are_not_there_are_nan(tmp_path):
    (found,) = comparisons_of(tmp_path, comparison()).read_all()
    rows = [row for row in found["channels"] if row["method"] == "classes"]
    assert all(math.isnan(row[name]) for row in rows for name in OF_CHANNELS)
    assert not any(math.isnan(row[name]) for row in found["concepts"] for name in OF_CONCEPTS)
    assert "NaN" not in (tmp_path / "results_quantitative/comparison/net_groups.json").read_text()


def test_an_equal_one_is_reused_and_another_is_not(tmp_path):
    entry = comparison()
    found = comparisons_of(tmp_path, entry)
    known = {name: entry[name] for name in COMPARED}
    assert found.find(known)["concepts"] == found.read_all()[0]["concepts"]
    assert found.find({**known, "settings": {**known["settings"], "rho": 0.5}}) is None
    with pytest.raises(UserError, match="other weights"):
        found.check("net", "33")


def test_one_of_an_older_version_has_no_correlations_and_is_one_line(tmp_path):
    stored = comparisons_of(tmp_path, {**comparison(), "format": 1})
    again = "delete it and run get_results.py --compare again"
    with pytest.raises(UserError, match=rf"net_groups\.json is of another version of this program: {again}"):
        stored.read_all()
    assert stored.find(COMPARED) is None


def test_damage_is_one_line(tmp_path):
    found = comparisons_of(tmp_path, comparison())
    path = found.path(COMPARED)
    path.write_text(path.read_text().replace("0.25", "0.26", 1))
    with pytest.raises(UserError, match=r"net_groups\.json"):
        found.read_all()
