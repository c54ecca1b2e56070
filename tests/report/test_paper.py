"""Figures for a paper: their width, the size of their type, their fonts, whole ticks, and axes that can be compared."""

import re
import zlib

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from matplotlib.cbook import is_math_text
from matplotlib.text import Text

from tests.entries import random_separation_rows, separation
from tests.figures import (
    CARDS,
    GUIDE,
    LONG,
    NAMES,
    assert_readable,
    channel_classes,
    class_pairs,
    made_up_pairs,
    made_up_similarities,
    texts,
)
from utils.method.evaluation import density_curves
from utils.method.ranking import rank_images
from utils.report.card import card_figure
from utils.report.figure_files import write_figure
from utils.report.overview_figure import overview_figure
from utils.report.plots import (
    DISENTANGLED,
    ORIGINAL,
    density_figure,
    density_limits,
    fitted,
    pictures_figure,
    text_width,
)
from utils.report.separation_figure import least_precision, separation_figure
from utils.report.sheets import SCREEN, SMALLEST_TYPE, WIDTHS, Sheet, Titles
from utils.report.thresholds import sensitivity_figure
from utils.report.wordnet_figure import wordnet_figure

SHEETS = [Sheet(name) for name in WIDTHS]
TITLES = Titles("examples.efficientnet_lite0:efficientnet_lite0, layer blocks.6.conv_pwl", f"τ = 0.03, {LONG[0]}")


def of_layer(sheet):
    relevant, pairs = made_up_pairs(25, lambda channel: 40 if channel == 3 else channel % 5)
    return overview_figure(channel_classes(relevant, pairs), 0.5, GUIDE, name=NAMES["long"], titles=TITLES, sheet=sheet)


def of_wordnet(sheet):
    _, pairs = made_up_pairs(30, lambda channel: 4)
    return wordnet_figure(pairs, made_up_similarities(pairs), 0.6, name=NAMES["long"], titles=TITLES, sheet=sheet)


def of_thresholds(sheet):
    random, names = np.random.default_rng(0), ("polysemantic", "pairs", "split")
    rows = [
        {"tau": tau, "p": p, "gamma": gamma, **dict.fromkeys(names, 100), "clean": random.random(), "ap": 0.5,
         "ap_permuted": 0.25}
        for tau in (0.01, 0.03) for p in (0.5, 0.75, 0.9) for gamma in (0.3, 0.5, 0.7, 0.9)
    ]  # fmt: skip
    return sensitivity_figure(rows, f"{TITLES[0]}: what τ, p and γ change", sheet)


def of_densities(sheet):
    random = np.random.default_rng(0)
    labels = "original channel", *(f"c'_{k + 1}, for {name}" for k, name in enumerate(LONG))
    samples = {label: random.normal(place, 1, 20) for place, label in enumerate(labels)}
    samples[labels[2]] = np.full(20, 3.0)
    grid, curves = density_curves(samples)
    colours = [ORIGINAL, *DISENTANGLED[:2]]
    limits = density_limits([(samples, (grid, curves))])
    return density_figure(samples, grid, curves, colours=colours, limits=limits, titles=TITLES, sheet=sheet)


def of_pictures(sheet):
    rows = {LONG[1]: [(np.zeros((4, 4, 3), np.uint8), "#222222", f"seed {seed}: 1.25") for seed in range(2)]}
    return pictures_figure(rows, TITLES, sheet)


FIGURES = {
    "overview": of_layer,
    "wordnet": of_wordnet,
    "sensitivity": of_thresholds,
    "densities": of_densities,
    "pictures": of_pictures,
    "card": lambda sheet: card_figure(CARDS["long names"], sheet),
    "separation": lambda sheet: separation_figure(separation(rows=random_separation_rows()), sheet),
}


def type_in(pdf):
    """The sizes, in points, of all letters in a pdf."""
    found = []
    for stream in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL):
        try:
            content = zlib.decompress(stream)
        except zlib.error:
            continue
        found += map(float, re.findall(rb"/F[\w-]+ ([\d.]+) Tf", content)) if b" Tf" in content else []
    return found


