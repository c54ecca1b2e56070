"""Stage 1 with --compile."""

import os
import shutil
import subprocess

import pytest
import torch
from torch._dynamo.utils import counters

from tests.factories import small
from tests.helpers import forward_with_gradient
from tests.oracles import load
from tests.scripts import COMPUTE, NETWORK, ROOT, SMALL_IMAGES, python, run_script
from utils.networks.layers import layer_of
from utils.networks.precision import compile_network

FLAGS = (*NETWORK, *SMALL_IMAGES, *COMPUTE, "--compile")


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_a_compiled_network_records_the_same_of_every_batch(finished):
    pixels, targets = load(finished, "train")
    network, compiled = small(), small()
    layer = layer_of("last", compiled.last)
    counters.clear()
    compile_network(compiled, layer, torch.zeros_like(pixels[:10]), "fp32")
    assert counters["stats"]["unique_graphs"] == 2  # before the layer and behind it
    for batch in (slice(0, 10), slice(10, 20), slice(20, 24), slice(5, 15)):
        expected = forward_with_gradient(network, network.last, pixels[batch], targets[batch])
        found = forward_with_gradient(compiled, layer.module, pixels[batch], targets[batch])
        for name, values in vars(expected).items():
            torch.testing.assert_close(getattr(found, name), values, rtol=1e-4, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == 4  # each of the two batch sizes has its own


def test_no_compiler_is_one_line(finished, tmp_path):
    code = "import runpy, sys, torch._inductor.config as config; config.cpp.cxx = ('no-compiler',); "  # as $CXX sets it
    code += "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    script = ROOT / "get_importances_for_classes.py"
    flags = (*FLAGS, "--data_dir", finished / "data", "--store_dir", "store")
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    command = [python(), "-c", code, script, *flags]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 2
    assert "--compile: the network cannot be compiled" in result.stderr
    assert len(result.stderr.strip().split("\n")) == 1
    assert not list(tmp_path.rglob("chunk_*"))


def test_a_store_is_not_continued_with_another_compilation(copy):
    (copy / "store" / "tests.factories-small_channel_importances" / "chunk_000002.npz").unlink()
    flags = ("--data_dir", "data", "--store_dir", "store", "--chunk_size", "8")
    result = run_script("get_importances_for_classes.py", *FLAGS, *flags, cwd=copy)
    assert result.returncode == 2
    assert "was made with another compilation (none; now inductor)" in result.stderr
