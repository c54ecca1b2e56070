"""How a script ends: whatever cannot be helped is one line."""

import io

import pytest

from utils.command_line.flags import Parser
from utils.command_line.run import WORKER_DIED, run


@pytest.mark.parametrize(
    "error",
    [ConnectionResetError(104, "reset"), EOFError(), RuntimeError("DataLoader worker (pid 1) is killed by signal: 9")],
)
def test_whatever_a_dead_worker_process_raises_is_the_same_line(error, capsys, monkeypatch):
    def main(_):
        raise error

    monkeypatch.setattr("sys.argv", ["script"])
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO()))
    with pytest.raises(SystemExit) as stop:
        run(main, Parser("a script"))
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"script: error: {WORKER_DIED}\n"
