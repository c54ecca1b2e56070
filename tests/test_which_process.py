"""Which process this is, as torchrun or srun says it, and which device is its own."""

import pytest
import torch

from utils.errors import UserError
from utils.networks.precision import choose_device
from utils.processes import Process, _tasks_of_nodes, this_process

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
# what a shell of sbatch or salloc has, and what srun adds for the tasks of a step
ALLOCATION = {"SLURM_NTASKS": "6", "SLURM_NPROCS": "6", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
STEP = {"SLURM_PROCID": "4", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_STEP_NUM_TASKS": "6"}
ALONE = Process(0, 1, 0, 1, False)


@pytest.fixture
def started(monkeypatch):
    """Sets the variables of whoever has started this process, and no others of their kind."""

    def start(*variables):
        for name in {*TORCHRUN, *ALLOCATION, *STEP, "SLURM_STEP_TASKS_PER_NODE"}:
            monkeypatch.delenv(name, raising=False)
        for name, value in {key: value for some in variables for key, value in some.items()}.items():
            monkeypatch.setenv(name, value)
        return this_process()

    return start


def test_plain_python_is_a_process_alone(started):
    assert started() == ALONE


def test_a_shell_of_an_allocation_is_a_process_alone(started):
    assert started(ALLOCATION) == ALONE
    assert started(ALLOCATION, {"SLURM_STEP_NUM_TASKS": "1"}) == ALONE


@pytest.mark.parametrize(("tasks", "local_size"), [("2,4", 4), ("2(x3),1", 2), ("4", 4), ("3(x2)", 3)])
def test_the_tasks_of_a_step_are_processes(started, tasks, local_size):
    step = {**STEP, "SLURM_STEP_TASKS_PER_NODE": tasks}
    assert started(ALLOCATION, step) == Process(4, 6, 1, local_size, ends_with_others=False)


def test_a_step_that_does_not_say_where_its_tasks_are_has_them_on_one_node(started):
    assert started({**STEP, "SLURM_NODEID": "0"}) == Process(4, 6, 1, 6, False)


@pytest.mark.parametrize(
    ("text", "tasks"),
    [("4", [4]), ("2(x3),1", [2, 2, 2, 1]), ("1,12(x2),3", [1, 12, 12, 3]), ("16(x10)", [16] * 10)],
)
def test_tasks_of_nodes_as_slurm_writes_them(text, tasks):
    assert _tasks_of_nodes(text) == tasks


def test_what_torchrun_says_is_above_what_slurm_says(started):
    expected = Process(5, 8, 1, 4, ends_with_others=False)
    assert started(TORCHRUN) == expected
    assert started(ALLOCATION, STEP, TORCHRUN) == expected
    on_one_machine = {**TORCHRUN, "LOCAL_WORLD_SIZE": "8"}
    assert started(STEP, on_one_machine) == Process(5, 8, 1, 8, ends_with_others=True)


@pytest.fixture
def devices(monkeypatch):
    """Makes torch see so many CUDA devices; a list of those that were made the current one."""
    current = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)

    def see(count):
        current.clear()
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        return current

    return see


@pytest.mark.parametrize("asked", ["cuda", None])
@pytest.mark.parametrize(
    ("local_rank", "count", "expected"),
    [("0", 1, 0), ("0", 4, 0), ("3", 4, 3), ("3", 1, 0), ("3", 2, 1), ("4", 4, 0), ("7", 4, 3)],
)
def test_processes_share_the_devices_evenly(started, devices, asked, local_rank, count, expected):
    started({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": local_rank, "LOCAL_WORLD_SIZE": "8"})
    current = devices(count)
    device = torch.device("cuda", expected)
    assert choose_device(asked) == device
    assert current == [device]  # where memory is pinned and streams are made


def test_a_task_of_srun_has_its_own_device(started, devices):
    started(STEP, {"SLURM_STEP_TASKS_PER_NODE": "3(x2)"})
    devices(3)
    assert choose_device("cuda") == torch.device("cuda:1")
    devices(1)  # --gpus-per-task=1
    assert choose_device("cuda") == torch.device("cuda:0")


def test_a_device_that_is_named_is_taken_whatever_the_process(started, devices):
    started(TORCHRUN)
    current = devices(4)
    assert choose_device("cuda:3") == torch.device("cuda:3")
    assert choose_device("cpu") == torch.device("cpu")
    assert current == [torch.device("cuda:3")]
    with pytest.raises(UserError, match="--device cuda:4: there are 4 CUDA devices here"):
        choose_device("cuda:4")


def test_without_cuda_devices(started, devices):
    started()
    current = devices(0)
    assert choose_device(None) == torch.device("cpu")
    with pytest.raises(UserError, match="there are 0 CUDA devices here"):
        choose_device("cuda")
    assert current == []
