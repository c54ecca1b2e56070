"""Which run of stage 2 a later stage takes its settings from."""

import os
from types import SimpleNamespace

import pytest

from tests.splits import frozen_conv
from tests.stores import opened, split_file
from utils.command_line.earlier_settings import choosing_flags, chosen_run
from utils.command_line.next_steps import after_importances, after_results
from utils.command_line.opening import open_candidates
from utils.command_line.settings import DisentanglingSettings, ImportanceSettings, ResultSettings
from utils.errors import UserError
from utils.store.candidates import CANDIDATES_FORMAT
from utils.store.files import write_json
from utils.store.opened_splits import OpenedSplit
from utils.store.splits import write_manifest, write_split
from utils.store.stage_two_runs import read_stage_two_runs, write_stage_two_run

STORED = {"layer": "last", "weights_sha256": "00", "num_channels": 10}
LISTED = (3, 4)
MORE = {"gamma": 0.5, "cosines": [0.0, 0.5]}


@pytest.fixture
def stage_two(tmp_path):
    """Writes a run of stage 2 into ``tmp_path`` that is newer than those before; a run is (tau, p, channels)."""

    def write(*runs, training=STORED, more=MORE):
        for number, (tau, p, channels) in enumerate(runs):
            asked = {"tau": tau, "p": p, "only_correct": False, "min_images": 1, "only_above_mean": False}
            origin = {"layer": STORED["layer"], "weights_sha256": STORED["weights_sha256"]}
            settings = {**origin, **asked, **more}
            path = write_stage_two_run(tmp_path, "m", settings, channels, training=training)
            os.utime(path, (number, number))

    return write


def splitting(folder, **asked):
    return DisentanglingSettings(model="m", store_dir=str(folder), layer_of_interest="last_conv", **asked)


@pytest.mark.parametrize("channel", [3, 7])  # 7 is listed by no run
def test_runs_that_listed_nothing_do_not_count(tmp_path, stage_two, channel):
    stage_two((0.05, 0.5, LISTED), (0.9, 0.5, ()), (0.9, 0.6, ()))
    assert chosen_run(splitting(tmp_path), "m", STORED, [channel]).settings["tau"] == 0.05


def test_where_all_runs_listed_nothing_there_is_none_to_choose(tmp_path, stage_two):
    stage_two((0.9, 0.5, ()), (0.9, 0.6, ()))
    assert chosen_run(splitting(tmp_path), "m", STORED, [3]) is None


@pytest.mark.parametrize("source", ["circuits", "pure", "concept_vectors"])
def test_where_concepts_are_found_only_what_runs_agree_in_is_taken(tmp_path, stage_two, source):
    stage_two((0.05, 0.5, LISTED), (0.04, 0.5, LISTED))
    settings = open_candidates(splitting(tmp_path, concepts_from=source, channels=(3,)), STORED).settings
    assert (settings["p"], settings["only_correct"]) == (0.5, False) and "tau" not in settings
    given = splitting(tmp_path, concepts_from=source, channels=(3,), proportion_attribution_required=0.04)
    assert open_candidates(given, STORED).settings["tau"] == 0.04
    with pytest.raises(UserError, match="choose with --proportion_attribution_required, or"):
        open_candidates(splitting(tmp_path, channels=(3,), concepts=(["1"], ["3"])), STORED)


def test_a_channel_that_does_not_exist_is_told_before_several_runs_are(tmp_path, stage_two):
    stage_two((0.05, 0.5, LISTED), (0.04, 0.5, LISTED))
    with pytest.raises(UserError, match="--channel_disentangle 10 is out of range, the layer has channels 0 to 9"):
        open_candidates(splitting(tmp_path, channels=(10,), concepts=(["1"], ["3"])), STORED)


def test_stage_2_is_not_to_be_asked_again_as_it_listed_nothing(tmp_path, stage_two):
    stage_two((0.05, 0.6, LISTED), (0.9, 0.6, ()))
    settings = ImportanceSettings(model="m", store_dir=str(tmp_path), images="val")
    ((_, command),) = after_importances(settings, "m", SimpleNamespace(meta=STORED))
    assert "--proportion_attribution_required 0.05 --p 0.6" in command


