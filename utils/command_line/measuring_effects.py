"""Stage 4's effects: what the parts of splits do behind the layer, with the network and images of the concepts."""

from tqdm import tqdm

from utils.command_line.split_opening import model_dir_of
from utils.report.effect_tables import print_effects, write_effect_tables
from utils.stages.effect import describe_effect, measure_effects
from utils.store.effects import Effects


def measure_effect(settings, run, opened, source):
    """Measure, store and print the effects of splits; paths of what was written.

    Parameters
    ----------
    settings : ResultSettings
    run : str
    opened : list of OpenedSplit
    source : ImagePass
    """
    effects, to = Effects(settings.output_dir, model_dir_of(settings)), settings.effect_to
    effects.check(run, opened[0].file.context["weights_sha256"])
    known = [describe_effect(one, run, source, to) for one in opened]
    measured = [effects.find(one) for one in known]
    for one in filter(None, measured):
        effects.make_newest(one)
    missing = [number for number, one in enumerate(measured) if one is None]
    for place, found in measure_effects([opened[number] for number in missing], source, to):
        number = missing[place]
        measured[number] = {**known[number], **found}
        with tqdm.external_write_mode():
            effects.write(measured[number])
    paths = write_effect_tables(effects)
    print_effects(measured, effects)
    return [*paths, effects.path(measured[0]).parent]
