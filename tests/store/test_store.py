"""Files that are whole or not there, and damage that is always found."""

import errno
import os
import socket
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from tests import factories
from tests.method.test_disentangling import random_split
from utils.errors import UserError
from utils.method.disentangling import Split
from utils.method.polysemanticity import ClassStatistics
from utils.networks.loading import fingerprint
from utils.store import files
from utils.store import importances as store
from utils.store.class_statistics import ClassStore
from utils.store.names import run_name, split_name
from utils.store.splits import read_split, split_network, write_split

META = {
    **{"num_images": 3, "chunk_size": 2, "num_channels": 2, "num_inputs": 1, "num_taps": 1, "num_outputs": 2},
    **{"skip_unreadable": False, "model": "m", "versions": {"torch": "1"}},
}
CONTEXT = {
    **{"model": "m", "weights": "w", "weights_sha256": "00", "layer": "l", "num_channels": 3, "num_outputs": 2},
    **{"transform": {"mean": [0.5, 0.5, 0.5]}, "classes": {"a": 0, "b": 1}, "only_correct": False},
}


def batch(*indices):
    n = len(indices)
    return {
        "relative_importances": torch.rand(n, 2).half(),
        "positive_sums": torch.rand(n),
        "input_sums": torch.rand(n, 1, 1),
        "targets": torch.zeros(n, dtype=torch.long),
        "predictions": torch.ones(n, dtype=torch.long),
        "indices": torch.tensor(indices),
    }


def opened(tmp_path, **changes):
    opened_store = store.ImportanceStore(tmp_path, "m")
    opened_store.begin({**META, **changes})
    return opened_store


def flips(data):
    """Every copy of ``data`` with a single bit flipped."""
    for position in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            yield position, bytes(damaged)


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    return one == other


def test_every_flipped_bit_of_a_chunk_is_found_or_changes_nothing(tmp_path):
    chunks = opened(tmp_path)
    chunks.write_chunk(0, [batch(0), batch(1)])
    path, intact = chunks.chunk_path(0), chunks.read_chunk(0)
    found = 0
    for position, damaged in flips(path.read_bytes()):
        path.write_bytes(damaged)
        try:
            arrays = chunks.read_chunk(0)
        except UserError as error:
            assert str(path) in str(error)
            found += 1
        else:
            assert all(equal(arrays[name], intact[name]) for name in intact), position
    assert found > 1000


def test_every_flipped_bit_of_a_split_file_is_found_or_changes_nothing(tmp_path):
    path = tmp_path / "split.pt"
    write_split(path, random_split(nn.Conv2d(2, 3, 1), 1), CONTEXT)
    intact, context = read_split(path)
    found = 0
    for position, damaged in flips(path.read_bytes()):
        path.write_bytes(damaged)
        try:
            split, read = read_split(path)
        except UserError as error:
            assert str(path) in str(error)
            found += 1
        else:
            assert all(equal(value, vars(split)[name]) for name, value in vars(intact).items()), position
            assert {key: read[key] for key in CONTEXT} == {key: context[key] for key in CONTEXT}, position
    assert found > 1000


@pytest.mark.parametrize("bias", [False, True])
def test_a_split_file_holds_the_split(tmp_path, bias):
    split = random_split(nn.Conv2d(5, 3, 3, bias=bias), 1, num_concepts=3)
    write_split(tmp_path / "split.pt", split, CONTEXT)
    read, context = read_split(tmp_path / "split.pt")
    assert isinstance(read, Split)
    assert all(equal(value, vars(read)[name]) for name, value in vars(split).items())
    assert {key: context[key] for key in CONTEXT} == CONTEXT


def test_meta_that_was_changed_by_hand_is_noticed(tmp_path):
    path = opened(tmp_path).meta_path
    path.write_text(path.read_text().replace('"num_images": 3', '"num_images": 2'))
    with pytest.raises(UserError, match=r"meta\.json is damaged"):
        store.ImportanceStore(tmp_path, "m").load_meta()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"sha256": "0"}', b"\xff"])
def test_json_that_is_none_is_noticed(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=r"x.json is damaged .*: do this"):
        files.read_json(tmp_path / "x.json", "do this")


def test_a_chunk_of_another_place_length_or_type_is_noticed(tmp_path):
    chunks = opened(tmp_path)
    for indices in ((0,), (1, 0), (1, 2), (0, 0)):
        chunks.write_chunk(0, [batch(*indices)])
        with pytest.raises(UserError, match=r"chunk_000000\.npz is damaged"):
            chunks.read_chunk(0)
    arrays = {**{name: values.numpy() for name, values in batch(0, 1).items()}, "origin": np.zeros(32)}
    np.savez(chunks.chunk_path(0), **arrays)
    with pytest.raises(UserError, match="float64"):
        chunks.read_chunk(0)
    np.savez(chunks.chunk_path(0), targets=np.zeros(2))
    with pytest.raises(UserError, match="it holds"):
        chunks.read_chunk(0)


def test_unreadable_images_may_be_missing_only_where_that_was_asked_for(tmp_path):
    chunks = opened(tmp_path, skip_unreadable=True)
    chunks.write_chunk(0, [batch(1)])
    assert chunks.read_chunk(0)["indices"].tolist() == [1]
    chunks.write_chunk(0, [])
    assert chunks.read_chunk(0)["relative_importances"].shape == (0, 2)


def test_completeness_counts_the_images_of_missing_chunks(tmp_path):
    chunks = opened(tmp_path)
    with pytest.raises(UserError, match="3 of 3 images are missing"):
        chunks.require_complete()
    chunks.write_chunk(0, [batch(0, 1)])
    with pytest.raises(UserError, match="1 of 3 images are missing"):
        chunks.require_complete()
    chunks.write_chunk(1, [batch(2)])
    chunks.require_complete()
    assert chunks.read_labels()[0].tolist() == [0, 1, 2]


