"""The benchmarks run, and compare what they say they compare."""

import re
import sys

import pytest
import torch

from benchmarks import candidates, precision, published, report, stage2_scale
from tests.factories import small
from tests.helpers import forward_with_gradient
from tests.oracles import load
from tests.scripts import COMPUTE, NETWORK, SMALL_IMAGES, run_script
from utils.images.transform import Transform
from utils.method.importance import channel_importances
from utils.method.polysemanticity import averaged_relevance_vectors

TRANSFORM = Transform(24, 24)


@pytest.fixture
def benchmark(monkeypatch, tmp_path, capsys, without_figures):
    """Runs a benchmark's main in this process, its scripts forked from the zygote: rows of its tables, and its text."""

    def fast_run(script, *arguments):
        result = run_script(script, *arguments, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        return 1.0, 1e9, result.stdout

    def start(module, *arguments):
        monkeypatch.setattr(module, "run", fast_run)
        monkeypatch.setattr(sys, "argv", ["benchmark", *map(str, arguments)])
        module.main()
        text = capsys.readouterr().out
        assert report.machine() in text
        rows = [line.strip("| ").split(" | ") for line in re.findall(r"^\|.*\|$", text, re.MULTILINE)]
        return [row for row in rows if "---" not in row], text

    return start


def test_the_published_importances_and_arvs_equal_ours(finished, tmp_path):
    network = small()
    procedure = published.Published(network, network.last, TRANSFORM, torch.device("cpu"), 4, 0)
    pixels, targets = load(finished, "train")
    importances, _, _ = procedure.attribute(pixels.clone(), targets)
    record = forward_with_gradient(network, network.last, pixels, targets)
    torch.testing.assert_close(importances, channel_importances(record.activation, record.gradient))
    report.link_images(finished / "data" / "train", tmp_path, 6, ["bee"])
    mean_inputs = record.input[targets == 1].sum((2, 3)).mean(0)[None, :, None]
    expected = averaged_relevance_vectors(network.last.weight.flatten(2)[9], mean_inputs)[0]
    torch.testing.assert_close(procedure.arv(tmp_path, 9).double(), expected, rtol=1e-4, atol=1e-5)


def test_published(finished, benchmark):
    sizes = ("--images", 8, "--repeat", 2, "--passes", 2, "--class_images", 3)
    flags = (*NETWORK, *SMALL_IMAGES, *COMPUTE, "--data_dir", finished / "data", "--batch_size", 3)
    rows, text = benchmark(published, *flags, *sizes)
    assert [row[0] for row in rows[:4]] == ["stage 1", "published procedure, fp32", "ours, fp32", "ours, bf16"]
    assert [row[1] for row in rows[1:4]] == ["8"] * 3
    assert rows[4][0] == "stage 2"
    assert float(re.search("relative importance, fp32: (.*)", text)[1]) < 1e-3


def test_precision(finished, benchmark):
    flags = (*NETWORK, *SMALL_IMAGES, *COMPUTE, "--data_dir", finished / "data", "--batch_size", 2)
    tau = ("--proportion_attribution_required", 0.05, "--p", 0.5, "--cos_sim_high", 0.9)
    rows, _ = benchmark(precision, *flags, *tau, "--ways", "fast", "bf16", "--images_a_class", 4, "--only_correct")
    assert [row[0] for row in rows] == ["against pil, fp32, 16 images", "fast", "bf16"]
    assert rows[1][1:3] == ["0.0e+00 / 0.0e+00"] * 2  # png: left to PIL
    assert rows[1][3].endswith("(100.0%)")
    assert 0 < float(rows[2][2].split(" / ")[1]) < 0.1


def test_candidates(finished, benchmark, tmp_path):
    (tmp_path / "pairs.txt").write_text("9: 1, 3\n4: 1, 3\n2: 0, 3\n")
    flags = (*NETWORK, *COMPUTE, "--data_dir", finished / "data", "--store_dir", finished / "store")
    rows, text = benchmark(candidates, *flags, "--candidates", tmp_path / "pairs.txt", "--pairs", 2)
    assert [row[0] for row in rows[1:]] == ["stage 3", "stage 4"]
    assert {row[-1] for row in rows[1:]} == {"4 / 2 = 2.00"}
    assert "splits equal byte for byte, results equal" in text


def test_stage2_scale(benchmark, tmp_path):
    rows, _ = benchmark(stage2_scale, "--images", 3000, "--repeat", 1, "--store_dir", tmp_path / "store")
    assert [row[:2] for row in rows[1:]] == [["a new tau", "3,000"], ["another p", "3,000"]]
    assert all(int(re.search(r"(\d+) pairs in all", row[-1])[1]) > 1000 for row in rows[1:])
