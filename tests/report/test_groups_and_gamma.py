"""Groups, classes in which a channel is low, and what gamma can go by: text, columns of the table and the figure."""

import csv
import json
import os
import re
import sys

import pytest
import torch

from tests.figures import GUIDE, TITLES, assert_readable, channel_classes, class_pairs, made_up_pairs
from utils.images.folders import ClassMap
from utils.report import layer_tables
from utils.report.gamma_guide import print_gamma, write_gamma
from utils.report.layer_figure_parts import fit_groups
from utils.report.overview_figure import overview_figure
from utils.report.plots import text_width
from utils.store.files import read_json

NOTHING = {
    "noise_floor": {"quantile": 0.01, "cosine": None, "images_per_half": None, "measured": 0},
    "modes": {"quantiles": [0.05, 0.5, 0.95], "cosines": [None] * 3, "measured": 0, "of": 0},
    "clean": {"gamma": [0.5], **{what: {"splits": [None], "concepts": [None]} for what in ("pairs", "groups")}},
}
CLASSES = ClassMap({name: output for output, name in enumerate(("ant", "bee", "cat", "dog"))})
META = {"model": "m", "weights": "w", "layer": "l"}


@pytest.fixture
def channels():
    """Channel 0 with three classes in two groups, channel 1 polysemantic with one group, channel 2 with one class."""
    relevant = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 1, 1], [1, 0, 0]], dtype=torch.bool)
    pairs = [(0, 0, 3, 0.8), (1, 0, 1, 0.7), (1, 1, 2, 0.6), (1, 0, 2, 0.45), (0, 1, 3, 0.3), (0, 0, 1, 0.2)]
    below = [(1, 0, -0.5), (2, 1, 0.5), (3, 2, -1.0)]  # the last one is of a class that is not relevant
    return channel_classes(relevant, class_pairs(*pairs), {0: [[0, 3], [1]], 1: [[0, 1, 2]]}, below)


def test_groups_are_printed_by_name_and_counted(channels, capsys):
    layer_tables.print_groups(channels, CLASSES, "all.json")
    layer_tables.print_layer(META, channels, channels.pairs, (0.0, 1.0), 0.5)
    out = capsys.readouterr().out
    assert (
        "      lowest cosine between\n"
        "channel   classes  concepts  groups of classes\n"
        "      0     0.200     0.000  {ant, dog}, {bee}\n"
    ) in out
    assert "\nat gamma 0.5, 1 channels have two or more groups; 1 are polysemantic but have a single group\n" in out
    assert re.search(
        r"^2 of 7 \(channel, class\) pairs are relevant because the channel is low.*--only_above_mean leaves them out$",
        out,
        re.M,
    )


def test_a_channel_that_is_relevant_by_being_low_is_not_proposed_before_others():
    """Of channels 1, 0 and 2, from the least alike, channel 1 is low for a class of its groups."""
    relevant = torch.ones(4, 3, dtype=torch.bool)
    groups = {0: [[0], [1]], 1: [[0], [1]], 2: [[2], [3]]}
    cosines = {0: 0.2, 1: 0.1, 2: 0.3}
    pairs = class_pairs(*((channel, *map(min, of), cosines[channel]) for channel, of in groups.items()))
    low_in_1 = channel_classes(relevant, pairs, groups, [(1, 1, -0.5)])
    order = [groups.channel for groups in low_in_1.several_groups()][::-1]
    assert low_in_1.least_alike().channel == next(channel for channel in order if channel != 1)
    assert channel_classes(relevant, pairs, groups).least_alike().channel == order[0]


def test_a_terminal_sees_a_page_of_groups_and_where_all_are(channels, capsys, monkeypatch):
    relevant = torch.ones(2, 40, dtype=torch.bool)
    many = channel_classes(relevant, class_pairs())
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(layer_tables.shutil, "get_terminal_size", lambda: os.terminal_size((80, 24)))
    layer_tables.print_groups(many, CLASSES, "all.json")
    lines = capsys.readouterr().out.splitlines()
    assert sum(bool(re.match(r" +\d+ ", line)) for line in lines) == 12
    assert "... 28 more, of higher cosine between concepts, in all.json" in lines


