"""What stage 2 was asked travels to stages 3 and 4, several splits of a channel are told apart, and next: lines run."""

import json
import re
import shlex

import pytest

from tests.pictures import write_images
from tests.scripts import (
    CHANNEL,
    COMPUTE,
    NETWORK,
    PAIR,
    RUN,
    SMALL_IMAGES,
    contents,
    messages,
    run_script,
    stage2,
    stage3,
    stage4,
)
from utils.divisions.division_registry import WHICH
from utils.store.candidates import read_candidates
from utils.store.files import read_json
from utils.store.splits import read_split

pytestmark = pytest.mark.usefixtures("without_figures")

PLAIN, CORRECT = (f"{RUN}_channel9_1_3{suffix}" for suffix in ("", "_only_correct"))


def evaluate(folder, *more, channel=CHANNEL, pair=PAIR):
    flags = (*NETWORK, *COMPUTE, "--data_dir", "data", "--store_dir", "store", "--get_quantitative")
    channels = ("--channel_of_interest", channel) if channel is not None else ()
    return run_script("get_results.py", *flags, *channels, *pair, *more, cwd=folder)


def candidates_of(folder, *more):
    """Stage 2's JSON of all pairs at tau 0.05, relative to ``folder``."""
    stage2("store", "--cos_sim_low", "-1", *more, cwd=folder)
    name = f"{RUN}_required0.05_p0.5_cossim-1.0to1.0{'_only_correct' * ('--only_correct' in more)}.json"
    assert (folder / "results_get_cosine_similarities" / name).is_file()
    return f"results_get_cosine_similarities/{name}"


@pytest.fixture
def both(copy):
    """A copy of ``finished`` with the split of channel 9 of all images, and the one of correctly classified ones."""
    stage3("data", "store", "--only_correct", cwd=copy)
    return copy


# --------------------------------------------------------------------------------------------------------------------
# Several splits of a channel


def test_the_split_of_correct_images_is_another_file(both):
    folder = both / "store" / "models_disentangled"
    assert sorted(path.stem for path in folder.iterdir()) == [PLAIN, CORRECT]
    files = {path.stem: read_split(path) for path in folder.iterdir()}
    assert [files[name].settings["only_correct"] for name in (PLAIN, CORRECT)] == [False, True]


def test_where_several_splits_match_stage4_names_them_and_stops(both):
    result = evaluate(both)
    assert result.returncode == 2
    (line,) = messages(result.stderr)
    told_apart = f"{PLAIN}.pt (--no-only_correct), {CORRECT}.pt (--only_correct)"
    assert line.endswith(f"several splits match: give the flags of one of {told_apart}")
    assert not (both / "results_quantitative").exists()


def test_where_no_split_matches_stage4_names_the_flags_of_those_that_are_there(copy):
    result = evaluate(copy, "--only_correct")
    assert result.returncode == 2
    (line,) = messages(result.stderr)
    flags = "--split_by arv --background 0 --no-only_correct --rho_objective positive"
    assert line.endswith(f"no split matches: give the flags of one of {PLAIN}.pt ({flags})")
    assert evaluate(copy, *flags.split()).returncode == 0


def test_where_none_of_several_splits_matches_flags_that_they_share_are_named(both):
    asked = ("--split_by", "least_squares")
    result = evaluate(both, *asked)
    assert result.returncode == 2
    (line,) = messages(result.stderr)
    names = dict(re.findall(r"(\S+)\.pt \(([^)]+)\)", line))
    assert set(names) == {PLAIN, CORRECT}
    for name, flags in names.items():
        result = evaluate(both, *asked, *flags.split())  # the last of two --split_by counts
        assert result.returncode == 0, result.stderr
        assert f"{name}.pt, rho" in result.stdout


