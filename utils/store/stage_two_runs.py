"""Runs of stage 2: what each was asked and which channels it listed, a file each: ``RUN_stage2_DIGEST.json``.

Stages 3 and 4 find their settings (tau, p, ...) there where no candidates file of stage 2 tells them. A run belongs to
the training store that it has read: in a store that is made anew of other images it does not count.
"""

import os
import re
import sys
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.store.candidates import CRITERIA, pairs_path
from utils.store.files import damage_is_one_line, json_digest, read_json, write_json
from utils.store.importance_store import ImportanceStore

RUN_FORMAT = 2
FORMAT_WITHOUT_STORE = 1  # of an earlier version, which did not keep the store that a run has read
AGAIN = "delete it and run get_cosine_similarities.py again"


@dataclass(frozen=True)
class StageTwoRun:
    """A run of stage 2: its file, its ``settings`` (as in a candidates file), and the channels that it listed.

    ``training_sha256`` is the digest of the ``meta.json`` of the training store that it has read.
    """

    path: Path
    settings: dict[str, Any]
    channels: frozenset[int]
    training_sha256: str

    def table_name(self, run: str) -> str:
        """The stem of the table that it has written into its --output_dir."""
        criteria = {name: self.settings[name] for name in CRITERIA}
        return pairs_path("", run, cosines=tuple(self.settings["cosines"]), **criteria).stem


def write_stage_two_run(
    store_dir: Path | str, run: str, settings: dict[str, Any], channels: Iterable[int], *, training: dict[str, Any]
) -> Path | None:
    """Write what a run of stage 2 was asked, and which channels it listed; returns the path.

    ``settings`` are plain values; ``training`` is the ``meta.json`` of the training store that was read. Equal settings
    have the same path; an equal file only becomes the newest, so that stage 2 can be run again on a store that cannot
    be written. Other settings are not kept there: a warning says so, and None is returned.
    """
    path = Path(store_dir) / f"{run}_stage2_{json_digest(settings)[:12]}.json"
    content = {
        "format": RUN_FORMAT,
        "settings": settings,
        "channels": sorted(set(map(int, channels))),
        "training_sha256": json_digest(training),
    }
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

    ``stored`` is ``meta.json`` of a store, or the context of a split file. Runs on other weights or another layer are
    left out, and runs on another training store than the one in ``store_dir``, if there is one: it has been replaced.
    So are files of an earlier version, which does not tell the store, with a warning.

    Raises
    ------
    UserError
        A file that is damaged or of a later version.
    """
    pattern = re.compile(re.escape(run) + r"_stage2_[0-9a-f]{12}\.json")
    paths = [path for path in Path(store_dir).glob("*_stage2_*.json") if pattern.fullmatch(path.name)]
    paths.sort(key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)
    runs = [run for run in map(_read, paths) if run is not None]
    same = ("layer", "weights_sha256")
    runs = [run for run in runs if all(run.settings[name] == stored[name] for name in same)]
    training = ImportanceStore(store_dir, run)
    if not runs or not training.meta_path.is_file():  # splits may be used without the store
        return runs
    training_sha256 = json_digest(training.load_meta())
    return [of_layer for of_layer in runs if of_layer.training_sha256 == training_sha256]


def with_channels(runs: Iterable[StageTwoRun]) -> list[StageTwoRun]:
    """Those of ``runs`` that list some channel of the layer: settings that find nothing are not meant."""
    return [run for run in runs if run.channels]


def runs_that_list(runs: Iterable[StageTwoRun], channels: Collection[int]) -> list[StageTwoRun]:
    """Those of ``runs`` that list any of ``channels``; if none does, all that list some channel of the layer."""
    runs = with_channels(runs)
    return [run for run in runs if not run.channels.isdisjoint(channels)] or runs


def _read(path: Path) -> StageTwoRun | None:
    """The run of a file; None, with a warning, for one that does not tell its store."""
    content = read_json(path, AGAIN)
    with damage_is_one_line(path, AGAIN):
        if content["format"] == FORMAT_WITHOUT_STORE:
            _warn_of_earlier_version(path)
            return None
        if content["format"] != RUN_FORMAT:
            raise ValueError("it is of another version of this program")
        channels = frozenset(content["channels"])
        return StageTwoRun(path, dict(content["settings"]), channels, str(content["training_sha256"]))


@cache
def _warn_of_earlier_version(path: Path) -> None:
    print(
        f"warning: {path} is of an earlier version, which does not tell the images of its store: its settings are not "
        "used; run get_cosine_similarities.py again",
        file=sys.stderr,
    )
