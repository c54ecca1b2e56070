"""The processes that share the work of stage 1: which one this is, by torchrun's or srun's variables; progress bars."""

from __future__ import annotations

import os
import re
import sys
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from tqdm import tqdm


ENOUGH_SECONDS = 3  # of work, from which its time is estimated
LONG_SECONDS = 600  # work that takes longer is announced
MOST_WORKERS = 32  # that decode images, by default


class Process(NamedTuple):
    """``rank`` of ``size`` processes, ``local_rank`` of ``local_size`` on this machine.

    ``ends_with_others``: all processes end when one fails, so a process may wait for the others.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    ends_with_others: bool = False


def this_process() -> Process:
    """This process, from torchrun's variables, else from those of an srun step with several tasks; else a single one.

    A shell of sbatch or salloc also has variables of the whole allocation. Plain python there is a single process, so
    only the variables of a step count.
    """
    if os.environ.get("WORLD_SIZE"):
        rank, size, local_rank, local_size = (
            _number(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        )
        return Process(rank, size, local_rank, max(local_size, 1), ends_with_others=size == local_size)
    size = _number("SLURM_STEP_NUM_TASKS")
    if size <= 1:
        return Process()
    tasks = _tasks_of_nodes(os.environ.get("SLURM_STEP_TASKS_PER_NODE", str(size)))
    local_size = tasks[min(_number("SLURM_NODEID"), len(tasks) - 1)]
    return Process(_number("SLURM_PROCID"), size, _number("SLURM_LOCALID"), local_size)


def progress(*args: Any, hidden: bool = False, images: int | None = None, **kwargs: Any) -> tqdm:
    """A progress bar; of several processes only the first one shows its own, as they share a terminal.

    Where the work will take more than ten minutes, a line says so as soon as it is known: how long, how many ``images``
    (where it is given), and how much memory the process has needed so far. Arguments are tqdm's; steps that were kept
    from an earlier run are ``initial``.
    """
    bar = _bar_class()(*args, disable=hidden or this_process().rank > 0, **kwargs)
    bar.images = images
    return bar


@cache
def _bar_class() -> type[tqdm]:
    """One class for all bars: tqdm starts a thread for each class of bars, and never ends it."""
    from tqdm import tqdm  # not above: --help would wait for it

    class Bar(tqdm):
        announced = False
        images: int | None = None

        def update(self, n: float | None = 1) -> bool | None:
            shown = super().update(n)
            if not self.announced and not self.disable and self.total:
                elapsed = self.format_dict["elapsed"]
                done = self.n - self.initial
                if elapsed >= ENOUGH_SECONDS and done > 0:
                    remaining = elapsed * (self.total - self.n) / done
                    if elapsed + remaining > LONG_SECONDS:
                        self.announced = True
                        self.write(_announcement(self, remaining, self.images), file=sys.stderr)
            return shown

    return Bar


def _announcement(bar: tqdm, remaining: float, images: int | None) -> str:
    """The line before work of more than ten minutes; ``remaining`` in seconds."""
    steps = f"{bar.total - bar.n:,} {bar.unit.strip()}"
    words = [f"{bar.desc.removesuffix(': ')}: about {remaining / 60:.0f} minutes for {steps}"]
    words += [] if images is None else [f"{images:,} images"]
    peak = peak_memory()
    words += [] if peak is None else [f"{peak / 1e9:.1f} GB of memory so far"]
    return ", ".join(words)


def peak_memory() -> int | None:
    """The most memory that this process has had at once, in bytes; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _number(name: str) -> int:
    return int(os.environ.get(name) or 0)


def _tasks_of_nodes(text: str) -> list[int]:
    """Number of tasks on each node: ``2(x3),1`` is 2, 2, 2, 1."""
    parts = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(tasks) for tasks, times in parts for _ in range(int(times or 1))]


def default_workers() -> int:
    """The number of cores, divided among the processes that were started on this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores // this_process().local_size, MOST_WORKERS))