@pytest.mark.parametrize(("flag", "name"), [("--only_correct", CORRECT), ("--no-only_correct", PLAIN)])
def test_a_flag_says_which_split_is_meant(both, flag, name):
    result = evaluate(both, flag)
    assert result.returncode == 0, result.stderr
    (path,) = (both / "results_quantitative" / "pairs").iterdir()
    assert json.loads(path.read_text())["split"] == name
    assert f"{name}.pt, rho" in result.stdout


@pytest.mark.parametrize(("flags", "name"), [(("--only_correct",), CORRECT), ((), PLAIN)])
def test_candidates_of_stage_2_say_which_split_is_meant(both, flags, name):
    path = candidates_of(both, *flags)
    assert read_candidates(both / path).settings["only_correct"] == bool(flags)
    result = evaluate(both, "--candidates", path, pair=())
    assert result.returncode == 0 or "there is no split of channel" in result.stderr  # other pairs of channel 9
    (path,) = (both / "results_quantitative" / "pairs").iterdir()
    assert json.loads(path.read_text())["split"] == name


def test_candidates_of_correct_images_are_split_by_correct_images_unless_a_flag_says_otherwise(copy):
    path = candidates_of(copy, "--only_correct")
    stage3("data", "store", "--candidates", path, channel=4, pair=(), cwd=copy)
    made = [read_split(path) for path in (copy / "store" / "models_disentangled").glob("*_channel4_*")]
    assert made and all(file.settings["only_correct"] for file in made)
    stage3("data", "store", "--candidates", path, "--no-only_correct", channel=4, pair=(), cwd=copy)
    again = [read_split(path) for path in (copy / "store" / "models_disentangled").glob("*_channel4_*")]
    assert sorted(file.settings["only_correct"] for file in again) == [False] * len(made) + [True] * len(made)


def test_results_of_a_split_that_was_made_anew_are_named_and_left_out(copy):
    tau = ("--proportion_attribution_required", "0.0001")
    assert evaluate(copy, *tau).returncode == 0
    alone = (copy / "results_quantitative" / "summary.csv").read_text()
    (old,) = (copy / "results_quantitative" / "pairs").iterdir()
    stage3("data", "store", "--batch_size", "3", cwd=copy)  # what it was made with is part of its content
    result = run_script("get_results.py", "--summary", "--store_dir", "store", cwd=copy)
    assert result.returncode == 2
    (line,) = messages(result.stderr)
    assert old.name in line
    stage3("data", "store", channel=4, cwd=copy)
    result = evaluate(copy, *tau, channel=4)
    assert result.returncode == 0, result.stderr
    warnings = (result.stderr, run_script("get_results.py", "--summary", "--store_dir", "store", cwd=copy).stderr)
    for text in warnings:
        assert "1 result left out, as the split has changed since" in text
        assert old.name in text
    rows = (copy / "results_quantitative" / "summary.csv").read_text()
    assert "all 1 " in result.stdout and "all 2 " not in result.stdout
    assert re.search(r"^\S+?,last,0.0001,4,", rows, re.MULTILINE)
    assert not re.search(r"^\S+?,last,0.0001,9,", rows, re.MULTILINE)
    assert re.search(r"^\S+?,last,0.0001,9,", alone, re.MULTILINE)
    assert evaluate(copy, *tau).returncode == 0  # measured again, it is back
    assert re.search(r",0.0001,9,", (copy / "results_quantitative" / "summary.csv").read_text())


# --------------------------------------------------------------------------------------------------------------------
# Tau


