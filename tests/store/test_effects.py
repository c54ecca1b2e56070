"""Effects: one file each, of splits as they are, the newest rho of each, and of one network under one name."""

import json

import pytest

from tests.entries import effect, effects_of, with_split_of_effect
from utils.errors import UserError
from utils.store.effects import Effects


def test_an_effect_is_read_as_it_was_and_named_after_split_rho_and_replacement(tmp_path):
    given = with_split_of_effect(tmp_path, effect())
    effects = effects_of(tmp_path, given)
    assert effects.path(given).name == "net_channel3_0_1_rho0.9_mean.json"
    (found,) = effects.read_all()
    assert {name: found[name] for name in given} == given and effects.stale == effects.unchecked == []
    assert effects.find({"split": given["split"], "rho": 0.9, "to": "mean"}) == found
    assert effects.find({"split": given["split"], "rho": 0.9, "to": "mean", "precision": "bf16"}) is None


def test_the_newest_rho_of_a_split_and_replacement_counts_and_one_asked_for_again_becomes_it(tmp_path):
    effects = effects_of(tmp_path, effect(), effect(to="zero"), effect(rho=0.5))

    def rhos():
        return [(one["to"], one["rho"]) for one in effects.read_all()]

    assert rhos() == [("mean", 0.5), ("zero", 0.9)]
    for rho in (0.9, 0.9, 0.5):
        state = effects.state()
        again = rhos()[0][1] != rho
        effects.make_newest([effects.find({**effect(), "rho": rho})])
        assert rhos() == [("mean", rho), ("zero", 0.9)] and (effects.state() != state) == again


def test_effects_whose_split_has_changed_are_left_out_and_those_without_are_named(tmp_path):
    effects = effects_of(tmp_path, *(with_split_of_effect(tmp_path, effect(channel)) for channel in (3, 4)))
    with_split_of_effect(tmp_path, effect(4), seed=1)
    (tmp_path / "models/net_channel3_0_1.pt").unlink()
    assert [one["channel"] for one in effects.read_all()] == [3]
    assert effects.unchecked == ["net_channel3_0_1_rho0.9_mean.json"]
    assert effects.stale == ["net_channel4_0_1_rho0.9_mean.json"]


def test_other_weights_under_one_name_are_refused(tmp_path):
    effects = effects_of(tmp_path, effect())
    effects.check("net", "00")
    effects.check("other", "01")
    with pytest.raises(UserError, match="holds results of net with other weights: use another --output_dir"):
        effects.check("net", "01")


def test_an_effect_of_another_version_is_refused_and_made_anew(tmp_path):
    effects = effects_of(tmp_path, effect())
    path = effects.path(effect())
    path.write_text(path.read_text().replace(f'"format": {Effects.version}', '"format": 1'))
    assert json.loads(path.read_text())["format"] == 1 and effects.find(effect()) is None
    with pytest.raises(UserError, match=r"mean.json.*get_results.py --get_effect again"):
        effects.read_all()
