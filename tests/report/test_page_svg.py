"""The drawings of the report's pages: their geometry, and that names are text."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch

from utils.method.evaluation import Summary
from utils.report.page_svg import before_after, cosine_matrix, densities, fractions, share_bar, style_of, tag

HOSTILE = "<script>alert(1)</script>\"'&é"


def elements(drawing, style):
    """The elements of a drawing that have a class; the drawing is well-formed."""
    return [one for one in ET.fromstring(str(drawing)).iter() if style in one.get("class", "").split()]


def test_text_and_attributes_are_escaped():
    found = ET.fromstring(str(tag("text", HOSTILE, class_=HOSTILE, aria_label=0.123456)))
    assert (found.text, found.attrib) == (HOSTILE, {"class": HOSTILE, "aria-label": "0.1235"})


def test_a_share_is_a_bar_with_a_mark_at_p():
    drawing = share_bar(0.625, 0.75, "s2")
    (bar,), (mark,) = elements(drawing, "bar"), elements(drawing, "mark")
    assert bar.get("width") == "62.5" and "s2" in bar.get("class") and mark.get("d") == "M75 -2V12"


def test_before_and_after_are_on_one_scale():
    drawing = before_after(0.25, 0.75, 0.5)
    (ring,), (disc,) = elements(drawing, "ring"), [one for one in elements(drawing, "bar")]
    assert (float(ring.get("cx")), float(disc.get("cx"))) == (27, 73)
    assert ET.fromstring(str(drawing)).get("aria-label") == "AP 0.25 before, 0.75 after, permuted weights 0.50"
    assert not elements(before_after(0.25, 0.75, np.nan), "mark")


def test_a_matrix_is_in_the_order_of_its_dendrogram_and_frames_its_groups():
    """Classes 0 and 2 are alike, 1 is not: the dendrogram puts them side by side."""
    cosines = torch.tensor([[1.0, 0.1, 0.9], [0.1, 1.0, -0.2], [0.9, -0.2, 1.0]])
    drawing = cosine_matrix(cosines, [0, 1, 0], ["a", HOSTILE, "c"], 0.5)
    labels = [one.text for one in elements(drawing, "name")]
    assert sorted(labels) == sorted(["1  a", f"2  {HOSTILE}", "1  c"])
    assert abs(labels.index("1  a") - labels.index("1  c")) == 1
    frames = {one.get("class").split()[1]: float(one.get("width")) for one in elements(drawing, "frame")}
    assert frames == {"s1": 60, "s2": 30}
    assert len(elements(drawing, "cell")) == 9 and len(elements(drawing, "negative")) == 2
    numbers = [one.text for one in elements(drawing, "number")]
    assert numbers.count("1") == 3 and numbers.count(".90") == 2 and numbers.count("-.20") == 2
    places = [(name.split("  ")[1][0], place) for place, name in enumerate(labels)]
    order = [{"a": 0, "<": 1, "c": 2}[first] for first, _ in places]
    shades = [float(cell.get("fill-opacity")) for cell in elements(drawing, "cell")]
    assert shades == pytest.approx([abs(float(cosines[i, j])) for i in order for j in order], abs=0.006)


def test_a_large_matrix_has_no_numbers_and_long_names_are_cut():
    cosines = torch.eye(14)
    drawing = cosine_matrix(cosines, list(range(14)), ["n" * 100] * 14, 0.5)
    assert not elements(drawing, "number") and all(len(one.text) < 45 for one in elements(drawing, "name"))
    assert style_of(7) == "s8" and style_of(8) == "more"


def test_densities_are_curves_or_ticks_and_no_peak_hides_the_original():
    grid = np.linspace(-1, 3, 101)
    curves = {"original": np.exp(-((grid - 1) ** 2)), "c'1": 50 * np.exp(-(grid**2) * 100), "c'2": None}
    samples = {"original": np.array([1.0, 2]), "c'1": np.array([0.0]), "c'2": np.array([1.0, 1])}
    drawing = densities(samples, grid, curves, styles=["original", "s1", "s2"], limits=(-1, 3))
    lines = {one.get("class").split()[1]: one.get("d") for one in elements(drawing, "line")}
    assert set(lines) == {"original", "s1", "s2"} and lines["s2"].startswith("M300.0 136V160")

    def heights(path):
        first, moves = path[1:].split("l")
        steps = np.array(moves.split(" "), float).reshape(-1, 2)
        return float(first.split()[1]) + np.cumsum(steps[:, 1]), float(first.split()[0]) + np.cumsum(steps[:, 0])

    y, x = heights(lines["original"])
    assert x[y.argmin()] == pytest.approx(300, abs=15) and y.min() == pytest.approx(160 - 156 / 3, abs=1.5)
    assert heights(lines["s1"])[0].min() == pytest.approx(4, abs=1)


def test_fractions_are_bars_from_zero():
    summary = Summary(np.array([1.0, -0.25, 0.1]), np.array([0.1, 0.05, np.nan]), np.zeros(3), 4, 4, 5)
    drawing = fractions(summary, ["c'1", "c'2", "r"], ["s1", "s2", "residual"])
    bars = [(float(one.get("y")), float(one.get("height"))) for one in elements(drawing, "bar")]
    (zero, one) = (float(part.get("d").split()[1].split("H")[0]) for part in
                   elements(drawing, "axis") + elements(drawing, "cut"))  # fmt: skip
    assert bars[0] == pytest.approx((one, zero - one), abs=0.1)
    assert bars[1] == pytest.approx((zero, 0.25 * (zero - one)), abs=0.1)
