"""A third way of dividing inputs and a fourth source of concepts, a file and a line each, work wherever others do."""

import json
import re
import shutil

import pytest

from tests.scripts import CHANNEL, COMPUTE, NETWORK, PAIR, RUN, run_script, stage1, stage2, succeed
from tests.with_toys import registered
from utils.store.splits import read_split

SCRIPT = "tests/with_toys.py"
TAU = ("--proportion_attribution_required", "0.0001")
EVERYTHING = (
    *("--get_quantitative", "--get_qualitative", "--get_channel_card", "--get_feature_visualization", "--get_effect"),
    "--get_edit",
    *("--steps", "2", "--seeds", "1", "--get_map", *TAU),
)


@pytest.fixture(scope="module")
def layer(finished, tmp_path_factory):
    """All stages with the toys: a pair and all groups by softmax, all channels from halves, and a comparison."""
    folder = tmp_path_factory.mktemp("toys") / "layer"
    shutil.copytree(finished, folder)
    stage1(folder / "data", folder / "store", "--images", "val", cwd=folder)
    stage2("store", "--cos_sim_high", "0.5", cwd=folder)
    return folder


def run(script, folder, *arguments):
    flags = ("--data_dir", "data", "--store_dir", "store", *COMPUTE)
    return succeed(SCRIPT, script, *NETWORK, *flags, *map(str, arguments), cwd=folder)


def groups(folder):
    (path,) = (folder / "results_get_cosine_similarities").glob(f"{RUN}_*0.5_groups.json")
    return path


def splits(folder, pattern):
    return sorted((folder / "store" / "models_disentangled").glob(pattern))


def figures_of(folder, split):
    """The kinds of figures that there are of a split: what follows its name, up to the next underscore."""
    names = [plot.name.removeprefix(f"{split.stem}_") for plot in (folder / "plots").glob(f"{split.stem}_*.png")]
    return {name.partition(".png")[0].partition("_")[0] for name in names}


def text_of_pages(folder):
    pages = "".join(page.read_text() for page in (folder / "report" / RUN).glob("channel_*.html"))
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", pages))


def test_help_has_the_plugins_and_their_flags(tmp_path):
    text = " ".join(run_script(SCRIPT, "disentangle_channel.py", "--help", "all", cwd=tmp_path).stdout.split())
    assert "softmax (shares by how large ARVs are)" in text and "--sharpness" in text
    assert "halves (strong and weak images)" in text and "halves: 10" in text


def test_a_third_division_goes_through_everything(layer):
    out = run("disentangle_channel.py", layer, "--channel_disentangle", CHANNEL, *PAIR, "--split_by", "softmax")
    assert "shares by the softmax of ARVs, sharpness 3" in out and "softmax shares of 8 inputs" in out
    assert re.search(r"^next: python \S*get_results.py .*--split_by softmax", out, re.MULTILINE)
    (path,) = splits(layer, f"{RUN}_channel{CHANNEL}_1_3_softmax.pt")
    with registered():
        division = read_split(path).split.division
    assert division.name == "softmax" and division.settings() == {"sharpness": 3.0}
    out = run("get_results.py", layer, "--channel_of_interest", CHANNEL, *PAIR, "--split_by", "softmax", *EVERYTHING)
    assert "split by softmax of ARVs" in out  # effects
    assert figures_of(layer, path) == {"card", "visualization", "map", "concept1", "concept2", "edits"}
    assert "softmax of ARVs, sharpness 3, tau" in (layer / "results_quantitative" / "summary.md").read_text()
    assert list((layer / "results_quantitative").glob("quantitative_concept1_*_softmax.txt"))


def test_a_layer_by_a_third_division_is_measured_and_shown(layer):
    out = run("disentangle_channel.py", layer, "--candidates", groups(layer), "--split_by", "softmax")
    (manifest,) = splits(layer, f"{RUN}_*_groups_softmax_layer.json")
    assert str(manifest.relative_to(layer)) in out
    out = run("get_results.py", layer, "--splits", manifest, "--get_separation", "--get_quantitative", *TAU)
    assert "split by softmax of ARVs" in out and "new channel minus permuted weights" in out
    assert "permuted weights, fitted" not in out.split("\n\n")[0]
    (separation,) = (layer / "results_quantitative" / "separation").glob("*softmax_layer.json")
    rows = json.loads(separation.read_text())["rows"]
    assert {row["split_by"] for row in rows} == {"softmax"}
    assert all(row["ap_draws"] and not row["ap_draws_real_target"] for row in rows)
    run("get_results.py", layer, "--report")
    pages = text_of_pages(layer)
    assert "by the softmax of ARVs" in pages and "--split_by softmax" in pages


def test_a_fourth_source_goes_through_everything(layer):
    out = run("disentangle_channel.py", layer, "--channel_disentangle", CHANNEL, "--concepts_from", "halves")
    assert "half 1 (" in out and "half 2 (" in out
    (path,) = splits(layer, f"{RUN}_channel{CHANNEL}_halves_*_least_squares_background.pt")
    file = read_split(path)
    assert file.source["name"] == "halves" and file.source["state"]["nr_reference_images"] == 6
    out = run("get_results.py", layer, "--splits", path, *EVERYTHING)
    assert "concepts from strong and weak images, nr concepts 2, nr reference images 6" in out
    edits = json.loads((layer / "results_quantitative" / "edits" / f"{path.stem}.json").read_text())
    assert len(edits["rows"]) == 12 and all(row["training_images"] == 3 for row in edits["rows"])
    assert figures_of(layer, path) >= {"card", "visualization", "map"}
    result = json.loads((layer / "results_quantitative" / "pairs" / f"{path.stem}_required0.0001.json").read_text())
    assert (
        result["concepts_from"] == "halves" and "100 validation images of largest spatial sum" in result["assignment"]
    )
    run("get_results.py", layer, "--report")
    pages = text_of_pages(layer)
    assert "by strong and weak images, by least squares" in pages and "--concepts_from halves" in pages
    assert "harm at equal effect" in pages and "permuted shares" in pages


def test_both_at_once_and_all_channels(layer):
    run("disentangle_channel.py", layer, "--concepts_from", "halves", "--split_by", "softmax", "--sharpness", "5")
    (manifest,) = splits(layer, f"{RUN}_all_channels_halves_*_softmax5_background_layer.json")
    out = run("get_results.py", layer, "--splits", manifest, "--get_quantitative", *TAU)
    assert (
        "strong and weak images" in out and "softmax of ARVs" in (layer / "results_quantitative/summary.md").read_text()
    )


def test_the_comparison_has_both(layer):
    flags = ("--compare", "--candidates", groups(layer), "--channel_of_interest", CHANNEL, "--compare_without", "pure")
    out = run("get_results.py", layer, *flags)
    for words in ("split by strong and weak images", "split by classes, softmax of ARVs"):
        assert f"| {words} " in out
    assert "split by strong and weak images, softmax of ARVs" in out
    (path,) = (layer / "results_quantitative" / "comparison").glob("*.json")
    found = {(row["method"], row["null"]) for row in json.loads(path.read_text())["channels"]}
    assert {
        ("halves_softmax", ""),
        ("halves_softmax", "references_partitioned"),
        ("classes_softmax", "weights_permuted"),
    } <= found
    assert ("classes_softmax", "weights_permuted_real_target") not in found