def test_after_the_validation_images_comes_what_the_results_that_are_there_ask_for(tmp_path, stage_two):
    """Stage 4 of a manifest, else of the newest split, else stage 3 of stage 2's groups, else stage 2."""
    stage_two((0.05, 0.6, LISTED))
    settings = ImportanceSettings(
        model="m",
        store_dir=str(tmp_path),
        output_dir=str(tmp_path / "out"),
        images="val",
        layer_of_interest="last_conv",
    )

    def command():
        ((purpose, text),) = after_importances(settings, "m", SimpleNamespace(meta=STORED))
        assert purpose == "next"
        return text

    assert "get_cosine_similarities.py" in command()
    groups = tmp_path / "out" / "results_get_cosine_similarities" / "m_required0.05_groups.json"
    groups.parent.mkdir(parents=True)
    found_nothing, found = (
        {"format": CANDIDATES_FORMAT, "settings": {}, "candidates": candidates}
        for candidates in ([], [{"channel": 3, "concepts": [[1], [2]]}])
    )
    write_json(groups, found_nothing)
    assert "get_cosine_similarities.py" in command()
    write_json(groups, found)
    assert "disentangle_channel.py" in command() and f"--candidates {groups} --split_by least_squares" in command()
    splits = tmp_path / "models_disentangled"
    splits.mkdir()
    for number, channel in enumerate((4, 3)):
        path = splits / f"m_channel{channel}_1_2.pt"
        path.touch()
        os.utime(path, (number, number))
    assert "get_results.py" in command() and command().endswith(f"--splits {splits}/m_channel3_1_2.pt")
    file = split_file(frozen_conv(6, 9, 1), 3)
    write_split(path, file)
    write_manifest(splits / "other_groups_layer.json", {splits / "other_channel3_1_2.pt": file}, {})
    (splits / "m_damaged_layer.json").write_text("{")
    assert f"--splits {path}" in command()  # neither the manifest of another layer nor a damaged one counts
    write_manifest(splits / "m_groups_layer.json", {path: file}, {})
    assert command().endswith(f"--splits {splits}/m_groups_layer.json --get_separation")
    file.source["name"] = "circuits"
    write_split(path, file)
    assert command().endswith(f"--splits {path} --get_channel_card --get_map")  # a separation is of labelled concepts


def test_flags_choose_among_runs_that_listed_a_channel(tmp_path, stage_two):
    stage_two((0.05, 0.5, LISTED), (0.9, 0.6, ()))
    assert choosing_flags(splitting(tmp_path), "m", STORED) == []
    stage_two((0.05, 0.5, LISTED), (0.04, 0.5, (7,)))
    assert choosing_flags(splitting(tmp_path), "m", STORED) == ["proportion_attribution_required"]


def test_a_run_is_of_the_store_that_it_has_read(tmp_path, stage_two):
    """A store of other images has other runs, even of the same layer and weights; without a store all count."""
    store = opened(tmp_path, layer=STORED["layer"])
    stage_two((0.05, 0.5, LISTED), training=store.meta)
    assert len(read_stage_two_runs(tmp_path, "m", STORED)) == 1
    opened(tmp_path, layer=STORED["layer"], data_sha256="of other images")
    assert read_stage_two_runs(tmp_path, "m", STORED) == []
    assert chosen_run(splitting(tmp_path), "m", STORED, [3]) is None
    store.meta_path.unlink()
    assert len(read_stage_two_runs(tmp_path, "m", STORED)) == 1


def test_a_run_of_an_earlier_version_is_not_taken_and_one_line_says_so(tmp_path, capsys):
    write_json(tmp_path / "m_stage2_0123456789ab.json", {"format": 1, "settings": STORED, "channels": [3]})
    for _ in range(2):
        assert read_stage_two_runs(tmp_path, "m", STORED) == []
    (line,) = capsys.readouterr().err.splitlines()
    assert "m_stage2_0123456789ab.json is of an earlier version" in line and line.endswith("py again")


def split_of(channel, **settings):
    file = split_file(frozen_conv(2, 8, 1), channel, layer=STORED["layer"])
    file.settings |= {"tau": 0.05, "p": 0.5, "gamma": 0.5, "min_images": 1, **settings}
    return OpenedSplit(path=None, file=file, rho=0.9)


@pytest.mark.parametrize(
    ("tau", "expected"),
    [
        (0.05, "--cos_sim_low -1.0 --cos_sim_high 1.0 --only_above_mean"),  # as the run in the store
        (0.04, "--cos_sim_high 0.7"),  # there is no such run: gamma is the bound
    ],
)
def test_stage_2_is_proposed_with_all_that_differs_from_a_default(tmp_path, stage_two, tau, expected):
    bounds = {"cosines": [-1.0, 1.0], "gamma": 0.5, "only_above_mean": True}
    stage_two((0.05, 0.5, LISTED), more=bounds)
    split = split_of(3, tau=tau, gamma=0.5 if tau == 0.05 else 0.7)
    where = {"store_dir": str(tmp_path), "output_dir": str(tmp_path / "out")}
    settings = ResultSettings(model="m", **where)
    found = SimpleNamespace(settings=settings, run="m", splits=[split], stage_two={}, context=split.file.context)
    ((_, command),) = after_results(found)
    assert "get_cosine_similarities.py" in command
    assert command.endswith(f"--proportion_attribution_required {tau} --p 0.5 {expected}")
