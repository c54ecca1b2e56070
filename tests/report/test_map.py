"""The map of a channel as a figure: where its pictures are, in what colours, and that nothing overlaps."""

import itertools
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.offsetbox import AnnotationBbox

from tests.figures import LONG, texts
from utils.method.planar_map import with_room
from utils.report.map_figure import DROPPED, LEFT_OUT, MAP, OTHERS, PICTURE_SIDE, MapPage, map_figure
from utils.report.plots import DISENTANGLED, GREY


def make_page(
    names,
    images=60,
    per_row=8,
    notes=("grey: 12 images of 2 smaller concepts",),
    scores=None,
    stands_out=None,
    name_notes=None,
):
    random = np.random.default_rng(0)
    scores = random.normal(size=(images, 2)) * [5, 0.1] if scores is None else scores
    concepts = np.arange(images) % (len(names) + 2) - 2

    def picture(side=30):
        return random.integers(0, 255, (side, side, 3), dtype=np.uint8)

    low, span = scores.min(0), np.ptp(scores, 0)
    places = torch.from_numpy((scores - low) / np.where(span > 0, span, 1))
    pictured = with_room(places, range(images), PICTURE_SIDE, 30)
    return MapPage(
        title=f"Channel 9: {images} training images of largest spatial sum, by their circuits",
        subtitle="resnet50, layer layer4.2.conv3; dots and pictures are images",
        scores=scores,
        shares=np.array([0.64, 0.086]),
        concepts=concepts,
        pictures={image: picture() for image in pictured},
        numbers=[k + 1 for k in range(len(names))],
        names=list(names),
        name_notes=list(name_notes or [""] * len(names)),
        sizes=[int((concepts == place).sum()) for place in range(len(names))],
        stands_out=stands_out or [""] * len(names),
        patches=[[picture(12) for _ in range(per_row)] for _ in names],
        notes=list(notes),
    )


STANDS_OUT = ["0.31; permuted weights 0.12 to 0.20", "stands out in no class"] * 4
PAGES = {
    "one": make_page(["barn"]),
    "two": make_page(["barn", "banana"]),
    "four": make_page(["barn", "banana", "candle", "dog"], per_row=5),
    "five": make_page([f"circuit {k} (barn, banana)" for k in range(5)]),
    "eight": make_page([f"circuit {k} (barn, banana, <b>&$)" for k in range(8)], stands_out=STANDS_OUT),
    "long names": make_page([*LONG, "W" * 60], notes=(LONG[0] * 4, LONG[1] * 3, "whole images are shown")),
    "long names, eight": make_page(["W" * 60] * 8, stands_out=STANDS_OUT, notes=(*LONG, "W" * 90)),
    "notes": make_page(
        ["swimwear", "circuit 2, no name", "W" * 60, "barn"],
        stands_out=STANDS_OUT,
        name_notes=["circuit 1", f"many: banana, {'W' * 60}", "circuit 3", ""],
    ),
    "dollars": make_page(["<b>&$", "a$_$b", "$\\frac"]),
    "one image": make_page(["barn"], images=3, per_row=1, notes=()),
    "one place": make_page(["barn", "banana"], scores=np.zeros((60, 2)), notes=()),
    "one line": make_page(["barn", "banana"], scores=np.stack([np.arange(60.0), np.zeros(60)], 1), notes=()),
}


@cache
def drawn(name):
    """A figure that is drawn, and its texts."""
    figure = map_figure(PAGES[name])
    return figure, texts(figure)


def pictures(figure):
    return [one for one in figure.axes[0].artists if isinstance(one, AnnotationBbox)]


@pytest.mark.parametrize("name", PAGES)
def test_no_text_of_a_map_overlaps_another_or_leaves_the_page(name):
    figure, found = drawn(name)
    width, height = figure.get_size_inches() * figure.dpi
    assert len(found) >= 5
    for text, box in found:
        assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height, text
    for (text, box), (other, other_box) in itertools.combinations(found, 2):
        assert not box.shrunk(0.95, 0.8).overlaps(other_box.shrunk(0.95, 0.8)), (text, other)


