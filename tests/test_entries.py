"""The four stages from Python: README's example as it stands, and that it makes what the scripts make."""

import os
import re
import subprocess

import pytest

from tests.pictures import write_images
from tests.scripts import ROOT, contents, python, succeed
from utils import entries
from utils.command_line.opening import requested_candidates
from utils.errors import UserError

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
print(sorted({type(value).__name__ for value in (store, layer, splits)}))
print(layer.findings.candidates, layer.files.table, *splits.files, *paths, sep="\\n")
"""


def example():
    """The lines of README's section."""
    section = (ROOT / "README.md").read_text().partition("## From Python\n")[2]
    code = re.match(r"\n```python\n(.*?)```\n", section, re.DOTALL)[1]
    assert len([line for line in code.split("\n") if line]) <= 10
    return code


def made_by(folder, run):
    """What ``run`` makes in a folder that has images and a network, but for the times of results."""
    folder.mkdir()
    write_images(folder / "my_images")
    (folder / "my_network.py").write_text(NETWORK)
    run(folder)
    return {name: data for name, data in contents(folder).items() if "/pairs/" not in name and "pycache" not in name}


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
        succeed("get_importances_for_classes.py", *study, cwd=folder)
        succeed("get_cosine_similarities.py", *study, cwd=folder)
        (groups,) = (folder / "results_get_cosine_similarities").glob("*_groups.json")
        layer = ("--candidates", groups.relative_to(folder), "--split_by", "least_squares")
        succeed("disentangle_channel.py", *study, *layer, cwd=folder)
        (manifest,) = (folder / "my_store" / "models_disentangled").glob("*_layer.json")
        succeed("get_results.py", *study, "--splits", manifest.relative_to(folder), "--get_quantitative", cwd=folder)

    first, second = made_by(tmp_path / "python", from_python), made_by(tmp_path / "scripts", by_scripts)
    assert first == second
    assert any(name.endswith("summary.md") for name in first)
    assert "['FoundLayer', 'ImportanceStore', 'WrittenSplits']" in printed[0]
    assert "\nresults_quantitative/summary.md\n" in printed[0]


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
