"""The command lines that scripts print: what to run next, ready to be pasted where the script was started.

Every printed command is made here. It has the flags whose values are not the default of the script that it runs.
Nothing here imports torch.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils import defaults
from utils.command_line.settings import CandidateSettings, StageSettings
from utils.processes import default_workers

STAGE1 = "get_importances_for_classes.py"
STAGE2 = "get_cosine_similarities.py"
STAGE3 = "disentangle_channel.py"
STAGE4 = "get_results.py"
SCRIPTS = (STAGE1, STAGE2, STAGE3, STAGE4)
READ_IMAGES = (STAGE1, STAGE3, STAGE4)
AFTER_STAGE1 = (STAGE2, STAGE3, STAGE4)
WITHOUT_TAU = ("--report", "--compare", "--summary")  # results of stage 4 that take tau from a file, or do without

Command = tuple[str, str]  # purpose and command line


@dataclass(frozen=True)
class CarriedFlag:
    """A flag that a printed command has if its value is known and not the ``default``.

    ``scripts`` are those that have the flag. ``known_as`` is the name of its value in ``meta.json`` or among the
    settings of stage 2; empty if only the running script can know it. In stage 4 the flag is left out unless one of
    ``only_with`` is given, and if one of ``never_with`` is.
    """

    name: str
    default: Any
    scripts: Collection[str] = SCRIPTS
    known_as: str = ""
    only_with: Collection[str] = ()
    never_with: Collection[str] = ()

    def is_for(self, script: str, more: Collection[object]) -> bool:
        """Whether the command of a script with ``more`` words may have this flag."""
        if script not in self.scripts or {f"--{self.name}", f"--no-{self.name}"} & set(more):
            return False
        needed = not self.only_with or bool(set(self.only_with) & set(more))
        return script != STAGE4 or (needed and not set(self.never_with) & set(more))

    def words(self, settings: StageSettings, known: Mapping[str, Any], *, always: bool = False) -> list[object]:
        """The flag with its value: that of the running script, else the ``known`` one; nothing at its default."""
        value = getattr(settings, self.name, None)
        value = known.get(self.known_as) if value is None else value
        if value is None or (value == self.default and not always):
            return []
        if isinstance(value, bool):
            return [f"--{self.name}" if value else f"--no-{self.name}"]
        return [f"--{self.name}", value]


OF_RUN = (
    CarriedFlag("weights", None),
    CarriedFlag("device", None, READ_IMAGES),
    CarriedFlag("precision", defaults.PRECISION, READ_IMAGES, "precision"),
    CarriedFlag("decode", defaults.DECODER, READ_IMAGES, "decoding"),
    CarriedFlag("skip_unreadable", False, READ_IMAGES, "skip_unreadable"),
    CarriedFlag("batch_size", defaults.BATCH_SIZE, READ_IMAGES),
    CarriedFlag("num_workers", default_workers(), READ_IMAGES),
    CarriedFlag("layer_of_interest", defaults.LAYER),
    CarriedFlag("data_dir", None),
    CarriedFlag("store_dir", None),
    CarriedFlag("output_dir", defaults.OUTPUT_DIR),
    CarriedFlag("model_dir", None, (STAGE4,)),
)
OF_STAGE_TWO = (
    CarriedFlag("proportion_attribution_required", defaults.TAU, AFTER_STAGE1, "tau", never_with=WITHOUT_TAU),
    CarriedFlag("p", defaults.P, AFTER_STAGE1, "p", only_with=("--get_separation",)),
    CarriedFlag("cos_sim_low", defaults.COS_SIM_LOW, (STAGE2,), "cos_sim_low"),
    CarriedFlag("cos_sim_high", defaults.COS_SIM_HIGH, (STAGE2,), "cos_sim_high"),
    CarriedFlag("only_correct", defaults.ONLY_CORRECT, (STAGE2, STAGE3), "only_correct"),
    CarriedFlag("only_above_mean", False, (STAGE2,), "only_above_mean"),
    CarriedFlag("min_images", defaults.MIN_IMAGES, (STAGE2,), "min_images"),
)


def next_command(
    script: str,
    *more: object,
    settings: StageSettings,
    known: Mapping[str, Any] | None = None,
    told_apart: Collection[str] = (),
) -> str:
    """A command line that runs ``script`` next, with every flag that is not at its default, ready to be pasted.

    Parameters
    ----------
    script
        The file name of a script.
    more
        Further words of the command.
    settings
        Those of the running script.
    known
        Values that ``settings`` lack: of ``meta.json``, and the settings of stage 2, under their names there.
    told_apart
        Flags of stage 2's settings that the command has even at their default: they choose among runs of stage 2.
    """
    known = dict(known or {})
    if "cosines" in known:
        known["cos_sim_low"], known["cos_sim_high"] = known["cosines"]
    words: list[object] = ["python", script_path(script), "--model", settings.model]
    for flag in OF_RUN:
        if flag.is_for(script, more):
            words += flag.words(settings, known)
    words += more
    of_file = _names_candidates_of_stage_two(more)
    for flag in OF_STAGE_TWO:
        if flag.is_for(script, more) and not of_file:
            words += flag.words(settings, known, always=flag.name in told_apart)
        elif flag.is_for(script, more) and isinstance(settings, CandidateSettings):
            words += flag.words(settings, {})  # a flag that was given goes before the file
    return shlex.join(map(str, words))


def _names_candidates_of_stage_two(more: Sequence[object]) -> bool:
    """Whether the words of a command name a candidates file that holds the settings of stage 2."""
    return "--candidates" in more and str(more[more.index("--candidates") + 1]).endswith(".json")


def script_path(script: str) -> Path:
    """The path of a script from the current folder: beside the running one, as that was called.

    Where no script of this project is running, its path in the project's folder.
    """
    running = Path(sys.argv[0])
    folder = running.parent if running.name in SCRIPTS else Path(__file__).parents[2]
    return folder / script


def validation_store_command(settings: StageSettings, *, training_meta: Mapping[str, Any] | None = None) -> str:
    """Stage 1's command that makes the val store; classes and transform are those of the training store.

    ``training_meta`` is that store's ``meta``: where ``settings`` have no precision or decoding, they are as it says.
    """
    return next_command(STAGE1, "--images", "val", settings=settings, known=training_meta)


def candidate_words(settings: CandidateSettings, channel_flag: str) -> list[Any]:
    """The flags that name the same candidates to another stage; ``channel_flag`` is that stage's flag for channels."""
    words: list[Any] = ["--candidates", settings.candidates] if settings.candidates else []
    words += [f"--{channel_flag}", *settings.channels] if settings.channels else []
    for number, classes in enumerate(settings.concepts, start=1):
        words += [f"--classes_for_concept{number}", *classes]
    return words


def only_correct_words(settings: CandidateSettings) -> list[str]:
    """The flag --only_correct as it was given, for another stage."""
    given = settings.only_correct
    return [] if given is None else ["--only_correct" if given else "--no-only_correct"]
