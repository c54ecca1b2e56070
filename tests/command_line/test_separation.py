"""get_results.py --get_separation: from the stores alone, once, and its name."""

import csv
import re
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.scripts import COMPUTE, NETWORK, PAIR, RUN, contents, run_script, stage1, stage4, succeed
from utils.command_line.separating import _irrelevant_drawn, separation_name
from utils.command_line.settings import ResultSettings
from utils.divisions.division_registry import DIVISIONS
from utils.report.latex import escaped

OUT = Path("results_quantitative")
UNASKED = {"division_given": {}, "num_workers": 0}


@pytest.fixture(scope="module")
def measured(finished, tmp_path_factory):
    """A folder whose splits were separated, without images; with what was printed."""
    folder = tmp_path_factory.mktemp("separation") / "copy"
    shutil.copytree(finished, folder)
    stage1("data", "store", "--images", "val", cwd=folder)
    shutil.rmtree(folder / "data")
    return folder, stage4("data", "store", "--get_separation", cwd=folder)


def test_separation_needs_neither_images_nor_network(measured):
    folder, printed = measured
    name = f"{RUN}_channel9_1_3"
    paths = [
        OUT / "separation.csv",
        OUT / "separation.md",
        OUT / f"separation/{name}.json",
        f"plots/{name}_separation.png",
    ]
    assert all((folder / path).is_file() and str(path) in printed for path in paths)
    rows = list(csv.DictReader((folder / OUT / "separation.csv").open()))
    assert [row["concept"] for row in rows] == ["1", "2"]
    assert [(row["images"], row["prevalence"], row["name"]) for row in rows] == [
        ("4", "0.25", "bee"),
        ("4", "0.25", "dog"),
    ]
    assert [path.name for path in (folder / OUT / "separation").iterdir()] == [f"{name}.json"]  # nothing unfinished
    assert float(rows[0]["auroc_all"]) > 0.9 and "| permuted weights |" in printed
    assert all(row["most_draws"] == "199" and 3 <= int(row["null_draws"]) <= 199 for row in rows)
    assert not list((folder / "plots").glob("*density*")) and not (folder / OUT / "summary.md").exists()


def test_the_same_two_lines_lead_everywhere(measured):
    folder, printed = measured
    (first, *_) = [line for line in printed.splitlines() if "concepts stand above" in line]
    lines = printed.splitlines()
    second = lines[lines.index(first) + 2]
    assert re.fullmatch(
        r"[012] of 2 concepts stand above their primary null \(permuted weights\) at q < 0.05 "
        r"\(199 draws, min p 0.005\)",
        first,
    )
    gain = r"gain over the null [+-]0\.\d{3} \(no 95 % interval: 1 channel, fewer than 5\)"
    assert re.fullmatch(rf"Mean AP 0\.\d+ before the split, \d\.\d+ after it, \d\.\d+ for the null; {gain}", second)
    assert lines.index(first) < next(number for number, line in enumerate(lines) if line.startswith("|"))
    text = (folder / OUT / "separation.md").read_text().splitlines()
    assert [line for line in text if line][2:4] == [first, second]
    latex = (folder / OUT / "separation.tex").read_text()
    third = lines[lines.index(second) + 2]
    way = r"That is -?\d+% of the way from the null to a linear probe of the layer's input \(AP \d\.\d+\), which is .*"
    assert re.fullmatch(way, third)
    assert rf"\caption{{{escaped(f'{first}. {second}. {third}.')} Separation" in latex


def test_the_same_command_measures_nothing_again(measured, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(measured[0], folder)
    before = contents(folder)
    flags = ("--data_dir", "data", "--store_dir", "store", "--channel_of_interest", 9, *PAIR, "--get_separation")
    result = run_script("get_results.py", *NETWORK, *flags, *COMPUTE, cwd=folder)
    assert result.returncode == 0 and "separation:" not in result.stderr
    assert contents(folder) == before


def test_a_candidates_file_is_one_separation_and_the_fractions_come_along(measured, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(measured[0], folder)
    (folder / "mine.txt").write_text("9: 1, 3\n")
    flags = ("--data_dir", "data", "--store_dir", "store", "--candidates", "mine.txt", "--irrelevant_channels", 3)
    flags += ("--draws", 20)
    printed = succeed(
        "get_results.py", *NETWORK, *flags, *COMPUTE, "--get_separation", "--get_quantitative", cwd=folder
    )
    assert re.search(r" 20 draws of each null, 3 of \d+ irrelevant channels at tau 0.05, p 0.5:", printed)
    assert "(20 draws, min p 0.048)" in printed
    assert (folder / OUT / f"separation/{RUN}_mine.json").is_file() and (folder / OUT / "summary.md").is_file()
    assert f"{RUN}_mine_separation.png" in printed and "summary.md" in printed
    assert len((folder / OUT / "separation.csv").read_text().splitlines()) == 3  # each split once


def test_without_a_val_store_one_line_says_how_to_make_it(finished, tmp_path):
    flags = ("--store_dir", finished / "store", "--channel_of_interest", 9, *PAIR, "--get_separation")
    result = run_script("get_results.py", *NETWORK, *flags, *COMPUTE, cwd=tmp_path)
    assert result.returncode == 2 and not list(tmp_path.iterdir())
    (line,) = result.stderr.splitlines()
    assert "has no complete val store" in line
    words = shlex.split(line.rpartition(": run ")[2])
    assert words[1].endswith("get_importances_for_classes.py") and "--images" in words


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--irrelevant_channels", "3"), "--irrelevant_channels is for --get_separation: add it"),
        (("--get_separation", "--irrelevant_channels", "0"), "must be a whole number from 1"),
        (("--draws", "50"), "--draws is for --get_separation: add it"),
        (("--get_separation", "--draws", "19"), "must be a whole number from 20"),
    ],
)
def test_the_numbers_of_irrelevant_channels_and_of_draws_are_checked(tmp_path, flags, message):
    result = run_script("get_results.py", *NETWORK, "--channel_of_interest", 9, *PAIR, *flags, cwd=tmp_path)
    assert result.returncode == 2 and message in result.stderr


