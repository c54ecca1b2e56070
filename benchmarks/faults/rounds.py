"""The rounds of a campaign: each disturbs a stage in its own way, and judges what has become of it."""

import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults.runs import PAIRS

ORDER = ("1", "1 val", "2", "3", "4")
NEEDS_IMAGES = "4 of images"
LOOPS = {"circuits": "2", "pure": "2", "separation": "3", "effect": "3", "comparison": "2"}  # the stage before each
EVERYTHING = (*ORDER, NEEDS_IMAGES, *LOOPS)
VAL = "importances_val/"
WHOLE_LAYER = ("_layer.json", "_concepts.csv")  # of runs that split all candidates alone
LATE, LINE, SAME, NOT_HERE = "ended before", "one line", "same result", "not possible here"
RESULTS = r"results_quantitative/(pairs|separation|effect|comparison)/"
UNFINISHED = ".unfinished_"  # of the folder of a loop's finished steps


@dataclass(frozen=True)
class Kind:
    """A kind of files: what their paths match, and the stages that read them, of train/ and of val/.

    ``made_by`` is a stage after which the files are there.
    """

    pattern: str
    readers: tuple[str, ...]
    val_readers: tuple[str, ...] = ()
    made_by: str = "4"


KINDS = {
    "meta.json": Kind(r"importances(_val)?/meta\.json", ("1", "2", "3"), ("1 val", "4")),
    "layer.npz": Kind(r"importances(_val)?/layer\.npz", ("2", "3"), ("4",)),
    "images.npz": Kind(r"importances(_val)?/images\.npz", ("2", "3"), ("4",)),
    "chunk": Kind(r"importances(_val)?/chunk_", ("1", "2", "3"), ("1 val", "4")),
    "class means": Kind(r"_class_means\.npz", ("2", "3")),
    "counts": Kind(r"_relevant_images_", ("2",)),
    "candidates JSON": Kind(re.escape(f"{PAIRS}.json"), ("3", "4")),
    "split": Kind(r"models_disentangled/.*\.pt", ("3", "4")),
    "result JSON": Kind(r"results_quantitative/pairs/", ("4",)),
    "manifest": Kind(r"_layer\.json", ("3",)),
    "split of circuits": Kind(r"_circuits_.*\.pt", ("circuits",), made_by="circuits"),
    "strongest images": Kind(r"_strongest_images_.*\.npz", ("circuits",), made_by="circuits"),
    "clusters": Kind(r"_clusters_.*\.npz", ("circuits",), made_by="circuits"),
    "reference images": Kind(r"_references.*\.npz", ("pure",), made_by="pure"),
    "separation JSON": Kind(r"results_quantitative/separation/", ("separation",), made_by="separation"),
    "effect JSON": Kind(r"results_quantitative/effect/", ("effect",), made_by="effect"),
    "comparison JSON": Kind(r"results_quantitative/comparison/", ("comparison",), made_by="comparison"),
    "virtual neurons": Kind(r"_virtual_neurons_.*\.npz", ("comparison",), made_by="comparison"),
    "embeddings": Kind(r"_embeddings_.*\.npz", ("comparison",), made_by="comparison"),
}


class Failure(Exception):
    """What a round has found to be wrong."""


def require(condition, problem, ended=None):
    if not condition:
        shown = "" if ended is None else f"; status {ended.status}, stderr: " + " / ".join(ended.lines[-12:])
        raise Failure(problem + shown)


