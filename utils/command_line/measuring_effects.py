"""Stage 4's effects: how much the parts of splits add to the logits, for images of the concepts."""

from pathlib import Path
from typing import Any

from tqdm import tqdm

from utils.command_line.settings import model_dir_of
from utils.command_line.split_opening import OpenedSplits
from utils.processes import progress
from utils.report.effect_tables import print_effects, write_effect_tables
from utils.stages.effect import describe_effect, measure_effects
from utils.stages.validation import ImagePass, StoredValidation
from utils.store.effects import Effects


def measure_effect(opened: OpenedSplits, validation: ImagePass | StoredValidation) -> list[Path]:
    """Measure, store and print the effects of splits; returns the paths of the files written."""
    assert isinstance(validation, ImagePass)  # settings.wants_network
    settings = opened.settings
    effects = Effects(settings.output_dir, model_dir_of(settings))
    effects.check(opened.run, opened.context["weights_sha256"])
    splits = progress(opened.splits, "describing splits", unit=" splits", delay=2, leave=False)
    described = [describe_effect(split, opened.run, validation, settings.effect_to) for split in splits]
    measured: dict[int, dict[str, Any]] = {}
    for number, fields in enumerate(described):
        effect = effects.find(fields)
        if effect is not None:
            measured[number] = effect
    effects.make_newest(measured.values())
    missing = [number for number in range(len(described)) if number not in measured]
    missing_splits = [opened.splits[number] for number in missing]
    for position, values in measure_effects(missing_splits, validation, settings.effect_to):
        effect = {**described[missing[position]], **values}
        measured[missing[position]] = effect
        with tqdm.external_write_mode():
            effects.write(effect)
    paths = write_effect_tables(effects)
    print_effects([measured[number] for number in range(len(described))], effects)
    return [*paths, effects.path(measured[0]).parent]
