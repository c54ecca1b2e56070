"""The range of every numeric setting: of its flag, which parses text, and of the settings that Python gives.

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from utils.defaults import EFFECTS_TO, SEPARATION_DRAWS
from utils.errors import UserError, listed
from utils.plugins import Checked, checked, fraction, positive, positive_int

if TYPE_CHECKING:
    from utils.command_line.settings import StageSettings
    from utils.concept_sources.concept_source import ConceptSource
    from utils.divisions.division import Division

count = checked(int, lambda value: value >= 0, "a whole number from 0")
cosine = checked(float, lambda value: -1 <= value <= 1, "a number from -1 to 1")
finite = checked(float, lambda value: abs(value) < float("inf"), "a number")
weight = checked(float, lambda value: 0 <= value < float("inf"), "a number from 0")
number_of_draws = checked(int, lambda value: value >= SEPARATION_DRAWS, f"a whole number from {SEPARATION_DRAWS}")
mean_zero_or_number = checked(float, lambda value: abs(value) < float("inf"), "a number", words=EFFECTS_TO)
number_all_or_none = checked(int, lambda value: value >= 1, "a whole number from 1", words=("all", "none"))

COLOURS = 3  # numbers of a mean or standard deviation
ONE_OF_EACH_COLOUR = {"mean": finite, "std": positive, "embedding_mean": finite, "embedding_std": positive}
SEVERAL = {"taus": fraction, "ps": fraction, "cos_sim_highs": cosine, "channels": count}  # one or more values each
SINGLE = {
    **dict.fromkeys(("nr_channels_in_layer_of_interest", "resize_size", "crop_size", "batch_size"), positive_int),
    **dict.fromkeys(("chunk_size", "min_images", "top", "patch_size", "steps", "seeds"), positive_int),
    **dict.fromkeys(("max_channels", "nr_concepts", "nr_reference_images"), positive_int),
    **dict.fromkeys(("num_workers", "channel"), count),
    **dict.fromkeys(("proportion_attribution_required", "p", "rho"), fraction),
    "cos_sim_low": cosine,
    "background": weight,
    "draws": number_of_draws,
    "edit_factor": finite,
    "edit_to": mean_zero_or_number,
    "irrelevant_channels": number_all_or_none,
}
RANGES: dict[str, Checked] = {**SINGLE, **SEVERAL, **ONE_OF_EACH_COLOUR}  # by the names of settings


def check_ranges(settings: StageSettings) -> None:
    """Raise UserError for a number of some settings that is out of its range; None is always allowed."""
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name not in RANGES or value is None:
            continue
        for single in [value] if field.name in SINGLE else _values(field.name, value):
            RANGES[field.name].require(field.name, single)


def _values(name: str, value: Any) -> Iterable[Any]:
    """The values of a setting that has several."""
    if not isinstance(value, list | tuple) or not value:
        raise UserError(f"{name} must be a tuple of one or more values, not {value!r}")
    if name in ONE_OF_EACH_COLOUR and len(value) != COLOURS:
        raise UserError(f"{name} must have {COLOURS} values, one for each colour, not {len(value)}")
    return value


def check_given(name: str, given: Mapping[str, Any], plugins: Iterable[type[Division] | type[ConceptSource]]) -> None:
    """Raise UserError for a value of plug-ins' settings that its flag does not allow, or that no flag sets.

    Parameters
    ----------
    name
        Of the field that has them.
    given
        {setting: value}.
    plugins
        Those that may have the settings.
    """
    flags = {flag.setting: flag for plugin in plugins for flag in plugin.flags}
    for setting, value in given.items():
        if setting not in flags:
            available = f"there are {listed(sorted(flags), most=10)}" if flags else "there are none"
            raise UserError(f"{name}: there is no setting {setting!r} here: {available}")
        flag = flags[setting]
        if isinstance(flag.parse, Checked):
            flag.parse.require(f"{name}: {setting}", value)
        elif flag.choices and value not in flag.choices:
            raise UserError(f"{name}: {setting} must be {' or '.join(flag.choices)}, not {value!r}")
