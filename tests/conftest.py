"""Fixtures of all tests: a tiny image folder, a finished store, folders of pictures."""

import os
import shutil
import signal

import hypothesis
import pytest

from tests.demonstration import copy_project, shared_demonstration
from tests.pictures import LEFT_TO_PIL, PLAIN, picture, write_images
from tests.scripts import contents, stage1, stage2, stage3

# How long an example takes depends on what else the machine does
hypothesis.settings.register_profile("busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("busy")


@pytest.fixture(autouse=True)
def own_interrupts():
    """What ends these tests is theirs, whatever a script's ``run`` has set in this process."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A folder with ``data``, and the ``store`` that stages 1 to 3 have made of it. Not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    data = write_images(folder / "data")
    stage1(data, folder / "store", cwd=folder)
    stage2(folder / "store", cwd=folder)
    stage3(data, folder / "store", cwd=folder)
    before = contents(folder)
    yield folder
    assert contents(folder) == before


@pytest.fixture(scope="session")
def readable(tmp_path_factory):
    """A folder of images of every kind that can be read. Not to be changed."""
    folder = tmp_path_factory.mktemp("readable")
    (folder / "a").mkdir()
    for seed, (name, (size, mode, options)) in enumerate({**PLAIN, **LEFT_TO_PIL}.items()):
        picture(size, seed).convert(mode).save(folder / "a" / name, **options)
    (folder / "a" / "trailing.jpg").write_bytes((folder / "a" / "baseline.jpg").read_bytes() + bytes(99))
    return folder


@pytest.fixture
def without_figures(monkeypatch):
    """For tests of something else: scripts leave empty files in place of figures, in half the time."""
    monkeypatch.setenv("FIGURES", "empty")


@pytest.fixture
def with_full_figures(monkeypatch):
    """For tests of the figures that scripts write: they are drawn as users get them, in twice the time."""
    monkeypatch.setenv("FIGURES", "full")


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of ``finished`` that a test may spoil."""
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture(scope="session")
def demonstration(tmp_path_factory):
    """The one run of demo.sh, which all processes of the tests share. Not to be changed."""
    own = tmp_path_factory.getbasetemp()
    return shared_demonstration((own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "demonstration")


@pytest.fixture
def demonstrated(demonstration, tmp_path):
    """A copy of the project after demo.sh that a test may spoil, its repository root."""
    yield copy_project(demonstration.project, tmp_path / "project")
    shutil.rmtree(tmp_path / "project")  # 60 MB
