"""Several processes of stage 1, started by torchrun and not: the store of one, whoever dies and however many go on."""

import os
import re
import subprocess
import sys

import pytest

from tests.conftest import COMPUTE, ROOT, SMALL_IMAGES, contents, run_script, write_images

SCRIPT = "get_importances_for_classes.py"
FLAGS = ("--model", "tests.networks:mortal", "--batch_size", "4", "--chunk_size", "8", *SMALL_IMAGES, *COMPUTE)
RUN = "tests.networks-mortal_channel_importances"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with ``data``, and the store ``one`` that one process has made of it: 16 chunks."""
    folder = tmp_path_factory.mktemp("processes")
    write_images(folder / "data", train=32, val=0)
    stage1(folder, "one")
    return folder


def stage1(folder, store, *more, **environment):
    """One process; RANK and WORLD_SIZE make it one of several."""
    data = ("--data_dir", folder / "data", "--store_dir", folder / store)
    result = run_script(SCRIPT, *FLAGS, *data, *more, cwd=folder, **environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


def torchrun(folder, store, *options, **environment):
    """Run stage 1 as several processes to its end: a CompletedProcess."""
    data = ("--data_dir", folder / "data", "--store_dir", folder / store)
    command = [sys.executable, "-m", "torch.distributed.run", *options, ROOT / SCRIPT, *FLAGS, *data]
    process = subprocess.Popen(
        list(map(str, command)),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        return subprocess.CompletedProcess(command, None, *process.communicate(timeout=200)), process.returncode
    finally:
        process.terminate()  # torchrun ends its workers
        process.wait()


def dead_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_killed_process_is_started_again_and_the_store_is_that_of_one(folder):
    store = folder / "restarted" / RUN
    stage1(folder, "restarted", "--batch_size", "8", RANK="1")  if False else None
