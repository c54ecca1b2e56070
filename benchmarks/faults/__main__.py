"""A campaign of faults at random: is whatever is stored afterwards what it would have been, and each error one line?

    python -m benchmarks.faults --seconds 300

Kills and signals at random moments, damaged files of every kind, damaged steps of a loop that was killed, a full
disk, a read-only one, and stages side by side, on a tiny network and pictures of its own, in a temporary folder. A
round disturbs a stage, mends what is to be mended (damage by the file as it was, a disk by space) and runs the stage
to its end; then every file of the store and of the results must be byte for byte that of undisturbed runs, less the
time in a result. --seed and --round repeat a round; only what depends on the clock may then come out otherwise.

Disks are mounted, which needs root. The exit status is 1 if anything failed.
"""

import argparse
import itertools
import subprocess
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from multiprocessing.pool import ThreadPool
from pathlib import Path

from benchmarks.faults.rounds import (
    EVERYTHING,
    LATE,
    LINE,
    NOT_HERE,
    ORDER,
    SAME,
    Failure,
    Reference,
    Worker,
    cases,
)
from benchmarks.faults.runs import Scripts, write_pictures
from benchmarks.report import print_table

OWN, OTHER = 17, 5  # seeds of the network, and of the one whose files are swapped in


class Campaign:
    """Rounds on several processes at a time; ``outcomes`` is a list of (number, label, outcome or Failure)."""

    def __init__(self, folder, jobs, stack, stages=EVERYTHING):
        write_pictures(folder / "data")
        scripts = [Scripts(folder / "data", folder / f"logs{job}") for job in range(jobs)]
        for one in scripts:
            stack.callback(one.close)
        own = (scripts[0], folder / "own", OWN, stages)
        with ThreadPool(min(jobs, 2)) as pool:  # of one process one thing is asked at a time
            self.reference, other = pool.starmap(Reference, [own, (scripts[-1], folder / "other", OTHER, ORDER)])
        self.workers = [Worker(one, folder / f"rounds{job}", self.reference, other) for job, one in enumerate(scripts)]

    def run(self, numbers, seed, chosen, seconds=None):
        """Do rounds until their numbers or the seconds end: a list of (number, label, outcome or Failure), sorted."""
        numbers, lock, outcomes, end = iter(numbers), threading.Lock(), [], time.monotonic() + (seconds or 1e9)

        def work(worker):
            while time.monotonic() < end:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                label = list(chosen)[number % len(chosen)]
                outcomes.append((number, label, worker.round(number, seed, chosen[label])))

        with ThreadPool(len(self.workers)) as pool:
            pool.map(work, self.workers)
        return sorted(outcomes, key=lambda one: one[0])


def report(outcomes, labels):
    """Print the table, and every failure; their number."""
    failures = [one for one in outcomes if isinstance(one[2], Failure)]
    counts = Counter((label, Failure if isinstance(outcome, Failure) else outcome) for _, label, outcome in outcomes)
    rows = []
    for label in labels:
        of_label = [counts[label, outcome] for outcome in (LATE, LINE, SAME, Failure)]
        skipped = counts[label, NOT_HERE]
        rows.append((label, *([NOT_HERE, "", "", "", ""] if skipped else [sum(of_label), *of_label])))
    sums = [sum(row[column] or 0 for row in rows if row[1] != NOT_HERE) for column in range(1, 6)]
    print_table(("fault", "rounds", LATE, LINE, SAME, "failures"), [*rows, ("all", *sums)])
    for number, label, failure in failures:
        print(f"\nround {number}, {label}: {failure}")
    return len(failures)


def get_options():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=300, help="begin no round after so long (300)")
    parser.add_argument("--rounds", type=int, help="do so many, however long they take")
    parser.add_argument("--round", type=int, nargs="+", help="do those of these numbers")
    parser.add_argument("--jobs", type=int, default=2, help="rounds at a time (2)")
    return parser.parse_args()


def unmount_below(folder):
    """Unmount the disks of rounds that were interrupted."""
    mounts = Path("/proc/mounts")
    for line in mounts.read_text().splitlines() if mounts.is_file() else ():
        if line.split()[1].startswith(f"{folder}/"):
            subprocess.run(["umount", "-l", line.split()[1]], check=False)


def main():
    args = get_options()
    numbers = args.round or (itertools.count() if args.rounds is None else range(args.rounds))
    seconds = args.seconds if args.round is None and args.rounds is None else None
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())).resolve()
        stack.callback(unmount_below, folder)
        outcomes = Campaign(folder, args.jobs, stack).run(numbers, args.seed, cases(), seconds)
    if report(outcomes, cases()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
