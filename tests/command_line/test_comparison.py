"""get_results.py --compare: from the stores, PURE with as few passes as can be, and refusals of one line."""

import csv
import shutil
from pathlib import Path

import pytest

from tests.scripts import COMPUTE, NETWORK, RUN, contents, messages, run_script, stage1
from utils.concept_sources.source_registry import SOURCES
from utils.stages.comparison_methods import comparison_methods

ASKED = ("--data_dir", "data", "--store_dir", "store", *COMPUTE)
COMPARE = ("--compare", "--candidates", "asked.txt", "--nr_concepts", 2, "--nr_reference_images", 12)
EMBEDDING = ("--embedding", "tests.factories:other_weights", "--embedding_mean", 0.5, 0.5, 0.5)
EMBEDDING += ("--embedding_std", 0.3, 0.3, 0.3)
ON_IMAGES = [source.name for source in SOURCES.all() if source.compared and source.needs_images]
OUT = Path("results_quantitative")


def compare(folder, *more):
    return run_script("get_results.py", *NETWORK, *ASKED, *map(str, more), cwd=folder, FIGURES="empty")


def rows_of(folder):
    return list(csv.DictReader((folder / OUT / "comparison.csv").open()))


@pytest.fixture(scope="module")
def compared(finished, tmp_path_factory):
    """A folder in which all methods were compared, with embeddings; what was printed and said."""
    folder = tmp_path_factory.mktemp("comparison") / "copy"
    shutil.copytree(finished, folder)
    stage1("data", "store", "--images", "val", cwd=folder)
    (folder / "asked.txt").write_text("9: bee, cat + dog\n")
    result = compare(folder, *COMPARE, *EMBEDDING)
    assert result.returncode == 0, result.stderr
    return folder, result


def test_all_methods_are_compared(compared):
    folder, result = compared
    rows = rows_of(folder)
    methods = [row["method"] for row in rows if not row["null"]]
    assert methods == list(comparison_methods())
    for row in rows:
        assert row["channels"] == "1" and row["concepts"] == "2" and 0 <= float(row["ap_all"]) <= 1
        if row["method"] in ("pure", "pure_least_squares", "virtual_neurons"):
            assert row["k"] == "2" and row["images"] == "yes"
    with_gap = {row["method"] for row in rows if row["patch_gap"]}
    assert {"circuits", "pure", "virtual_neurons", "directions"} <= with_gap
    lacking = {row["method"] for row in rows if not row["monosemanticity_strongest"]}
    assert lacking == {"sae_all", "sae_frozen_all", "nmf_all"}  # units that are not of a channel
    assert all(row["monosemanticity"] for row in rows if row["method"] in ("original", "classes", "logit"))
    assert f"{RUN}_asked_concepts2_reference_images12_embedding_tests.factories-other_weights" in result.stdout
    assert len(list((folder / "plots").glob("*_comparison.png"))) == 1 and "open first: " in result.stdout


def test_pure_takes_one_search_and_each_image_once(compared):
    _, result = compared
    lines = result.stderr.replace("\r", "\n").split("\n")
    last = {line.split(":")[0]: line for line in lines if "images/s" in line and "100%" in line}
    searches = [line for line in lines if line.startswith("largest activations: 100%") and "24/24" in line]
    assert searches and "16/16" in last["virtual neurons"]


def test_a_second_call_makes_no_pass_and_changes_nothing(compared, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(compared[0], folder)
    shutil.rmtree(folder / "data")
    before = contents(folder)
    result = compare(folder, *COMPARE, *EMBEDDING)
    assert result.returncode == 0, result.stderr
    assert contents(folder) == before and "images/s" not in result.stderr and "comparison:" not in result.stderr


def test_another_rho_reads_what_passes_have_left(compared, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(compared[0], folder)
    shutil.rmtree(folder / "data")
    result = compare(folder, *COMPARE, "--rho", 0.5)
    assert result.returncode == 0, result.stderr
    assert "images/s" not in result.stderr and len(rows_of(folder)) > 60
    assert len({row["comparison"] for row in rows_of(folder)}) == 2


def test_without_methods_on_images_no_image_is_needed(compared, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(compared[0], folder)
    for path in ("data", OUT, "store/models_disentangled"):
        shutil.rmtree(folder / path)
    result = compare(folder, *COMPARE, "--compare_without", *ON_IMAGES, "--channel_of_interest", 9)
    assert result.returncode == 0, result.stderr
    methods = {row["method"] for row in rows_of(folder)}
    assert "circuits" in methods and not methods & {"pure", "pure_least_squares", "virtual_neurons", "sae", "nmf_all"}


def test_of_many_channels_a_sample_is_compared(compared, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(compared[0], folder)
    (folder / "asked.txt").write_text("".join(f"{channel}: bee, dog\n" for channel in (9, 2, 11, 4)))
    sample = ("--candidates", "asked.txt", "--max_channels", 2)
    result = compare(folder, "--compare", *sample, "--compare_without", *ON_IMAGES, "circuits", "concept_vectors")
    assert result.returncode == 0, result.stderr
    assert (
        "comparison of 2 of 4 channels (a random sample with a fixed seed; --max_channels N takes more)"
        in result.stdout
    )
    assert "4 concepts of 2 channels (a sample of 4)" in result.stdout
    assert f"{RUN}_asked_without" in result.stdout and "_max_channels2" in result.stdout


def without_val_store(folder):
    shutil.rmtree(folder / "store" / f"{RUN}_channel_importances_val")


def pairs(folder):
    (folder / "asked.txt").write_text("9: bee, dog\n9: ant, dog\n")


def alone(folder):
    (folder / "asked.txt").write_text("9: bee\n")


@pytest.mark.parametrize(
    "change, flags, message",
    [
        (None, ("--compare",), "give --candidates"),
        (None, (*COMPARE, "--splits", "x.pt"), "leave out --splits"),
        (None, (*COMPARE, "--get_separation"), "leave out --get_separation"),
        (None, (*COMPARE, "--proportion_attribution_required", 0.5), "leave out --proportion_attribution_required"),
        (None, (*COMPARE, "--compare_without", "pure", "--crop_size", 20), "another crop size (24; now 20)"),
        (None, (*COMPARE, "--compare_without", "pure", "--weights", "no.pth"), "no.pth: there is no such file"),
        (None, ("--max_channels", 3, *COMPARE[1:]), "--max_channels is for --compare"),
        (None, (*COMPARE, "--sae_trainer", "overcomplete"), "pip install overcomplete"),
        (None, ("--compare_without", "pure", *COMPARE[1:]), "--compare_without is for --compare"),
        (None, (*COMPARE, "--embedding_mean", 0.5, 0.5, 0.5), "are for --embedding"),
        (None, (*COMPARE, "--compare_without", "magic"), "invalid choice"),
        (without_val_store, COMPARE, "has no complete val store"),
        (pairs, (*COMPARE, "--compare_without", "pure"), "it occurs twice"),
        (alone, COMPARE, "only one concept"),
    ],
)
def test_what_does_not_go_together_is_one_line(compared, tmp_path, change, flags, message):
    folder = tmp_path / "copy"
    shutil.copytree(compared[0], folder)
    if change is not None:
        change(folder)
    result = compare(folder, *flags)
    lines = [line for line in messages(result.stderr) if not line.startswith("comparison:")]
    assert result.returncode == 2 and len(lines) == 1 and message in lines[0]
