"""What all benchmarks print: the machine, medians of repeated runs, and Markdown tables."""

import os
import platform
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
import torchvision


def machine():
    """The machine and versions in one line."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.is_file() else []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpus = [torch.cuda.get_device_name(gpu) for gpu in range(torch.cuda.device_count())]
    parts = [f"{cores} cores of {names[0] if names else platform.machine()}", *gpus]
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, torchvision {torchvision.__version__}"
    return f"{', '.join(parts)}; {versions}"


def print_table(header, rows):
    """Print a Markdown table under the machine it was measured on."""
    print(f"\n{machine()}\n\n| {' | '.join(header)} |\n|{' --- |' * len(header)}")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |")


def run(*command, **environment):
    """Run a script of the project to its end: seconds it took, its peak memory in bytes, and its output."""
    start = time.perf_counter()
    arguments = [sys.executable, *map(str, command)]
    process = subprocess.Popen(
        arguments, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    out, errors = process.communicate()
    seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{errors}")
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024, out