def test_tau_travels_from_stage_2_to_stage_4_and_a_flag_overrides_it(copy):
    path = candidates_of(copy)
    assert read_candidates(copy / path).settings["tau"] == 0.05
    (copy / "store" / "models_disentangled" / f"{PLAIN}.pt").unlink()  # it would be there already
    stage3("data", "store", "--candidates", path, pair=(), cwd=copy)
    split = copy / "store" / "models_disentangled" / f"{PLAIN}.pt"
    assert read_split(split).settings["tau"] == 0.05
    assert ", tau 0.05" in evaluate(copy).stdout
    assert ", tau 0.1" in evaluate(copy, "--proportion_attribution_required", "0.1").stdout
    names = sorted(path.name for path in (copy / "results_quantitative" / "pairs").iterdir())
    assert [name.split("required")[1] for name in names] == ["0.05.json", "0.1.json"]
    result = json.loads((copy / "results_quantitative" / "pairs" / names[0]).read_text())
    for part in result["images"]:
        assert part["included"] == [share >= 0.05 for share in part["shares"]]


def without_runs(folder):
    """Remove what runs of stage 2 were asked, and the split that knows it."""
    for path in (*folder.glob("store/*_stage2_*.json"), folder / "store" / "models_disentangled" / f"{PLAIN}.pt"):
        path.unlink()


def test_where_nobody_knows_tau_it_is_that_of_the_paper(copy):
    without_runs(copy)
    stage3("data", "store", cwd=copy)
    assert read_split(copy / "store" / "models_disentangled" / f"{PLAIN}.pt").settings["tau"] is None
    out = evaluate(copy).stdout
    assert ", tau 0.03" in out and out.count("tau is 0.03, the default") == 1
    assert "the default" not in evaluate(copy, "--proportion_attribution_required", "0.04").stdout


# --------------------------------------------------------------------------------------------------------------------
# Runs of stage 2


def split_again(folder, *more):
    """Stage 3 of channel 9 without candidates: the settings of the split that it makes."""
    out = stage3("data", "store", *more, cwd=folder)
    (path,) = re.findall(r"^(?:wrote|already stored:) (\S+\.pt)$", out, re.MULTILINE)
    return read_split(folder / path).settings


def test_without_candidates_the_settings_are_those_of_the_run_that_lists_the_channel(copy):
    (path,) = (copy / "store").glob("*_stage2_*.json")
    assert CHANNEL in read_json(path, "")["channels"]
    stage2("store", "--proportion_attribution_required", "0.9", "--only_correct", cwd=copy)  # lists no channel
    assert len(list((copy / "store").glob("*_stage2_*.json"))) == 2
    settings = split_again(copy)
    assert [settings[name] for name in ("tau", "p", "only_correct")] == [0.05, 0.5, False]
    settings = split_again(copy, "--proportion_attribution_required", "0.07")  # a flag goes first
    assert [settings[name] for name in ("tau", "p", "only_correct")] == [0.07, 0.5, False]


def test_of_several_runs_that_differ_stage_3_names_them_and_asks(copy):
    stage2("store", "--proportion_attribution_required", "0.04", "--p", "0.6", "--only_correct", cwd=copy)
    flags = (*NETWORK, *COMPUTE, "--data_dir", "data", "--store_dir", "store", "--channel_disentangle", CHANNEL, *PAIR)
    result = run_script("disentangle_channel.py", *flags, cwd=copy)
    assert result.returncode == 2
    (line,) = messages(result.stderr)
    assert "τ = 0.04, p = 0.6, correctly classified images only; τ = 0.05, p = 0.5" in line
    assert "choose with --proportion_attribution_required and --p and --only_correct" in line
    settings = split_again(copy, "--proportion_attribution_required", "0.04")  # of which there is one run
    assert [settings[name] for name in ("tau", "p", "only_correct")] == [0.04, 0.6, True]
    settings = split_again(copy, "--no-only_correct")
    assert [settings[name] for name in ("tau", "p", "only_correct")] == [0.05, 0.5, False]


def test_lines_of_stage_2_say_which_of_several_runs_is_meant(copy):
    stage2("store", "--proportion_attribution_required", "0.04", "--only_correct", cwd=copy)
    out = stage2("store", "--channel", CHANNEL, "--data_dir", "data", cwd=copy)
    assert " --proportion_attribution_required 0.05 --p 0.5 --no-only_correct\n" in out
    third = paste(out, copy)
    assert f"already stored: store/models_disentangled/{PLAIN}.pt" in third
    assert f"{PLAIN}.pt, rho" in paste(third, copy)


