"""Visualizations: pictures without loss, one file each, and only those of splits as they are."""

import numpy as np
import pytest

from tests.entries import with_split_of_effect
from utils.errors import UserError
from utils.store.visualizations import Visualizations, packed

PICTURES = np.random.default_rng(0).integers(0, 256, (3, 2, 8, 8, 3), dtype=np.uint8)


def visualization(**changes):
    return {
        **{"run": "net", "split": "net_channel3_0_1", "split_sha256": "none", "weights_sha256": "00", "layer": "last"},
        **{"transform": {}, "channel": 3, "concepts": [[0], [1]], "rho": 0.9, "steps": 200, "seeds": 2},
        **{"pictures": packed(PICTURES), "reached": [[1.5, 2.0], [3.0, -4.0], [0.0, 1.0]], **changes},
    }


@pytest.fixture
def visualizations(tmp_path):
    return Visualizations(tmp_path / "out", tmp_path / "models")


def test_what_is_written_is_found_again_with_equal_pictures(tmp_path, visualizations):
    given = with_split_of_effect(tmp_path, visualization())
    visualizations.write(given)
    known = {name: given[name] for name in ("split", "split_sha256", "rho", "steps", "seeds", "transform")}
    found = visualizations.find(known)
    assert np.array_equal(visualizations.pictures(found), PICTURES) and found["reached"] == given["reached"]
    assert visualizations.path(given).name == "net_channel3_0_1_rho0.9_steps200_seeds2.json"
    assert [one["split"] for one in visualizations.read_all()] == ["net_channel3_0_1"]


@pytest.mark.parametrize(
    "change", [{"steps": 100}, {"seeds": 3}, {"rho": 0.5}, {"split_sha256": "other"}, {"transform": {"crop_size": 3}}]
)
def test_what_was_made_otherwise_is_not_found(visualizations, change):
    given = visualization()
    visualizations.write(given)
    known = {name: given[name] for name in ("split", "split_sha256", "rho", "steps", "seeds", "transform")}
    assert visualizations.find(known) and visualizations.find({**known, **change}) is None


def test_those_of_a_split_that_has_changed_are_left_out(tmp_path, visualizations):
    visualizations.write(with_split_of_effect(tmp_path, visualization()))
    with_split_of_effect(tmp_path, visualization(), seed=1)
    assert visualizations.read_all() == [] and len(visualizations.stale) == 1


def test_damage_is_named_or_made_anew(visualizations):
    given = visualization()
    visualizations.write(given)
    path = visualizations.path(given)
    path.write_text(path.read_text().replace("iVBOR", "iVBOX", 1))
    assert visualizations.find({"split": given["split"], "rho": 0.9, "steps": 200, "seeds": 2}) is None
    with pytest.raises(UserError, match="is damaged"):
        visualizations.read(path)
