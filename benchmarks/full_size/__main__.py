"""Every stage and everything that stage 4 makes, at ImageNet's size or a part of it, against bounds on time and memory.

    python -m benchmarks.full_size --work_dir /scratch/full_size
    python -m benchmarks.full_size --work_dir /scratch/full_size --kill
    python -m benchmarks.full_size --work_dir /scratch/full_size_1 --fraction 1

The data are made: images of 16x16 pixels in 1,000 folders named by WordNet ids (1,281,167 and 50,000 with --fraction 1;
by default a tenth), and a network by construction with a layer of 512 inputs and 2,048 channels, some of which are
polysemantic. Each step is a command of the project in a process of its own. A table shows for each step its CPU time
(user and system, children included; in brackets the part of loader processes, which decode images), the peak memory of
all its processes, the longest time without output, its bound and whether it was kept.

The bounds: 4 GB for every step; no silence of more than 5 seconds (10 until the first output), a silence counting with
the CPU time in it where other programs held the processors; and for some steps the CPU time of the first process, which
has the network's passes but not the decoding. Exit status: 1 if a bound is broken.

A step that is done is kept in --work_dir and is not repeated, unless --only names it. With --kill, each step is done
once more, is killed half-way, and is continued: it must make the same files. Needs Linux; --fraction 1 needs 16 GB of
disk and hours.
"""

import argparse
import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.full_size.data import Size, make_images
from benchmarks.full_size.files import Files, differences, move
from benchmarks.full_size.measuring import Measured, end_children_by_signal, measure
from benchmarks.full_size.network import FOLDER_VARIABLE, make_networks
from benchmarks.full_size.steps import LONGEST_SILENCE, LONGEST_START, MINUTE, MOST_MEMORY, STEPS, Folder, Step
from benchmarks.report import ROOT, print_table

HEADER = ("step", "CPU time", "peak memory", "longest silence", "bound of CPU time", "ok", "killed and continued")
FULL = Size()
KILL_AT = (1 / 2, 1 / 4, 1 / 8)  # of the step's CPU time; the next one if a run ended before it was killed
EQUAL, ENDED_BEFORE = "equal", "ended before"


@dataclass
class Record:
    """What is known of a step that is done: what it needed, and the files that it made (relative names)."""

    measured: Measured
    new: list[str]
    changed: list[str]
    killed: str = ""  # how the killed run compares; empty if there was none


