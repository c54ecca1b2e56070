"""The processes that share the work of stage 1: which one this is, by torchrun's or srun's variables; progress bars."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from tqdm import tqdm


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


def progress(*args: Any, hidden: bool = False, **kwargs: Any) -> tqdm:
    """A progress bar; of several processes only the first one shows its own, as they share a terminal."""
    from tqdm import tqdm  # not above: --help would wait for it

    return tqdm(*args, disable=hidden or this_process().rank > 0, **kwargs)


def _number(name: str) -> int:
    return int(os.environ.get(name) or 0)


def _tasks_of_nodes(text: str) -> list[int]:
    """Number of tasks on each node: ``2(x3),1`` is 2, 2, 2, 1."""
    parts = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(tasks) for tasks, times in parts for _ in range(int(times or 1))]
