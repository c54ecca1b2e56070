"""The picture of the idea: what it shows adds up, also with the rounded numbers that stand in it."""

import subprocess
import sys

from examples.idea import CONCEPTS, MEAN_INPUTS, TITLES, WEIGHTS, idea_figure
from tests.scripts import ROOT


def numbers_in(axes):
    return [float(text.get_text().replace("−", "-")) for text in axes.texts if text.get_text()[-1].isdigit()]


def test_the_activations_that_it_shows_add_up():
    weights, bars = idea_figure().axes
    channel, first, second, residual, merged = zip(*[iter(numbers_in(bars))] * len(CONCEPTS), strict=True)
    assert len(TITLES) == 5
    for k in range(len(CONCEPTS)):
        assert round(first[k] + second[k] - residual[k], 1) == channel[k] == merged[k]
        assert abs(channel[k] - float(WEIGHTS @ MEAN_INPUTS[k])) < 0.05
    assert first[0] > 5 * first[1] and second[1] > 5 * second[0]
    rows = list(zip(*[iter(numbers_in(weights))] * len(WEIGHTS), strict=True))
    assert rows[0] == rows[4] != rows[1]
    assert [sum(value != 0 for value in row) for row in rows] == [8, 5, 5, 2, 8]


def test_it_is_written_where_it_was_asked_for(tmp_path):
    path = tmp_path / "idea.png"
    subprocess.run([sys.executable, "-m", "examples.idea", path], check=True, cwd=ROOT)
    assert path.read_bytes()[:4] == b"\x89PNG"