def test_without_two_groups_there_is_no_table_of_groups_and_nothing_low_is_not_mentioned(capsys):
    alone = channel_classes(torch.eye(3, dtype=torch.bool), class_pairs())
    layer_tables.print_groups(alone, CLASSES, None)
    layer_tables.print_layer(META, alone, alone.pairs, (0.0, 1.0), 0.5)
    out = capsys.readouterr().out
    assert "groups of classes" not in out and "being low" not in out
    assert "0 channels have two or more groups; 0 are polysemantic but have a single group" in out


def test_pairs_below_0_are_named_below_the_table_and_channels_without_a_pair_are_counted(capsys):
    """Channel 1 is the best one and has only a cosine below 0: it has groups, but no row in the table of pairs."""
    channels = channel_classes(torch.ones(2, 2, dtype=torch.bool), class_pairs((0, 0, 1, 0.3), (1, 0, 1, -0.125)))
    kept = channels.pairs[:1]
    layer_tables.print_pairs(kept, channels, CLASSES, "pairs.txt", (0.0, 0.5))
    layer_tables.print_layer(META, channels, kept, (0.0, 0.5), 0.5)
    out = capsys.readouterr().out
    line = "left out: 1 pairs below 0, the lowest -0.125 of channel 1 (ant / bee); add --cos_sim_low -1"
    assert f"bee\n{line}\n\n[{{'channel': 0, " in out
    assert "\n1 pairs of 1 channels have 0.0 <= cosine < 0.5\n" in out
    assert "2 channels have two or more groups (1 of them without such a pair: cosines below 0.0); 0 are poly" in out
    layer_tables.print_pairs(channels.pairs, channels, CLASSES, "pairs.txt", (-1.0, 0.5))
    layer_tables.print_layer(META, channels, channels.pairs, (-1.0, 0.5), 0.5)
    out = capsys.readouterr().out
    assert "not among" not in out and "2 channels have two or more groups; 0 are" in out


def test_where_there_are_no_pairs_there_is_no_list_of_them(capsys):
    alone = channel_classes(torch.eye(2, dtype=torch.bool), class_pairs())
    layer_tables.print_pairs(alone.pairs, alone, CLASSES, "pairs.txt", (0.0, 0.5))
    assert capsys.readouterr().out == "\nno pairs\n"


def test_groups_are_sorted_by_their_lowest_cosine_highest_first():
    relevant = torch.ones(2, 4, dtype=torch.bool)
    channels = channel_classes(relevant, class_pairs())
    for channel, cosine in enumerate((0.1, 0.3, -0.2, 0.3)):
        channels._groups[channel].cosines = torch.tensor([[1, cosine], [cosine, 1]])
    assert [one.channel for one in channels.several_groups()] == [1, 3, 0, 2]


def test_classes_in_which_a_channel_is_low_are_marked_with_the_sign_of_its_sum(channels, capsys, tmp_path):
    layer_tables.print_pairs(channels.pairs, channels, CLASSES, "pairs.txt", (0.0, 1.0))
    found = re.finditer(r"^ *(\d+) +(\d\.\d+) .*$", capsys.readouterr().out, re.MULTILINE)
    rows = {(row[1], row[2]): row[0] for row in found}
    assert rows["0", "0.200"].endswith("bee  low: 1 (-)") and rows["1", "0.450"].endswith("cat  low: 2 (+)")
    assert rows["0", "0.800"].endswith("ant    0     3 dog")
    path = layer_tables.write_channels(tmp_path / "x.txt", channels, 0.5, CLASSES)
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["Groups"] for row in rows] == ["0+3; 1", "0+1+2", "2"]
    assert [row["Low"] for row in rows] == ["1 (-)", "2 (+)", ""]
    assert [row["PairsUnderGamma"] for row in rows] == ["2", "1", "0"]


def test_the_overview_names_groups_beside_the_two_classes_that_differ_most(channels):
    figure = overview_figure(channels, 0.5, GUIDE, name=CLASSES.name, titles=TITLES)
    assert_readable(figure)
    texts = [text.get_text() for text in figure.axes[-1].texts]
    assert texts == ["ant / bee", "{ant, dog}, {bee}", "ant / cat", "one group, also bee"]


