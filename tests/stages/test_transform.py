"""Which transform stage 1 uses, and what it prints of it."""

import pytest

from tests.scripts import COMPUTE, IMAGENET_COLOURS, NETWORK, messages, run_script, stage1, succeed
from utils.store.importance_store import ImportanceStore

pytestmark = pytest.mark.usefixtures("without_figures")

STAGE1 = "get_importances_for_classes.py"
CARRIES = """
from tests.factories import small

def carries():
    network = small()
    network.transform = {**SIZES, "interpolation": "bicubic", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 1]}
    return network

SIZES = {"resize_size": 30, "crop_size": 28}
"""
STORED = {"resize_size": 30, "crop_size": 28, "interpolation": "bicubic", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 1]}


def flags_for(finished):
    return ("--data_dir", finished / "data", "--store_dir", "store", *COMPUTE)


def test_a_factory_without_a_transform_is_warned_of(finished, tmp_path):
    result = run_script(STAGE1, *NETWORK, *flags_for(finished), "--resize_size", 24, "--crop_size", 24, cwd=tmp_path)
    colours = "mean 0.485 0.456 0.406, std 0.229 0.224 0.225"
    assert f"\ntransform: resize to 24, crop 24, bilinear, {colours}\n" in result.stdout
    (warning,) = messages(result.stderr)
    assert warning == (
        "warning: tests.factories:small carries no transform, so the defaults of --mean, --std are used: give those "
        "that the network was trained with"
    )
    said = ("--resize_size", 24, "--crop_size", 24, *IMAGENET_COLOURS)
    assert not messages(run_script(STAGE1, *NETWORK, *flags_for(finished), *said, cwd=tmp_path).stderr)


def test_a_factorys_network_carries_its_transform_and_a_val_store_has_that_of_the_training_store(finished, tmp_path):
    (tmp_path / "with_transform.py").write_text(CARRIES)
    flags = ("--model", "with_transform:carries", *flags_for(finished))
    result = run_script(STAGE1, *flags, "--std", 0.2, 0.2, 0.2, cwd=tmp_path)
    assert result.returncode == 0 and not messages(result.stderr)
    assert "\ntransform: resize to 30, crop 28, bicubic, mean 0.5 0.4 0.3, std 0.2 0.2 0.2\n" in result.stdout
    succeed(STAGE1, *flags, "--images", "val", cwd=tmp_path)
    stored = {**STORED, "std": [0.2, 0.2, 0.2]}
    for images in ("train", "val"):
        store = ImportanceStore(tmp_path / "store", "with_transform-carries", images)
        assert store.load_meta()["transform"] == stored
    refused = run_script(STAGE1, *flags, "--images", "val", "--crop_size", 20, cwd=tmp_path)
    assert refused.returncode == 2
    assert "was made with another crop size (28; now 20)" in refused.stderr


def test_a_transform_that_cannot_be_one_is_refused(finished, tmp_path):
    (tmp_path / "with_transform.py").write_text(CARRIES.replace("28", "31"))
    result = run_script(STAGE1, "--model", "with_transform:carries", *flags_for(finished), cwd=tmp_path)
    assert result.returncode == 2
    (line,) = messages(result.stderr)
    assert "--model with_transform:carries: its transform must be a dictionary of resize_size, crop_size, " in line


def test_a_new_store_has_chunks_for_its_images_and_one_that_is_there_keeps_its_own(copy):
    sizes = ("--resize_size", 24, "--crop_size", 24, *IMAGENET_COLOURS)
    flags = (*NETWORK, "--data_dir", "data", "--batch_size", "4", *sizes, *COMPUTE)
    (copy / "store" / "tests.factories-small_channel_importances" / "chunk_000001.npz").unlink()
    out = succeed(STAGE1, *flags, "--store_dir", "store", cwd=copy)
    assert "\nresuming: 2 of 3 chunks are stored\n" in out
    succeed(STAGE1, *flags, "--store_dir", "new", cwd=copy)
    new = ImportanceStore(copy / "new", "tests.factories-small")
    assert new.load_meta()["chunk_size"] == 64
    assert "\nresuming: 1 of 1 chunks are stored\n" in stage1("data", "new", "--chunk_size", 64, cwd=copy)