def test_processes_after_the_first_wait_for_its_meta(tmp_path, monkeypatch):
    late, waits = store.ImportanceStore(tmp_path, "m"), []

    def sleep(seconds):
        """The first process comes while the other one waits for the third time."""
        waits.append(seconds)
        if len(waits) == 3:
            opened(tmp_path)

    monkeypatch.setattr(time, "sleep", sleep)
    late.begin(META, process=1)
    assert late.meta == META
    assert len(waits) == 3


def test_a_store_without_a_chunk_keeps_a_meta_that_agrees(tmp_path):
    opened(tmp_path)
    late = store.ImportanceStore(tmp_path, "m")
    late.begin({**META, "versions": {"torch": "2"}}, process=1)
    assert opened(tmp_path, versions={"torch": "2"}).meta == late.meta == META


def test_equal_arrays_make_equal_bytes(tmp_path):
    chunks, one = opened(tmp_path), batch(0, 1)
    chunks.write_chunk(0, [one])
    first = chunks.chunk_path(0).read_bytes()
    chunks.write_chunk(0, [{name: values[:1] for name, values in one.items()}, {n: v[1:] for n, v in one.items()}])
    assert chunks.chunk_path(0).read_bytes() == first
    with zipfile.ZipFile(chunks.chunk_path(0)) as archive:
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}


def test_a_store_goes_on_only_with_what_it_was_begun_with(tmp_path):
    opened(tmp_path).write_chunk(0, [batch(0, 1)])
    assert opened(tmp_path, versions={"torch": "2"}, weights="elsewhere").meta["versions"] == {"torch": "1"}
    with pytest.raises(UserError, match="another chunk size"):
        opened(tmp_path, chunk_size=5)


def test_a_store_without_a_chunk_may_begin_anew(tmp_path):
    opened(tmp_path)
    chunks = opened(tmp_path, chunk_size=1)
    assert chunks.num_chunks == 3
    chunks.write_chunk(0, [batch(0)])
    with pytest.raises(UserError, match="another chunk size"):
        opened(tmp_path)


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_bytes(path, b"old")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        files.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_leftovers_of_dead_writers_are_removed_and_those_of_live_ones_are_not(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    host, path = socket.gethostname(), tmp_path / "file"
    for writer in (f"{host}.{gone.pid}", f"elsewhere.example.{os.getpid()}", f"{host}.{os.getppid()}"):
        (tmp_path / f".file.{writer}.tmp").write_bytes(b"half")
    files.write_bytes(path, b"whole")
    assert sorted(os.listdir(tmp_path)) == sorted([f".file.{host}.{os.getppid()}.tmp", "file"])


def test_class_means_of_another_store_are_not_used(tmp_path):
    classes = ClassStore(tmp_path, "m", META)
    assert classes.read_means() is None
    statistics = ClassStatistics.zeros(2, 2, 1, 1)
    statistics.add(
        torch.ones(1, 2).half(), torch.ones(1), torch.ones(1, 1, 1), torch.tensor([1]), torch.tensor([0]), 0.5
    )
    classes.write(statistics, 0.5)
    mean_inputs, images = classes.read_means()
    assert images.tolist() == [[0, 1], [0, 0]]
    assert mean_inputs[0, 1].item() == 1
    assert classes.read_relevant(0.5)[0].tolist() == [[0, 0], [1, 1]]
    assert classes.read_relevant(0.25) is None
    assert ClassStore(tmp_path, "m", {**META, "model": "other"}).read_means() is None


@pytest.mark.parametrize(
    ("model", "layer", "run"),
    [
        ("resnet50", "last_conv", "resnet50"),
        ("resnet50", "layer4.2.conv2", "resnet50_layer4.2.conv2"),
        ("examples.net:make", "last_conv", "examples.net-make"),
    ],
)
def test_run_names(model, layer, run):
    assert run_name(model, layer) == run


def test_split_names_stay_short_and_differ():
    assert split_name("resnet50", 1660, [[530], [938]]) == "resnet50_channel1660_530_938"
    assert split_name("m", 1, [[1, 2], [3]]) == "m_channel1_1-2_3"
    many = [split_name("m", 1, [list(range(n)), [999]]) for n in (300, 301)]
    assert len(set(many)) == 2
    assert max(map(len, many)) < 100


def test_a_split_file_is_applied_to_a_network_in_one_call(tmp_path):
    network = factories.small()
    context = {**CONTEXT, "layer": "last", "weights_sha256": fingerprint(network)}
    paths = [tmp_path / f"{channel}.pt" for channel in (1, 2)]
    for channel, path in zip((1, 2), paths, strict=True):
        write_split(path, random_split(network.last, channel), context)
    changed = split_network(network, *paths)
    x = torch.randn(2, 3, 24, 24)
    torch.testing.assert_close(changed(x), network(x), rtol=1e-4, atol=1e-5)
    assert changed.last.channels == [1, 2]
    with pytest.raises(ValueError, match="only once"):
        split_network(network, paths[0], paths[0])
    with pytest.raises(ValueError, match="with other weights"):
        split_network(factories.other_weights(), *paths)
    with pytest.raises(ValueError, match="with other weights"):
        split_network(changed, paths[0])
    with pytest.raises(ValueError, match="no split file"):
        split_network(network)
    write_split(paths[1], random_split(network.last, 2), {**context, "layer": "stem.0"})
    with pytest.raises(ValueError, match=r"2.pt is a split of stem.0"):
        split_network(network, *paths)
