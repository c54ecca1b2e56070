"""Runs of stage 2: what each was asked and which channels it listed, a file each: ``RUN_stage2_DIGEST.json``.

Stages 3 and 4 find their settings (tau, p, ...) there where no candidates file of stage 2 tells them.
"""

import os
import re
import sys
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.store.candidates import CRITERIA, pairs_path
from utils.store.files import damage_is_one_line, json_digest, read_json, write_json

RUN_FORMAT = 1
AGAIN = "delete it and run get_cosine_similarities.py again"


@dataclass(frozen=True)
class StageTwoRun:
    """A run of stage 2: its file, its ``settings`` (as in a candidates file), and the channels that it listed."""

    path: Path
    settings: dict[str, Any]
    channels: frozenset[int]

    def table_name(self, run: str) -> str:
        """The stem of the table that it has written into its --output_dir."""
        criteria = {name: self.settings[name] for name in CRITERIA}
        return pairs_path("", run, cosines=tuple(self.settings["cosines"]), **criteria).stem


def write_stage_two_run(
    store_dir: Path | str, run: str, settings: dict[str, Any], channels: Iterable[int]
) -> Path | None:
    """Write what a run of stage 2 was asked, and which channels it listed; returns the path.

    ``settings`` are plain values. Equal settings have the same path; an equal file only becomes the newest, so that
    stage 2 can be run again on a store that cannot be written. Other settings are not kept there: a warning says so,
    and None is returned.
    """
    path = Path(store_dir) / f"{run}_stage2_{json_digest(settings)[:12]}.json"
    content = {"format": RUN_FORMAT, "settings": settings, "channels": sorted(set(map(int, channels)))}
    if _holds(path, content):
        with suppress(OSError):
            os.utime(path)
        return path
    try:
        write_json(path, content)
    except UserError as error:
        print(f"warning: {error}; stages 3 and 4 will not know the settings of this run", file=sys.stderr)
        return None
    return path


def _holds(path: Path, content: dict[str, Any]) -> bool:
    try:
        return path.is_file() and read_json(path, AGAIN) == content
    except UserError:  # damaged: it is written again
        return False


def read_stage_two_runs(store_dir: Path | str, run: str, stored: dict[str, Any]) -> list[StageTwoRun]:
    """The runs of stage 2 on a network and layer, the newest first.

    ``stored`` is ``meta.json`` of the training store, or the context of a split file. Runs on other weights or another
    layer are left out: they are of a store that has been replaced.

    Raises
    ------
    UserError
        A file that is damaged or of another version.
    """
    pattern = re.compile(re.escape(run) + r"_stage2_[0-9a-f]{12}\.json")
    paths = [path for path in Path(store_dir).glob("*_stage2_*.json") if pattern.fullmatch(path.name)]
    paths.sort(key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)
    runs = map(_read, paths)
    same = ("layer", "weights_sha256")
    return [run for run in runs if all(run.settings[name] == stored[name] for name in same)]


def runs_that_list(runs: Iterable[StageTwoRun], channels: Collection[int]) -> list[StageTwoRun]:
    """Those of ``runs`` that list any of ``channels``; if none does, all that list some channel of the layer."""
    runs = [run for run in runs if run.channels]
    return [run for run in runs if not run.channels.isdisjoint(channels)] or runs


def _read(path: Path) -> StageTwoRun:
    content = read_json(path, AGAIN)
    with damage_is_one_line(path, AGAIN):
        if content["format"] != RUN_FORMAT:
            raise ValueError("it is of another version of this program")
        return StageTwoRun(path, dict(content["settings"]), frozenset(content["channels"]))
