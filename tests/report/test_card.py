"""The channel card and the other figures of stage 4: what is in them, and that nothing overlaps."""

import io
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.text import Text
from PIL import Image

from tests import factories
from tests.conftest import CHANNEL, NETWORK, PAIR, RUN, load, run_script, stage3, stage4, write_image
from utils.command_line.split_opening import OpenedSplit
from utils.images.batches import ImageBatches
from utils.images.listing import list_images
from utils.method.evaluation import density_curves, summarise
from utils.networks.arrangement import Arrangement
from utils.networks.layers import find_layer
from utils.networks.linear import Linear
from utils.report.card import Card, card_figure
from utils.report.plots import DISENTANGLED, GREY, ORIGINAL, pictures_figure
from utils.report.split_figures import patch_note_of, patch_size_of
from utils.stages.evaluation import SplitMeasures, measure_peaks, top_patches
from utils.store.splits import read_split, transform_from

LONG = (
    "a long name of sixty characters, as some datasets have them.",
    "fifty_nine_characters_without_a_space_as_folders_have_them_too",
)


def make_card(names, images=20, constant=False, included=True, visualizations=False, others=False):
    random, num_concepts = np.random.default_rng(0), len(names)

    def picture():
        return random.integers(0, 255, (12, 12, 3), dtype=np.uint8)

    patches = [
        [(picture(), -1 if others and place % 2 else place % num_concepts) for place in range(min(6, images))]
        for _ in range(num_concepts + 1)
    ]
    samples, summaries = [], []
    for k in range(num_concepts):
        sums = np.full((images, num_concepts + 1), 3.0) if constant else random.normal(0, 1, (images, num_concepts + 1))
        sums[:, k] += 8
        original = sums[:, :-1].sum(1)
        labels = ("original channel", *(f"c'_{j + 1}, for {name}" for j, name in enumerate(names)))
        samples.append(dict(zip(labels, (original, *sums.T), strict=False)))
        summaries.append(summarise(original, sums, np.full(images, included or k > 0)))
    pictures = [[picture(), picture()] for _ in range(num_concepts + 1)] if visualizations else None
    curves = [density_curves(sample) for sample in samples]
    labels, colours = list(samples[0]), [ORIGINAL, *DISENTANGLED[:num_concepts]]
    subtitle = "resnet50, layer last; cosine 0.1"
    return Card(457, subtitle, list(names), labels, colours, patches, pictures, samples, curves, summaries)


CARDS = {
    "two": make_card(("barn", "banana")),
    "three with visualizations": make_card(("barn", "banana", "candle"), visualizations=True),
    "eight": make_card([f"class {k}" for k in range(8)]),
    "long names": make_card(LONG, visualizations=True),
    "wide letters": make_card(("W" * 60, "M" * 60), visualizations=True),
    "wide letters, four": make_card(["W" * 60] * 4),
    "one image": make_card(("barn", "banana"), images=1),
    "constant": make_card(("barn", "banana"), constant=True),
    "nothing included": make_card(("barn", "banana"), included=False),
    "whole images": replace(make_card(("barn", "banana")), patch_note=f"whole images are shown: {LONG[0]}"),
    "whole images, visualizations": replace(
        make_card(("barn", "banana", "candle"), visualizations=True), patch_note=f"whole images: {' '.join(LONG * 4)}"
    ),
    "dollars": make_card(("a$_$b", "$\\frac")),
}


def texts(figure):
    """Every text that is drawn, with its box in pixels."""
    FigureCanvasAgg(figure).draw()
    axes = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    ticks = [(tick, *sorted(axis.get_view_interval())) for axis in axes for tick in axis.get_major_ticks()]
    hidden = {tick.label1 for tick, low, high in ticks if not low <= tick.get_loc() <= high}
    found = dict.fromkeys(figure.findobj(Text))  # a legend's are found twice
    shown = [text for text in found if text.get_visible() and text.get_text() and text not in hidden]
    return [(text.get_text(), text.get_window_extent()) for text in shown]


@pytest.mark.parametrize("name", CARDS)
def test_no_text_of_a_card_overlaps_another_or_leaves_the_page(name):
    figure = card_figure(CARDS[name])
    found = texts(figure)
    assert len(found) > 20
    width, height = figure.get_size_inches() * figure.dpi
    for text, box in found:
        assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height, text
    for (text, box), (other, other_box) in itertools.combinations(found, 2):
        assert not (box.shrunk(0.95, 0.8)).overlaps(other_box.shrunk(0.95, 0.8)), (text, other)


