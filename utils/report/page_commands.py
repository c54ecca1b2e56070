"""The commands that a report shows where a result is missing, with the settings of stage 2 that it was made from."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.concept_sources.source_registry import SOURCES
from utils.divisions.division_registry import USUAL_OF_LAYERS
from utils.errors import OUTPUT_FLAG, UserError, looked_in
from utils.store.candidates import CRITERIA, STAGE_TWO_FOLDER
from utils.store.files import damage_is_one_line, number_text, read_json

if TYPE_CHECKING:
    from utils.report.page_splits import MeasuredSplit

ORIGIN = ("model", "layer", "weights_sha256")
AGAIN = "run get_cosine_similarities.py again"


def tables_of(output_dir: str | Path, run: str) -> list[Path]:
    """The files of groups that stage 2 has written for a network and layer, the newest last."""
    paths = (Path(output_dir) / STAGE_TWO_FOLDER).glob(f"{run}_required*_groups.json")
    return sorted(paths, key=lambda path: path.stat().st_mtime)


class StageTwo:
    """The settings of stage 2, and its files: those of ``candidates``, or else the newest of a run in ``output_dir``.

    ``others`` are the files of other settings that have found any channel.
    """

    def __init__(self, output_dir: str | Path, run: str, candidates: str | Path | None = None) -> None:
        present = tables_of(output_dir, run)
        if candidates is not None:
            chosen = Path(candidates)
            if not chosen.is_file():
                raise UserError(f"--candidates {chosen}: there is no such file")
        elif present:
            chosen = present[-1]
        else:
            folder = Path(output_dir) / STAGE_TWO_FOLDER
            raise UserError(
                f"there is no table of {run} in {looked_in(folder, OUTPUT_FLAG)}: run get_cosine_similarities.py first"
            )
        self.stem = chosen.with_name(chosen.stem.removesuffix("_groups"))
        self.groups = self.stem.with_name(f"{self.stem.name}_groups.json")
        self.pairs = self.stem.with_name(f"{self.stem.name}.json")
        self.gamma = self.stem.with_name(f"{self.stem.name}_gamma.json")
        self.others = [path for path in present if path.resolve() != self.groups.resolve() and _lists_channels(path)]
        content = read_json(chosen, f"--report reads a .json of stage 2: {AGAIN}")
        with damage_is_one_line(chosen, AGAIN):
            self.settings = {name: content["settings"][name] for name in (*ORIGIN, *CRITERIA, "gamma", "cosines")}

    def guide(self) -> dict | None:
        """The diagnostics for choosing gamma, or None."""
        return read_json(self.gamma, AGAIN) if self.gamma.is_file() else None


def _lists_channels(groups: Path) -> bool:
    """Whether a run of stage 2 lists a channel, among its groups or its pairs; a damaged file lists none."""
    for path in (groups, groups.with_name(groups.name.replace("_groups.json", ".json"))):
        with suppress(UserError, OSError, KeyError):
            if read_json(path, AGAIN)["candidates"]:
                return True
    return False


def _class_words(concepts: list[list[int]]) -> list[Any]:
    """The flags that name concepts by their classes; those that have none are named otherwise."""
    numbered = enumerate(concepts, start=1)
    return [word for number, classes in numbered if classes for word in (f"--classes_for_concept{number}", *classes)]


class Commands:
    """The command lines that make a missing result, or make a result again.

    Parameters
    ----------
    command
        A function of a script and further words that returns a command line with the flags of the report, and with
        those of stage 2's settings that are not at their default.
    stage_two
    """

    def __init__(self, command: Callable[..., str], stage_two: StageTwo) -> None:
        self._command = command
        self._stage_two = stage_two

    def split(self, measured: MeasuredSplit) -> str:
        """The command that makes a split again."""
        split = measured.split
        division = split.division
        source = SOURCES.get(measured.file.source["name"])
        if not source.labelled:
            more = ["--concepts_from", source.name, "--channel_disentangle", split.channel]
            more += source.flag_words(measured.file.source["state"]) + _class_words(split.classes)
        elif measured.kind == "groups":
            more = ["--candidates", self._stage_two.groups, "--channel_disentangle", split.channel]
        else:
            more = ["--channel_disentangle", split.channel, *_class_words(split.classes)]
        only_correct = measured.file.settings["only_correct"]
        if only_correct != self._stage_two.settings["only_correct"]:
            more += ["--only_correct" if only_correct else "--no-only_correct"]
        more += ["--split_by", division.name]
        more += division.flag_words(division.settings()) if division.settings() != division.settings_from({}) else []
        weight = measured.file.background
        more += ["--background", number_text(weight or 0)] if weight != source.background_with(division) else []
        return self._command("disentangle_channel.py", *more)

    def split_channel(self, channel: int, several_groups: bool) -> str:
        """The command that splits a channel into its groups, or, if it has only one, into its pairs."""
        more = ["--candidates", self._stage_two.groups if several_groups else self._stage_two.pairs]
        return self._command(
            "disentangle_channel.py", *more, "--channel_disentangle", channel, "--split_by", USUAL_OF_LAYERS
        )

    def split_layer(self) -> str:
        groups = self._stage_two.groups
        return self._command("disentangle_channel.py", "--candidates", groups, "--split_by", USUAL_OF_LAYERS)

    def evaluate(self, measured: MeasuredSplit, *flags: str) -> str:
        """The command that measures or draws results of a split, at the tau and p of this report."""
        thresholds = {"tau": "--proportion_attribution_required"}
        thresholds |= {"p": "--p"} if "--get_separation" in flags else {}
        more: list[object] = []
        for name, flag in thresholds.items():
            if measured.file.settings[name] not in (None, self._stage_two.settings[name]):  # stage 4 would take it
                more += [flag, self._stage_two.settings[name]]
        return self._command("get_results.py", "--splits", measured.path, *flags, *more)

    def evaluate_layer(self, split_by: str, *flags: str) -> str:
        groups = self._stage_two.groups
        return self._command("get_results.py", "--candidates", groups, "--split_by", split_by, *flags)

    def guide(self) -> str:
        """The command that runs stage 2 with the settings of this report."""
        return self._command("get_cosine_similarities.py")

    def others(self) -> list[str]:
        """The commands for reports of other settings of stage 2."""
        return [self._command("get_results.py", "--report", "--candidates", path) for path in self._stage_two.others]
