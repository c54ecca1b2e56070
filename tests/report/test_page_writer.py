"""The folder of a report: pictures, and what is removed; pages are tested where they are made, in test_report."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from utils.report.page_writer import Pictures, number, report_folder, strip_name, write_pages, write_strip
from utils.report.plots import DISENTANGLED


def test_tiles_are_side_by_side(tmp_path):
    tiles = np.stack([np.full((80, 80, 3), 16 * place, np.uint8) for place in range(16)])
    path = report_folder(tmp_path, "net") / strip_name("key")
    write_strip(path, tiles)
    assert path == tmp_path / "report/net/patches/key.jpg"
    shown = np.asarray(Image.open(path)).astype(int)
    assert shown.shape == (80, 1280, 3)
    for place in range(16):  # no tile takes colour from another one
        assert np.abs(shown[:, 80 * place : 80 * (place + 1)] - 16 * place).max() <= 2


def test_figures_are_copied_smaller_and_drawn(tmp_path):
    Image.fromarray(np.zeros((300, 3000, 4), np.uint8)).save(tmp_path / "a.png")
    pictures = Pictures(tmp_path / "report")
    assert pictures.copied(tmp_path / "a.png") == {"src": "figures/a.jpg", "width": 1000, "height": 100}
    drawn = pictures.drawn("b.png", Figure(figsize=(2, 1)))
    assert drawn == {"src": "figures/b.png", "width": 220, "height": 110}
    for one in ("figures/a.jpg", drawn["src"]):
        assert Image.open(tmp_path / "report" / one).width in (1000, 220)


@pytest.mark.parametrize(("value", "text"), [(0.125, "0.12"), (None, "–"), (float("nan"), "–"), (-1, "-1.00")])
def test_numbers(value, text):
    assert number(value) == text


def test_the_style_sheet_has_the_colours_of_the_figures(tmp_path):
    layer = {"title": "<t>", "settings": "", "patches": {"ranked": "", "note": None, "size": 3}, "gamma": None}
    layer |= {
        "meta": {"weights": "", "num_images": 1, "precision": "", "decoding": ""},
        "separations": [],
        "headline": None,
        "image_sets": "",
        "accuracy": "31.7%",
    }
    layer |= {"overview": None, "stale": [], "tau": 0.1, "p": 0.5, "gamma_value": 0.5, "low": 0, "counts": [0, 0, 0, 0]}
    layer |= dict.fromkeys(("total", "pairs", "pairs_under", "polysemantic", "several", "one_group", "split"), 0)
    layer["commands"] = dict.fromkeys(("split", "separation", "validation_store", "guide", "others"))
    assert write_pages(tmp_path, layer, [], []) == tmp_path / "index.html"
    style = (tmp_path / "style.css").read_text()
    assert all(f"--c{place}: {colour};" in style for place, (colour, _) in enumerate(DISENTANGLED, start=1))
    assert (tmp_path / "data.js").read_text() == "const CHANNELS = [];"
    assert "&lt;t&gt;" in (tmp_path / "index.html").read_text() and "<t>" not in (tmp_path / "index.html").read_text()
