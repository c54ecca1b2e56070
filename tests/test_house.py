"""The order of the house: which module may import which, and how large files and folders may grow."""

import ast
import re
import sys

import pytest

from tests.scripts import ROOT

SCRIPTS = ("get_importances_for_classes", "get_cosine_similarities", "disentangle_channel", "get_results")
# From the ground up: a module imports from its own room and from lower floors; only on the top one between rooms, too
FLOORS = (
    ("utils.errors", "utils.defaults", "utils.processes", "utils.plugins", "utils"),
    ("utils.method", "utils.images"),
    ("utils.networks",),
    ("utils.divisions",),
    ("utils.store",),
    ("utils.concept_sources",),
    ("utils.stages",),
    ("utils.report",),
    ("utils.command_line",),
    ("utils.entries",),
    (*SCRIPTS, "benchmarks", "examples"),
    ("tests",),
)
GROUND, TOP, ROOF = 0, len(FLOORS) - 2, len(FLOORS) - 1
PLACES = {room: (floor, room) for floor, rooms in enumerate(FLOORS) for room in rooms}
OURS = {"utils", "benchmarks", "examples", "tests", *SCRIPTS}
IMPORTERS = ("import_module", "__import__", "later")  # functions that are called with a module's name
OF_METHOD = {"torch", "numpy", "scipy", *sys.stdlib_module_names}
MOST_FLAT_MODULES = 6


def place_of(module):
    """The floor and room of a module of ours; None where it is in no room."""
    parts = module.split(".")
    return PLACES.get(".".join(parts[:2]) if parts[0] == "utils" else parts[0])


def python_files(root):
    """All Python files whose imports are looked at."""
    scripts = [root / f"{script}.py" for script in SCRIPTS if (root / f"{script}.py").is_file()]
    return [*scripts, *(path for folder in sorted(OURS) for path in sorted((root / folder).rglob("*.py")))]