def test_a_card_shows_patches_in_the_colours_of_their_concepts():
    card = make_card(("barn", "banana"), others=True)
    figure = card_figure(card)
    framed = [axes for axes in figure.axes if axes.images]
    assert len(framed) == 3 * 6
    for axes, (picture, concept) in zip(framed, itertools.chain(*card.patches), strict=True):
        assert np.array_equal(axes.images[0].get_array(), picture)
        assert to_hex(axes.spines["left"].get_edgecolor()) == (DISENTANGLED[concept][0] if concept >= 0 else GREY)
        assert [text.get_text() for text in axes.texts] == ([str(concept + 1)] if concept >= 0 else [])


def test_a_card_draws_densities_on_one_scale_and_bars_of_the_means():
    card = CARDS["two"]
    figure = card_figure(card)
    first, second, bars = figure.axes[-3:]
    assert first.get_xlim() == second.get_xlim()
    for axes, (_, curves) in zip((first, second), card.curves, strict=True):
        drawn = {line.get_color(): line.get_ydata() for line in axes.lines if len(line.get_ydata())}
        for (colour, _), curve in zip((("#222222", ""), *DISENTANGLED), curves.values(), strict=False):
            assert np.array_equal(drawn[colour], curve)
    heights = [bar.get_height() for bar in bars.patches]
    assert heights == pytest.approx(np.concatenate([summary.mean for summary in card.summaries]))
    whiskers = [segment for group in bars.collections for segment in group.get_segments()]
    spread = [(high - low) / 2 for (_, low), (_, high) in whiskers]
    assert spread == pytest.approx(np.concatenate([summary.std for summary in card.summaries]))


def test_a_concept_without_an_included_image_is_said_to_have_none():
    words = [text for text, _ in texts(card_figure(CARDS["nothing included"]))]
    assert "no image\nto measure" in words
    assert any("n = 0" in text for text in words)


def test_a_card_says_what_it_shows_in_place_of_patches():
    words = [text for text, _ in texts(card_figure(CARDS["whole images"]))]
    assert any(text.replace("\n", " ").startswith("whole images are shown: a long name of") for text in words)
    assert not any("whole images" in text for text, _ in texts(card_figure(CARDS["two"])))


def test_what_is_said_of_a_layer_whose_positions_lie_nowhere():
    for positions, map_size, note in (
        (1, None, "whole images are shown: mlp sees one vector an image, which lies nowhere in it"),
        (49, None, "whole images are shown: where in an image the tokens of mlp lie is not known"),
        (49, (7, 7), None),
    ):
        layer = Linear(None, "mlp", map_size, arrangement=Arrangement(positions=positions))
        assert patch_note_of(layer) == note
        assert patch_size_of(None, 224, layer) == (224 if map_size is None else 96)
        assert patch_size_of(224, 224, layer) == 224


def card_flags(*more):
    return ("--get_channel_card", "--proportion_attribution_required", "0.0001", *more)


def test_patches_are_those_of_the_images_with_the_largest_activation(copy):
    """Against plain indexing: every validation image of bee and dog, patches of 8 of 24 pixels, map of 12x12."""
    images = list_images(copy / "data" / "val", ["bee", "dog"])
    (path,) = (copy / "store" / "models_disentangled").iterdir()
    file = read_split(path)
    split = file.split
    network, transform = factories.small(), transform_from(file.context["transform"])
    options = dict(num_workers=0, device=torch.device("cpu"), skip_unreadable=False)
    loader = ImageBatches(images, transform, [[0, 1, 2], [3, 4, 5, 6, 7]], "", **options)
    layer = find_layer(network, "last", 24)
    measures = [SplitMeasures(OpenedSplit(path, file, 0.7), layer)]
    (measured,) = measure_peaks(loader, network, layer, measures, "fp32")
    concepts = np.array([0] * 4 + [1] * 4)
    shown = top_patches(images, transform, measured, concepts, 8)
    pixels, _ = load(copy, "val")
    pixels = pixels[4:8], pixels[12:16]
    crops = [transform.crop(Image.open(images.path(index)).convert("RGB")).numpy() for index in range(8)]
    with torch.no_grad():
        maps = layer.with_rows(split.shown_rows(0.7), None)(network.stem(torch.cat(pixels)))
    assert len(shown) == 3
    for channel, patches in enumerate(shown):
        values = maps[:, channel].amax((1, 2))
        best = [sorted(range(4 * k, 4 * k + 4), key=lambda i: -values[i])[:3] for k in (0, 1)]
        order = sorted([*best[0], *best[1]], key=lambda i: -values[i])
        assert [concept for _, concept in patches] == [concepts[i] for i in order]
        for (picture, _), i in zip(patches, order, strict=True):
            row, column = divmod(int(maps[i, channel].argmax()), 12)
            top, left = (min(max(round((at + 0.5) * 2 - 4), 0), 16) for at in (row, column))
            assert np.array_equal(picture, crops[i][top : top + 8, left : left + 8])


