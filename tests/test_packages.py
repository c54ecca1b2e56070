"""What it costs to import the project's packages, and that they do not hide somebody's own of the same name."""

import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from tests.scripts import COMPUTE, ROOT, SMALL_IMAGES
from tests.scripts import python as forking_python
from utils.networks.loading import fingerprint

HEAVY = ("torch", "torchvision", "numpy", "scipy", "matplotlib", "PIL", "nltk", "tqdm", "jinja2")
PACKAGES = sorted(".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "utils").rglob("__init__.py"))


def python(code, cwd, *path):
    """What some code prints that can import the project and what is on ``path``, as words."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, *path)))}
    result = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def loaded(cwd, *imports):
    """Which of the heavy libraries are there after some imports."""
    code = "\n".join([*imports, "import sys", f"print(*[name for name in {HEAVY} if name in sys.modules])"])
    return python(code, cwd)


def test_no_package_imports_a_library(tmp_path):
    assert {"utils", "utils.store", "utils.networks", "utils.command_line"} <= set(PACKAGES)
    assert loaded(tmp_path, *(f"import {name}" for name in PACKAGES)) == []
    assert loaded(tmp_path, "import tqdm") == ["tqdm"]


def test_what_scripts_of_ones_own_need_is_imported_when_it_is_asked_for(tmp_path):
    assert loaded(tmp_path, "import utils.store", "assert not hasattr(utils.store, 'anything_else')") == []
    code = "from utils.store import split_network, stored_transform; import utils.store.networks as networks; "
    code += "print(split_network is networks.split_network, stored_transform is networks.stored_transform)"
    assert python(code, tmp_path) == ["True", "True"]


MINE = """
import torch
from torch import nn
from utils.errors import UserError
from utils.numbers import SEED

def network():
    torch.manual_seed(SEED)
    layers = nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 6, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    return nn.Sequential(*layers)
"""


@pytest.fixture(params=[True, False], ids=["with __init__.py", "without"])
def own(request, tmp_path):
    """A folder with somebody's own package utils, which shares some names with the project's."""
    sources = {"mine.py": MINE, "numbers.py": "SEED = 3", "errors.py": "1 / 0", "images/listing.py": "1 / 0"}
    sources |= {"__init__.py": "", "images/__init__.py": ""} if request.param else {}
    for name, source in sources.items():
        path = tmp_path / "own" / "utils" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return tmp_path / "own"


def test_a_factory_in_a_package_of_the_same_name_is_found_and_hides_nothing(finished, own):
    """In the working directory, its neighbours too; of names that both packages have, the project's are meant."""
    flags = ("--model", "utils.mine:network", "--data_dir", finished / "data", *SMALL_IMAGES, *COMPUTE)
    result = subprocess.run(
        [forking_python(), ROOT / "get_importances_for_classes.py", *flags],
        cwd=own,
        env={name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "STORE_DIR")},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    (meta,) = own.rglob("meta.json")
    torch.manual_seed(3)
    layers = nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 6, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    assert json.loads(meta.read_text())["weights_sha256"] == fingerprint(nn.Sequential(*layers))


def test_a_package_of_the_same_name_further_back_on_the_path_is_found(own, tmp_path):
    code = "import utils.numbers, utils.errors; print(utils.numbers.SEED, utils.errors.UserError.__module__)"
    assert python(code, tmp_path, own) == ["3", "utils.errors"]
