"""The order in which stage 4 reads validation images, and that results do not depend on it."""

from types import SimpleNamespace

import numpy as np
import pytest

from tests.scripts import COMPUTE, NETWORK, contents, run_script
from utils.images.folders import ClassMap
from utils.stages.split_measures import SplitMeasures
from utils.stages.validation import ImagePass, StoredValidation

PAIRS = "9: 1, 3\n4: 0, 2\n2: 1, 3\n7: 0, 2\n5: 0, 3\n"
TAU = ("--proportion_attribution_required", "0.0001")


def keyed(*keys):
    return SimpleNamespace(keys=list(keys))


def test_images_that_the_network_measures_come_in_an_order_in_which_splits_get_ready_early():
    splits = [keyed(0, 5), keyed(1, 4), keyed(0, 5), keyed(2, 3)]
    sizes = dict.fromkeys(range(6), 50)
    images = SimpleNamespace(folder_of=np.repeat(np.arange(6), 50), folders=[f"{k}" for k in range(6)])
    for kind in (ImagePass, StoredValidation):
        validation = kind.__new__(kind)
        validation.images, validation.classes = images, ClassMap({f"{k}": k for k in range(6)})
        keys, last = validation.with_images(splits)
        assert set(keys) == set(sizes) and [keys.index(key) for key in last] == [
            max(map(keys.index, split.keys)) for split in splits
        ]
        first = keys[:2]
        assert (first == [0, 5]) == (kind is ImagePass)


def test_measurements_are_in_the_order_of_the_groups_of_a_split_however_they_are_read():
    measures = SplitMeasures.__new__(SplitMeasures)
    batches = [{"groups": np.full(2, group), "indices": np.arange(2) + at} for group, at in ((1, 4), (0, 0), (1, 6))]
    measures.kept = batches
    assert measures.arrays()["indices"].tolist() == [0, 1, 4, 5, 6, 7]


@pytest.mark.usefixtures("without_figures")
def test_effects_that_were_measured_before_a_stop_are_not_measured_again(copy):
    (copy / "pairs.txt").write_text(PAIRS)
    flags = ("--data_dir", "data", "--store_dir", "store", "--candidates", "pairs.txt", *COMPUTE)
    made = run_script("disentangle_channel.py", *NETWORK, *flags, cwd=copy)
    assert made.returncode == 0, made.stderr
    wish = (*NETWORK, *flags, *TAU, "--get_effect", "--output_dir")
    assert run_script("get_results.py", *wish, "whole", cwd=copy).returncode == 0
    folder = copy / "stopped" / "results_quantitative" / "effect"
    assert run_script("get_results.py", *wish, "stopped", cwd=copy).returncode == 0
    names = sorted(path.name for path in folder.iterdir())
    for name in names[::2]:
        (folder / name).unlink()
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    result = run_script("get_results.py", *wish, "stopped", cwd=copy)
    assert result.returncode == 0 and len(names) == 5
    assert all((folder / name).read_bytes() == data for name, data in kept.items())
    tables = [contents(copy / name / "results_quantitative") for name in ("whole", "stopped")]
    assert tables[0]["effect.csv"] == tables[1]["effect.csv"]
