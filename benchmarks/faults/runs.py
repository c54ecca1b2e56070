"""What is disturbed: a tiny network, pictures, the lines of the stages, and scripts that can be stopped.

Importing torch takes seconds and forking milliseconds: scripts are forked from ``python -m benchmarks.faults.runs``,
which has imported what they need. It reads lines of JSON and answers each with one: ``start`` a script (answer: its
process number), ``wait`` for its end (answer: its status).
"""

import argparse
import importlib
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from benchmarks.report import ROOT
from utils.images.transform import Transform

COLOURS = ((220, 40, 40), (40, 200, 60), (50, 60, 220), (210, 200, 50))
LIBRARIES = ("torchvision", "scipy.stats", "tqdm.auto", "matplotlib.figure", "matplotlib.backends.backend_pdf")
RUN = "benchmarks.faults.runs-network"
PATIENCE = 600  # seconds: longer than anything takes, on however busy a machine
PAIRS = f"results_get_cosine_similarities/{RUN}_required0.05_p0.5_cossim-1.0to1.0"
SHARED = ("--store_dir", "store", "--model", RUN.replace("-", ":"))
COMPUTE = ("--num_workers", "0", "--device", "cpu", "--batch_size", "4")
CHUNKS = (*COMPUTE, "--chunk_size", "8", "--resize_size", "24", "--crop_size", "24")
CANDIDATES = ("--candidates", f"{PAIRS}.json")
FEW_IMAGES = ("--nr_concepts", "2", "--nr_reference_images", "8")
COMPARED = (
    "--compare_without",
    "predicted_classes",
    "concept_vectors",
    "--embedding",
    "benchmarks.faults.runs:embedder",
)
PAIR_FLAGS = ("--proportion_attribution_required", "0.05", "--p", "0.5", "--cos_sim_low", "-1", "--cos_sim_high", "1")
STAGES = {  # name: script, flags
    "1": ("get_importances_for_classes.py", CHUNKS),
    "1 val": ("get_importances_for_classes.py", (*CHUNKS, "--images", "val")),
    "2": ("get_cosine_similarities.py", PAIR_FLAGS),
    "3": ("disentangle_channel.py", (*COMPUTE, *CANDIDATES)),
    "4": ("get_results.py", (*COMPUTE, *CANDIDATES, "--get_quantitative")),
    "4 of images": ("get_results.py", (*COMPUTE, *CANDIDATES, "--get_quantitative")),  # without a store of val/
    "circuits": ("disentangle_channel.py", (*COMPUTE, "--concepts_from", "circuits", *FEW_IMAGES)),
    "pure": ("disentangle_channel.py", (*COMPUTE, "--concepts_from", "pure", *FEW_IMAGES)),
    "separation": ("get_results.py", (*COMPUTE, *CANDIDATES, "--get_separation")),
    "effect": ("get_results.py", (*COMPUTE, *CANDIDATES, "--get_effect")),
    "comparison": ("get_results.py", (*COMPUTE, *CANDIDATES, "--compare", *FEW_IMAGES, *COMPARED)),
}
BAR = re.compile(r"\d+%\||images/s")  # of a line that is a progress bar


