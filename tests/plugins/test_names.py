"""The name of a plug-in stands in its own file and its registry; nobody else tells plug-ins apart by their names."""

import ast
import subprocess
import sys

import pytest

from tests.scripts import ROOT
from utils.concept_sources.source_registry import SOURCES
from utils.divisions.division_registry import DIVISIONS
from utils.errors import UserError

KINDS_OF_CONCEPTS = {"classes", "images", "background"}  # which are no names of sources where they stand
REGISTRIES = ("utils/divisions/division_registry.py", "utils/concept_sources/source_registry.py")
HOMES = {
    **{f"utils/divisions/{name}.py": name for name in DIVISIONS},
    **{f"utils/concept_sources/{name}.py": name for name in SOURCES},
}
NAMES = {*DIVISIONS, *SOURCES} - KINDS_OF_CONCEPTS


def names_in(source):
    """(line, name) of every text that is the name of a plug-in and nothing else."""
    constants = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant))
    return [(node.lineno, node.value) for node in constants if isinstance(node.value, str) and node.value in NAMES]


def files():
    return [*ROOT.glob("*.py"), *(ROOT / "utils").rglob("*.py")]


def test_every_plugin_has_a_file_of_its_name():
    assert all((ROOT / path).is_file() for path in HOMES)


def test_no_name_stands_elsewhere():
    found = []
    for path in files():
        place = str(path.relative_to(ROOT))
        if place not in REGISTRIES:
            found += [f"{place}:{line} {name}" for line, name in names_in(path.read_text()) if HOMES.get(place) != name]
    assert len(files()) > 100 and not found


@pytest.mark.parametrize(
    "source",
    ['if split_by == "arv": pass', 'x = {"circuits": 1}', 'y = WORDS["pure"]', 'z = SOURCES.get("concept_vectors")'],
)
def test_a_name_elsewhere_is_found(source):
    assert len(names_in(source)) == 1


@pytest.mark.parametrize("registry", [DIVISIONS, SOURCES])
def test_an_unknown_name_raises(registry):
    with pytest.raises(UserError, match=f"there is no {registry.kind} 'nobody': there are {', '.join(registry)}"):
        registry.get("nobody")


@pytest.mark.parametrize("registry", [DIVISIONS, SOURCES])
def test_a_file_of_a_plugin_that_is_not_there_is_named(registry, tmp_path):
    registry.require(next(iter(registry)), tmp_path / "split.pt")
    with pytest.raises(UserError, match=r"split\.pt was made by the .* nobody, which is not registered here"):
        registry.require("nobody", tmp_path / "split.pt")


def test_registries_and_plugins_import_nothing_heavy():
    code = (
        "import sys; from utils.divisions.division_registry import DIVISIONS;"
        "from utils.concept_sources.source_registry import SOURCES; DIVISIONS.all(), SOURCES.all(); print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not {"torch", "numpy", "scipy", "torchvision"} & set(loaded.split())