class Benchmark:
    """The steps in a folder that is kept."""

    def __init__(self, folder: Folder, fraction: float) -> None:
        self.folder = folder
        self.fraction = fraction
        self._size = replace(FULL, images=round(FULL.images * fraction))

    def prepare(self) -> None:
        """Make the data and the networks, unless they are there."""
        root = self.folder.root
        described = {"fraction": self.fraction, **asdict(self._size)}
        path = root / "data.json"
        if path.is_file():
            if json.loads(path.read_text()) != described:
                fail(f"{path} is of another --fraction: give another --work_dir")
            return
        print(f"making {self._size.images:,} images in {self.folder.data}", file=sys.stderr, flush=True)
        shutil.rmtree(self.folder.data, ignore_errors=True)
        root.mkdir(parents=True, exist_ok=True)
        make_networks(root, self._size)
        make_images(self.folder.data, self._size, processes=len(os.sched_getaffinity(0)))
        path.write_text(json.dumps(described))

    def record(self, step: Step) -> Record | None:
        """What is known of a step, if it is done."""
        path = self._record_path(step)
        if not path.is_file():
            return None
        values = json.loads(path.read_text())
        return Record(**{**values, "measured": Measured(**values["measured"])})

    def _keep(self, step: Step, record: Record) -> None:
        path = self._record_path(step)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(asdict(record)))

    def _record_path(self, step: Step) -> Path:
        return self.folder.root / "done" / f"{step.name}.json"

    def do(self, step: Step) -> Record:
        """Do a step from its beginning: files of an earlier run of it are removed."""
        self._remove_earlier(step)
        before = self._files_before(step)
        measured = self._run(step)
        new, changed = (list(map(self._relative, files)) for files in before.made_since())
        record = Record(measured, new, changed)
        if measured.status == 0:
            self._keep(step, record)
            self._before_path(step).unlink()
        return record

    def _remove_earlier(self, step: Step) -> None:
        earlier = self.record(step)
        self._record_path(step).unlink(missing_ok=True)
        names = [] if earlier is None else earlier.new
        if self._before_path(step).is_file():  # a run that did not come to its end
            before = set(json.loads(self._before_path(step).read_text()))
            names = [self._relative(path) for path in self._files().states if self._relative(path) not in before]
        for path in [*(self.folder.root / name for name in names), *step.removes(self.folder)]:
            path.unlink(missing_ok=True)

    def _files(self) -> Files:
        return Files([self.folder.store, self.folder.results])

    def _files_before(self, step: Step) -> Files:
        before = self._files()
        path = self._before_path(step)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(sorted(map(self._relative, before.states))))
        return before

    def _before_path(self, step: Step) -> Path:
        return self.folder.root / "begun" / f"{step.name}.json"

    def _relative(self, path: Path) -> str:
        return str(path.relative_to(self.folder.root))

    def _run(self, step: Step, kill_after: float | None = None) -> Measured:
        script, *flags = step.command(self.folder)
        environment = {
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "OMP_WAIT_POLICY": "passive",  # a thread that waits for others uses no CPU time
            FOLDER_VARIABLE: str(self.folder.root),
        }
        log = self.log(step)
        return measure([sys.executable, ROOT / script, *flags], environment=environment, log=log, kill_after=kill_after)

    def log(self, step: Step) -> Path:
        """What the step has printed."""
        return self.folder.root / "logs" / f"{step.name}.txt"

    def kill(self, step: Step, record: Record) -> None:
        """Do a step once more, killed half-way and continued, and note whether it makes the same files."""
        root, aside = self.folder.root, self.folder.root / "undisturbed"
        shutil.rmtree(aside, ignore_errors=True)
        made = [root / name for name in (*record.new, *record.changed) if (root / name).is_file()]
        record.killed = ENDED_BEFORE
        for share in KILL_AT:
            move(made, root, aside)
            killed = self._run(step, kill_after=record.measured.main_cpu * share)
            if killed.status == 0:
                move([aside / path.relative_to(root) for path in made], aside, root)
                continue
            continued = self._run(step)
            different = differences([aside / path.relative_to(root) for path in made], aside, root)
            if different:  # a later step may have added to these files
                different = self._different_from_a_new_run(step, made)
            left = [self._relative(path) for path in self._files().states if ".unfinished_" in str(path)]
            record.killed = EQUAL
            if continued.status or different or left:
                problems = [*different, *(f"{name} is left" for name in left)]
                record.killed = f"exit status {continued.status}; different: {', '.join(problems[:3])}"
                record.killed += f" and {len(problems) - 3} more" if len(problems) > 3 else ""
            move([aside / path.relative_to(root) for path in made], aside, root)
            break
        shutil.rmtree(aside, ignore_errors=True)
        self._keep(step, record)

    def _different_from_a_new_run(self, step: Step, made: list[Path]) -> list[str]:
        """Which of the files that a step has made are not the same when it makes them once more, undisturbed."""
        root, continued = self.folder.root, self.folder.root / "continued"
        shutil.rmtree(continued, ignore_errors=True)
        move([path for path in made if path.is_file()], root, continued)
        self._run(step)
        different = differences([continued / path.relative_to(root) for path in made], continued, root)
        shutil.rmtree(continued)
        return different


def fail(message: str) -> None:
    """End with one line and exit status 2."""
    print(f"benchmarks.full_size: error: {message}", file=sys.stderr)
    sys.exit(2)


