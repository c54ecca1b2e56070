"""traced.py FILE SCRIPT FLAGS...: run a script, and write into FILE which files of the project execute a function."""

import inspect
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))


def is_ours(frame):
    return frame.f_code.co_filename.startswith(f"{ROOT}/")


def is_imported(frame):
    """Whether a module's body is being executed: what is called then happens before the script's work."""
    while frame is not None:
        if frame.f_code.co_name == "<module>" and f"{ROOT}/utils/" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False


def trace(script, arguments):
    """The files, relative to the project, that execute a function while a script runs; bodies of classes are none."""
    seen = set()

    def notice(frame, event, _):
        is_function = frame.f_code.co_flags & inspect.CO_OPTIMIZED  # which bodies of modules and classes are not
        if event == "call" and is_function and is_ours(frame) and not is_imported(frame):
            seen.add(str(Path(frame.f_code.co_filename).relative_to(ROOT)))

    sys.argv = [str(ROOT / script), *arguments]
    sys.setprofile(notice)
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        sys.setprofile(None)
    return {name for name in seen if not name.startswith(("tests/", ".venv/"))}


if __name__ == "__main__":
    written, script, *arguments = sys.argv[1:]
    Path(written).write_text("\n".join(sorted(trace(script, arguments))))