@pytest.mark.parametrize("name", PAGES)
def test_pictures_and_patches_hide_none_and_stay_where_they_belong(name):
    figure, _ = drawn(name)
    axes, renderer = figure.axes[0], figure.canvas.get_renderer()
    panel = axes.get_window_extent()
    assert panel.width == pytest.approx(panel.height) == pytest.approx(MAP * figure.dpi)
    boxes = [one.patch.get_window_extent(renderer) for one in pictures(figure)]
    assert len(boxes) == len(PAGES[name].pictures) > 0
    others = [one.get_window_extent() for one in figure.axes[1:]]
    for box in boxes:
        assert box.x0 >= panel.x0 - 3 and box.x1 <= panel.x1 + 3
        assert box.y0 >= panel.y0 - 3 and box.y1 <= panel.y1 + 3
    for one, other in itertools.combinations([*boxes, *others], 2):
        assert not one.overlaps(other)
    assert all(box.x0 > panel.x1 and box.y0 > 0 and box.y1 < figure.get_size_inches()[1] * figure.dpi for box in others)


def test_pictures_are_at_their_scores_in_the_colours_of_their_concepts():
    page = PAGES["eight"]
    colours = {OTHERS: GREY, LEFT_OUT: DROPPED, **{k: DISENTANGLED[k][0] for k in range(8)}}
    figure = map_figure(page)
    shown = pictures(figure)
    assert {colours[int(page.concepts[image])] for image in page.pictures} == set(colours.values())
    for one, (image, picture) in zip(shown, page.pictures.items(), strict=True):
        assert one.xy == pytest.approx(page.scores[image])
        assert to_hex(one.patch.get_edgecolor()) == colours[int(page.concepts[image])]
        assert np.array_equal(one.offsetbox.get_data(), picture)
    numbers = [text.get_text() for text in figure.axes[0].texts]
    assert numbers == [str(page.concepts[image] + 1) for image in page.pictures if page.concepts[image] >= 0]


def test_every_image_is_a_dot_in_the_colour_of_its_concept():
    page = PAGES["two"]
    axes = map_figure(page).axes[0]
    dots = {to_hex(line.get_color()): np.stack(line.get_data(), 1) for line in axes.lines}
    for place, colour in ((OTHERS, GREY), (LEFT_OUT, DROPPED), (0, DISENTANGLED[0][0]), (1, DISENTANGLED[1][0])):
        assert np.array_equal(dots[colour], page.scores[page.concepts == place])
    assert axes.get_xlabel().startswith("first principal component, 64% of the variance")
    assert axes.get_ylabel() == "second principal component, 9% of the variance"


@pytest.mark.parametrize("name", ["two", "five"])
def test_rows_of_patches_are_those_of_their_concepts(name):
    page = PAGES[name]
    figure = map_figure(page)
    expected = [(picture, place) for place, row in enumerate(page.patches) for picture in row]
    for axes, (picture, place) in zip(figure.axes[1:], expected, strict=True):
        assert np.array_equal(axes.images[0].get_array(), picture)
        assert to_hex(axes.spines["left"].get_edgecolor()) == DISENTANGLED[place][0]


def test_names_are_drawn_as_they_are_with_their_numbers_and_sizes():
    page = replace(PAGES["dollars"], numbers=[2, 5, 11])
    words = [text for text, _ in texts(map_figure(page))]
    for number, name, size in zip(page.numbers, page.names, page.sizes, strict=True):
        assert name in words and f"{size} images" in words and str(number) in words
    assert {"barn", "1 image"} <= {text for text, _ in drawn("one image")[1]}


def test_small_print_follows_a_name_and_is_cut_where_it_is_long():
    words = [text for text, _ in drawn("notes")[1]]
    assert "10 images, circuit 1" in words
    assert [text for text in words if text.startswith("10 images, many: banana") and text.endswith("…")]


def test_large_pictures_are_reduced():
    page = replace(PAGES["one"], pictures={0: np.zeros((500, 500, 3), np.uint8)})
    (shown,) = pictures(map_figure(page))
    assert 80 < shown.offsetbox.get_data().shape[0] < 150


def test_how_well_a_concept_stands_out_is_beside_it():
    words = [text for text, _ in texts(map_figure(PAGES["eight"]))]
    assert [text for text in words if text in STANDS_OUT] == STANDS_OUT
