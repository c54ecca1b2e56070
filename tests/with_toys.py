"""with_toys.py SCRIPT FLAGS...: run a script of the project with one more plug-in of each kind, a line each."""

import runpy
import sys
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from utils.concept_sources.source_registry import SOURCES  # noqa: E402
from utils.divisions.division_registry import DIVISIONS  # noqa: E402

TOYS = [(DIVISIONS, "softmax", "tests.plugins.softmax:Softmax"), (SOURCES, "halves", "tests.plugins.halves:Halves")]


@contextmanager
def registered():
    """While in the block, the toys are plug-ins like all others."""
    for registry, name, place in TOYS:
        registry.register(name, place)
    try:
        yield
    finally:
        for registry, name, _ in TOYS:
            registry.unregister(name)


if __name__ == "__main__":
    with registered():
        sys.argv = [str(ROOT / sys.argv[1]), *sys.argv[2:]]
        runpy.run_path(sys.argv[0], run_name="__main__")
