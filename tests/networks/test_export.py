"""Split networks that leave the project: torch.export and ONNX, with any batch, and equal logits."""

import io
import os
import subprocess
import sys

import numpy as np
import onnx.reference
import pytest
import torch

from tests import factories
from tests.splits import fitted_split, random_split
from utils.networks.splitting import with_splits

BATCH = {0: torch.export.Dim("batch")}
LOAD = """
import sys, torch
for name in ("static", "dynamic"):
    images, expected = torch.load(f"{name}.images")
    network = torch.export.load(f"{name}.pt2").module()
    torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-5)
print([name for name in sys.modules if name.split(".")[0] in ("utils", "tests")])
"""


@pytest.fixture
def split():
    """A network with a whole layer of splits, of both kinds; its plain twin, and images."""
    plain = factories.make(8, 12, 3, padding=1, bias=True)
    splits = [random_split(plain.last, 2, 3), fitted_split(plain.last, 5, 3, seed=1), random_split(plain.last, 7)]
    return plain, with_splits(plain, "last", splits), torch.randn(3, 3, 24, 24)


def test_an_exported_network_is_loaded_without_the_project(split, tmp_path):
    plain, network, images = split
    for name, shapes, count in (("static", None, 3), ("dynamic", (BATCH,), 7)):
        program = torch.export.export(network, (images,), dynamic_shapes=shapes)
        torch.export.save(program, tmp_path / f"{name}.pt2")
        shown = torch.randn(count, 3, 24, 24)
        torch.save((shown, plain(shown)), tmp_path / f"{name}.images")
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-c", LOAD], cwd=tmp_path, env=alone, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"


def test_an_onnx_network_gives_equal_logits_for_any_batch(split, tmp_path):
    plain, network, images = split
    path = tmp_path / "split.onnx"
    torch.onnx.export(network, (images,), path, dynamo=True, dynamic_shapes=(BATCH,), verbose=False)
    model = onnx.load(path)
    onnx.checker.check_model(model)
    evaluator = onnx.reference.ReferenceEvaluator(model)
    for count in (1, 3, 5):
        shown = torch.randn(count, 3, 24, 24)
        (logits,) = evaluator.run(None, {model.graph.input[0].name: shown.numpy()})
        np.testing.assert_allclose(logits, plain(shown), rtol=1e-3, atol=1e-4)


def test_the_rows_of_an_exported_network_are_those_of_the_table(split):
    """Weights keep their names, so that the table of channels says which row of ``parts`` is which."""
    _, network, images = split
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(network, (images,)), buffer)
    buffer.seek(0)
    state = torch.export.load(buffer).state_dict
    assert torch.equal(state["last.parts.weight"], network.last.parts.weight)
    assert len(state["last.parts.weight"]) == 11  # 4 + 4 + 3
