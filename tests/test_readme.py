"""What README.md and docs/ name is there: imports, modules, scripts and files."""

import importlib
import importlib.util
import re

from tests.scripts import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text() for page in PAGES)


def test_imports_in_examples_work():
    found = re.findall(r"^from ([\w.]+) import ([\w, ]+)$", TEXT, re.MULTILINE)
    lines = [(module, name) for module, names in found for name in names.split(", ")]
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
    named = {
        (page, ROOT / name)
        for page in PAGES
        for name in re.findall(r"`((?:utils|docs|examples|tests)/[\w/.]+)`", page.read_text())
    }
    links = {
        (page, page.parent / name)
        for page in PAGES
        for name in re.findall(r"(?:\]\(|src=\")([\w/-]+\.[\w.]+|LICENSE)(?:#[\w-]+)?[\")]", page.read_text())
    }
    assert {ROOT / "LICENSE", ROOT / "docs/wordnet.png"} <= {path for _, path in links | named}
    assert not [f"{page.name}: {path}" for page, path in links | named if not path.exists()]


def test_headings_that_are_linked_are_there():
    """A link ends in the heading as it stands, in small letters, spaces as hyphens, without signs."""
    headings = {
        page: {
            re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
            for line in page.read_text().split("\n")
            if line.startswith("#")
        }
        for page in PAGES
    }
    links = [(page, *link) for page in PAGES for link in re.findall(r"\]\(([\w/.-]*)#([\w-]+)\)", page.read_text())]
    assert len(links) > 10
    assert not [
        link for link in links if link[2] not in headings[(link[0].parent / link[1]).resolve() if link[1] else link[0]]
    ]
