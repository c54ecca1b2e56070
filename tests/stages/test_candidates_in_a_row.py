"""Stages 3 and 4 for many candidates: what is wrong with some, what a killed run leaves, and runs side by side."""

import json
import os
import re
import shutil
import signal

import pytest
import torch

from tests import factories
from tests.pictures import write_image, write_images
from tests.scripts import (
    CHANNEL,
    COMPUTE,
    NETWORK,
    PAIR,
    RUN,
    SMALL_IMAGES,
    contents,
    end_of,
    messages,
    run_script,
    stage1,
    stage2,
    stage3,
    stage4,
    start_and_hold,
    start_script,
    succeed,
)
from utils.report import result_files
from utils.store.results import Results

pytestmark = pytest.mark.usefixtures("without_figures")

STAGES = ("disentangle_channel.py", "get_results.py")
TAU = ("--proportion_attribution_required", "0.0001")
HELD = ("--model", "tests.factories:held", "--data_dir", "data", "--store_dir", "store", *COMPUTE)
SPLITS = "store/models_disentangled/*.pt"
RESULTS = "results_quantitative/pairs/*.json"


def many(script, folder, text, *more):
    (folder / "many.txt").write_text(text)
    flags = (*NETWORK, *COMPUTE, "--data_dir", "data", "--store_dir", "store", "--candidates", "many.txt", *more)
    return run_script(script, *flags, cwd=folder)


def classes(class1, class2):
    return ("--classes_for_concept1", class1, "--classes_for_concept2", class2)


def names(folder, pattern):
    """What comes after the run's name in the names of files, sorted."""
    return sorted(path.name.removeprefix(f"{RUN}_") for path in folder.glob(pattern))


def stamp(path):
    status = path.stat()
    return path.read_bytes(), status.st_ino, status.st_mtime_ns


def measured(path):
    """A result without what says when it was made."""
    return {name: value for name, value in json.loads(path.read_text()).items() if name not in ("evaluation", "sha256")}


# --------------------------------------------------------------------------------------------------------------------
# Bad ones


def test_the_good_candidates_are_split_and_all_bad_ones_named(tmp_path):
    data = write_images(tmp_path / "data")
    for number in range(6):
        write_image(data / "train" / "ant" / f"{number}.png", 1, 50 + number)  # like bees: none is classified correctly
    stage1(data, tmp_path / "store", cwd=tmp_path)
    stage2(tmp_path / "store", cwd=tmp_path)
    text = "9: 1, 3\n4: 1, wasp\n99: 1, 3\n5: ant, 3\n4: 2, 3\n"
    result = many("disentangle_channel.py", tmp_path, text, "--only_correct")
    assert result.returncode == 2
    (line,) = messages(result.stderr)
    assert "3 of 5 candidates could not be split: " in line
    assert "channel 4: --candidates many.txt, line 2" in line and "wasp" in line
    assert "channel 99: --candidates many.txt, line 3" in line and "the layer has channels 0 to 11" in line
    assert "channel 5: class 0 (ant) has no correctly classified image in train/" in line
    assert names(tmp_path, SPLITS) == ["channel4_2_3_only_correct.pt", "channel9_1_3_only_correct.pt"]
    text = "9: 1, 3\n9: 0, 1\n4: 1, wasp\n4: 2, 3\n"
    result = many("get_results.py", tmp_path, text, "--only_correct", "--get_quantitative", *TAU)
    assert result.returncode == 2
    line = messages(result.stderr)[-1]
    assert "2 of 4 candidates could not be evaluated: " in line
    assert "there is no split of channel 9 and classes 0_1" in line and "wasp" in line
    assert len(names(tmp_path, RESULTS)) == 2
    assert "| all 2 " in (tmp_path / "results_quantitative" / "summary.md").read_text()


def test_a_single_bad_candidate_is_its_own_error(copy):
    result = many("disentangle_channel.py", copy, "4: 1, wasp\n")
    assert result.returncode == 2
    (line,) = messages(result.stderr)
    assert "wasp" in line
    assert "candidates could not be" not in line


# --------------------------------------------------------------------------------------------------------------------
# Killed


