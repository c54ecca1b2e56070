"""The project's scripts as processes, with the flags of the tests' images, and what they print and leave."""

import ast
import atexit
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest

from tests import forking

ROOT = Path(__file__).parent.parent
NETWORK = ("--model", "tests.factories:small")
IMAGENET_COLOURS = ("--mean", "0.485", "0.456", "0.406", "--std", "0.229", "0.224", "0.225")
SMALL_IMAGES = ("--resize_size", "24", "--crop_size", "24", *IMAGENET_COLOURS)
COMPUTE = ("--num_workers", "0", "--device", "cpu")
CHANNEL = 9
RUN = "tests.factories-small"
PATIENCE = 600  # seconds: longer than anything takes, on however busy a machine
BAR = re.compile(r"\d+%\||images/s")
PAIR = ("--classes_for_concept1", "1", "--classes_for_concept2", "dog")


def _as_in_the_foreground():
    """What a shell gives a command in the foreground: interrupts that are not ignored, and a process group."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.setpgrp()


@cache
def python():
    """A program to be used like ``sys.executable`` where only the project's work matters: torch is imported already.

    Its processes are forked from a zygote of this process's, which ends with its standard input.
    """
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    program, address = folder / "python", str(folder / "socket")
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -SE "{ROOT}/tests/forking.py" {address} "$@"\n')
    program.chmod(0o755)
    strict = {"PYTHONIOENCODING": "utf-8"}  # as in a terminal: in the C locale, output takes what is no UTF-8
    zygote = subprocess.Popen(
        [sys.executable, ROOT / "tests" / "zygote.py", program, address],
        env={**os.environ, "OMP_NUM_THREADS": "1", **strict},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert zygote.stdout.readline() == "listening\n"
    python.zygote, python.address = zygote, address
    return str(program)


def start_script(script, *arguments, cwd, **environment):
    """Start a script of the project as a process; tests.factories is importable wherever it runs."""
    return subprocess.Popen(
        [python(), ROOT / script, *map(str, arguments)],
        cwd=cwd,
        env={"FIGURES": "coarse", **os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_as_in_the_foreground,
    )


def end_of(process):
    """Wait for the end of a started script: stdout and stderr. One that does not end is killed, and fails the test."""
    try:
        return process.communicate(timeout=PATIENCE)
    finally:
        process.kill()


def start_and_hold(script, *arguments, after, cwd):
    """Start a script with ``--model tests.factories:held``, and wait until its network holds it.

    That is in the first pass after there is a file that matches the pattern ``after``, relative to ``cwd``.
    """
    held = Path(cwd) / "held"
    held.unlink(missing_ok=True)
    process = start_script(script, *arguments, cwd=cwd, HOLD=str(held), HOLD_AFTER=str(after))
    end = time.monotonic() + PATIENCE
    while not held.exists():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            pytest.fail(f"{script} was not held: {process.communicate()}")
        time.sleep(0.01)
    return process


def run_script(script, *arguments, cwd, **environment):
    """Run a script to its end: a CompletedProcess with stdout and stderr as text."""
    python()
    environment = {"FIGURES": "coarse", **os.environ, "PYTHONPATH": str(ROOT), **environment}
    command = [ROOT / script, *arguments]
    with ExitStack() as files:
        outputs = [files.enter_context(tempfile.TemporaryFile("w+")) for _ in range(2)]
        descriptors = (files.enter_context(open(os.devnull)).fileno(), *(file.fileno() for file in outputs))
        status = forking.fork(python.address, command, descriptors, cwd, environment)
        for file in outputs:
            file.seek(0)
        texts = [file.read() for file in outputs]
    return subprocess.CompletedProcess([script, *arguments], status, *texts)


def succeed(script, *arguments, cwd, **environment):
    result = run_script(script, *arguments, cwd=cwd, **environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


def printed_pairs(out):
    """The list of pairs that stage 2 prints on a line of its own; it prints none where there are no pairs."""
    lines = [line for line in out.splitlines() if line.startswith("[")]
    assert len(lines) <= 1
    return ast.literal_eval(lines[0]) if lines else []


def printed_commands(out):
    """(purpose, script and words) of the command lines that a script has printed, in their order."""
    lines = re.findall(r"^([a-z][a-z, ]*): (python .*)$", out, re.MULTILINE)
    return [(purpose, tuple(shlex.split(line)[1:])) for purpose, line in lines]


def messages(stderr):
    """The lines on standard error that are no progress bars."""
    return [line for line in stderr.replace("\r", "\n").split("\n") if line.strip() and not BAR.search(line)]


def contents(folder):
    """Every file below a folder, with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def stage1(data, store, *more, cwd):
    flags = ("--data_dir", data, "--store_dir", store, "--batch_size", "4", "--chunk_size", "8")
    return succeed("get_importances_for_classes.py", *NETWORK, *flags, *SMALL_IMAGES, *COMPUTE, *more, cwd=cwd)


def stage2(store, *more, cwd):
    flags = ("--store_dir", store, "--proportion_attribution_required", "0.05", "--p", "0.5", "--cos_sim_high", "1")
    return succeed("get_cosine_similarities.py", *NETWORK, *flags, *more, cwd=cwd)


def stage3(data, store, *more, channel=CHANNEL, pair=PAIR, cwd):
    flags = ("--data_dir", data, "--store_dir", store, "--channel_disentangle", channel, *pair)
    return succeed("disentangle_channel.py", *NETWORK, *flags, *COMPUTE, *more, cwd=cwd)


def stage4(data, store, *more, channel=CHANNEL, pair=PAIR, cwd):
    flags = ("--data_dir", data, "--store_dir", store, "--channel_of_interest", channel, *pair)
    return succeed("get_results.py", *NETWORK, *flags, *COMPUTE, *more, cwd=cwd)
