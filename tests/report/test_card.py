"""The channel card and the other figures of stage 4: what is in them, and that nothing overlaps."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.text import Text

from tests.figures import CARDS, LONG, make_card, texts
from utils.method.evaluation import density_curves
from utils.networks.arrangement import Arrangement
from utils.networks.layers import Linear
from utils.report.card import COLUMN_HEIGHT, card_figure
from utils.report.card_panels import FRACTIONS, STEP, fraction_limits
from utils.report.plots import DISENTANGLED, GREY, HIGHEST, pictures_figure
from utils.report.sheets import SCREEN, SMALLEST_TYPE, Sheet, Titles
from utils.report.split_figures import patch_note_of, patch_size_of

PRINTED = ("two", "three with visualizations", "eight", "long names", "wide letters, four", "nothing included")
SHEETS = {name: Sheet(name) for name in ("column", "text")}


def drawn(name, sheet=SCREEN):
    return card_figure(CARDS[name], sheet)


def sizes(figure):
    """The size of every text that is drawn."""
    return [text.get_fontsize() for text in figure.findobj(Text) if text.get_visible() and text.get_text()]


@pytest.mark.parametrize(
    ("name", "sheet"),
    [*((name, SCREEN) for name in CARDS), *itertools.product(PRINTED, SHEETS.values())],
    ids=lambda one: one if isinstance(one, str) else one.name,
)
def test_no_text_of_a_card_overlaps_another_or_leaves_the_page(name, sheet):
    figure = drawn(name, sheet)
    found = texts(figure)
    assert len(found) > 20
    width, height = figure.get_size_inches() * figure.dpi
    assert sheet.width in (None, width / figure.dpi)
    assert min(sizes(figure)) >= (SMALLEST_TYPE if sheet.width else 6.5)
    for text, box in found:
        assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height, text
    for (text, box), (other, other_box) in itertools.combinations(found, 2):
        assert not (box.shrunk(0.95, 0.8)).overlaps(other_box.shrunk(0.95, 0.8)), (text, other)


def framed_axes(figure):
    return [axes for axes in figure.axes if axes.images]


@pytest.mark.parametrize("sheet", [SCREEN, *SHEETS.values()], ids=lambda sheet: sheet.name)
def test_a_card_shows_patches_in_the_colours_of_their_concepts_with_rank_and_class(sheet):
    card = make_card(("barn", "banana"), others=True)
    figure = card_figure(card, sheet)
    framed = framed_axes(figure)
    each = len(framed) // 3  # a column may have fewer
    assert len(framed) == 3 * each and each == (3 if sheet.narrow else 6)
    shown = itertools.chain(*(of_channel[:each] for of_channel in card.patches))
    for axes, patch in zip(framed, shown, strict=True):
        assert np.array_equal(axes.images[0].get_array(), patch.picture)
        colour = DISENTANGLED[patch.concept][0] if patch.concept >= 0 else GREY
        assert to_hex(axes.spines["left"].get_edgecolor()) == colour
        assert [text.get_text() for text in axes.texts] == [str(patch.rank)]
        below = [text.get_text() for text in figure.texts if is_below(text, axes)]
        assert patch.name in below


def is_below(text, axes):
    """Whether a text of a figure stands centred under axes, a few points away."""
    (x, y), box = text.get_position(), axes.get_position()
    return abs(x - (box.x0 + box.x1) / 2) < 0.01 and 0 <= (box.y0 - y) * axes.figure.get_size_inches()[1] < 0.06


def test_a_card_draws_densities_on_one_scale_and_says_how_many_images():
    card = CARDS["two"]
    first, second = card_figure(card).axes[-3:-1]
    assert first.get_xlim() == second.get_xlim() and first.get_ylim() == second.get_ylim()
    for axes, (_, (_, curves)) in zip((first, second), card.densities, strict=True):
        drawn = {line.get_color(): line.get_ydata() for line in axes.lines if len(line.get_ydata())}
        for (colour, _), curve in zip((("#222222", ""), *DISENTANGLED), curves.values(), strict=False):
            assert np.array_equal(drawn[colour], curve)
            assert curve.max() < axes.get_ylim()[1]
    assert [axes.get_title() for axes in (first, second)] == ["images of barn, n = 20", "images of banana, n = 20"]


def dots(axes, marker="o"):
    """The y of the dots of each bar."""
    return [line.get_ydata() for line in axes.lines if line.get_marker() == marker]


def test_bars_have_means_deviations_and_a_dot_for_each_image_below_the_mean():
    card = CARDS["two"]
    bars = card_figure(card).axes[-1]
    means = np.concatenate([summary.mean for summary in card.summaries])
    assert [bar.get_height() for bar in bars.patches] == pytest.approx(means)
    lines = [group for group in bars.collections if isinstance(group, LineCollection)]
    segments = [segment for group in lines for segment in group.get_segments()]
    upright = [high - low for (left, low), (right, high) in segments if left == right]
    assert upright == pytest.approx(2 * np.concatenate([summary.std for summary in card.summaries]))
    flat = [(low, right - left) for (left, low), (right, high) in segments if left != right]
    assert np.array(flat) == pytest.approx(np.stack([means, np.full(6, 0.8)], 1))
    for drawn, own in zip(dots(bars), np.concatenate([one.T for one in card.fractions]), strict=True):
        low, high = bars.get_ylim()
        np.testing.assert_allclose(np.sort(drawn), np.sort(own[(own >= low) & (own <= high)]))
    above = min(group.get_zorder() for group in lines)
    assert all(line.get_zorder() < above for line in bars.lines if line.get_marker() in "o^v")
    for place, line in zip(ticks_of(bars), [line for line in bars.lines if line.get_marker() == "o"], strict=True):
        assert np.abs(line.get_xdata() - place).max() < 0.4 < np.ptp(line.get_xdata()) * 2


def ticks_of(axes):
    return axes.get_xticks().tolist()


def test_all_cards_have_the_same_axes_of_fractions_and_dots_outside_are_counted():
    card = make_card(("barn", "banana"))
    card.fractions[0][:3, 1] = (-7, 9, 2.01)
    figure = card_figure(card)
    bars = figure.axes[-1]
    assert bars.get_ylim() == FRACTIONS == card_figure(CARDS["constant"]).axes[-1].get_ylim()
    assert [len(one) for marker in "v^" for one in dots(bars, marker)] == [0, 1, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]
    assert all(one[one > 0].tolist() in ([], [FRACTIONS[1]] * 2) for one in dots(bars, "^"))
    words = [text.get_text() for text in bars.texts]
    assert words == ["images of barn\nn = 20\n3 dots outside", "images of\nbanana\nn = 20"] or words == [
        "images of barn\nn = 20\n3 dots outside",
        "images of banana\nn = 20",
    ]


def test_axes_of_fractions_grow_by_steps_to_show_every_mean():
    def limits(*means):
        one = CARDS["two"].summaries[0]
        return fraction_limits([replace(one, mean=np.array(means)), replace(one, mean=np.array([np.nan, 0.5, 0.1]))])

    low, high = FRACTIONS
    assert limits(low, high, 0) == FRACTIONS
    assert limits(low - 0.01, 0, 0) == (low - STEP, high)
    assert limits(high + STEP + 0.01, 0, 0) == (low, high + 2 * STEP)


@pytest.mark.parametrize("residual", [True, False])
def test_a_residual_without_an_input_has_no_bar(residual):
    card = make_card(("barn", "banana"), residual=residual)
    bars = card_figure(card).axes[-1]
    assert [label.get_text() for label in bars.get_xticklabels()] == ["c′₁", "c′₂", *["r"] * residual] * 2
    assert len(bars.patches) == len(ticks_of(bars)) == 2 * (2 + residual)


@pytest.mark.parametrize("sheet", [SCREEN, *SHEETS.values()], ids=lambda sheet: sheet.name)
@pytest.mark.parametrize("names", [("barn", "banana"), [f"class {k}" for k in range(8)]])
def test_a_concept_without_an_included_image_is_named_and_left_out(names, sheet):
    words = [text for text, _ in texts(card_figure(make_card(names, included=False), sheet))]
    assert any(f"no image to measure: {names[0]}" in text for text in words)
    counts = [text for text in words if "n = " in text and text.splitlines()[0].endswith((names[1], "n = 20"))]
    assert counts and not any("n = 0" in text for text in words)


@pytest.mark.parametrize("name", PRINTED)
def test_a_card_in_a_column_is_no_higher_than_half_a_page(name):
    assert drawn(name, SHEETS["column"]).get_size_inches()[1] <= COLUMN_HEIGHT + 1e-6


def test_the_card_of_many_concepts_wraps():
    for card in (CARDS["eight"], make_card([f"circuit {k}" for k in range(8)], visualizations=True)):
        width, height = card_figure(card).get_size_inches()
        assert width < 11 and height < 1.5 * width


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("visualizations", [False, True])
def test_patches_across_a_page_leave_no_hole(number, visualizations):
    """Every line of pictures is as far from the left edge of the page as from the right one."""
    figure = card_figure(
        make_card([f"class {k}" for k in range(number)], visualizations=visualizations), SHEETS["text"]
    )
    lines = {}
    for axes in framed_axes(figure):
        box = axes.get_position()
        lines.setdefault(round(box.y0, 3), []).append((box.x0, box.x1))
    assert len(framed_axes(figure)) == (number + 1) * (6 + 2 * visualizations)
    for places in lines.values():
        assert min(left for left, _ in places) == pytest.approx(1 - max(right for _, right in places), abs=0.002)


def test_a_table_has_the_mean_fractions_of_many_concepts_and_frames_their_own():
    card = make_card([f"class {k}" for k in range(8)])
    table = card_figure(card).axes[-1]
    shown = [float(text.get_text().replace("−", "-")) for text in table.texts]
    assert shown == pytest.approx(np.concatenate([summary.mean for summary in card.summaries]), abs=0.0051)
    frames = [patch for patch in table.patches if not patch.get_fill()]
    assert [(frame.get_x(), frame.get_y()) for frame in frames] == [(k + 0.03, k + 0.05) for k in range(8)]


def test_peaks_of_silent_channels_are_cut_so_that_the_others_are_seen():
    card = make_card(("barn", "banana"))
    for samples, _ in card.densities:
        samples["c'_2, for banana"] = np.random.default_rng(1).normal(0, 1e-4, 20)
    card.densities = [(samples, density_curves(samples)) for samples, _ in card.densities]
    figure = card_figure(card)
    original = max(curves["original channel"].max() for _, (_, curves) in card.densities)
    assert figure.axes[-2].get_ylim()[1] == pytest.approx(1.05 * HIGHEST * original)
    assert "activation, summed over space; higher peaks are cut" in [
        " ".join(text.split()) for text, _ in texts(figure)
    ]
    assert "activation, summed over space" in [text for text, _ in texts(card_figure(CARDS["two"]))]


def test_densities_beside_a_spike_are_scaled_to_their_own_peaks_and_the_axis_says_so():
    """A set of two images has a narrow density, beside which those of other sets would be flat."""
    card = make_card(("barn", "banana"))
    generator = np.random.default_rng(1)
    narrow, wide = ({label: generator.normal(1, scale, 20) for label in card.densities[0][0]} for scale in (0.001, 1))
    card.densities = [(samples, density_curves(samples)) for samples in (narrow, wide)]
    figure = card_figure(card)
    for axes in figure.axes[-3:-1]:
        peaks = [line.get_ydata().max() for line in axes.lines if len(line.get_ydata())]
        assert peaks == pytest.approx([1, 1, 1]) and axes.get_ylim() == pytest.approx((0, 1.05))
    words = [" ".join(text.split()) for text, _ in texts(figure)]
    assert "activation, summed over space; each density scaled to its own peak" in words
    assert not any("scaled" in text for text, _ in texts(card_figure(CARDS["two"])))


@pytest.mark.parametrize("sheet", [SCREEN, *SHEETS.values()], ids=lambda sheet: sheet.name)
def test_how_well_a_concept_stands_out_is_below_its_name(sheet):
    card = make_card(("barn", "banana"))
    card.stands_out = ["", "0.31; permuted weights 0.12 to 0.20", "stands out in no class"]
    words = [" ".join(text.split()) for text, _ in texts(card_figure(card, sheet))]
    assert set(card.stands_out[1:]) <= set(words)


@pytest.mark.parametrize("sheet", [SCREEN, *SHEETS.values()], ids=lambda sheet: sheet.name)
def test_how_many_concepts_stand_out_leads_below_the_patches(sheet):
    card = make_card(("barn", "banana"))
    card.count = "1 of 2 circuits stand above permuted weights (20 units, p < 0.05 each; by chance 0.095)"
    words = [" ".join(text.split()) for text, _ in texts(card_figure(card, sheet))]
    assert any(text.startswith(f"{card.count}; {card.patch_note[:20]}") for text in words)


def test_a_card_says_what_it_shows_in_place_of_patches():
    words = [text for text, _ in texts(card_figure(CARDS["whole images"]))]
    assert any(text.replace("\n", " ").startswith("whole images are shown: a long name of") for text in words)
    assert any(" ".join(text.split()) == CARDS["two"].patch_note for text, _ in texts(card_figure(CARDS["two"])))


def test_what_is_said_of_a_layer_whose_positions_lie_nowhere():
    for positions, map_size, note in (
        (1, None, "whole images are shown: mlp sees one vector per image, without a position"),
        (49, None, "whole images are shown: the positions of mlp's tokens in an image are not known"),
        (49, (7, 7), None),
    ):
        layer = Linear(None, "mlp", map_size, arrangement=Arrangement(positions=positions))
        assert patch_note_of(layer) == note
        assert patch_size_of(None, 224, layer) == (224 if map_size is None else 96)
        assert patch_size_of(224, 224, layer) == 224


@pytest.mark.parametrize("sheet", [SCREEN, *SHEETS.values()], ids=lambda sheet: sheet.name)
def test_rows_of_pictures_have_frames_labels_and_captions(sheet):
    picture = np.zeros((4, 4, 3), np.uint8)
    rows = {
        "original channel": [(picture, "#222222", "seed 0: 1.25"), (picture, "#222222", "")],
        f"c'_1, for {LONG[0]}": [(picture, "#0072b2", "")],
    }
    figure = pictures_figure(rows, Titles("Channel 9 and its parts", "resnet50, rho 1.0"), sheet)
    assert [len(axes.images) for axes in figure.axes] == [1, 1, 1, 0]
    frames = [to_hex(axes.spines["left"].get_edgecolor()) for axes in figure.axes[:3]]
    assert frames == ["#222222", "#222222", "#0072b2"]
    first, _, second, _ = (" ".join(axes.get_ylabel().split()) for axes in figure.axes)
    assert first == "original channel"
    assert second.startswith("c′₁, for a long name of")
    found = texts(figure)
    assert {"Channel 9 and its parts", "resnet50, rho 1.0", "seed 0: 1.25"} <= {text for text, _ in found}
    width, height = figure.get_size_inches() * figure.dpi
    assert all(box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height for _, box in found)
    assert sheet.width in (None, width / figure.dpi) and min(sizes(figure)) >= SMALLEST_TYPE
