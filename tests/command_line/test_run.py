"""How a script ends: whatever cannot be helped is one line."""

import io

import pytest
import torch
from PIL import Image

from utils.command_line.parser import Parser
from utils.command_line.run import run
from utils.errors import WORKER_DIED
from utils.images.batches import ImageBatches, Loading
from utils.images.folders import list_images
from utils.images.transform import Transform


@pytest.mark.parametrize(
    "error",
    [ConnectionResetError(104, "reset"), EOFError(), RuntimeError("DataLoader worker (pid 1) is killed by signal: 9")],
)
def test_whatever_a_dead_worker_process_raises_is_the_same_line(error, tmp_path, capsys, monkeypatch):
    (tmp_path / "a").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "a" / "1.png")

    def fail(_):
        raise error

    def main(_):
        batches = ImageBatches(list_images(tmp_path), Transform(8, 8), [[0]], "", Loading(torch.device("cpu")))
        batches.loader.collate_fn = fail
        list(batches)

    monkeypatch.setattr("sys.argv", ["script"])
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO()))
    with pytest.raises(SystemExit) as stop:
        run(main, Parser("a script"))
    assert stop.value.code == 2
    assert f"script: error: {WORKER_DIED}" in capsys.readouterr().err.splitlines()


def test_another_end_of_a_file_is_no_dead_worker_process(monkeypatch):
    def main(_):
        raise EOFError("somebody else's")

    monkeypatch.setattr("sys.argv", ["script"])
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO()))
    with pytest.raises(EOFError):
        run(main, Parser("a script"))