def test_of_many_groups_the_overview_shows_the_eight_largest_and_says_so():
    relevant = torch.ones(20, 1, dtype=torch.bool)
    groups = [[0], [1], *([2 + 2 * place, 3 + 2 * place] for place in range(7)), *([place] for place in range(16, 20))]
    channels = channel_classes(relevant, class_pairs((0, 0, 1, 0.2)), {0: groups})
    figure = overview_figure(channels, 0.5, GUIDE, name=str, titles=TITLES)
    text = figure.axes[-1].texts[1].get_text()
    assert text.startswith("the 8 largest of 13 groups: {0}, {2, +1}, {4, +1}") and "{1}" not in text


@pytest.mark.parametrize(("gamma", "guide"), [(-0.5, GUIDE), (0.5, GUIDE), (0.95, GUIDE), (0.5, NOTHING)])
def test_the_panel_of_gamma_shows_what_could_be_measured_and_can_be_read(gamma, guide):
    relevant, pairs = made_up_pairs(12, lambda channel: 4)
    figure = overview_figure(channel_classes(relevant, pairs), gamma, guide, name="class {}".format, titles=TITLES)
    assert_readable(figure)
    panels = [axes for axes in figure.axes if axes.get_xlabel() == "γ, or cosine of ARVs"]
    assert len(panels) == (guide is GUIDE)
    if guide is NOTHING:
        return
    (axes,) = panels
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines[f"γ = {gamma:g}"] == [[gamma, 0], [gamma, 1]]
    assert axes.get_xlim()[0] < gamma
    assert lines["pairs under γ"] == [[0.3, 1.0], [0.5, 0.95], [0.7, 0.9]]
    assert lines["channels split at γ"] == [[0.5, 0.8], [0.7, 0.7]]
    assert lines["their concepts"] == [[0.5, 0.87], [0.7, 0.66]]
    assert lines["noise floor (18 images per half)"] == [[0.81, 0], [0.81, 1]]
    (modes,) = axes.containers
    assert modes[2][0].get_segments()[0][:, 0].tolist() == pytest.approx([0.56, 0.93])


def test_what_gamma_can_go_by_is_printed_and_kept(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("utils.report.gamma_guide.PRINTED", (0.3, 0.7))
    print_gamma(GUIDE, 0.5)
    out = capsys.readouterr().out
    assert re.search(r"^noise floor 0.81.*18 images per half.*upper bound", out, re.MULTILINE)
    assert "median cosine 0.84, 5 % to 95 % 0.56 to 0.93 (505 (channel, class) pairs)" in out
    assert "(at gamma 0.7: 300 of 310 pairs, 70 of 75 channels):" in out
    assert re.findall(r" (\d\.\d\d|-) +(\d\.\d\d)$", out, re.MULTILINE) == [
        *(("0.30", "0.70"), ("1.00", "0.90"), ("-", "0.70"), ("-", "0.66"))
    ]
    print_gamma(NOTHING, 0.5)
    assert capsys.readouterr().out == ""
    path = write_gamma(tmp_path / "x.txt", GUIDE, {"tau": 0.01})
    assert path.name == "x_gamma.json"
    assert read_json(path, "") == {"format": 1, "settings": {"tau": 0.01}, **json.loads(json.dumps(GUIDE))}


def test_groups_that_do_not_fit_are_shortened_then_counted():
    groups = [["golden retriever", "German shepherd"], ["gondola"], ["a seashore of some length"]]
    whole = "{golden retriever, German shepherd}, {gondola}, {a seashore of some length}"
    assert fit_groups(groups, 1000, 6.5) == whole
    texts = {width: fit_groups(groups, width, 6.5) for width in (240, 170, 150, 110)}
    assert all(text_width(text, 6.5) <= width for width, text in texts.items())
    assert texts[240].startswith("{golden") and ", German" in texts[240] and texts[240].count("{") == 3
    assert "+1}, {gondola}, {a sea" in texts[170]
    assert texts[150].endswith("+1}, {gondola} and 1 more")
    assert texts[110].endswith("+1} and 2 more")