@pytest.fixture
def begun(tmp_path):
    """A folder in which stages 1 and 2 have run with the network that can be held, and two candidates."""
    write_images(tmp_path / "data")
    succeed("get_importances_for_classes.py", *HELD, *SMALL_IMAGES, cwd=tmp_path)
    succeed("get_cosine_similarities.py", *HELD[:2], "--store_dir", "store", cwd=tmp_path)
    (tmp_path / "many.txt").write_text("9: 2, 3\n4: 0, 1\n")
    return tmp_path


def stop(folder, script, flags, after, sign):
    """Stop a run that is held while its second candidate is measured: exit status and lines on standard error."""
    process = start_and_hold(script, *flags, after=after, cwd=folder)
    os.killpg(process.pid, sign)
    _, stderr = end_of(process)
    return process.returncode, messages(stderr)


@pytest.mark.parametrize(
    ("script", "pattern", "more", "interrupted"),
    [
        (
            "disentangle_channel.py",
            SPLITS,
            (),
            "interrupted; splits that were written are kept; the same command makes the missing ones",
        ),
        (
            "get_results.py",
            RESULTS,
            ("--get_quantitative", *TAU),
            "interrupted; results that were written are kept; the same command measures the rest",
        ),
    ],
)
def test_a_stopped_run_keeps_what_is_made_and_the_next_one_makes_the_rest(begun, script, pattern, more, interrupted):
    flags = (*HELD, "--candidates", "many.txt", *more)
    if script == "get_results.py":
        succeed("disentangle_channel.py", *HELD, "--candidates", "many.txt", cwd=begun)
    status, lines = stop(begun, script, flags, pattern, signal.SIGINT)
    assert status == 130
    assert f"{script}: {interrupted}" in lines
    (path,) = begun.glob(pattern)
    assert "_channel4_0_1" in path.name  # its classes come first
    path.unlink()
    assert stop(begun, script, flags, pattern, signal.SIGKILL)[0] == -signal.SIGKILL
    (path,) = begun.glob(pattern)
    before = stamp(path)
    result = run_script(script, *flags, cwd=begun)
    assert result.returncode == 0, result.stderr
    assert stamp(path) == before
    made = {one.name: one for one in begun.glob(pattern)}
    assert len(made) == 2
    counted = {"disentangle_channel.py": "12/12", "get_results.py": "8/8"}[
        script
    ]  # images of the classes 2 and 3 alone
    assert counted in result.stderr
    again = {name: stamp(one) for name, one in made.items()}
    result = run_script(script, *flags, cwd=begun)
    assert result.returncode == 0, result.stderr
    assert {name: stamp(one) for name, one in made.items()} == again
    if script == "disentangle_channel.py":
        assert result.stdout.count("already stored: ") == 3  # and the manifest


def test_an_interrupt_of_stage_2_is_one_line_and_harms_nothing(begun):
    torch.save(factories.small().state_dict(), begun / "weights.pth")
    before = contents(begun / "store")
    flags = (*HELD[:2], "--weights", "weights.pth", "--store_dir", "store")
    status, lines = stop(begun, "get_cosine_similarities.py", flags, "many.txt", signal.SIGINT)
    assert status == 130
    (line,) = lines
    assert line.endswith("interrupted; files that were written are complete; the same command starts again")
    assert contents(begun / "store") == before
    succeed("get_cosine_similarities.py", *flags, cwd=begun)


def test_a_damaged_split_is_made_anew(copy):
    (path,) = copy.glob(SPLITS)
    before = path.read_bytes()
    path.write_bytes(before[:-100])
    assert "already stored" not in stage3("data", "store", cwd=copy)
    assert path.read_bytes() == before


# --------------------------------------------------------------------------------------------------------------------
# Equal to single runs, and side by side


