"""What README.md names is there: imports, modules, scripts and files."""

import importlib
import importlib.util
import re

from tests.conftest import ROOT

TEXT = (ROOT / "README.md").read_text()


def test_imports_in_examples_work():
    lines = re.findall(r"^from ([\w.]+) import (\w+)$", TEXT, re.MULTILINE)
    assert ("utils.store", "split_network") in lines
    missing = [line for line in lines if not hasattr(importlib.import_module(line[0]), line[1])]
    assert not missing


def test_modules_and_scripts_that_are_run_are_there():
    modules = set(re.findall(r"python -m ((?:benchmarks|examples)\.\w+)", TEXT))
    assert "benchmarks.ground_truth" in modules
    assert not [name for name in modules if importlib.util.find_spec(name) is None]
    scripts = set(re.findall(r"(?:python|sh) (\w+\.(?:py|sh))", TEXT))
    assert {"get_results.py", "demo.sh"} <= scripts
    assert not [name for name in scripts if not (ROOT / name).is_file()]


def test_files_that_are_named_are_there():
    files = set(re.findall(r"\]\(([\w/.]+)\)|\"(docs/[\w/.]+)\"|`((?:utils|docs|examples|tests)/[\w/.]+)`", TEXT))
    names = {name for found in files for name in found if name}
    assert {"LICENSE", "docs/wordnet.png"} <= names
    assert not [name for name in names if not (ROOT / name).exists()]