@pytest.mark.parametrize("name", FIGURES)
def test_a_column_has_its_width_and_fonts_and_no_smaller_type(tmp_path, name):
    sheet = Sheet("column")
    png = write_figure(tmp_path / "one", FIGURES[name](sheet), sheet)
    pdf = png.with_suffix(".pdf").read_bytes()
    assert png.name == "one_column.png"
    (box,) = re.findall(rb"/MediaBox \[\s*([\d. ]+?)\s*\]", pdf)
    assert [float(number) for number in box.split()][:3] == [0, 0, 72 * 3.25]
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf
    sizes = type_in(pdf)
    assert len(sizes) > 5 and min(sizes) >= SMALLEST_TYPE


@pytest.mark.parametrize("name", FIGURES)
def test_what_is_written_across_a_page_has_its_width_and_no_smaller_type(name):
    figure = FIGURES[name](Sheet("text"))
    assert figure.get_size_inches()[0] == 6.75
    written = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    assert min(text.get_fontsize() for text in written) >= SMALLEST_TYPE
    formulas = [text for text in written if text.get_parse_math() and is_math_text(text.get_text())]
    assert not formulas  # as they have smaller letters


@pytest.mark.parametrize("sheet", SHEETS, ids=lambda sheet: sheet.name)
@pytest.mark.parametrize("name", ["overview", "wordnet"])
def test_figures_of_a_layer_can_be_read_in_print(name, sheet):
    assert_readable(FIGURES[name](sheet))


@pytest.mark.parametrize("sheet", SHEETS, ids=lambda sheet: sheet.name)
@pytest.mark.parametrize("name", ["sensitivity", "densities", "pictures", "separation"])
def test_all_of_a_printed_figure_is_on_the_page(name, sheet):
    figure = FIGURES[name](sheet)
    found = texts(figure)
    width, height = figure.get_size_inches() * figure.dpi
    for text, box in found:
        assert box.x0 >= -1 and box.x1 <= width + 1 and box.y0 >= -1 and box.y1 <= height + 1, text


def test_type_on_a_screen_is_as_large_as_ever():
    assert SCREEN.type(6.5) == 6.5 and SCREEN.wide(9) == 9 and SCREEN.suffix == ""
    assert Sheet("text").type(12) == 9 and Sheet("text").type(7) == 6 and Sheet("column").suffix == "_column"


words = st.text(st.characters(codec="ascii", exclude_categories=["Z", "C"]), min_size=1, max_size=30)


@given(st.lists(words, min_size=1, max_size=12), st.floats(0.3, 4), st.integers(1, 5))
@example(["<@", "0"], 0.3125, 1)
def test_lines_are_broken_between_words_alone_and_fit(given_words, width, most):
    lines = fitted(" ".join(given_words), width, 8, most).split("\n")
    assert len(lines) <= most
    assert all(text_width(line, 8) <= 72 * width for line in lines if len(line) > 1)
    left = list(given_words)
    is_cut = False
    for line in lines:
        if line.split() == left[: len(line.split())]:
            left = left[len(line.split()) :]
        else:  # a single word or the last line is too long; where no dots fit, one letter is left
            assert " ".join(left).startswith(line.removesuffix("…"))
            left = left[1:]
            is_cut = True
    assert is_cut or not left


def test_what_a_no_break_space_holds_together_is_in_one_line():
    together = "(95\xa0%\xa0+0.10\xa0to\xa0+0.13)"
    assert fitted(f"above {together}", 1.45, 8, 3).split("\n") == ["above", together]


