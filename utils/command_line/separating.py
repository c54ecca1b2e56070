"""Stage 4's separation: splits against all validation images, from the stores alone."""

import hashlib
from functools import partial
from pathlib import Path

from utils.command_line.opening import check_asked_network, open_network, open_study, setting
from utils.command_line.split_opening import NO_VAL_STORE, check_weights, matching_val_store, model_dir_of
from utils.defaults import P
from utils.errors import UserError
from utils.report.separation_figure import write_separation_figure
from utils.report.separation_tables import print_separation, write_separation_tables
from utils.stages.separation import Thresholds, TrainingUnits, ValidationInputs, describe_separation, separate
from utils.store.files import split_name
from utils.store.importance_store import ImportanceStore
from utils.store.separations import Separations

LONGEST_NAME = 150


def measure_separation(settings, run, opened, stage_two, transform, device):
    """Measure, store and print the separation of splits; paths of what was written.

    Parameters
    ----------
    settings : ResultSettings
    run : str
    opened : list of OpenedSplit
    stage_two : dict
        Settings of stage 2, where the candidates say them.
    transform : Transform
    device : torch.device
    """
    for one in opened:
        if not all(one.file.split.classes):
            raise UserError(
                f"--get_separation: {one.path} has concepts without labels, which have no images but those found: "
                "compare with --compare"
            )
    context, training = opened[0].file.context, ImportanceStore(settings.store_dir, run)
    check_asked_network(settings, context, opened[0].path)
    store = matching_val_store(settings, run, context)
    if store is None:
        raise UserError(
            f"--get_separation: {NO_VAL_STORE.format(settings.store_dir, settings.precision, settings.decode)}"
        )
    check_weights(opened, *store.read_layer())
    training.load_meta()
    training.require_complete()

    separations = Separations(settings.output_dir, model_dir_of(settings))
    separations.check(run, context["weights_sha256"])
    number = _number_drawn(settings, opened)
    thresholds = [_thresholds(settings, stage_two, one.file.settings) for one in opened]
    name = separation_name(settings, run, opened)
    known = describe_separation(name, run, opened, thresholds, validation=store, training=training, number=number)
    found = separations.find(known)
    if found is None:
        validation = ValidationInputs(store, sorted({output for one in opened for output in one.outputs}))
        opener = partial(open_network, settings, context, opened[0].path, device)
        study = open_study(settings, training, transform, device, open_network=opener, only_correct=False)
        rows = separate(opened, thresholds, validation, TrainingUnits(study), number)
        found = {**known, "images": len(validation.targets), "rows": rows}
        separations.write(found)
    else:
        separations.make_newest(found)
    tables = write_separation_tables(separations)
    print_separation(found, separations)
    return [
        *tables,
        separations.path(found),
        *write_separation_figure(settings.output_dir, found, settings.figure_width),
    ]


def separation_name(settings, run, opened):
    """What a separation is called: its candidates file, or manifest, or split.

    A candidates file has RUN in front, once, and behind it what the names of its splits end in; channels beside it, and
    a rho that is asked for, are part of the name.
    """
    stems = [one.path.stem for one in opened]
    if settings.candidates is not None:
        name = Path(settings.candidates).stem
        name = name if name.startswith(run) else f"{run}_{name}"
        plain = [split_name(run, one.file.split.channel, one.file.split.classes) for one in opened]
        name += "".join(sorted({stem.removeprefix(start) for stem, start in zip(stems, plain, strict=True)}))
        channels = sorted(set(settings.channels or ()))
        name += f"_channel{'-'.join(map(str, channels))}" if channels else ""
    elif settings.splits and len(settings.splits) == 1:
        name = Path(settings.splits[0]).stem
    else:
        name = "_".join(stems)
    name += f"_rho{settings.rho}" if settings.rho is not None else ""
    if len(name) > LONGEST_NAME:
        name = f"{run}_{len(opened)}splits_{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return name


def _thresholds(settings, stage_two, of_split):
    """Tau and p, of stage 2: where they are not known, the defaults."""
    known = [source["p"] for source in (stage_two, of_split) if source.get("p") is not None]
    return Thresholds(setting("tau", settings, stage_two, of_split), known[0] if known else P)


def _number_drawn(settings, opened):
    """How many irrelevant channels are drawn; None: all are used."""
    if settings.irrelevant_channels is not None:
        return None if settings.irrelevant_channels == "all" else settings.irrelevant_channels
    usual = [one.file.split.division.usual_irrelevant for one in opened]
    return min((number for number in usual if number is not None), default=None)
