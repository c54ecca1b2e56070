"""What all benchmarks share: trees of images, runs of the scripts, and Markdown tables under the machine's name."""

import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torchvision

from utils.images.folders import list_images

ROOT = Path(__file__).parent.parent


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


def link_images(source, folder, per_class, classes=None):
    """Fill ``folder`` with links to the first images of the classes (default: all) of ``source``: their number."""
    images = list_images(source, classes)
    seen = dict.fromkeys(range(len(images.folders)), 0)
    for index, owner in enumerate(images.folder_of.tolist()):
        if seen[owner] < per_class:
            original = images.path(index).resolve()
            link = Path(folder) / images.folders[owner] / f"{seen[owner]:06d}{original.suffix}"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(original)
            seen[owner] += 1
    return sum(seen.values())


def run(script, *arguments, **environment):
    """Run a script of the project to its end: seconds it took, its peak memory in bytes, and its output."""
    start = time.perf_counter()
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=out, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)  # the peak memory of this process, not of all so far
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        texts = [(file.seek(0), file.read())[1] for file in (out, errors)]
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{texts[1]}")
    return seconds, usage.ru_maxrss * 1024, texts[0]
