"""The files that a step makes, and whether a step that was killed and continued makes the same ones."""

import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

UNTIMELY = ("evaluation", "sha256")  # keys of a result that change with the time of its measurement


class Files:
    """All files below some folders, at a time."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._folders = list(folders)
        self.states = {}
        for folder in self._folders:
            for path in folder.rglob("*"):
                if path.is_file():
                    stat = path.stat()
                    self.states[path] = stat.st_size, stat.st_mtime_ns

    def made_since(self) -> tuple[list[Path], list[Path]]:
        """The files that are new since, and those that have been written again."""
        now = Files(self._folders).states
        new = [path for path in now if path not in self.states]
        changed = [path for path in now if path in self.states and now[path] != self.states[path]]
        return new, changed


def move(files: Iterable[Path], source: Path, target: Path) -> None:
    """Move files to the same places below another folder."""
    for path in files:
        moved = target / path.relative_to(source)
        moved.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, moved)


def differences(paths: Iterable[Path], folder: Path, other: Path) -> list[str]:
    """Relative names of the files whose content below the other folder is not the same, or that are missing there."""
    names = [str(path.relative_to(folder)) for path in paths]
    return [name for name in names if _content(folder / name) != _content(other / name)]


def _content(path: Path) -> object:
    """What has to be equal: a file's bytes, of JSON its values without those that depend on the time."""
    if not path.is_file():
        return None
    if path.suffix == ".json":
        return _timeless(json.loads(path.read_text()))
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(2**20):
            digest.update(data)
    return digest.hexdigest()


def _timeless(value: object) -> object:
    if isinstance(value, dict):
        return {key: _timeless(kept) for key, kept in value.items() if key not in UNTIMELY}
    return [_timeless(kept) for kept in value] if isinstance(value, list) else value
