"""The benchmark of all networks: refusals are rows of its table, failures its exit status."""

import re
import sys

import pytest
import torch
import torchvision
from torch import nn

from benchmarks import networks
from tests import factories
from tests.layers import small_swin, vision_transformer


def run(monkeypatch, capsys, *arguments):
    """Rows of the table by network, and the exit status."""
    monkeypatch.setattr(sys, "argv", ["networks", *arguments])
    with pytest.raises(SystemExit) as stop:
        networks.main()
    rows = [line.strip("| ").split(" | ") for line in re.findall(r"^\|.*\|$", capsys.readouterr().out, re.MULTILINE)]
    return rows[2:], stop.value.code


def test_a_split_and_a_refusal(monkeypatch, capsys):
    rows, status = run(monkeypatch, capsys, "--families", "torchvision squeezenet")
    assert status == 0
    assert [row[0] for row in rows] == ["torchvision squeezenet1_1"] * 2
    assert rows[0][3].startswith("refused: the last convolution, classifier.1, is the classifier itself")
    assert rows[1][1:4] == ["features.9.squeeze", "Conv2d 1x1", "split"]
    assert all(float(error) < 1e-9 for error in rows[1][4:6]) and rows[1][-1] == "0 of 4"


def test_linear_layers_are_split_and_where_their_tokens_lie_is_said(monkeypatch, capsys):
    made = {"tokens": factories.tokens, "vector": factories.vector, "swin": small_swin, "vit": vision_transformer}
    monkeypatch.setattr(networks, "networks", lambda families: made)
    monkeypatch.setattr(networks, "SIZES", (32,))
    rows, status = run(monkeypatch, capsys)
    assert status == 0
    found = {row[0]: row for row in rows if row[1] and row[2].startswith("Linear")}
    kinds = ["Linear, 16x16", "Linear, vector", "Linear, 8x8", "Linear, 4x4 + 1"]
    assert [row[1:4] for row in found.values()] == [
        [layer, kind, "split"]
        for layer, kind in zip(
            ("last", "last", "features.3.1.mlp.3", "encoder.layers.encoder_layer_1.mlp.3"), kinds, strict=True
        )
    ]
    assert all(float(error) < 1e-9 for row in found.values() for error in row[4:6])


class Fails(factories.Small):
    """Fails with a gradient, and so not before it is recorded."""

    def forward(self, x):
        if torch.is_grad_enabled():
            raise ZeroDivisionError("on\npurpose")
        return super().forward(x)


def test_a_failure_is_a_row_and_the_exit_status(monkeypatch, capsys):
    made = {"fails": lambda: Fails(nn.Conv2d(8, 12, 1)).eval(), "cannot be made": lambda: 1 / 0}
    monkeypatch.setattr(networks, "networks", lambda families: made)
    rows, status = run(monkeypatch, capsys)
    assert status == 1
    assert [row[0] for row in rows] == ["fails", "fails", "cannot be made"]
    assert {row[3] for row in rows[:2]} == {"FAILED: ZeroDivisionError: on purpose"}
    assert "FAILED: ZeroDivisionError" in rows[2][-1] or "FAILED: ZeroDivisionError" in rows[2][3]


def test_every_family_of_torchvision_has_a_member():
    def family(name):
        return torchvision.models.get_model_builder(name).__module__

    every = {family(name) for name in torchvision.models.list_models(module=torchvision.models)}
    assert {family(name) for name in networks.TORCHVISION} == every