def contents(folder):
    """Every file below a folder, less what killed writers and loops have left: {path: bytes}."""
    files = {path: path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    left = re.compile(rf"\.tmp$|{re.escape(UNFINISHED)}")
    return {name: path.read_bytes() for path, name in sorted(files.items()) if not left.search(name)}


def fill(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def timeless(name, data):
    """A file's content; of a result what does not change from run to run."""
    if re.search(RESULTS, name):
        try:
            return {key: value for key, value in json.loads(data).items() if key not in ("evaluation", "sha256")}
        except ValueError:
            pass
    return data


def differing(found, *allowed):
    """Names of files that are as in none of ``allowed`` (dictionaries, in which a file may be missing)."""
    names = sorted({*found, *itertools.chain(*allowed)})
    states = [{name: timeless(name, data) for name, data in one.items()} for one in (found, *allowed)]
    return [name for name in names if all(states[0].get(name) != one.get(name) for one in states[1:])]


def is_table(name):
    """Whether a file is made of all results that are there, which are fewer where something was refused."""
    return name.startswith("results_quantitative/") and re.search(RESULTS, name) is None


def check_line(ended, *words, status=2):
    """Fail unless a run ended with a status and in one line, which has one of ``words``."""
    require(ended.status == status and len(ended.lines) == 1, "not one line", ended)
    require(any(word in ended.lines[0] for word in words), f"the line does not say {' or '.join(words)}", ended)


def damaged(chance, data, donors):
    """A file's content after some damage, and what was done to it."""
    ways = ["flip", "digit", "truncate", "zeros", "append", *(["swap"] if donors else [])]
    while True:
        way, bad, at = chance.choice(ways), bytearray(data), chance.randrange(len(data))
        if way == "flip":
            for place in (at, *(chance.randrange(len(data)) for _ in range(chance.choice((0, 0, 3))))):
                bad[place] ^= 1 << chance.randrange(8)
        elif way == "digit":  # one that leaves JSON and a file's structure as they are
            digits = [place for place, byte in enumerate(data) if byte in b"0123456789"]
            for place in chance.sample(digits, min(1, len(digits))):
                bad[place] = chance.choice(b"0123456789")
        elif way == "truncate":
            bad = bad[:at]
        elif way == "zeros":
            end = min(len(data), at + chance.choice((1, 16, 512, len(data))))
            bad[at:end] = bytes(end - at)
        elif way == "append":
            bad += chance.randbytes(chance.choice((1, 30, 5000)))
        else:
            bad = chance.choice(donors)
        if bytes(bad) != data:
            return way, bytes(bad)


def stage_before(stage):
    """The stage after which another one is done; None for the first."""
    if stage in LOOPS:
        return LOOPS[stage]
    return ORDER[ORDER.index(stage) - 1] if stage != ORDER[0] else None


class Reference:
    """What undisturbed runs make: folders ``before`` and ``after`` each stage, their seconds and writes."""

    def __init__(self, scripts, folder, seed, stages):
        self.before, self.after, self.ended, self.outputs = {}, {}, {}, {}
        (folder / "first").mkdir(parents=True)
        scripts.run("1", folder / "first")  # the first run of all reads libraries from the disk: not for the seconds
        for stage in stages:
            if stage == NEEDS_IMAGES:
                before = {name: data for name, data in self.after["3"].items() if VAL not in name}
            else:
                before = self.after[earlier] if (earlier := stage_before(stage)) else {}
            own = folder / stage
            own.mkdir(parents=True)
            fill(own, before)
            ended = scripts.run(stage, own, FAULTS_SEED=str(seed))
            require(ended.status == 0, f"stage {stage} failed undisturbed", ended)
            self.before[stage], self.after[stage], self.ended[stage] = before, contents(own), ended
            self.outputs[stage] = [name for name in self.after[stage] if name not in before]


class Worker:
    """Does rounds, one after the other, in folders of its own; files are swapped in from the Reference ``other``."""

    def __init__(self, scripts, folder, reference, other):
        self.scripts, self.folder, self.reference, self.other = scripts, folder, reference, other

    def round(self, number, seed, case):
        """One round: its outcome, or the Failure it has found."""
        chance, folder = random.Random(f"{seed}-{number}"), self.folder / str(number)
        folder.mkdir(parents=True)
        try:
            return case(self, chance, folder)
        except Failure as failure:
            return failure
        finally:
            shutil.rmtree(folder)

    def finish(self, stage, folder, expected=None):
        """Run a stage to its end: all must be as if nothing had been."""
        ended = self.scripts.run(stage, folder)
        require(ended.status == 0, f"stage {stage} does not go on", ended)
        wrong = differing(contents(folder), expected or self.reference.after[stage])
        require(not wrong, f"after stage {stage} other than undisturbed: {wrong}", ended)

    def unharmed(self, stage, folder, before, but=()):
        """Fail unless each file is as it was, or already as it will be."""
        wrong = differing(contents(folder), before, self.reference.after[stage])
        wrong = [name for name in wrong if name not in but and not (but and is_table(name))]
        require(not wrong, f"harmed by the stopped stage {stage}: {wrong}")

    # ------------------------------------------------------------------------------------------- kills and signals

    def strike(self, chance, stage, folder, number):
        """Run a stage, and send it a signal at a random moment, at a write or by the clock.

        Returns how it ended, and whether the signal came before its last line.
        """
        if chance.random() < 0.5:
            at, half = chance.randint(1, self.reference.ended[stage].writes), chance.random() < 0.5
            trap = {"at": at, "signal": number, "half": half and number == signal.SIGKILL}
            ended = self.scripts.end(self.scripts.start(stage, folder, trap=trap))
            return ended, ended.status != 0 or ended.writes >= at
        run = process, logs, _ = self.scripts.start(stage, folder)
        time.sleep(chance.uniform(0, self.reference.ended[stage].seconds))
        os.kill(process, number)  # there until it is waited for
        said = (logs / "stdout").read_text(errors="replace") if (logs / "stdout").is_file() else ""
        return self.scripts.end(run), "\nopen first" not in said

    def kill(self, chance, folder, stage):
        fill(folder, before := self.reference.before[stage])
        outcome = LATE
        for _ in range(chance.randint(1, 3)):
            ended, _ = self.strike(chance, stage, folder, signal.SIGKILL)
            require(ended.status in (0, -signal.SIGKILL), "neither killed nor done", ended)
            self.unharmed(stage, folder, before)
            outcome = SAME if ended.status else outcome
        self.finish(stage, folder)
        return outcome

    def stop(self, chance, folder, number):
        stage = chance.choice((*ORDER, NEEDS_IMAGES))
        fill(folder, before := self.reference.before[stage])
        ended, before_the_end = self.strike(chance, stage, folder, number)
        if number == signal.SIGINT and ended.status != 0:
            check_line(ended, "interrupted", status=130)
        elif ended.status != 0:
            require(ended.status == -number and not ended.lines, "not ended by the signal", ended)
        else:
            require(not before_the_end, f"stage {stage} did not end by the signal", ended)
        self.unharmed(stage, folder, before)
        self.finish(stage, folder)
        return LATE if ended.status == 0 else LINE if number == signal.SIGINT else SAME

    # ---------------------------------------------------------------------------------------------- damaged files

    def damage(self, chance, folder, kind):
        """Damage a file, where some of what a reader of it makes is to be made again: named, or no difference."""
        pattern, whole = KINDS[kind].pattern, self.reference.after[KINDS[kind].made_by]
        name = chance.choice([name for name in whole if re.search(pattern, name)])
        stage = chance.choice(KINDS[kind].val_readers if VAL in name else KINDS[kind].readers)
        state, outputs = dict(self.reference.after[stage]), self.reference.outputs[stage]
        removable = [one for one in outputs if one != name and (stage[0] != "1" or "/chunk_" in one)]
        for one in chance.sample(removable, chance.randint(1, len(removable))):
            del state[one]
        if name not in state:
            state[name] = whole[name]
        donors = [data for one, data in state.items() if re.search(pattern, one) and one != name]
        of_other = self.other.after.get(KINDS[kind].made_by, {})
        donors += [of_other[name]] if name in of_other else []
        way, bad = damaged(chance, state[name], donors)
        fill(folder, state := {**state, name: bad})
        readers = (stage,) if stage in LOOPS else ORDER[ORDER.index(stage) :]
        for reader in readers:  # the next one is asked where the file is still there
            what = f"{way} of {name}, stage {reader}"
            ended = self.scripts.run(reader, folder)
            if ended.status != 0:
                words = [Path(name).name]
                if way == "swap":  # a whole meta.json of another network: everything else is of another one than it
                    words += [Path(name).parent.name, *([f"{PAIRS}.json"] if kind == "meta.json" else [])]
                return self._mended(reader, folder, state, whole=whole, name=name, words=words, ended=ended, what=what)
            wrong = differing(contents(folder), self.reference.after[reader])
            require(set(wrong) <= {name}, f"{what}: not noticed, and other files differ: {wrong}", ended)
            if not wrong:
                return SAME
            require((folder / name).read_bytes() == bad, f"{what}: made into something else", ended)
            state = {**self.reference.after[reader], name: bad}
        return SAME

    def damage_kept(self, chance, folder, stage):
        """Kill a stage in its loop, and damage a step that it has kept: it is done again."""
        fill(folder, self.reference.before[stage])
        at = chance.randint(1, self.reference.ended[stage].writes)
        self.scripts.end(self.scripts.start(stage, folder, trap={"at": at, "signal": signal.SIGKILL}))
        steps = sorted(path for path in folder.rglob("*") if path.is_file() and UNFINISHED in str(path.parent))
        if steps:
            path = chance.choice(steps)
            donors = [other.read_bytes() for other in steps if other != path]
            path.write_bytes(damaged(chance, path.read_bytes(), donors)[1])
        self.finish(stage, folder)
        return SAME if steps else LATE

    def _mended(self, stage, folder, state, *, whole, name, words, ended, what):
        try:
            check_line(ended, *words)
            self.unharmed(stage, folder, state, {name})
            fill(folder, {name: whole[name]})
            self.finish(stage, folder)
        except Failure as failure:
            raise Failure(f"{what}: {failure}") from failure
        return LINE

    # ------------------------------------------------------------------------------------------------------ disks

    def disk(self, chance, folder, full):
        """Run a stage on a disk that becomes full, or that is read-only; then on one with space."""
        stage = chance.choice((*ORDER, NEEDS_IMAGES))
        before, pages = self.reference.before[stage], []
        for files in (before, self.reference.after[stage]):
            pages.append(sum(-(-len(data) // 4096) for data in files.values()))
        mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
        if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
            return NOT_HERE
        try:
            fill(folder, before)
            options = f"size={4096 * max(1, chance.randrange(*pages))}" if full else "ro"
            subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)
            ended = self.scripts.run(stage, folder)
            if not (full and ended.status == 0):
                check_line(ended, "No space left" if full else "Read-only file system")
            self.unharmed(stage, folder, before, {""} if full else ())
            subprocess.run(["mount", "-o", "remount,rw,size=64m", str(folder)], check=True)
            self.finish(stage, folder)
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        return LINE if ended.status else LATE

    # ----------------------------------------------------------------------------------------------- side by side

    def beside(self, chance, folder, stage, flag):
        """Two or three runs of a stage at a time, each asked for a part of the channels (stages 3 and 4)."""
        fill(folder, self.reference.before[stage])
        parts = [[] for _ in range(chance.randint(2, 3))]
        if flag:
            pairs = json.loads(self.reference.after["2"][f"{PAIRS}.json"])["candidates"]
            channels = sorted({pair["channel"] for pair in pairs})
            owners = [chance.sample(range(len(parts)), chance.choice((1, 1, 2))) for _ in channels]
            parts = [[one for one, own in zip(channels, owners, strict=True) if k in own] for k in range(len(parts))]
            parts = [[flag, *part] for part in parts if part]
        runs = []
        for part in parts:
            runs.append(self.scripts.start(stage, folder, *part))
            time.sleep(chance.choice((0, 0, 0.2)))
        ends = [self.scripts.end(run) for run in runs]
        for ended in ends:
            require(ended.status == 0, f"one of {parts} failed", ended)
        made, wanted = ({path: data for path, data in of.items() if not path.endswith(WHOLE_LAYER)}
                        for of in (contents(folder), self.reference.after[stage]))  # fmt: skip
        wrong = differing(made, wanted)
        require(not wrong, f"{parts} side by side made others: {wrong}")
        return SAME


def cases():
    """All kinds of rounds: {label: function of (worker, chance, folder)}."""
    found = {}
    for stage in EVERYTHING:
        found[f"SIGKILL in stage {stage}"] = lambda *how, stage=stage: Worker.kill(*how, stage)
    for number in (signal.SIGINT, signal.SIGTERM):
        found[f"{number.name} in any stage"] = lambda *how, number=number: Worker.stop(*how, number)
    for kind in KINDS:
        found[f"damaged {kind}"] = lambda *how, kind=kind: Worker.damage(*how, kind)
    for stage in LOOPS:
        found[f"damaged steps of {stage}"] = lambda *how, stage=stage: Worker.damage_kept(*how, stage)
    for label, full in (("full disk", True), ("read-only disk", False)):
        found[label] = lambda *how, full=full: Worker.disk(*how, full)
    for stage, flag in (("1", None), ("3", "--channel_disentangle"), ("4", "--channel_of_interest")):
        found[f"stage {stage} side by side"] = lambda *how, own=(stage, flag): Worker.beside(*how, *own)
    return found
