"""glibc keeps freed memory; other C libraries are left alone."""

import ctypes
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from benchmarks import allocator as benchmark
from tests.pictures import write_images
from tests.scripts import ROOT
from utils.command_line import allocator, run
from utils.command_line.parser import Parser

FAULTS = """
import resource
from utils.command_line.allocator import keep_freed_memory
{}
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    b"1" * 2**25
    b"1" * 2**26
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def libc():
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError):
        return ""


@pytest.mark.skipif(not libc().startswith("glibc"), reason="another C library")
def test_memory_that_is_used_again_need_not_be_cleared_by_the_system():
    faults = []
    for call in ("", "assert keep_freed_memory()"):
        command = [sys.executable, "-c", FAULTS.format(call)]
        faults.append(int(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout))
    assert faults[1] < faults[0] / 4


@pytest.fixture
def called(monkeypatch):
    """The calls of a C library that accepts all parameters."""
    calls = []
    library = SimpleNamespace(mallopt=lambda *arguments: calls.append(arguments) or 1)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    monkeypatch.setattr(os, "confstr", lambda _: "glibc 2.36", raising=False)
    return calls


def test_both_thresholds_are_bounded(called):
    assert allocator.keep_freed_memory()
    assert called == [(-3, 2**30), (-1, 2**29)]


@pytest.mark.parametrize("answer", [None, "musl 1.2", ValueError("unrecognized configuration name"), OSError()])
def test_other_c_libraries_are_left_alone(called, answer, monkeypatch):
    def confstr(_):
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(os, "confstr", confstr)
    assert not allocator.keep_freed_memory()
    assert called == []


def test_a_system_without_confstr_or_mallopt_is_left_alone(called, monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    assert not allocator.keep_freed_memory()
    monkeypatch.delattr(os, "confstr")
    assert not allocator.keep_freed_memory()


def test_a_refusal_is_no_error(called, monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=lambda *_: 0))
    assert not allocator.keep_freed_memory()


def test_scripts_start_with_it(monkeypatch):
    calls = []
    monkeypatch.setattr(run, "keep_freed_memory", lambda: calls.append("allocator"))
    monkeypatch.setattr("sys.argv", ["script"])
    run.run(lambda _: calls.append("main"), Parser("a script"))
    assert calls == ["allocator", "main"]


def test_the_benchmark_measures_with_and_without(tmp_path, capsys, monkeypatch):
    data = write_images(tmp_path)
    flags = ("--model", "tests.factories:small", "--crop_size", "24", "--resize_size", "24", "--num_workers", "0")
    monkeypatch.setattr("sys.argv", ["allocator", "--data_dir", str(data), "--images", "8", "--repeat", "1", *flags])
    benchmark.main()
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [row[0].strip() for row in rows if "---" not in row[0]] == ["stage 1", *benchmark.WAYS]
    assert all(float(row[2]) > 0 for row in rows[2:])
