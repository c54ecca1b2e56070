"""Settings of stage 2 in stages 3 and 4: from a flag, the candidates, the split, a run of stage 2, or the default."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from utils import defaults
from utils.command_line.settings import CandidateSettings, StageSettings
from utils.errors import UserError, listed
from utils.report.layer_tables import settings_text
from utils.store.candidates import CRITERIA
from utils.store.stage_two_runs import StageTwoRun, read_stage_two_runs, runs_that_list, with_channels

# Settings of stage 2 that change results of stages 3 and 4, with their flags there
FLAGS = {"tau": "proportion_attribution_required", "p": "p", "only_correct": "only_correct"}
DEFAULTS = {"tau": defaults.TAU, "p": defaults.P, "only_correct": defaults.ONLY_CORRECT}


def setting(name: str, settings: CandidateSettings, *sources: dict[str, Any]) -> Any:
    """The value of a setting of stage 2: from the flag, else from the first source that has it, else the default.

    ``sources`` are settings of candidates, of splits and of runs of stage 2.
    """
    for source in (flags_given(settings), *sources):
        if source.get(name) is not None:
            return source[name]
    if name == "tau":
        _print_default_tau()
    return DEFAULTS[name]


@cache
def _print_default_tau() -> None:
    print(
        f"tau is {DEFAULTS['tau']}, the default: neither candidates nor splits nor a run of stage 2 give another one "
        "(--proportion_attribution_required changes it)"
    )


def flags_given(settings: CandidateSettings) -> dict[str, Any]:
    """The settings of stage 2 that flags give, {name: value}."""
    given = {name: getattr(settings, flag) for name, flag in FLAGS.items()}
    return {name: value for name, value in given.items() if value is not None}


def chosen_run(
    settings: CandidateSettings,
    run: str,
    stored: dict[str, Any],
    channels: Collection[int],
    *,
    names: Collection[str] = tuple(FLAGS),
) -> StageTwoRun | None:
    """The run of stage 2 that lists some channels; None where no run of stage 2 has listed a channel.

    Without a run that lists any of them, all runs count that have listed some channel of the layer. Flags choose among
    several runs; of those that agree in the settings that are needed, ``names``, the newest is taken, without the
    settings of ``FLAGS`` in which they differ.

    Raises
    ------
    UserError
        Several runs remain that differ in a setting of ``names`` that no flag gives.
    """
    given = flags_given(settings)
    runs = runs_that_list(read_stage_two_runs(settings.store_dir, run, stored), channels)
    runs = [run for run in runs if all(run.settings[name] == value for name, value in given.items())] or runs
    differing = [name for name in told_apart_by(runs) if name not in given]
    needed = [name for name in differing if name in names]
    if needed:
        flags = " and ".join(f"--{FLAGS[name]}" for name in needed)
        raise UserError(
            f"stage 2 was run with several settings ({listed([_described(run) for run in runs], separator='; ')}): "
            f"choose with {flags}, or give --candidates with a .json of stage 2"
        )
    if not runs:
        return None
    agreed = {name: value for name, value in runs[0].settings.items() if name not in differing}
    return replace(runs[0], settings=agreed)


def told_apart_by(runs: Sequence[StageTwoRun]) -> list[str]:
    """The settings that change results and are not the same in all runs."""
    return [name for name in FLAGS if len({run.settings[name] for run in runs}) > 1]


def choosing_flags(settings: StageSettings, run: str, stored: dict[str, Any]) -> list[str]:
    """The flags that choose among the runs of stage 2 in a store that list a channel; ``stored``: its ``meta.json``."""
    runs = with_channels(read_stage_two_runs(settings.store_dir, run, stored))
    return [FLAGS[name] for name in told_apart_by(runs)]


def _described(run: StageTwoRun) -> str:
    return settings_text(**{name: run.settings[name] for name in CRITERIA})
