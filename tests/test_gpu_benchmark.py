"""benchmarks.gpu: exit 2 without a GPU, and its rows on a CPU, where only that they work can be seen."""

import subprocess
import sys

import pytest
import torch

from benchmarks import gpu, gpu_rows
from tests.pictures import SMALL, levels
from tests.scripts import ROOT, python
from utils.images import batches, device_decoding
from utils.images.decoding import crop_with_pil

pytestmark = pytest.mark.filterwarnings("ignore:.*TorchCodec:DeprecationWarning")
SMALL_RUN = ("--device", "cpu", "--images", "32", "--photographs", "3", "--batch_size", "4", "--num_workers", "1")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_one_line():
    result = subprocess.run([python(), "-m", "benchmarks.gpu"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == "benchmarks.gpu: error: there is no CUDA device here\n"


def test_rows_are_processes_and_one_that_fails_does_not_stop_the_others(monkeypatch, capsys, tmp_path):
    either = tmp_path / "python"  # torch reads $CXX when imported
    real = f'case "$*" in *--compile*) exec "{sys.executable}" "$@" ;; esac'
    either.write_text(f'#!/bin/sh\n{real}\nexec "{python()}" "$@"\n')
    either.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(either))
    monkeypatch.setenv("CXX", "no-compiler")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    rows = (
        "forward fp32",
        "forward fp32 channels-last",
        "decoding pil",
        "stage1 gpu bf16 --compile",
        "stage1 pil fp32",
        "published pil fp32",
    )
    model = ("--model", "tests.factories:of_a_thousand")
    monkeypatch.setattr(sys, "argv", ["gpu", *SMALL_RUN, *model, "--rows", *rows])
    gpu.main()
    text = capsys.readouterr().out
    lines = [line[1:-1].split("|") for line in text.splitlines() if line.startswith("|")]
    table = {name.strip(): [cell.strip() for cell in cells] for name, *cells in lines}
    assert [name for name in table if "---" not in name] == ["row", *rows]
    assert "cannot be compiled" in table["stage1 gpu bf16 --compile"][0]
    assert all(float(table[name][0]) > 0 for name in rows if "compile" not in name)
    assert float(table["published pil fp32"][1]) == 1
    times, share, *parts = table["stage1 pil fp32"][1:]
    assert float(times) > 0 and share.endswith("%")
    shares = [int(part.rstrip("%")) for part in parts[:5]]
    assert sum(shares) == pytest.approx(100, abs=3) and min(shares) >= 0
    assert "32 links to 3 files of" in text


def row(name, tmp_path, **options):
    """What a row measures, in this process."""
    gpu.make_photographs(tmp_path / "photographs", 3)
    gpu.link_images(tmp_path / "photographs", tmp_path / "train", 40)
    settings = {"model": "tests.factories:of_a_thousand", "batch_size": 4, "num_workers": 1, **options}
    of = gpu_rows.Machinery(gpu_rows.ROWS[name], torch.device("cpu"), tmp_path, **settings)
    return gpu_rows.MEASURE[of.row.kind](of)


@pytest.mark.parametrize("name", ["stage1 gpu bf16", "stage1 gpu bf16 resized one by one", "decoding gpu"])
def test_rows_of_decoding_on_the_device(name, tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "DeviceBatches", device_decoding.DeviceBatches)  # put back what the row replaces
    cudnn = torch.backends.cudnn.deterministic
    result = row(name, tmp_path)
    torch.backends.cudnn.deterministic = cudnn
    assert result["rate"] > 0
    if name.startswith("stage1"):
        assert list(result["parts"]) == list(gpu_rows.PARTS)
        assert all(0 <= share <= 1 for share in result["parts"].values())
        assert result["parts"]["forward"] > 0 and result["parts"]["backward"] > 0
        replaced = batches.DeviceBatches is gpu_rows.OneByOne
        assert replaced == ("one by one" in name)
        assert torch.autograd.grad.__module__ == "torch.autograd"


def test_images_resized_one_by_one_are_those_of_pil(readable, monkeypatch):
    expected = levels(readable, "pil")
    monkeypatch.setattr(batches, "DeviceBatches", gpu_rows.OneByOne)
    found = levels(readable, "gpu")
    assert list(found) == list(expected)
    assert all((crop - expected[name]).abs().max() < 2.01 for name, crop in found.items())


def test_photographs_are_as_large_as_those_of_imagenet(tmp_path):
    gpu.make_photographs(tmp_path / "photographs", 8)
    files = [path.read_bytes() for path in (tmp_path / "photographs").iterdir()]
    assert 95e3 < sum(map(len, files)) / 8 < 125e3
    assert all(crop_with_pil(file, SMALL).shape == (28, 28, 3) for file in files)


def test_the_limit_is_the_slower_one_of_what_a_row_needs():
    rates = {
        "forward bf16": 5000.0,
        "forward bf16 contiguous": 100.0,
        "forward fp32": 900.0,
        "decoding gpu": 4000.0,
        "decoding pil": 6000.0,
    }
    limits = {name: gpu.limit_of(of, rates) for name, of in gpu_rows.ROWS.items() if of.kind == "stage1"}
    assert limits["stage1 gpu bf16"] == 4000
    assert limits["stage1 pil fp32"] == 900
    assert limits["stage1 gpu bf16 --compile"] is None
    assert limits["stage1 gpu bf16 resized one by one"] is None
    assert limits["stage1 fast bf16"] is None