def test_splits_and_results_equal_those_of_single_calls(copy, tmp_path):
    pairs = ((9, "1", "3"), (4, "1", "3"), (9, "0", "2"))
    text = "".join(f"{channel}: {class1}, {class2}\n" for channel, class1, class2 in pairs)
    for channel, *pair in pairs:
        stage3("data", "store", channel=channel, pair=classes(*pair), cwd=copy)
        more = ("--get_quantitative", *TAU, "--output_dir", tmp_path / "single")
        stage4("data", "store", *more, channel=channel, pair=classes(*pair), cwd=copy)
    single = {path.name: path.read_bytes() for path in copy.glob(SPLITS)}
    for path in copy.glob(SPLITS):
        path.unlink()
    for script, more in zip(STAGES, ((), ("--get_quantitative", *TAU, "--output_dir", tmp_path / "many")), strict=True):
        result = many(script, copy, text, *more)
        assert result.returncode == 0, result.stderr
    assert {path.name: path.read_bytes() for path in copy.glob(SPLITS)} == single
    folders = [tmp_path / way / "results_quantitative" for way in ("single", "many")]
    found = [{path.name: measured(path) for path in folder.glob("pairs/*.json")} for folder in folders]
    assert len(found[0]) == 3
    assert found[0] == found[1]
    tables = [{path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} for folder in folders]
    assert tables[0] == tables[1]
    assert len(tables[0]) == 5  # rows of two concepts, and the summaries


def test_two_runs_at_the_same_time_into_one_folder_lose_nothing(copy):
    stage3("data", "store", channel=4, cwd=copy)
    flags = (*NETWORK, *COMPUTE, "--data_dir", "data", "--store_dir", "store", "--get_quantitative", *TAU)
    processes = [
        start_script("get_results.py", *flags, "--channel_of_interest", channel, *PAIR, cwd=copy)
        for channel in (CHANNEL, 4)
    ]
    ends = [end_of(process) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ends
    assert "| all 2 " in (copy / "results_quantitative" / "summary.md").read_text()
    assert len((copy / "results_quantitative" / "quantitative_concept1_required0.0001.txt").read_text().split()) == 8


def test_a_result_that_comes_while_the_tables_are_made_is_in_them(copy, monkeypatch):
    stage3("data", "store", channel=4, cwd=copy)
    for channel in (CHANNEL, 4):
        stage4("data", "store", "--get_quantitative", *TAU, channel=channel, cwd=copy)
    results = Results(copy, copy / "store" / "models_disentangled")
    late = next(path for path in copy.glob(RESULTS) if "_channel4_" in path.name)
    content, write_rows = late.read_bytes(), result_files._write_rows
    late.unlink()

    def another_run_ends(*arguments):
        paths = write_rows(*arguments)
        late.write_bytes(content)
        monkeypatch.setattr(result_files, "_write_rows", write_rows)
        return paths

    monkeypatch.setattr(result_files, "_write_rows", another_run_ends)
    result_files.write_tables(results)
    assert "| all 2 " in (copy / "results_quantitative" / "summary.md").read_text()
    assert "all 2," not in (copy / "results_quantitative" / "summary.csv").read_text()
    rows = (copy / "results_quantitative" / "quantitative_concept1_required0.0001.txt").read_text()
    assert len(rows.split()) == 8


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("wish", ["--get_quantitative", "--get_effect", "--get_channel_card"])
def test_a_class_without_validation_images_is_a_line_and_the_other_candidates_go_on(copy, stored, wish):
    stage3("data", "store", pair=classes("ant", "bee"), cwd=copy)
    shutil.rmtree(copy / "data" / "val" / "dog")
    if stored:
        stage1("data", "store", "--images", "val", cwd=copy)
    result = many("get_results.py", copy, "9: 1, 3\n9: 0, 1\n", *TAU, wish)
    line = messages(result.stderr)[-1]
    where = r"store/\S+ has no images of dog" if stored and wish == "--get_quantitative" else "data/val has no class f"
    assert result.returncode == 2 and "1 of 2 candidates could not be evaluated" in line
    assert re.search(rf"{RUN}_channel9_1_3.pt: {where}", line) and "Traceback" not in result.stderr
    folder = {"--get_quantitative": "results_quantitative/pairs", "--get_effect": "results_quantitative/effect"}
    written = names(copy, f"{folder.get(wish, 'plots')}/*channel9*")
    assert written and all(name.startswith("channel9_0_1") for name in written)
    alone = many("get_results.py", copy, "9: 1, 3\n", *TAU, wish)
    assert alone.returncode == 2 and alone.stderr.count("error") == 1 and "Traceback" not in alone.stderr
