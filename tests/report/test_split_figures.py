"""What figures show of a result: all concepts, or the eight largest, and everything else last."""

import numpy as np
import pytest

from tests.entries import measured_images, pair_result
from utils.report import split_figures
from utils.report.plots import DISENTANGLED, EVERYTHING_ELSE, ORIGINAL
from utils.report.sheets import Sheet
from utils.report.split_figures import (
    channel_card,
    colours_of,
    densities,
    densities_figures,
    left_out,
    residual_and_note,
    shown_channels,
    shown_concepts,
    visualization_figure,
)
from utils.stages.split_measures import Patch


def many(count, background=None):
    """A result of ``count`` concepts, concept k with k + 3 images, and perhaps everything else."""
    result = pair_result(1, tuple((k,) for k in range(count)), np.eye(count).tolist())
    channels = count + (background is not None)
    result |= {"background": background, "concept_names": [f"name {k}" for k in range(count)]}
    result["images"] = [measured_images(10 + k, k + 3, channels, k) for k in range(count)]
    return result


def test_up_to_eight_concepts_are_all_shown():
    result = many(8)
    assert shown_concepts(result) == list(range(8)) and left_out(result) == ""
    assert list(shown_channels(result)) == list(range(1, 9))
    assert colours_of(result) == [ORIGINAL, *DISENTANGLED]


def test_image_sets_keep_their_colours_where_one_is_left_out():
    result = {**many(4), "assignment": "images of largest sum"}
    result["images"][1] = {**result["images"][1], "paths": []}
    assert shown_concepts(result) == [0, 2, 3]
    assert colours_of(result) == [ORIGINAL, *(DISENTANGLED[k] for k in (0, 2, 3))]


def test_of_more_the_eight_of_most_images_are_shown_and_it_is_said():
    result = many(11, background=1.0)
    assert shown_concepts(result) == list(range(3, 11))
    assert left_out(result) == "; the 8 largest of 11 concepts"
    assert list(shown_channels(result)) == [*range(4, 12), 12]
    assert shown_channels(result)[12] == "c'_12, everything else"
    assert colours_of(result)[-1] == EVERYTHING_ELSE and len(colours_of(result)) == 10
    samples, _ = zip(*densities(result), strict=True)
    assert [len(one["original channel"]) for one in samples] == list(range(6, 14))
    label = "c'_4, for name 3"
    np.testing.assert_array_equal(samples[0][label], np.array(result["images"][3]["sums"])[:, 3])


@pytest.mark.parametrize("result", [many(11, 1.0), many(1, 1.0), many(3)], ids=["11", "alone", "3"])
def test_a_card_of_any_number_of_concepts_is_drawn(tmp_path, result):
    count = len(result["concept_names"]) + (result["background"] is not None)
    patches = [
        [Patch(np.zeros((4, 4, 3), np.uint8), k % count, "ant", k + 1) for k in range(6)] for _ in range(count + 1)
    ]
    (path,) = channel_card(tmp_path, result, patches, patch_note="most activating first")
    assert path.stat().st_size > 1000 and path.name.endswith("_rho0.95_card.png")


@pytest.fixture
def written(monkeypatch):
    """The figures that are written, by name; nothing is."""
    found = {}

    def write(stem, figure, sheet):
        found[f"{stem.name}{sheet.suffix}"] = figure
        return stem

    monkeypatch.setattr(split_figures, "write_figure", write)
    return found


def test_densities_of_all_concepts_have_the_same_axes_and_say_how_many_images(tmp_path, written):
    result = pair_result(3)
    result["images"][1]["original"] = [value * 5 for value in result["images"][1]["original"]]
    densities_figures(tmp_path, result, Sheet("text"))
    assert list(written) == [f"net_channel3_1_2_rho0.95_concept{k}_density_text" for k in (1, 2)]
    first, second = (figure.axes[0] for figure in written.values())
    assert first.get_xlim() == second.get_xlim() and first.get_ylim() == second.get_ylim()
    for axes, count, (_, (grid, curves)) in zip((first, second), (6, 7), densities(result), strict=True):
        assert f"n = {count} validation images" in axes.get_title()
        low, high = axes.get_xlim()
        for curve in curves.values():
            assert low < grid[curve.argmax()] < high and curve.max() < axes.get_ylim()[1]