def test_stage4_makes_a_card_and_nothing_that_was_not_asked_for(copy):
    out = stage4("data", "store", *card_flags("--patch_size", "12"), cwd=copy)
    made = sorted(path.name for path in (copy / "plots").glob("*channel*"))
    assert [name.split("_rho")[1].split("_", 1)[1] for name in made] == ["card.pdf", "card.png"]
    assert f"{RUN}_channel9_1_3_rho" in made[0]
    assert "_card.png" in out
    assert not (copy / "results_quantitative").exists()


def test_a_card_of_three_concepts_and_one_image_a_class(copy):
    for path in (copy / "data" / "val").glob("*/[1-9].png"):
        path.unlink()
    pair = (*PAIR, "--classes_for_concept3", "ant", "cat")
    stage3("data", "store", pair=pair, cwd=copy)
    stage4("data", "store", *card_flags(), pair=pair, cwd=copy)
    assert len(list((copy / "plots").glob("*_card.png"))) == 1


def grey(card):
    """How many pixels of the patches' half of a card have the grey of other classes."""
    pixels = np.asarray(Image.open(io.BytesIO(card)).convert("RGB"))
    return (pixels[:, : pixels.shape[1] // 2] == [int(GREY[i : i + 2], 16) for i in (1, 3, 5)]).all(-1).sum()


def test_all_classes_shows_images_of_other_classes_and_measures_the_concepts_alone(copy):
    def card_and_summary(*more):
        stage4("data", "store", *card_flags("--get_quantitative", *more), cwd=copy)
        (card,) = (copy / "plots").glob("*_card.png")
        return card.read_bytes(), (copy / "results_quantitative" / "summary.md").read_bytes()

    without = card_and_summary()
    for number in range(10):
        write_image(copy / "data" / "val" / "unknown" / f"{number}.png", 3, 100 + number)  # like dogs
    (copy / "data" / "val" / "empty").mkdir()
    assert card_and_summary() == without
    card, summary = card_and_summary("--all_classes")
    assert summary == without[1]
    assert grey(without[0]) < 100 < 1000 < grey(card)  # the frames of other classes


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--patch_size", "12"), "--patch_size is for --get_channel_card or --get_map: add it"),
        (("--all_classes",), "--all_classes is for --get_channel_card: add it"),
        (("--get_channel_card", "--patch_size", "25"), "--patch_size 25 is larger than the image, 24 pixels"),
        (("--get_channel_card", "--patch_size", "0"), "must be a whole number from 1"),
    ],
)
def test_flags_that_cannot_be_followed_are_refused(finished, tmp_path, flags, message):
    arguments = ("--data_dir", finished / "data", "--store_dir", finished / "store", "--channel_of_interest", CHANNEL)
    result = run_script("get_results.py", *NETWORK, *arguments, *PAIR, *flags, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.strip().split("\n")) == 1


def test_rows_of_pictures_have_frames_and_labels():
    picture = np.zeros((4, 4, 3), np.uint8)
    rows = {"original channel": [(picture, "#222222")] * 2, f"c'_1, for {LONG[0]}": [(picture, "#0072b2")]}
    figure = pictures_figure(rows, "Channel 9 and its parts", "resnet50, rho 1.0")
    assert [len(axes.images) for axes in figure.axes] == [1, 1, 1, 0]
    frames = [to_hex(axes.spines["left"].get_edgecolor()) for axes in figure.axes[:3]]
    assert frames == ["#222222", "#222222", "#0072b2"]
    first, _, second, _ = (" ".join(axes.get_ylabel().split()) for axes in figure.axes)
    assert first == "original channel"
    assert second.startswith("$c'_{1}$, for a long name of")
    found = texts(figure)
    assert {"Channel 9 and its parts", "resnet50, rho 1.0"} <= {text for text, _ in found}
    width, height = figure.get_size_inches() * figure.dpi
    assert all(box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height for _, box in found)
