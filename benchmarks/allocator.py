"""What it saves that glibc keeps freed memory (utils/command_line/allocator.py): stage 1 with and without it, in turns.

    python -m benchmarks.allocator --data_dir DATA --model examples.efficientnet_lite0:efficientnet_lite0 \\
        --mean .498 .498 .498 --std .502 .502 .502 --images 800 --repeat 3

Each run is a process of its own with a new store. Prints one Markdown table, of medians: seconds, seconds of CPU time
in the program and in the system (which clears pages), page faults, and the peak of memory. On a CPU that nothing else
uses. Flags other than those below are stage 1's.
"""

import argparse
import json
import os
import resource
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.report import ROOT, link_images, print_table

WAYS = {"freed memory is kept": "kept", "glibc's defaults": "returned"}
SCRIPT = "get_importances_for_classes.py"


def measure(way, flags):
    """Stage 1 in this process: prints its figures as JSON."""
    from utils.command_line import run

    if way == "returned":
        run.keep_freed_memory = lambda: False
    sys.argv = [SCRIPT, *flags]
    start = time.perf_counter()
    runpy.run_path(str(ROOT / SCRIPT), run_name="__main__")
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = time.perf_counter() - start
    print(json.dumps([seconds, used.ru_utime, used.ru_stime, used.ru_minflt, used.ru_maxrss * 1024]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True)
    parser.add_argument("--images", type=int, default=800)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--way", choices=WAYS.values(), help=argparse.SUPPRESS)
    options, flags = parser.parse_known_args()
    if options.way:
        measure(options.way, ["--data_dir", str(options.data_dir), *flags])
        return
    results = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        train = options.data_dir / "train"
        per_class = -(-options.images // sum(entry.is_dir() for entry in train.iterdir()))
        count = link_images(train, Path(folder) / "train", per_class)
        for number in range(options.repeat):
            for name, way in WAYS.items():
                own = ["--way", way, "--data_dir", folder, "--store_dir", os.path.join(folder, f"{way}{number}")]
                command = [sys.executable, "-m", "benchmarks.allocator", *own, *flags]
                done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
                results[name].append(json.loads(done.stdout.strip().split("\n")[-1]))
    header = ("stage 1", "seconds", "CPU seconds", "of the system", "page faults", "peak memory")
    rows = []
    for name, runs in results.items():
        seconds, user, system, faults, peak = map(statistics.median, zip(*runs, strict=True))
        rows.append(
            (name, f"{seconds:.1f}", f"{user + system:.1f}", f"{system:.1f}", f"{faults:.0f}", f"{peak / 1e9:.2f} GB")
        )
    print_table(header, rows)
    print(f"\n{count} images, medians of {options.repeat} runs in turns")


if __name__ == "__main__":
    main()
