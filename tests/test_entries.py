"""The four stages from Python: README's example as it stands, and that it makes what the scripts make."""

import importlib
import os
import re
import subprocess
from dataclasses import fields

import numpy as np
import pytest

from tests.pictures import write_images
from tests.scripts import ROOT, contents, python, succeed
from utils import entries
from utils.command_line import threshold_flags
from utils.command_line.opening import requested_candidates
from utils.command_line.ranges import RANGES
from utils.concept_sources.source_registry import SOURCES
from utils.divisions.division_registry import DIVISIONS
from utils.errors import UserError
from utils.plugins import Checked

NETWORK = """
from tests.factories import small

def network():
    made = small()
    made.transform = {
        **{"resize_size": 24, "crop_size": 24, "interpolation": "bilinear"},
        **{"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    }
    return made
"""
SHOWS = """
print(sorted({type(value).__name__ for value in (layer, splits)}))
print(layer.findings.candidates, layer.files.table, *splits.files, sep="\\n")
"""

TIMED = re.compile("/separation/|pycache")  # files that have the time at which they were made


def example():
    """README's lines that call the four stages."""
    code = re.search(r"\n```python\n(from utils.entries .*?)```\n", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    assert len([line for line in code.split("\n") if line]) <= 10
    return code


def made_by(folder, run):
    """What ``run`` makes in a folder that has images and a network, but for the times of results."""
    folder.mkdir()
    write_images(folder / "my_images")
    (folder / "my_network.py").write_text(NETWORK)
    run(folder)
    return {name: data for name, data in contents(folder).items() if not TIMED.search(name)}


def test_readmes_example_makes_what_the_scripts_make(tmp_path):
    printed = []

    def from_python(folder):
        (folder / "example.py").write_text(example() + SHOWS)
        environment = {"FIGURES": "coarse", **os.environ, "PYTHONPATH": str(ROOT)}
        command = [python(), "example.py"]
        result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        printed.append(result.stdout)
        (folder / "example.py").unlink()

    def by_scripts(folder):
        study = ("--model", "my_network.py:network", "--data_dir", "my_images", "--store_dir", "my_store")
        for images in ("train", "val"):
            succeed("get_importances_for_classes.py", *study, "--images", images, cwd=folder)
        succeed("get_cosine_similarities.py", *study, cwd=folder)
        (groups,) = (folder / "results_get_cosine_similarities").glob("*_groups.json")
        layer = ("--candidates", groups.relative_to(folder), "--split_by", "least_squares")
        succeed("disentangle_channel.py", *study, *layer, cwd=folder)
        (manifest,) = (folder / "my_store" / "models_disentangled").glob("*_layer.json")
        succeed("get_results.py", *study, "--splits", manifest.relative_to(folder), "--get_separation", cwd=folder)

    first, second = made_by(tmp_path / "python", from_python), made_by(tmp_path / "scripts", by_scripts)
    assert first == second
    assert any(name.endswith("separation.md") for name in first)
    assert "['FoundLayer', 'WrittenSplits']" in printed[0]


def test_an_unknown_name_is_no_entry():
    with pytest.raises(AttributeError, match="has no attribute 'find_monosemantic'"):
        entries.find_monosemantic  # noqa: B018


def test_without_channels_and_candidates_there_is_nothing_to_split():
    with pytest.raises(UserError, match="neither candidates nor channels are given"):
        requested_candidates(entries.DisentanglingSettings())


def test_settings_from_python_lead_to_what_flags_lead_to():
    assert entries.DisentanglingSettings().division_name == "arv"
    of_circuits = entries.DisentanglingSettings(concepts_from="circuits")
    assert (of_circuits.division_name, of_circuits.weight_of_background) == ("least_squares", 1.0)
    usual = entries.ResultSettings().with_usual_results()
    assert usual.get_qualitative and usual.get_quantitative
    separation = entries.ResultSettings(get_separation=True)
    assert separation.with_usual_results() == separation


# --------------------------------------------------------------------------------------------------------------------
# Ranges

SCRIPTS = {
    "get_importances_for_classes": entries.ImportanceSettings,
    "get_cosine_similarities": entries.SimilaritySettings,
    "disentangle_channel": entries.DisentanglingSettings,
    "get_results": entries.ResultSettings,
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_setting_has_the_range_of_its_flag(script):
    """Every number that a flag parses has its range, and so has the setting of Python."""
    names = {field.name for field in fields(SCRIPTS[script])}
    renamed = {"channel_disentangle": "channels", "channel_of_interest": "channels"}
    if script == "get_cosine_similarities":
        renamed |= threshold_flags.THRESHOLDS
    of_plugins = {flag.name for plugin in (*DIVISIONS.all(), *SOURCES.all()) for flag in plugin.flags}
    checked = set()
    for action in importlib.import_module(script).get_args_parser()._actions:
        name = renamed.get(action.dest, action.dest)
        assert action.type not in (int, float), name
        if isinstance(action.type, Checked) and (name in names or action.dest not in of_plugins):
            assert RANGES[name] is action.type, name
            checked.add(name)
    numbers = {field.name for field in fields(SCRIPTS[script]) if re.search(r"\b(int|float)\b", str(field.type))}
    assert checked <= numbers <= set(RANGES)  # stage 1 has no flag for the number of channels


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("Result", {"draws": 5}, "draws must be a whole number from 20, not 5"),
        ("Result", {"draws": 20.5}, "draws must be a whole number from 20, not 20.5"),
        ("Result", {"irrelevant_channels": "some"}, "must be a whole number from 1 or all or none, not 'some'"),
        ("Result", {"irrelevant_channels": 0}, "must be a whole number from 1 or all or none, not 0"),
        ("Result", {"rho": 1.5}, "rho must be a number above 0 and at most 1, not 1.5"),
        ("Result", {"embedding_mean": [0.5, 0.5]}, "embedding_mean must have 3 values, one for each colour, not 2"),
        ("Result", {"division_given": {"objective": "best"}}, "objective must be positive or absolute or contrast"),
        ("Similarity", {"taus": 0.03}, "taus must be a tuple of one or more values, not 0.03"),
        ("Similarity", {"taus": ()}, "taus must be a tuple of one or more values"),
        ("Similarity", {"taus": (0.03, 3)}, "taus must be a number above 0 and at most 1, not 3"),
        ("Similarity", {"cos_sim_low": -2}, "cos_sim_low must be a number from -1 to 1, not -2"),
        ("Importance", {"batch_size": 0}, "batch_size must be a whole number from 1, not 0"),
        ("Importance", {"std": (0.5, 0.5, 0)}, "std must be a number above 0, not 0"),
        ("Disentangling", {"background": True}, "background must be a number from 0, not True"),
        ("Disentangling", {"background": 0.5}, "only --split_by least_squares uses a weight"),
        ("Disentangling", {"channels": (-1,)}, "channels must be a whole number from 0, not -1"),
        ("Disentangling", {"source_given": {"number": 3}}, "there is no setting 'number' here: there are none"),
        (
            "Disentangling",
            {"concepts_from": "circuits", "source_given": {"number": 0}},
            "must be a whole number from 1",
        ),
    ],
)
def test_a_number_out_of_its_range_is_refused_in_one_line(kind, given, message):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        getattr(entries, f"{kind}Settings")(**given)
    assert "\n" not in str(error.value)


def test_numbers_of_numpy_and_none_are_numbers_in_their_range():
    settings = entries.ResultSettings(
        draws=np.int64(20), rho=np.float32(0.5), background=0, irrelevant_channels="all", embedding_mean=[0.5] * 3
    )
    assert settings.draws == 20
    circuits = {"concepts_from": "circuits", "source_given": {"number": 3, "references": 50}}
    assert entries.DisentanglingSettings(**circuits).source_given["number"] == 3
