"""The demonstration, run once for all tests and all their processes, and copies of it that may be changed."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.scripts import ROOT, python

# What is made in the repository root, or belongs to one checkout of it
NOT_OF_THE_PROJECT = {
    *("demo_output", "store_dir", "plots", "results_get_cosine_similarities", "results_quantitative", "report"),
}


@dataclass(frozen=True)
class Demonstration:
    project: Path  # a copy of the repository in which demo.sh was run; not to be changed
    printed: str  # by demo.sh
    made: set[str]  # names that demo.sh added to the repository root


def copy_project(source: Path, folder: Path) -> Path:
    """Copy a project without what is hidden, and give it a virtual environment as make_venv.sh makes it.

    Its Python is that of the tests, forked from the zygote of this process.
    """
    generated = NOT_OF_THE_PROJECT if source == ROOT else set()

    def left_out(parent, names):
        here = generated if Path(parent) == source else set()
        return {name for name in names if name.startswith(".") or name == "__pycache__" or name in here}

    shutil.copytree(source, folder, ignore=left_out, symlinks=True)
    program = folder / ".venv" / "bin" / "python"
    program.parent.mkdir(parents=True)
    requirements = [path.read_text() for path in sorted(folder.glob("requirements*.txt"))]
    version = subprocess.run([sys.executable, "--version"], capture_output=True, text=True).stdout
    (folder / ".venv" / "made_of").write_text("".join([*requirements, version, "requirements.txt\n"]))
    program.write_text(f'#!/bin/sh\nexec "{python()}" "$@"\n')
    program.chmod(0o755)
    return folder


def run_in(project: Path, *command: str | Path, text: str | None = None, figures: str = "coarse"):
    """Run a command in a copied project, with its Python first on the path: a CompletedProcess with text."""
    ours = {"PYTHON": sys.executable, "FIGURES": figures, "PATH": f"{project / '.venv/bin'}:{os.environ['PATH']}"}
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "DATA_DIR", "STORE_DIR")}
    return subprocess.run(command, cwd=project, env={**kept, **ours}, input=text, capture_output=True, text=True)


def shared_demonstration(folder: Path) -> Demonstration:
    """The demonstration in a folder that several processes share: the first that comes runs demo.sh, others wait."""
    folder.mkdir(exist_ok=True)
    record = folder / "record.json"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not record.exists():
            shutil.rmtree(folder / "project", ignore_errors=True)  # of a run that was interrupted
            project = copy_project(ROOT, folder / "project")
            before = {path.name for path in project.iterdir()}
            result = run_in(project, "sh", "demo.sh")
            made = sorted({path.name for path in project.iterdir()} - before)
            record.write_text(json.dumps([result.returncode, result.stdout, result.stderr, made]))
    status, printed, errors, made = json.loads(record.read_text())
    assert status == 0, errors
    return Demonstration(folder / "project", printed, set(made))
