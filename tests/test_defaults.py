"""Every default stands once: what cannot read it (a shell script, a page) says the same."""

import ast
import re

from tests.scripts import ROOT
from utils import defaults


def test_nothing_is_imported():
    tree = ast.parse((ROOT / "utils" / "defaults.py").read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]


def test_the_papers_settings_in_shell_are_the_defaults():
    script = (ROOT / "reproduce_paper.sh").read_text()
    assert re.search(r"^tau=(\S+)$", script, re.MULTILINE)[1] == str(defaults.TAU)
    assert f"--p {defaults.P} --cos_sim_high {defaults.GAMMA} " in script


def test_shell_scripts_look_in_the_default_places():
    places = {name: getattr(defaults, name) for name in ("DATA_DIR", "STORE_DIR", "OUTPUT_DIR")}
    for script in ("reproduce_paper.sh", "disentanglement_calls.sh", "quantitative_evaluation_calls.sh"):
        text = (ROOT / script).read_text()
        found = dict(re.findall(r"^([A-Z]+_DIR)=\$\{\1:-(\S+)\}", text, re.MULTILINE))
        assert found and found == {name: places[name] for name in found}


def test_the_papers_own_lines_have_the_default_thresholds():
    page = " ".join((ROOT / "docs" / "how_to.md").read_text().split())
    assert f"--proportion_attribution_required {defaults.TAU} --p {defaults.P} --cos_sim_high {defaults.GAMMA}" in page