def split(channel, suffix=""):
    file = SimpleNamespace(split=SimpleNamespace(channel=channel, classes=[[1], [3]]))
    return SimpleNamespace(path=Path(f"store/net_channel{channel}_1_3{suffix}.pt"), file=file)


@pytest.mark.parametrize(
    "asked, suffix, name",
    [
        ({"candidates": "a/net_pairs.json"}, "", "net_pairs"),
        ({"candidates": "pairs.txt"}, "_only_correct", "net_pairs_correct_images"),
        ({"candidates": "pairs_only_correct.txt"}, "_only_correct", "net_pairs_only_correct"),
        ({"candidates": "net_only_correct_groups.json"}, "_only_correct_absolute", "net_only_correct_groups_absolute"),
        ({"candidates": "net_only_correct_groups.json"}, "", "net_only_correct_groups_all_images"),
        ({"candidates": "pairs.txt", "channels": (7, 5)}, "", "net_pairs_channel5-7"),
        ({"candidates": "pairs.txt", "rho": 0.7}, "_least_squares", "net_pairs_least_squares_rho0.7"),
        ({"splits": ("b/net_pairs_layer.json",)}, "", "net_pairs_layer"),
        ({}, "", "net_channel5_1_3"),
    ],
)
def test_a_separation_is_named_after_what_was_asked(asked, suffix, name):
    settings = ResultSettings(**UNASKED, **asked)
    assert separation_name(settings, "net", [split(5, suffix)]) == name


def test_a_long_name_is_cut_and_its_own():
    settings = ResultSettings(**UNASKED)
    names = [separation_name(settings, "net", [split(channel) for channel in range(first, 30)]) for first in (0, 1)]
    assert all(len(name) < 50 for name in names) and names[0] != names[1] and names[0].startswith("net_30splits_")


def splits_by(*divisions):
    return [
        SimpleNamespace(file=SimpleNamespace(split=SimpleNamespace(division=DIVISIONS.get(name)))) for name in divisions
    ]


@pytest.mark.parametrize(
    "asked, numbers",
    [
        (None, {"arv": None, "least_squares": 0}),
        ("all", {"arv": None, "least_squares": None}),
        ("none", {"arv": 0, "least_squares": 0}),
        (7, {"arv": 7, "least_squares": 7}),
    ],
)
def test_irrelevant_channels_are_those_asked_for_or_those_of_the_division(asked, numbers, capsys):
    settings = ResultSettings(**UNASKED, irrelevant_channels=asked)
    meta = {"num_channels": 1280, "num_images": 4000}
    assert _irrelevant_drawn(settings, splits_by("arv", "least_squares"), meta) == numbers
    assert not capsys.readouterr().out


def test_of_many_splits_irrelevant_channels_are_drawn_and_that_is_printed(capsys):
    meta = {"num_channels": 2048, "num_images": 50_000}
    splits = splits_by("arv", *["least_squares"] * 1000)
    assert _irrelevant_drawn(ResultSettings(**UNASKED), splits, meta) == {"arv": None, "least_squares": 0}
    assert not capsys.readouterr().out
    many = splits_by(*["arv"] * 200, "least_squares")
    assert _irrelevant_drawn(ResultSettings(**UNASKED), many, meta) == {"arv": 20, "least_squares": 0}
    assert "200 splits, 2048 channels and 50000 images are many: only 20 irrelevant channels" in capsys.readouterr().out
    asked = ResultSettings(**UNASKED, irrelevant_channels="all")
    assert _irrelevant_drawn(asked, many, meta) == {"arv": None, "least_squares": None}


def test_fewer_draws_do_not_replace_a_stored_result(measured, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(measured[0], folder)
    before = contents(folder)
    printed = stage4("data", "store", "--get_separation", "--draws", 20, cwd=folder)
    assert "199 draws are stored: kept" in printed and "(199 draws, min p 0.005)" in printed
    assert contents(folder) == before


@pytest.mark.parametrize("ends", [("", "_only_correct"), ("_only_correct", "_least_squares"), ("", "_least_squares")])
def test_splits_made_in_several_ways_have_a_name_of_their_own(ends):
    """Not that of a separation of splits that were all made in one of these ways, nor of other ways."""
    settings = ResultSettings(**UNASKED, candidates="pairs.txt")
    mixed = separation_name(settings, "net", [split(5, ends[0]), split(7, ends[1])])
    alone = {separation_name(settings, "net", [split(5, end)]) for end in (*ends, "".join(ends))}
    assert mixed.startswith("net_pairs_mixed_") and mixed not in alone
    three = separation_name(settings, "net", [split(5, ends[0]), split(7, ends[1]), split(8, "_contrast")])
    assert three != mixed