def seconds(value: float) -> str:
    """A time in words."""
    return f"{value / MINUTE:.1f} min" if value >= 2 * MINUTE else f"{value:.1f} s"


def broken(step: Step, record: Record, fraction: float) -> list[str]:
    """The bounds that a step has broken."""
    measured, bound = record.measured, step.bound(fraction)
    found = [] if measured.status == 0 else [f"exit status {measured.status}"]
    found += ["memory"] if measured.memory > MOST_MEMORY else []
    found += ["CPU time"] if bound is not None and measured.main_cpu > bound else []
    found += ["silence"] if measured.busy_silence > LONGEST_SILENCE or measured.start > LONGEST_START else []
    found += [] if record.killed in ("", EQUAL, ENDED_BEFORE) else ["after a kill"]
    return found


def row(step: Step, record: Record, fraction: float, was_kept: bool) -> tuple[str, ...]:
    """The cells of a step."""
    measured, bound = record.measured, step.bound(fraction)
    others = measured.cpu - measured.main_cpu
    cpu = seconds(measured.cpu) + (f" (loaders {seconds(others)})" if others >= 1 else "")
    silence = seconds(measured.silence)
    silence += f" (computing {seconds(measured.busy_silence)})" if measured.silence > LONGEST_SILENCE else ""
    return (
        step.name + (" (kept)" if was_kept else ""),
        cpu,
        f"{measured.memory / 1e9:.2f} GB",
        silence,
        "" if bound is None else seconds(bound),
        ", ".join(broken(step, record, fraction)) or "yes",
        record.killed,
    )


def get_options() -> argparse.Namespace:
    names = [step.name for step in STEPS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--fraction", type=float, default=0.1, help="of ImageNet's images (0.1); 1 is all of them")
    parser.add_argument("--work_dir", type=Path, required=True, help="folder of the data, the store and the results")
    parser.add_argument(
        "--only", nargs="+", choices=names, metavar="STEP", help=f"do these, again if they are done: {', '.join(names)}"
    )
    parser.add_argument("--kill", action="store_true", help="also kill each step half-way, once, and continue it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured to a file, too")
    options = parser.parse_args()
    if not 0 < options.fraction <= 1:
        parser.error("--fraction must be above 0 and at most 1")
    if not Path("/proc/self/smaps_rollup").is_file():
        parser.error("memory is measured by Linux's /proc, which is not here")
    return options


def main() -> None:
    options = get_options()
    end_children_by_signal()
    benchmark = Benchmark(Folder(options.work_dir.resolve()), options.fraction)
    benchmark.prepare()
    rows, results, failed = [], {}, False
    for step in STEPS if options.only is None else [step for step in STEPS if step.name in options.only]:
        record = benchmark.record(step)
        was_kept = record is not None and options.only is None
        if not was_kept:
            record = benchmark.do(step)
        if options.kill and not record.killed and record.measured.status == 0:
            benchmark.kill(step, record)
        rows.append(row(step, record, options.fraction, was_kept))
        failed = failed or bool(broken(step, record, options.fraction))
        results[step.name] = {
            **asdict(record.measured),
            "bound": step.bound(options.fraction),
            "broken": broken(step, record, options.fraction),
            "killed": record.killed,
            "kept": was_kept,
        }
        print(" | ".join(rows[-1]), file=sys.stderr, flush=True)  # what is known if all of it is stopped
        if record.measured.status:
            lines = benchmark.log(step).read_text(errors="replace").replace("\r", "\n").strip().split("\n")
            print(f"  {lines[-1]}", file=sys.stderr, flush=True)
    print_table(HEADER, rows)
    size = f"{options.fraction:g} of ImageNet's images"
    print(f"\n{size}; at most {MOST_MEMORY / 1e9:g} GB and {LONGEST_SILENCE} s without output for every step")
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1))
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