def name_of(path, root):
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name, root):
    path = root.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def at_import_time(node):
    """The nodes below ``node`` that are executed when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from at_import_time(child)


def imports(nodes, path, root):
    """(line, module) of all imports among syntax nodes of a file; of ``from a import b`` a module b of a, else a."""
    package = path.relative_to(root).parent.parts
    for node in nodes:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
            names = [name if is_module(name, root) else base for name in names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in IMPORTERS:
            first = node.args[0] if node.args else None
            names = [first.value] if isinstance(first, ast.Constant) and not first.value.startswith(".") else []
        yield from ((node.lineno, name) for name in dict.fromkeys(names))


def objection(module, target):
    """Why ``module`` must not import ``target``, or None."""
    (floor, room), top = place_of(module), target.split(".")[0]
    if top in SCRIPTS:
        return "nothing imports a script"
    if top not in OURS:
        return f"{room} needs no {top}" if room == "utils.method" and top not in OF_METHOD else None
    other_floor, other_room = place_of(target)
    if other_floor > floor:
        return f"{other_room} is above {room}"
    beside = other_floor == floor and other_room != room
    return f"{other_room} is beside {room}" if beside and floor not in (GROUND, TOP, ROOF) else None


def wrong_imports(root):
    """A line for every import that runs the wrong way, and for every module that is in no room."""
    found = []
    for path in python_files(root):
        tree, module, shown = ast.parse(path.read_text(), str(path)), name_of(path, root), path.relative_to(root)
        if place_of(module) is None:
            found.append(f"{shown} is in no room of FLOORS")
            continue
        for line, target in imports(ast.walk(tree), path, root):
            known = target.split(".")[0] not in OURS or place_of(target)
            reason = objection(module, target) if known else "is in no room of FLOORS"
            if reason:
                found.append(f"{shown}:{line} imports {target}: {reason}")
        if path.name == "__init__.py" and module.split(".")[0] == "utils":
            for line, target in imports(at_import_time(tree), path, root):
                if target.split(".")[0] not in sys.stdlib_module_names:
                    found.append(f"{shown}:{line} imports {target}: a package is light to import")
    return found


def flat_modules(root):
    return sorted(path.name for path in (root / "utils").glob("*.py") if path.name != "__init__.py")


def test_no_import_runs_the_wrong_way():
    names = {name_of(path, ROOT) for path in python_files(ROOT)}
    assert names > {*SCRIPTS, "utils.errors", "benchmarks.report", "examples.demo.network", "tests.conftest"}
    wrong = wrong_imports(ROOT)
    assert not wrong, "\n".join(["", *wrong])


def test_few_modules_lie_flat():
    assert "errors.py" in flat_modules(ROOT)
    assert len(flat_modules(ROOT)) <= MOST_FLAT_MODULES, flat_modules(ROOT)


def imported_tests(root):
    """A line for every import of a module of tests: what several of them need stands in a module without tests."""
    return [
        f"{path.relative_to(root)}:{line} imports {target}"
        for path in sorted((root / "tests").rglob("*.py"))
        for line, target in imports(ast.walk(ast.parse(path.read_text())), path, root)
        if target.startswith("tests.") and re.search(r"\.(test_\w+|conftest)\b", target)
    ]


def test_no_module_of_tests_is_imported():
    assert imported_tests(ROOT) == []


# --------------------------------------------------------------------------------------------------------------------
# The checks find what they are for


def build(root, files):
    """A made-up house; its tidy part has one import of each kind that is allowed."""
    tidy = {
        "utils/__init__.py": "import os",
        "utils/errors.py": "",
        "utils/plugins.py": "from utils.errors import quoted",
        "utils/method/rho.py": "import math\nimport numpy as np\nfrom utils.errors import UserError\nfrom . import tap",
        "utils/method/tap.py": "from scipy.stats import norm\nfrom torch.nn import functional",
        "utils/images/listing.py": "import PIL\nfrom utils import errors",
        "utils/networks/layers.py": "from utils.images import listing\nfrom utils.method.rho import best",
        "utils/divisions/arv.py": "from utils.plugins import later\ntap = later('utils.method.tap')",
        "utils/store/__init__.py": "import sys\ndef __getattr__(name):\n    from utils.store.files import write\n",
        "utils/store/files.py": "from ..networks.layers import find_layer",
        "utils/concept_sources/pure.py": "from utils.plugins import later\nfiles = later('utils.store.files')",
        "utils/stages/split.py": "import utils.store.files as files\nfrom utils.concept_sources import pure",
        "utils/report/plots.py": "from utils.stages.split import Split",
        "utils/command_line/run.py": "from utils.report import plots",
        "get_results.py": "from utils.command_line.run import run",
        "benchmarks/speed.py": "from examples.demo import draw\nfrom utils.stages import split",
        "examples/demo.py": "import torchvision\nfrom utils.report.plots import figure",
        "tests/test_all.py": "from benchmarks import speed\nfrom utils.method import rho",
    }
    for name, content in {**tidy, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def test_a_tidy_house_is_found_tidy(tmp_path):
    assert wrong_imports(build(tmp_path, {})) == []
    assert flat_modules(tmp_path) == ["errors.py", "plugins.py"]


@pytest.mark.parametrize(
    ("path", "code", "complaint"),
    [
        ("utils/errors.py", "import utils.method.rho", "utils.method.rho: utils.method is above utils.errors"),
        ("utils/method/new.py", "import torchvision", "torchvision: utils.method needs no torchvision"),
        ("utils/method/new.py", "from tqdm import tqdm", "tqdm: utils.method needs no tqdm"),
        ("utils/method/new.py", "from utils.images.folders import x", "utils.images is beside utils.method"),
        ("utils/method/new.py", "from ..networks import layers", "utils.networks is above utils.method"),
        ("utils/images/new.py", "def f():\n    from utils.method import rho", "utils.method is beside utils.images"),
        ("utils/networks/new.py", "from utils.store import files", "utils.store.files: utils.store is above"),
        ("utils/store/new.py", "from utils import stages", "utils.stages is above utils.store"),
        ("utils/store/new.py", "from utils.report.plots import x", "utils.report is above utils.store"),
        ("utils/stages/new.py", "if True:\n    import utils.report", "utils.report is above utils.stages"),
        ("utils/report/new.py", "from utils.command_line.run import run", "utils.command_line is above utils.report"),
        ("utils/command_line/new.py", "import get_results", "get_results: nothing imports a script"),
        ("utils/command_line/new.py", "from examples import demo", "examples.demo: examples is above"),
        ("utils/command_line/new.py", "import benchmarks.speed", "benchmarks is above utils.command_line"),
        ("utils/images/new.py", "from tests import test_all", "tests is above utils.images"),
        ("utils/images/new.py", "importlib.import_module('utils.store.files')", "utils.store is above utils.images"),
        ("utils/divisions/new.py", "files = later('utils.store.files')", "utils.store is above utils.divisions"),
        ("utils/divisions/new.py", "from utils.concept_sources import pure", "utils.concept_sources is above"),
        ("utils/store/new.py", "pure = plugins.later('utils.concept_sources.pure')", "utils.concept_sources is above"),
        ("utils/concept_sources/new.py", "split = later('utils.stages.split')", "utils.stages is above"),
        ("utils/method/new.py", "tqdm = later('tqdm')", "tqdm: utils.method needs no tqdm"),
        ("utils/plugins.py", "arv = later('utils.divisions.arv')", "utils.divisions is above utils.plugins"),
        ("disentangle_channel.py", "from get_results import main", "get_results: nothing imports a script"),
        ("benchmarks/new.py", "import get_results as stage4", "get_results: nothing imports a script"),
        ("examples/new.py", "from tests.test_all import x", "tests is above examples"),
        ("tests/new.py", "import get_results", "get_results: nothing imports a script"),
        ("utils/store/new.py", "from utils.lonely import x", "is in no room of FLOORS"),
        ("utils/report/__init__.py", "from utils.errors import UserError", "a package is light to import"),
        ("utils/__init__.py", "try:\n    import torch\nfinally:\n    pass", "torch: a package is light to import"),
        ("utils/report/__init__.py", "class A:\n    from . import plots", "a package is light to import"),
    ],
)
def test_an_import_that_runs_the_wrong_way_is_named(tmp_path, path, code, complaint):
    (found,) = wrong_imports(build(tmp_path, {path: f"\n{code}\n"}))
    number = next(n for n, line in enumerate(f"\n{code}".split("\n"), start=1) if "import" in line or "later" in line)
    assert found.startswith(f"{path}:{number} imports ")
    assert complaint in found


def test_a_module_in_no_room_is_named(tmp_path):
    assert wrong_imports(build(tmp_path, {"utils/lonely.py": ""})) == ["utils/lonely.py is in no room of FLOORS"]


def test_what_grows_too_large_is_named(tmp_path):
    names = [f"module{number}.py" for number in range(MOST_FLAT_MODULES)]
    build(tmp_path, {f"utils/{name}": "" for name in names})
    assert flat_modules(tmp_path) == ["errors.py", *names, "plugins.py"]


@pytest.mark.parametrize(
    "code", ["from tests.method.test_rho import x", "from tests.method import test_rho", "from tests import conftest"]
)
def test_an_import_of_a_module_of_tests_is_named(tmp_path, code):
    others = {
        "tests/method/test_rho.py": "from tests import pictures",
        "tests/pictures.py": "",
        "tests/conftest.py": "",
    }
    (found,) = imported_tests(build(tmp_path, {**others, "tests/test_new.py": code}))
    assert found.startswith("tests/test_new.py:1 imports tests.")
