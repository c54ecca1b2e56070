"""Steps of a long loop that are kept until the whole result is written."""

import math

import numpy as np
import pytest

from utils.store.unfinished import Unfinished


@pytest.fixture
def unfinished(tmp_path):
    return Unfinished(tmp_path / "results" / "RUN_groups.json", {"draws": 20})


def test_a_step_is_found_again_by_the_same_command_alone(unfinished, tmp_path):
    assert unfinished.find(["split", 0.5]) is None
    unfinished.keep(["split", 0.5], {"rows": [{"ap": 0.25, "classes": [1, 2]}]})
    again = Unfinished(tmp_path / "results" / "RUN_groups.json", {"draws": 20})
    assert again.find(["split", 0.5]) == {"rows": [{"ap": 0.25, "classes": [1, 2]}]}
    assert again.find(["split", 0.6]) is None
    assert Unfinished(tmp_path / "results" / "RUN_groups.json", {"draws": 21}).find(["split", 0.5]) is None
    assert Unfinished(tmp_path / "results" / "RUN_pairs.json", {"draws": 20}).find(["split", 0.5]) is None


def test_values_that_could_not_be_measured_stay_nan(unfinished):
    unfinished.keep(3, {"ap": math.nan})
    assert math.isnan(unfinished.find(3)["ap"])


def test_a_damaged_step_is_done_again(unfinished):
    unfinished.keep("a", {"value": 1})
    (path,) = unfinished.folder.iterdir()
    for damage in (b"", path.read_bytes()[:-9], path.read_bytes().replace(b"1", b"2")):
        path.write_bytes(damage)
        assert unfinished.find("a") is None


def test_arrays_of_a_step_are_found_again_unless_they_are_damaged_or_others(unfinished):
    layout = {"maxima": (np.float32, (None, 2)), "nearest": (np.int8, (None,))}
    assert unfinished.find_arrays(0, layout) is None
    arrays = {"maxima": np.arange(6, dtype=np.float32).reshape(3, 2), "nearest": np.arange(3, dtype=np.int8)}
    unfinished.keep_arrays(0, arrays)
    found = unfinished.find_arrays(0, layout)
    assert all(np.array_equal(found[name], values) for name, values in arrays.items())
    assert unfinished.find(0) is None and unfinished.find_arrays(1, layout) is None
    assert unfinished.find_arrays(0, {**layout, "maxima": (np.float32, (None, 3))}) is None
    (path,) = unfinished.folder.iterdir()
    path.write_bytes(path.read_bytes()[:-9])
    assert unfinished.find_arrays(0, layout) is None


def test_nothing_is_left_when_the_result_is_whole(unfinished):
    unfinished.remove()  # nothing was kept
    unfinished.keep("a", {"value": 1})
    unfinished.remove()
    assert not unfinished.folder.exists()
    assert unfinished.folder.parent.is_dir()