def with_residual(result, values):
    """The result with other residuals, the new channels the same."""
    start = 0
    for part in result["images"]:
        sums = np.array(part["sums"])
        sums[:, -1] = np.broadcast_to(values, 100)[start : start + len(sums)]
        start += len(sums)
        number = sums.shape[1] - 1
        part |= {"sums": sums.tolist(), "original": (sums[:, :-1].sum(1) - (number - 1) * sums[:, -1]).tolist()}
    return result


@pytest.mark.parametrize(
    ("result", "residual", "shown", "note"),
    [
        (pair_result(3), np.arange(100.0), True, "in every image c′₁ + c′₂ − r = 1: one bar follows from the others"),
        (pair_result(3), 0.5, True, "c′₁ + c′₂ − r = 1 (r is the bias alone): one bar follows from"),
        (pair_result(3), 0, False, "r = 0 and c′₁ + c′₂ = 1 in every image: above 1 for one is below 0 for the other"),
        (many(1, 1.0), 0, False, "r = 0 and c′₁ + c′₂ = 1 in every image: above 1 for one is below 0 for the other"),
        (many(3), 1, True, "c′₁ + … + c′₃ − 2 r = 1 (r is the bias"),
        (many(2, 1.0), np.arange(100.0), True, "in every image c′₁ + … + c′₃ − 2 r = 1: one bar follows"),
        (many(7), 0, False, "r = 0 and c′₁ + … + c′₇ = 1 in every image: one bar follows"),
        (many(11), 0, False, ""),  # not all are drawn
    ],
    ids=["two", "bias", "none shared", "one and the rest", "three", "two and the rest", "seven", "eleven"],
)
def test_it_is_said_which_fractions_follow_from_the_others(result, residual, shown, note):
    result = with_residual(result, residual)
    bar, said = residual_and_note(result)
    assert bar == shown and note in said and bool(note) == bool(said)
    for part in result["images"]:  # and it is true of the numbers
        sums, original = np.array(part["sums"]), np.array(part["original"])
        number = sums.shape[1] - 1
        np.testing.assert_allclose((sums[:, :-1].sum(1) - (number - 1) * sums[:, -1]) / original, 1)


def test_a_visualization_says_steps_seeds_and_what_is_reached_beside_the_largest_of_real_images(tmp_path, written):
    result = pair_result(3)
    pictures = np.zeros((3, 4, 8, 8, 3), np.uint8)
    entry = {"steps": 50, "seeds": 4, "reached": [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0], [-1.0, 0.5, 0.0, 1234.5]]}
    visualization_figure(tmp_path, result, entry, pictures, positions=10)
    ((name, figure),) = written.items()
    assert name == "net_channel3_1_2_rho0.95_visualization_steps50_seeds4"
    captions = [axes.get_xlabel() for axes in figure.axes]
    assert captions[:5] == ["seed 0: 1", "seed 1: 2", "seed 2: 3", "seed 3: 4", "seed 0: 5"]
    assert captions[-1] == "seed 3: 1.23e+03"
    assert "50 steps" in " ".join(figure.get_supxlabel().split())
    sums = [np.concatenate([np.array(part["sums"])[:, k] for part in result["images"]]) for k in (0, 1)]
    largest = [max(max(part["original"]) for part in result["images"]), *(one.max() for one in sums)]
    labels = [" ".join(axes.get_ylabel().split()) for axes in figure.axes[::4]]
    assert [label.split("at most ")[1] for label in labels] == [f"{value / 10:.3g})" for value in largest]
    visualization_figure(tmp_path, result, {**entry, "steps": 200, "seeds": 2}, pictures, positions=10)
    assert list(written)[-1] == "net_channel3_1_2_rho0.95_visualization"
