"""How stage 1 cuts a chunk into batches: in a new store, and in one that an earlier version has begun."""

import os
import re
import subprocess

import pytest

from tests.pictures import write_images
from tests.scripts import COMPUTE, NETWORK, PATIENCE, ROOT, RUN, SMALL_IMAGES, contents, python
from utils.store.importance_store import ImportanceStore

SIZES = """
import utils.stages.importances as stage
measure = stage.importances_of
def importances_of(layer, record):
    print("size of a batch:", len(record.logits))
    return measure(layer, record)
stage.importances_of = importances_of
"""
EARLIER = """
describe = stage.describe_store
def describe_store(*arguments, **options):
    meta = describe(*arguments, **options)
    del meta["batches"]
    return meta
stage.describe_store = describe_store
"""


COMPILATION = """
import utils.networks.precision as precision
precision.compile_network = lambda network, layer, images, precision: print("size of a batch:", len(images))
"""


def sizes_of_batches(folder, store, code="", *more):
    """Run stage 1 with chunks of 8 images and at most 5 a batch, after some code: the sizes of its batches."""
    run = "import sys, runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    flags = ("--data_dir", "data", "--store_dir", store, "--batch_size", "5", "--chunk_size", "8")
    script = str(ROOT / "get_importances_for_classes.py")
    result = subprocess.run(
        [python(), "-c", f"{SIZES}{code}{run}", script, *NETWORK, *flags, *SMALL_IMAGES, *COMPUTE, *more],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert result.returncode == 0, result.stderr
    return [int(size) for size in re.findall("size of a batch: ([0-9]+)", result.stdout)]


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path / "data", train=5, val=0)
    return tmp_path


def test_the_batches_of_a_chunk_are_of_nearly_equal_size(folder):
    assert sizes_of_batches(folder, "store") == [4, 4, 4, 4, 4]  # chunks of 8, 8 and 4 images
    assert ImportanceStore(folder / "store", RUN).load_meta()["batches"] == "equal"


def test_the_network_is_compiled_for_the_size_of_most_batches(folder):
    assert sizes_of_batches(folder, "store", COMPILATION, "--compile") == [4, 4, 4, 4, 4, 4]


def test_a_store_begun_by_an_earlier_version_keeps_full_batches_to_its_end(folder):
    assert sizes_of_batches(folder, "whole", EARLIER) == [5, 3, 5, 3, 4]
    sizes_of_batches(folder, "begun", EARLIER)
    for chunk in (0, 2):
        (folder / "begun" / f"{RUN}_channel_importances" / f"chunk_{chunk:06d}.npz").unlink()
    assert sizes_of_batches(folder, "begun") == [5, 3, 4]
    assert "batches" not in ImportanceStore(folder / "begun", RUN).load_meta()
    assert contents(folder / "begun") == contents(folder / "whole")


def test_processes_agree_on_the_rule_of_a_store_without_chunks(folder):
    """The second process must not wait for the rule that it would choose."""
    sizes_of_batches(folder, "whole", EARLIER)
    sizes_of_batches(folder, "begun", EARLIER)
    for chunk in (0, 1, 2):
        (folder / "begun" / f"{RUN}_channel_importances" / f"chunk_{chunk:06d}.npz").unlink()
    second = 'import os; os.environ.update(RANK="1", LOCAL_RANK="1", WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")\n'
    assert sizes_of_batches(folder, "begun", second) == [5, 3]
    assert sizes_of_batches(folder, "begun") == [5, 3, 4]
    assert contents(folder / "begun") == contents(folder / "whole")