@pytest.mark.parametrize(("idle", "scale"), [(30, "log"), (1, "linear"), (4000, "log")])
def test_counts_have_whole_ticks_in_plain_digits(idle, scale):
    relevant, pairs = made_up_pairs(idle + 3, lambda channel: 0 if channel < idle else 2)
    figure = overview_figure(channel_classes(relevant, pairs), 0.5, GUIDE, name=str, titles=Titles("title", "subtitle"))
    figure.draw_without_rendering()
    bars, histogram = figure.axes[:2]
    assert bars.get_yscale() == scale
    for axes in (bars, histogram):
        low, high = axes.get_ylim()
        labels = [text.get_text() for place, text in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
                  if low <= place <= high]  # fmt: skip
        numbers = [int(label.replace(",", "")) for label in labels if label]
        assert len(numbers) >= 2 and len(set(numbers)) == len(numbers)
        assert [float(place) for place in axes.get_yticks() if low <= place <= high and place >= 1] == [
            number for number in numbers if number >= 1
        ]


def test_no_line_to_a_numbered_pair_goes_through_a_number():
    """Pairs whose numbers have to move far from their rows, close to the edge."""
    pairs = class_pairs(*((0, 0, i, cosine) for i, cosine in enumerate([0.99, 0.985, 0.98, 0.5, 0.12, 0.11, 0.1])))
    for sheet in (SCREEN, *SHEETS):
        figure = wordnet_figure(
            pairs, [1 / 20] * 3 + [1 / 9] + [1 / 2] * 3, 0.5, name=NAMES["short"], titles=TITLES, sheet=sheet
        )
        figure.draw_without_rendering()
        axes = figure.axes[0]
        leaders = [line.get_xydata() for line in axes.lines if line.get_linewidth() == 0.5]
        assert len(leaders) == 6 and len(axes.texts) == 6
        for text in axes.texts:
            box = text.get_window_extent()
            for ends in leaders:
                steps = np.linspace(*axes.transData.transform(ends), 500)
                inside = (steps > (box.x0, box.y0)).all(1) & (steps < (box.x1, box.y1)).all(1)
                assert not inside.any(), text.get_text()


def test_far_and_close_in_wordnet_are_said_as_numbers():
    rows = [(7, 0, 1, 0.9), (7, 2, 3, 0.8), (7, 4, 5, 0.62), (9, 6, 7, 0.2), (9, 4, 5, 0.1)]
    figure = wordnet_figure(
        class_pairs(*rows), [1 / 17, 1 / 3, 1 / 13, 1 / 14, 1 / 5], 0.5, name=str, titles=Titles("title", "subtitle")
    )
    headings = [text.get_text() for text in figure.axes[1].texts if "median" in text.get_text()]
    assert headings == ["cosine > 0.62, WordNet < 1/13 (medians)", "cosine < 0.62, WordNet > 1/13 (medians)"]


def test_the_axes_of_separations_depend_on_concepts_and_images_alone():
    """Rule and least squares: other values, and one more reference."""
    rule = random_separation_rows(auroc_all_real_target=np.nan, ap_all_real_target=np.nan, prevalence=0.02)
    other = {"ap_all_real_target": 0.3, "ap_all_original": 0.03, "split_by": "least_squares"}
    shares = [{**row, **other} for row in rule]
    for sheet in (SCREEN, *SHEETS):
        one, other = (separation_figure(separation(rows=rows), sheet) for rows in (rule, shares))
        assert one.get_size_inches().tolist() == other.get_size_inches().tolist()
        for axes, same in zip(one.axes, other.axes, strict=True):
            assert axes.get_position().bounds == same.get_position().bounds
            assert axes.get_xlim() == same.get_xlim() and axes.get_ylim() == same.get_ylim()
    assert one.axes[0].get_xlim()[0] == pytest.approx(0.01)


@pytest.mark.parametrize(("own", "images"), [(1, 50), (20, 4000), (3, 10)])
def test_no_ranking_is_as_bad_as_what_the_axis_begins_at(own, images):
    worst = -torch.arange(images)[None].float()
    (worst_precision,) = rank_images(worst, torch.arange(images) >= images - own).ap
    assert least_precision([own / images, 0.9]) < worst_precision < 1.6 * own / images
