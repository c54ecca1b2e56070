"""Which run of stage 2 a later stage takes its settings from."""

import os
from types import SimpleNamespace

import pytest

from utils.command_line.earlier_settings import chosen_run
from utils.command_line.next_steps import after_importances
from utils.command_line.opening import open_candidates
from utils.command_line.settings import DisentanglingSettings, ImportanceSettings
from utils.errors import UserError
from utils.store.stage_two_runs import write_stage_two_run

STORED = {"layer": "last", "weights_sha256": "00", "num_channels": 10}
LISTED = (3, 4)


@pytest.fixture
def stage_two(tmp_path):
    """Writes a run of stage 2 into ``tmp_path`` that is newer than those before; a run is (tau, p, channels)."""

    def write(*runs):
        for number, (tau, p, channels) in enumerate(runs):
            asked = {"tau": tau, "p": p, "only_correct": False, "min_images": 1, "only_above_mean": False}
            origin = {"layer": STORED["layer"], "weights_sha256": STORED["weights_sha256"]}
            more = {"gamma": 0.5, "cosines": [0.0, 0.5]}
            path = write_stage_two_run(tmp_path, "m", {**origin, **asked, **more}, channels)
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


def test_stage_2_is_not_to_be_asked_again_as_it_listed_nothing(tmp_path, stage_two):
    stage_two((0.05, 0.6, LISTED), (0.9, 0.6, ()))
    settings = ImportanceSettings(model="m", store_dir=str(tmp_path), images="val")
    ((_, command),) = after_importances(settings, "m", SimpleNamespace(meta=STORED))
    assert "--proportion_attribution_required 0.05 --p 0.6" in command
