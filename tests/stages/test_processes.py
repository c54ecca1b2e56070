"""Several processes share stage 1: the store of one process, whoever is killed and however many go on."""

import os
import re
import socket
import subprocess
import sys

import pytest

from tests.pictures import write_images
from tests.scripts import (
    COMPUTE,
    PATIENCE,
    ROOT,
    SMALL_IMAGES,
    contents,
    end_of,
    messages,
    python,
    run_script,
    start_script,
)
from utils.command_line import flags as command_line
from utils.command_line.parser import Parser
from utils.errors import UserError
from utils.store.files import read_json, write_json
from utils.store.importance_store import ImportanceStore

SCRIPT = "get_importances_for_classes.py"
FLAGS = ("--model", "tests.factories:mortal", "--batch_size", "4", "--chunk_size", "8", *SMALL_IMAGES, *COMPUTE)
RUN = "tests.factories-mortal_channel_importances"


def flags(folder, store):
    return (*FLAGS, "--data_dir", folder / "data", "--store_dir", folder / store)


def one_process(folder, store, *more, **environment):
    """Stage 1 without torchrun; RANK and WORLD_SIZE make it one of several."""
    result = run_script(SCRIPT, *flags(folder, store), *more, cwd=folder, **environment)
    assert result.returncode == 0, result.stderr
    return result


