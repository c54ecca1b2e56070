"""The overview of a layer: the table against a loop, and figures in which everything is there and can be read."""

import csv

import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb

from tests.figures import (
    GUIDE,
    NAMES,
    TITLES,
    assert_readable,
    channel_classes,
    class_pairs,
    drawn,
    made_up_pairs,
    made_up_similarities,
)
from tests.scripts import NETWORK, RUN, printed_pairs, stage2, succeed
from utils.images.folders import ClassMap
from utils.report.layer_figure_parts import LARGEST_POINT, OTHER, SMALLEST_POINT, UNDER_GAMMA
from utils.report.layer_tables import gamma_from, write_channels
from utils.report.overview_figure import overview_figure
from utils.report.wordnet_figure import wordnet_figure
from utils.store.importance_store import ImportanceStore


def scatters(axes):
    return [part for part in axes.collections if isinstance(part, PathCollection) and len(part.get_offsets())]


def point_places(axes):
    """All points of the axes in points of print, their size, and the cosine of each."""
    cosines = np.concatenate([np.asarray(part.get_offsets())[:, 0] for part in scatters(axes)])
    offsets = np.concatenate([axes.transData.transform(part.get_offsets()) for part in scatters(axes)])
    (size,) = {part.get_sizes()[0] for part in scatters(axes)}
    return offsets * 72 / axes.figure.dpi, np.sqrt(size), np.sort(cosines)


def assert_no_point_hides_another(axes):
    places, size, _ = point_places(axes)
    apart = np.abs(places[:, None] - places).max(2) + 2 * size * np.eye(len(places))
    assert apart.min() > 0.98 * size


def test_gamma_is_the_upper_bound_or_the_papers():
    assert [gamma_from(high) for high in (0.9, 0.3, -0.5, 1.0)] == [0.9, 0.3, -0.5, 0.5]


def test_classes_and_pairs_of_every_channel():
    relevant = torch.tensor([[1, 0, 1, 1], [1, 0, 0, 1], [0, 0, 0, 1]], dtype=torch.bool)
    pairs = [(0, 0, 1, 0.9), (3, 1, 2, 0.8), (3, 0, 2, 0.3), (3, 0, 1, -0.2)]
    channels = channel_classes(relevant, class_pairs(*pairs))
    lowest_first = [(3, 0, 1, -0.2), (3, 0, 2, 0.3), (3, 1, 2, 0.8)]
    assert len(channels) == 4 and channels.num_classes.tolist() == [2, 0, 1, 3]
    assert [channels.classes(channel) for channel in range(4)] == [[0, 1], [], [0], [0, 1, 2]]
    of_channels = [list(channels.pairs_of(channel).rows()) for channel in range(4)]
    assert of_channels == [[(0, 0, 1, 0.9)], [], [], lowest_first]
    assert channels.lowest_cosines() == pytest.approx([0.9, np.nan, np.nan, -0.2], nan_ok=True)
    assert channels.polysemantic(0.5) == [3]
    assert channels.polysemantic(0.95) == [3, 0]
    assert channels.polysemantic(-0.2) == []