class Network(nn.Module):
    """Two convolutions behind each other and a classifier that tells images by their colours."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Tanh(), nn.Conv2d(8, 12, 1, bias=False))
        self.head = nn.Sequential(nn.BatchNorm2d(12), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(12, len(COLOURS))
        self.eval().requires_grad_(False)
        flat = (torch.tensor(COLOURS) / 255 - 0.45) / 0.225
        prototypes = self.head(self.stem(flat[:, :, None, None].expand(-1, 3, 24, 24)))
        self.classifier.weight.copy_(prototypes)
        self.classifier.bias.copy_(-prototypes.square().sum(1) / 2)

    def forward(self, x):
        return self.classifier(self.head(self.stem(x)))


def network():
    """The network of all runs; $FAULTS_SEED makes it another one of the same name."""
    return Network(int(os.environ.get("FAULTS_SEED", 17)))


def embedder():
    """Another network, whose embeddings score the units of a comparison."""
    made = Network(99)
    made.transform = Transform(24, 24)
    return made


def write_pictures(folder):
    """Noisy pictures of a colour a class: 24 in ``train/`` and 16 in ``val/``."""
    for split, count in (("train", 6), ("val", 4)):
        for number in range(count * len(COLOURS)):
            class_, random = number % len(COLOURS), np.random.default_rng([number, count])
            pixels = random.normal(COLOURS[class_], 40, (28, 28, 3)).clip(0, 255).astype(np.uint8)
            path = folder / split / "abcd"[class_] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


# --------------------------------------------------------------------------------------------------------------------
# In the process from which scripts are forked


class Trap:
    """Counts what the writing of files does (a temporary file is opened, it gets its name), and strikes at one of them.

    ``half`` cuts the temporary file that is about to get its name, as if the process had died while it wrote.
    """

    def __init__(self, at=None, signal=None, half=False):
        self.at, self.signal, self.half, self.seen = at, signal, half, 0

    def __call__(self, event, arguments):
        if event not in ("open", "os.rename") or not str(arguments[0]).endswith(".tmp"):
            return
        self.seen += 1
        if self.seen == self.at:
            if self.half and event == "os.rename":
                os.truncate(arguments[0], os.path.getsize(arguments[0]) // 2)
            os.kill(os.getpid(), self.signal)


def become(command):
    """Become the script, in the forked process, and leave with its exit status.

    Interrupts are blocked until it parses its arguments.
    """
    os.chdir(command["cwd"])
    os.environ.update(command["env"])
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(f"{command['logs']}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    sys.stdout.reconfigure(line_buffering=True)
    sys.argv = [command["script"], *command["arguments"]]
    trap, status = Trap(**command["trap"]), 0
    sys.addaudithook(trap)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    parse_args = argparse.ArgumentParser.parse_known_args

    def parse_interruptibly(parser, *arguments):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        return parse_args(parser, *arguments)

    argparse.ArgumentParser.parse_known_args = parse_interruptibly
    try:
        runpy.run_path(command["script"], run_name="__main__")
    except SystemExit as stop:
        status = stop.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    Path(command["logs"], "writes").write_text(str(trap.seen))
    os._exit(status)


def wait(process):
    """The status of a process that has ended; None for one that does not end, and is killed."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        number, status = os.waitpid(process, os.WNOHANG)
        if number:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None


def serve():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    for library in LIBRARIES:
        importlib.import_module(library)
    for line in sys.stdin:
        what, argument = json.loads(line)
        if what == "wait":
            answer = wait(argument)
        else:
            answer = os.fork()
            if answer == 0:
                become(argument)
        print(json.dumps(answer), flush=True)
    os._exit(0)  # nothing is worth tidying up


# --------------------------------------------------------------------------------------------------------------------
# In the campaign


@dataclass
class Ended:
    """How a script ended; ``lines`` are those on standard error that are neither progress bars nor warnings."""

    status: int | None
    stdout: str
    lines: list
    seconds: float
    writes: int  # what a Trap has counted


class Scripts:
    """Starts the stages in folders of their own; ``logs`` is a folder for their output."""

    def __init__(self, data, logs):
        self.data, self.logs, self.started = data, logs, 0
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
        self.server = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.faults.runs"],
            env=environment, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def close(self):
        self.server.stdin.close()
        self.server.wait()

    def _ask(self, what, argument):
        self.server.stdin.write(json.dumps([what, argument]) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def start(self, stage, folder, *more, trap=None, **environment):
        """Start a stage in a folder: (process number, folder of its output, time). Later flags win over earlier."""
        self.started += 1
        logs = self.logs / str(self.started)
        logs.mkdir(parents=True)
        script, flags = STAGES[stage]
        command = {"script": str(ROOT / script), "cwd": str(folder), "logs": str(logs), "trap": trap or {}}
        arguments = [*SHARED, "--data_dir", str(self.data), *flags, *map(str, more)]
        began = time.monotonic()
        return self._ask("start", {**command, "arguments": arguments, "env": environment}), logs, began

    def end(self, run):
        process, logs, began = run
        status = self._ask("wait", process)
        seconds = time.monotonic() - began
        stdout, stderr = ((logs / name).read_text(errors="replace") for name in ("stdout", "stderr"))
        lines = [line for line in stderr.replace("\r", "\n").split("\n") if line.strip()]
        lines = [line for line in lines if not BAR.search(line) and not line.startswith("warning: ")]
        writes = int((logs / "writes").read_text()) if (logs / "writes").is_file() else 0
        return Ended(status, stdout, lines, seconds, writes)

    def run(self, stage, folder, *more, **environment):
        return self.end(self.start(stage, folder, *more, **environment))


if __name__ == "__main__":
    serve()