def torchrun(folder, store, *options, **environment):
    """Stage 1 as the processes that ``options`` ask for, to their end: exit status, stdout and stderr."""
    command = [python(), "-m", "torch.distributed.run", *options, ROOT / SCRIPT, *flags(folder, store)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(list(map(str, command)), cwd=folder, env=environment, **pipes) as process:
        try:
            stdout, stderr = process.communicate(timeout=PATIENCE)
        finally:
            process.terminate()  # where it has not ended, it ends its processes first
    return process.returncode, stdout, stderr


def whole(store):
    """The files of a store but what a killed process had not renamed, which is nobody's for an hour."""
    return {name: data for name, data in contents(store).items() if not name.endswith(".tmp")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with ``data`` of 128 images, and ``one``: the store that one process has made of it, 16 chunks."""
    folder = tmp_path_factory.mktemp("processes")
    write_images(folder / "data", train=32, val=0)
    one_process(folder, "one")
    return folder


def test_a_killed_process_is_started_again_and_the_store_is_that_of_one(folder):
    # what is there is of an attempt with other settings, and of writers that were killed
    store = folder / "two" / RUN
    meta = read_json(folder / "one" / RUN / "meta.json", "")
    store.mkdir(parents=True)
    write_json(store / "meta.json", {**meta, "chunk_size": 5})
    leftovers, gone = [], subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for name, writer in (
        ("meta.json", f"{socket.gethostname()}.{gone.pid}"),
        ("chunk_000004.npz", f"{socket.gethostname()}.{gone.pid}"),
        ("chunk_000007.npz", "elsewhere.1"),
    ):
        leftover = store / f".{name}.{writer}.tmp"
        leftover.write_bytes(b"half")
        leftovers.append(leftover)
        os.utime(leftover, (0, 0))  # what is younger than an hour may be somebody else's
    options = ("--standalone", "--nproc_per_node=2", "--max_restarts=3")
    status, stdout, stderr = torchrun(folder, "two", *options, VICTIM="1", VICTIM_AFTER="two/*/chunk_000001.npz")
    assert status == 0, stderr
    present = re.findall(r"resuming: (\d+) of 16 chunks are stored", stdout)
    assert present, stderr
    assert int(present[-1]) >= 2
    assert not any(leftover.exists() for leftover in leftovers)
    assert whole(folder / "two") == contents(folder / "one")
    assert stdout.count("128 images; ") == 1
    assert f"next: python {ROOT}/get_cosine_similarities.py" in stdout


def test_another_number_of_processes_finishes_what_a_killed_one_has_left(folder):
    after = "three/*/chunk_000002.npz"
    status, stdout, _ = torchrun(folder, "three", "--standalone", "--nproc_per_node=3", VICTIM="2", VICTIM_AFTER=after)
    assert status != 0
    assert "128 images; " not in stdout
    left = {path.name: path.stat().st_mtime_ns for path in (folder / "three" / RUN).glob("chunk_*.npz")}
    assert "chunk_000002.npz" in left  # the next one may have been on its way to the disk
    assert not {"chunk_000008.npz", "chunk_000011.npz", "chunk_000014.npz"} & set(left)
    first = one_process(folder, "three", RANK="0", WORLD_SIZE="2")
    assert "other processes are still working" in first.stdout
    assert "128 images; " in one_process(folder, "three", RANK="1", WORLD_SIZE="2").stdout
    assert whole(folder / "three") == contents(folder / "one")
    assert left == {name: (folder / "three" / RUN / name).stat().st_mtime_ns for name in left}


def test_what_stops_the_first_process_stops_those_that_wait_for_it(folder):
    (folder / "file").touch()
    status, _, stderr = torchrun(folder, "file/store", "--standalone", "--nproc_per_node=2")
    assert status != 0
    (line,) = [line for line in stderr.splitlines() if line.startswith(f"{SCRIPT}: error: ")]
    assert "Not a directory" in line


def test_more_processes_than_chunks(folder):
    one_process(folder, "one of 64", "--chunk_size", "64")
    results = [
        one_process(folder, "four", "--chunk_size", "64", RANK=str(rank), WORLD_SIZE="4") for rank in (0, 3, 1, 2)
    ]
    assert "process 0 has finished its 1 chunks; other processes are still working" in results[0].stdout
    assert "process 3 has finished its 0 chunks; other processes are still working" in results[1].stdout
    assert results[2].stdout.startswith("128 images; ")
    assert results[3].stdout == ""
    assert ["images/s" in result.stderr for result in results] == [True, False, False, False]
    assert contents(folder / "four") == contents(folder / "one of 64")


def test_a_process_that_waits_in_vain_asks_whether_the_store_is_shared(folder, monkeypatch):
    meta = read_json(folder / "one" / RUN / "meta.json", "")
    monkeypatch.setattr(ImportanceStore, "_wait_for", lambda *_: None)
    with pytest.raises(UserError, match="do all processes see the same --store_dir"):
        ImportanceStore(folder / "elsewhere", "m").begin(meta, None, None, process=1)


@pytest.mark.parametrize(("processes", "workers"), [(None, 16), ("4", 4), ("32", 1)])
def test_the_processes_of_a_machine_share_its_cores(monkeypatch, processes, workers):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if processes:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        monkeypatch.setenv("WORLD_SIZE", processes)
    parser = Parser("")
    command_line.add_compute_flags(parser)
    assert parser.parse_args([]).num_workers == workers


def test_two_tasks_of_srun_make_the_store_of_one(folder):
    """As srun starts them: both at once, and nobody waits for the other one."""
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_NODEID": "0", "SLURM_NTASKS": "2"}
    tasks = [
        start_script(
            SCRIPT, *flags(folder, "srun"), cwd=folder, **step, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank)
        )
        for rank in (0, 1)
    ]
    said = [end_of(task) for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], said
    assert contents(folder / "srun") == contents(folder / "one")
    assert [bool(messages(stderr)) for _, stderr in said] == [False, False]
    assert ["images/s" in stderr for _, stderr in said] == [True, False]  # they share a terminal
    summaries = sum(stdout.count("128 images; ") for stdout, _ in said)
    unready = sum(stdout.count("has finished its 8 chunks; other processes are still working") for stdout, _ in said)
    assert 1 <= summaries <= 2 and summaries + unready == 2


def test_a_shell_of_an_allocation_makes_all_chunks(folder):
    one_process(folder, "salloc", SLURM_NTASKS="2", SLURM_PROCID="0", SLURM_LOCALID="0")
    assert contents(folder / "salloc") == contents(folder / "one")
