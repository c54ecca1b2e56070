"""Manifests: the splits that were, and nothing else."""

import json

import pytest
from torch import nn

from tests.stores import split_file
from utils.errors import UserError
from utils.store.files import write_json
from utils.store.splits import manifest_path, read_manifest, read_splits, write_manifest, write_split


@pytest.fixture
def manifest(tmp_path):
    """A manifest of two splits."""
    files = {tmp_path / f"m_channel{channel}_0_1.pt": split_file(nn.Conv2d(5, 3, 1), channel) for channel in (1, 2)}
    for path, file in files.items():
        write_split(path, file)
    write_manifest(tmp_path / "m_layer.json", files, {"images": 4})
    return tmp_path / "m_layer.json"


def test_it_stands_for_its_splits_with_their_rho(manifest):
    found = list(read_splits(manifest))
    assert [path.name for path, _, _ in found] == ["m_channel1_0_1.pt", "m_channel2_0_1.pt"]
    assert [file.split.channel for _, file, _ in found] == [1, 2]
    assert {rho for _, _, rho in found} == {0.9}
    ((path, file, rho),) = read_splits(found[0][0])
    assert (path, file.sha256, rho) == (found[0][0], found[0][1].sha256, None)


@pytest.mark.parametrize(("stem", "name"), [("two", "m_two"), ("m_two", "m_two")])
def test_run_is_in_its_name_once(stem, name):
    assert str(manifest_path("f", "m", stem, "_contrast")) == f"f/{name}_contrast_layer.json"


@pytest.mark.parametrize(
    "stem, suffix, name",
    [
        ("two", "_only_correct_contrast", "two_correct_images_contrast"),
        ("two_only_correct", "_only_correct_contrast", "two_only_correct_contrast"),
        ("two_only_correct", "_contrast", "two_only_correct_all_images_contrast"),
    ],
)
def test_lists_of_two_files_of_stage_2_have_two_manifests(stem, suffix, name):
    assert manifest_path("f", "m", stem, suffix).name == f"m_{name}_layer.json"


def test_a_split_that_has_changed_or_gone_is_refused(manifest):
    write_split(manifest.with_name("m_channel2_0_1.pt"), split_file(nn.Conv2d(5, 3, 1), 2))
    with pytest.raises(UserError, match=r"m_channel2_0_1\.pt has changed since"):
        list(read_splits(manifest))
    manifest.with_name("m_channel1_0_1.pt").unlink()
    with pytest.raises(UserError, match="there is no split file"):
        list(read_splits(manifest))


def test_every_damaged_byte_is_found(manifest):
    whole, data = read_manifest(manifest), manifest.read_bytes()
    for position in range(0, len(data), 7):
        manifest.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
        try:
            assert read_manifest(manifest) == whole
        except UserError as error:
            assert str(manifest) in str(error)


def test_one_of_another_format_is_refused(manifest):
    content = json.loads(manifest.read_text())
    del content["sha256"]
    write_json(manifest, {**content, "format": 2})
    with pytest.raises(UserError, match=r"is damaged .it is of another version"):
        read_manifest(manifest)