def test_a_split_that_does_not_know_tau_is_measured_at_that_of_the_run(copy):
    runs = {path: path.read_bytes() for path in (copy / "store").glob("*_stage2_*.json")}
    without_runs(copy)
    stage3("data", "store", cwd=copy)
    for path, content in runs.items():
        path.write_bytes(content)
    assert ", tau 0.05" in evaluate(copy).stdout
    (path,) = runs
    path.write_bytes(path.read_bytes().replace(b'"tau": 0.05', b'"tau": 0.06'))
    result = evaluate(copy)
    assert result.returncode == 2 and f"{path.relative_to(copy)} is damaged" in result.stderr


def test_an_empty_inclusion_names_tau_and_the_largest_share(copy):
    result = evaluate(copy, "--proportion_attribution_required", "0.99")
    assert result.returncode == 0
    (path,) = (copy / "results_quantitative" / "pairs").iterdir()
    for name, part in zip(("bee", "dog"), json.loads(path.read_text())["images"], strict=True):
        assert not any(part["included"])
        (line,) = [line for line in result.stderr.splitlines() if line.startswith("warning: ") and name in line]
        assert "none of 4 images" in line
        assert f"tau = 0.99; the largest is {max(part['shares']):.3g} " in line


# --------------------------------------------------------------------------------------------------------------------
# What is next


def paste(out, folder):
    """Run the line that says what is next, as a shell would: its output."""
    (line,) = [line for line in out.splitlines() if line.startswith("next: ")]
    python, script, *arguments = shlex.split(line.removeprefix("next: "))
    assert python == "python"
    result = run_script(script, *arguments, cwd=folder)
    assert result.returncode == 0, (line, result.stderr)
    return result.stdout


@pytest.mark.parametrize("more", [(), ("--layer_of_interest", "last", "--precision", "bf16")])
def test_what_is_next_can_be_pasted_from_stage_1_to_stage_4(tmp_path, more):
    data = write_images(tmp_path / "my $data", train=4, val=2)
    flags = ("--data_dir", data, "--store_dir", "the store", *SMALL_IMAGES, *COMPUTE, *more)
    first = run_script("get_importances_for_classes.py", *NETWORK, *flags, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    second = paste(first.stdout, tmp_path)
    third = paste(second, tmp_path)
    assert "\nwrote the store/models_disentangled/" in third
    assert second.count(WHICH) == third.count(WHICH) == 1  # which division for what
    validation = paste(third, tmp_path)
    assert "channel_importances_val" in validation
    assert "results_quantitative/separation.md" in paste(validation, tmp_path)


def test_what_is_next_names_the_split_that_was_made_where_there_are_others(both):
    first = stage3("data", "store", "--rho_objective", "contrast", cwd=both)
    assert f"{PLAIN}_contrast.pt, rho" in paste(first, both)
    again = stage3("data", "store", "--only_correct", cwd=both)
    assert f"already stored: store/models_disentangled/{CORRECT}.pt" in again
    assert f"{CORRECT}.pt, rho" in paste(again, both)
    path = candidates_of(both, "--only_correct")
    other = stage3("data", "store", "--candidates", path, "--no-only_correct", channel=4, pair=(), cwd=both)
    assert "_only_correct.pt, rho" not in paste(other, both)


def test_stage4_says_which_settings_it_has_used_and_leaves_the_store_alone(both):
    before = contents(both / "store")
    out = stage4("data", "store", "--only_correct", "--rho", "0.5", cwd=both)
    assert f"{CORRECT}.pt, rho 0.5, tau 0.05" in out
    assert contents(both / "store") == before
    assert read_json(next((both / "results_quantitative" / "pairs").iterdir()), "")["only_correct"] is True