def test_the_table_has_a_row_for_every_channel_as_a_loop_finds_it(copy, with_full_figures, tmp_path):
    pairs = printed_pairs(stage2(copy / "store", "--cos_sim_low", "-1", cwd=tmp_path))
    flags = ("--proportion_attribution_required", "0.05", "--p", "0.5", "--cos_sim_high", "0.6")
    flags = (*NETWORK, "--store_dir", copy / "store", *flags, "--output_dir", tmp_path)
    out = succeed("get_cosine_similarities.py", *flags, cwd=tmp_path)
    name = f"{RUN}_required0.05_p0.5_cossim0.0to0.6"
    with open(tmp_path / f"results_get_cosine_similarities/{name}_channels.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header[:4] == ["Channel", "NumClasses", "Classes", "LowestClassCosine"]
    assert header[4:] == ["PairsUnderGamma", "Names", "Groups", "LowestConceptCosine", "Low"]
    store = ImportanceStore(copy / "store", RUN)
    store.load_meta()
    images = [store.read_chunk(chunk) for chunk in range(store.num_chunks)]
    relative, targets = (torch.cat([part[key] for part in images]) for key in ("relative_importances", "targets"))
    numbers = []
    for channel, row in enumerate(rows):
        shares = [(relative[targets == output, channel].float() >= 0.05).float().mean() for output in range(4)]
        classes = [output for output in range(4) if shares[output] >= 0.5]
        cosines = [pair["cosine_similarity"] for pair in pairs if pair["channel"] == channel]
        numbers.append(len(classes))
        assert row[:3] == [str(channel), str(len(classes)), "; ".join(map(str, classes))]
        assert (float(row[3]) if row[3] else None) == (pytest.approx(min(cosines), abs=1e-4) if cosines else None)
        assert row[4] == str(sum(cosine < 0.6 for cosine in cosines))
        assert row[5] == "; ".join(("ant", "bee", "cat", "dog")[output] for output in classes)
    assert len(rows) == 12
    assert sum(int(row[4]) for row in rows) > 0
    counts = [sum(number == n for number in numbers) for n in (0, 1, 2)] + [sum(number > 2 for number in numbers)]
    line = f"channels relevant for 0 / 1 / 2 / 3 or more classes: {' / '.join(map(str, counts))}"
    assert line in out.split("\n")
    assert f"{counts[2] + counts[3]} channels are relevant for several classes, {len(pairs)} pairs in all" in out
    assert counts[1] > 0
    assert f"{name}_overview.png" in out
    for suffix in ("png", "pdf"):
        assert (tmp_path / "plots" / f"{name}_overview.{suffix}").stat().st_size > 5000


def test_names_with_separators_and_of_no_encoding_can_be_read_back_from_the_table(tmp_path):
    folders = {'a, "b"': 0, "c\udcff": 1}
    channels = channel_classes(torch.ones(2, 1, dtype=torch.bool), class_pairs((0, 0, 1, 0.25)))
    path = write_channels(tmp_path / "x.txt", channels, 0.25, ClassMap(folders))
    assert path == tmp_path / "x_channels.csv"
    with open(path, newline="") as file:
        row = list(csv.reader(file))[1]
    assert row == ["0", "2", "0; 1", "0.250000", "0", 'a, "b"; c\\udcff', "0; 1", "0.000000", ""]


@pytest.mark.parametrize("names", NAMES)
def test_an_overview_can_be_read_whatever_the_names(names):
    relevant, pairs = made_up_pairs(25, lambda channel: 40 if channel == 3 else channel % 5)
    figure = overview_figure(channel_classes(relevant, pairs), 0.5, GUIDE, name=NAMES[names], titles=TITLES)
    assert_readable(figure)
    bars, histogram, _, rows, text = figure.axes
    counts = np.bincount([10 if channel == 3 else channel % 5 for channel in range(25)])
    assert [bar.get_height() for bar in bars.patches] == counts.tolist()
    assert [label.get_text() for label in bars.texts] == [str(count) for count in counts]
    assert bars.get_xticklabels()[-1].get_text() == "10–40"
    cosines = pairs.cosine.numpy()
    for colour, part in ((UNDER_GAMMA[0], cosines[cosines < 0.5]), (OTHER[0], cosines[cosines >= 0.5])):
        own = [bar for bar in histogram.patches if bar.get_facecolor()[:3] == to_rgb(colour)]
        assert sum(bar.get_height() for bar in own) == len(part)
        assert all((bar.get_x() < 0.4999) == (colour == UNDER_GAMMA[0]) for bar in own if bar.get_height())
    assert_no_point_hides_another(rows)
    assert len(point_places(rows)[2]) == len(
        [channel for channel in pairs.channel.tolist() if channel in shown_channels(rows)]
    )
    assert rows.lines[0].get_xdata()[0] == 0.5
    assert len(text.texts) >= len(shown_channels(rows))


def shown_channels(axes):
    return {int(label.get_text()) for label in axes.get_yticklabels()}


def test_the_rows_are_the_channels_of_lowest_cosine_and_the_rest_is_counted():
    relevant, pairs = made_up_pairs(50, lambda channel: 3)
    channels = channel_classes(relevant, pairs)
    figure = overview_figure(channels, 0.7, GUIDE, name=str, titles=TITLES)
    found = channels.polysemantic(0.7)
    labels = [int(label.get_text()) for label in figure.axes[3].get_yticklabels()]
    assert labels == found[:20]
    assert f"(the first 20 of {len(found)}, all are in the table)" in figure.subfigs[2].get_suptitle()
    (_, first, second, _), *_ = channels.pairs_of(found[0]).rows()
    groups = ", ".join(f"{{{output}}}" for output in channels.classes(found[0]))
    assert [text.get_text() for text in figure.axes[4].texts[:2]] == [f"{first} / {second}", groups]


@pytest.mark.parametrize(
    ("classes", "cosine", "panels", "note"),
    [
        (0, 0.2, 1, "no channel is relevant for two classes"),
        (1, 0.2, 1, "no channel is relevant for two classes"),
        (2, 0.7, 3, "no pair is under γ = 0.5"),
        (2, 0.5, 3, "no pair is under γ = 0.5"),
        (2, -0.9, 5, None),
        (45, -1.0, 5, None),
    ],
)
def test_a_panel_that_would_be_empty_is_left_out(classes, cosine, panels, note):
    relevant, pairs = made_up_pairs(2, lambda channel: classes, cosines=lambda random: cosine)
    figure = overview_figure(channel_classes(relevant, pairs), 0.5, GUIDE, name=NAMES["long"], titles=TITLES)
    assert_readable(figure)
    assert len(figure.axes) == panels
    assert (note or TITLES[1]) in figure.subfigs[0].get_suptitle().replace("\n", " ")


@pytest.mark.parametrize("gamma", [-0.95, -0.35, 0.1, 0.3, 0.53, 0.999])
def test_the_histogram_counts_every_pair_on_its_side_of_gamma(gamma):
    cosines = [-1.0, -0.95, -0.2, 0.1, 0.3, gamma - 1e-9, gamma, 0.53, 1.0]
    relevant = torch.ones(len(cosines) + 1, 1, dtype=torch.bool)
    pairs = class_pairs(*((0, 0, i + 1, cosine) for i, cosine in enumerate(cosines)))
    axes = overview_figure(channel_classes(relevant, pairs), gamma, GUIDE, name=str, titles=TITLES).axes[1]
    bars, (low, high) = axes.patches, axes.get_xlim()
    assert low < -1 < 1 < high
    for colour, number in (
        (UNDER_GAMMA[0], sum(c < gamma for c in cosines)),
        (OTHER[0], sum(c >= gamma for c in cosines)),
    ):
        assert sum(bar.get_height() for bar in bars if bar.get_facecolor()[:3] == to_rgb(colour)) == number


def test_bars_are_on_a_log_scale_where_the_first_dwarfs_the_others():
    for idle, scale in ((500, "log"), (20, "linear")):
        relevant, pairs = made_up_pairs(idle + 10, lambda channel, idle=idle: 0 if channel < idle else 3)
        axes = overview_figure(channel_classes(relevant, pairs), 0.5, GUIDE, name=str, titles=TITLES).axes[0]
        assert axes.get_yscale() == scale
        assert ("log scale" in axes.get_ylabel()) == (scale == "log")


@pytest.mark.parametrize(
    ("channels", "classes", "names"), [(3, 2, "short"), (30, 4, "long"), (30, 3, "wide"), (20, 15, "two lines")]
)
def test_a_wordnet_figure_shows_every_pair_and_names_the_surprising_ones(channels, classes, names):
    _, pairs = made_up_pairs(channels, lambda channel: classes)
    similarities = made_up_similarities(pairs)
    figure = wordnet_figure(pairs, similarities, 0.6, name=NAMES[names], titles=TITLES)
    assert_readable(figure)
    axes = figure.axes[0]
    _, size, cosines = point_places(axes)
    assert SMALLEST_POINT <= size <= LARGEST_POINT
    assert cosines == pytest.approx(sorted(pairs.cosine.tolist()))
    assert_no_point_hides_another(axes)
    assert axes.lines[0].get_xdata()[0] == 0.6
    rows = np.concatenate([part.get_offsets()[:, 1] for part in scatters(axes)])
    assert sorted(np.rint(rows)) == sorted(round(1 / similarity) for similarity in similarities)
    assert {f"1/{round(1 / s)}" for s in similarities} <= {label.get_text() for label in axes.get_yticklabels()}
    for part in scatters(axes):
        under = tuple(part.get_facecolor()[0][:3]) == to_rgb(UNDER_GAMMA[0])
        assert all((part.get_offsets()[:, 0] < 0.6) == under)
    if channels > 3:
        assert [text.get_text() for text in axes.texts] == list("123456")
        rings = [line for line in axes.lines if line.get_marker() == "o"]
        assert len(rings) == 6
        assert all(line.get_xdata()[0] in cosines for line in rings)


@pytest.mark.parametrize("cosines", [[0.7], [0.5, 0.5], [0.3, 0.8, 0.8], [-1.0, 1.0]])
def test_a_wordnet_figure_of_few_pairs_or_of_one_similarity(cosines):
    pairs = class_pairs(*((0, 0, i + 1, cosine) for i, cosine in enumerate(cosines)))
    figure = wordnet_figure(pairs, [1 / 8] * len(pairs), 0.5, name=NAMES["short"], titles=TITLES)
    assert_readable(figure)
    assert len(figure.axes) == 1
    assert len(point_places(figure.axes[0])[2]) == len(pairs)
    assert_no_point_hides_another(figure.axes[0])


def test_numbers_of_points_in_the_outermost_rows_stay_inside_the_axes():
    pairs = class_pairs(*((0, 0, i, cosine) for i, cosine in enumerate([0.9, 0.89, 0.88, 0.5, 0.12, 0.11, 0.1])))
    figure = wordnet_figure(pairs, [1 / 20] * 3 + [1 / 9] + [1 / 2] * 3, 0.5, name=NAMES["short"], titles=TITLES)
    assert_readable(figure)
    axes = figure.axes[0]
    assert sorted(text.get_text() for text in axes.texts) == list("123456")
    box = axes.get_window_extent()
    for text in axes.texts:
        extent = text.get_window_extent()
        assert box.y0 <= extent.y0 + 1 and extent.y1 <= box.y1 + 1


def test_tens_of_thousands_of_pairs_fit():
    random = np.random.default_rng(0)
    pairs = class_pairs(*((0, 0, i, float(np.tanh(random.normal(0.6, 0.3)))) for i in range(30000)))
    figure, _ = drawn(wordnet_figure(pairs, made_up_similarities(pairs), 0.5, name=NAMES["short"], titles=TITLES))
    places, size, cosines = point_places(figure.axes[0])
    assert len(cosines) == 30000
    assert size < 1.5
    by_height = places[np.lexsort(places.T)]
    same = np.abs(np.diff(by_height[:, 1])) < 1e-6
    assert np.diff(by_height[:, 0])[same].min() > 0.98 * size
