"""Files that are whole or not there; a machine that fails is no damage; names of files."""

import errno
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from tests.scripts import ROOT
from tests.stores import META, batch, opened, split_file
from utils.errors import UserError
from utils.store import files
from utils.store.candidates import read_candidates
from utils.store.class_statistics import ClassStore
from utils.store.files import run_name, split_name
from utils.store.splits import read_split, write_split


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"sha256": "0"}', b"\xff", b"9" * 5000])
def test_json_that_is_none_is_noticed(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=r"x.json is damaged .*: do this"):
        files.read_json(tmp_path / "x.json", "do this")


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


WRITER = """
import sys
from pathlib import Path
from utils.store.files import write_bytes

print("ready", flush=True)
sys.stdin.read(1)
for _ in range(50):
    write_bytes(Path("file"), sys.argv[1].encode() * 100_000)
"""


def test_two_processes_that_write_the_same_file_never_fail_and_leave_it_whole(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    options = {"cwd": tmp_path, "env": environment, "text": True, "stdin": subprocess.PIPE}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, letter], **options, **pipes) for letter in "ab"]
    assert [writer.stdout.readline() for writer in writers] == ["ready\n"] * 2
    for writer in writers:
        writer.stdin.write("x")
        writer.stdin.flush()
    path, seen = tmp_path / "file", set()
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            seen.add(path.read_bytes())
    assert [(writer.communicate()[1], writer.returncode) for writer in writers] == [("", 0)] * 2
    seen.add(path.read_bytes())
    assert seen <= {b"a" * 100_000, b"b" * 100_000}
    assert os.listdir(tmp_path) == ["file"]


def test_every_writer_has_a_temporary_name_of_its_own(tmp_path, monkeypatch):
    """Also where processes of several machines have the same number, and machines the same name."""
    used, replace = [], os.replace
    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(os, "replace", lambda source, target: (used.append(source), replace(source, target)))
    for _ in range(20):
        files.write_bytes(tmp_path / "file", b"content")
    assert len(set(used)) == 20
    assert {(path.parent, path.name[:6], path.suffix) for path in used} == {(tmp_path, ".file.", ".tmp")}


def test_leftovers_an_hour_older_than_a_file_just_written_are_removed_and_younger_ones_are_not(tmp_path):
    path = tmp_path / "file"
    path.touch()
    now = path.stat().st_mtime
    ages = {".file.one.tmp": 3700, ".other.two.tmp": 90_000, ".file.three.tmp": 3000, ".file.four.tmp": -5000}
    ages |= {".hidden": 90_000, "file.tmp": 90_000, "old": 90_000}
    for name, age in ages.items():
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (now - age,) * 2)
    files.write_bytes(path, b"whole")
    kept = {".file.three.tmp", ".file.four.tmp", ".hidden", "file.tmp", "old", "file"}
    assert set(os.listdir(tmp_path)) == kept


def test_a_process_looks_for_leftovers_once_in_each_folder_and_again_after_an_hour(tmp_path, monkeypatch):
    looked = []
    monkeypatch.setattr(files, "remove_leftovers", lambda folder, before: looked.append(folder))
    for name in ("one", "two"):
        for number in range(5):
            files.write_bytes(tmp_path / name / f"{number}", b"content")
    assert looked == [tmp_path / "one", tmp_path / "two"]
    files._cleaned[tmp_path / "one"] -= files.LEFTOVER_SECONDS + 1
    for number in range(5):
        files.write_bytes(tmp_path / "one" / f"{number}", b"content")
    assert looked[2:] == [tmp_path / "one"]


def test_a_leftover_that_somebody_else_has_just_removed_is_no_failure(tmp_path, monkeypatch):
    def gone(*_):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(files, "remove_leftovers", gone)
    files.write_bytes(tmp_path / "file", b"whole")
    assert (tmp_path / "file").read_bytes() == b"whole"


# --------------------------------------------------------------------------------------------------------------------
# A machine that fails


def stored_files(folder):
    """A file of each kind, and what reads it."""
    chunks = opened(folder)
    chunks.write_chunk(0, [batch(0, 1)])
    classes = ClassStore(folder, "m", META)
    classes.write_relevant(0.5, torch.zeros(2, 2, 2, dtype=torch.long))
    write_split(folder / "split.pt", split_file(nn.Conv2d(2, 3, 1), 1))
    files.write_json(folder / "some.json", {})
    (folder / "pairs.txt").write_text("1: 2, 3\n")
    return {
        chunks.meta_path: chunks.load_meta,
        chunks.chunk_path(0): lambda: chunks.read_chunk(0),
        chunks.layer_path: chunks.read_layer,
        chunks.images_path: lambda: chunks.read_images("x"),
        classes.relevant_path(0.5): lambda: classes.read_relevant(0.5),
        folder / "split.pt": lambda: read_split(folder / "split.pt"),
        folder / "some.json": lambda: files.read_json(folder / "some.json", "delete it"),
        folder / "pairs.txt": lambda: read_candidates(folder / "pairs.txt"),
    }


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
        (OSError(errno.ESTALE, "Stale file handle"), "Stale file handle"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_a_machine_that_fails_while_a_file_is_read_is_not_called_damage(tmp_path, monkeypatch, error, reason):
    readers = stored_files(tmp_path)

    def fail(*_, **__):
        raise error

    monkeypatch.setattr("pathlib.Path.read_bytes", fail)
    monkeypatch.setattr(files, "open", fail, raising=False)
    for path, read in readers.items():
        with pytest.raises(UserError) as refused:
            read()
        assert str(refused.value) == f"cannot read {path}: {reason}; the file itself may be intact"


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(errno.EIO, "Input/output error"), RuntimeError("can't allocate memory: 9 bytes")]
)
def test_a_machine_that_fails_while_a_file_is_taken_apart_is_not_called_damage(tmp_path, monkeypatch, error):
    readers = stored_files(tmp_path)

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(zipfile.ZipFile, "read", fail)
    monkeypatch.setattr(torch, "load", fail)
    monkeypatch.setattr(files.json, "loads", fail)
    for path, read in readers.items():
        if path.suffix != ".txt":
            with pytest.raises(UserError) as refused:
                read()
            assert str(refused.value).startswith(f"cannot read {path}: ")
            assert not any(word in str(refused.value) for word in ("damaged", "delete", "again"))


def test_a_place_that_a_damaged_file_points_to_is_damage(tmp_path):
    def seek_before_the_beginning():
        with open(tmp_path / "x", "w+b") as file:
            file.seek(-1)

    for read in (seek_before_the_beginning, lambda: np.frombuffer(b"123", np.int64)):
        with pytest.raises(UserError, match="is damaged"), files.damage_is_one_line("x", "delete it"):
            read()


# --------------------------------------------------------------------------------------------------------------------
# Names


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
