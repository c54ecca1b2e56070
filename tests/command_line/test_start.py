"""How a script starts: flags and errors without waiting for libraries; and Ctrl-C during its work, in one line."""

import io
import os
import re
import signal
import subprocess
import sys

import pytest
import torch
from torchvision.transforms import InterpolationMode

from tests.scripts import COMPUTE, ROOT, SMALL_IMAGES, python
from utils import defaults
from utils.command_line import run
from utils.command_line.parser import Parser
from utils.images import resizing
from utils.networks.precision import network_arithmetic

SCRIPTS = ("get_importances_for_classes", "get_cosine_similarities", "disentangle_channel", "get_results")
HEAVY = {"torch", "torchvision", "numpy", "scipy", "matplotlib", "PIL", "nltk", "tqdm"}


def test_every_interpolation_of_the_flags_is_one_that_images_can_be_resized_by():
    assert tuple(resizing.FILTERS) == defaults.INTERPOLATIONS
    assert set(defaults.INTERPOLATIONS) <= {mode.value for mode in InterpolationMode}


def test_every_precision_is_an_arithmetic_of_its_own():
    """One of another name than the arithmetic has would be fp32 without a word."""
    layer, x, found = torch.nn.Conv2d(3, 4, 1), torch.randn(1, 3, 4, 4), {}
    for precision in defaults.PRECISIONS:
        with network_arithmetic(precision, torch.device("cpu")):
            found[precision] = (layer(x).dtype, torch.backends.cudnn.allow_tf32)
    assert found == {"fp32": (torch.float32, False), "tf32": (torch.float32, True), "bf16": (torch.bfloat16, False)}


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    ("arguments", "status"), [(["--help"], 0), (["--no_such_flag"], 2), (["--layer_of_interest"], 2)]
)
def test_help_and_wrong_arguments_wait_for_no_library(script, arguments, status, tmp_path):
    command = [sys.executable, "-X", "importtime", ROOT / f"{script}.py", *arguments]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    timed = re.findall(r"^import time:.*\|\s*([\w.]+)$", result.stderr, re.MULTILINE)
    said = [line for line in result.stderr.splitlines() if not line.startswith("import time:")]
    assert result.returncode == status
    assert "utils.command_line.flags" in timed
    assert not HEAVY & {name.split(".")[0] for name in timed}
    assert len(said) == (status == 2)
    assert all(line.startswith(f"{script}.py: error: ") for line in said)
    assert (f"python {script}.py" in result.stdout) == (status == 0)


SENDS = """
import os, signal, time
os.kill(os.getpid(), signal.SIGINT)
time.sleep(30)
"""


def interruptible(command, cwd, handling=signal.SIG_DFL, **environment):
    """Run a command to its end where SIGINT is as it is in a terminal, whatever it is for the tests."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    restore = {"preexec_fn": lambda: signal.signal(signal.SIGINT, handling)}
    return subprocess.run(command, cwd=cwd, env=environment, **restore, capture_output=True, text=True, timeout=120)


def assert_one_line(result, message):
    assert result.returncode == 130, result.stderr
    (line,) = result.stderr.strip().split("\n")
    assert message in line
    assert result.stdout == ""


OWN_SCRIPT = """
from utils.command_line.parser import Parser
from utils.command_line.run import run

def main(_):
    import os, signal, time
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(30)

run(main, Parser("a script"))
"""


def test_an_interrupt_of_the_work_is_one_line(tmp_path):
    (tmp_path / "script.py").write_text(OWN_SCRIPT)
    result = interruptible([sys.executable, "script.py"], tmp_path, PYTHONPATH=str(ROOT))
    assert_one_line(result, "script.py: interrupted; finished files are complete")


ENDS_SLOWLY = """
import atexit
from utils.command_line.parser import Parser
from utils.command_line.run import run

def main(_):
    print("done")

def shut_down():
    import os, signal, time
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(30)

atexit.register(shut_down)
run(main, Parser("a script"))
"""


def test_an_interrupt_while_python_shuts_down_says_nothing_and_takes_nothing_back(tmp_path):
    (tmp_path / "script.py").write_text(ENDS_SLOWLY)
    result = interruptible([sys.executable, "script.py"], tmp_path, PYTHONPATH=str(ROOT))
    assert (result.returncode, result.stdout, result.stderr) == (130, "done\n", "")


def test_an_interrupt_of_somebody_elses_factory_is_one_line(finished, tmp_path):
    (tmp_path / "interrupting.py").write_text(SENDS)
    arguments = ("--model", "interrupting:network", "--data_dir", finished / "data", *SMALL_IMAGES, *COMPUTE)
    result = interruptible([python(), ROOT / "get_importances_for_classes.py", *arguments], tmp_path)
    assert_one_line(result, "get_importances_for_classes.py: interrupted; nothing was measured")
    assert not list(tmp_path.rglob("*.json"))


def test_what_main_leaves_as_an_interrupt_has_a_status_of_its_own(capsys, monkeypatch):
    def main(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.argv", ["script"])
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO()))
    with pytest.raises(SystemExit) as stop:
        run.run(main, Parser("a script"))
    assert stop.value.code == 130
    assert len(capsys.readouterr().err.strip().split("\n")) == 1


def test_interrupts_that_are_ignored_stay_ignored(tmp_path):
    """As in the background jobs of a shell script."""
    code = OWN_SCRIPT.replace("time.sleep(30)", "print('goes on')")
    result = interruptible([sys.executable, "-c", code], tmp_path, signal.SIG_IGN, PYTHONPATH=str(ROOT))
    assert (result.returncode, result.stdout, result.stderr) == (0, "goes on\n", "")
