"""Stage 4's separation: splits against all validation images, from the stores alone."""

import hashlib
from pathlib import Path

from utils.command_line.opening import check_asked_network, setting
from utils.command_line.split_opening import NO_VAL_STORE, check_weights, matching_val_store, model_dir_of
from utils.errors import UserError
from utils.images.classes import ClassMap
from utils.report.separation_figure import write_separation_figure
from utils.report.separation_tables import print_separation, write_separation_tables
from utils.stages.separation import TrainingReferences, ValidationInputs, describe_separation, separate
from utils.store.class_statistics import ClassStore
from utils.store.files import split_name
from utils.store.importances import ImportanceStore
from utils.store.separations import Separations

LONGEST_NAME = 150
UNKNOWN_P = 0.75
DRAWN = 200  # irrelevant channels, where each of them takes milliseconds


def measure_separation(args, run, opened, asked):
    """Measure, store and print the separation of splits; paths of what was written.

    Parameters
    ----------
    args : argparse.Namespace
    run : str
    opened : list of OpenedSplit
    asked : dict
        Settings of stage 2, where the candidates say them.
    """
    for one in opened:
        if not all(one.file.split.classes):
            raise UserError(
                f"--get_separation: {one.path} has concepts without labels, which have no images but those found: "
                "compare with --compare"
            )
    context, training = opened[0].file.context, ImportanceStore(args.store_dir, run)
    check_asked_network(args, context, opened[0].path)
    store = matching_val_store(args, run, context)
    if store is None:
        raise UserError(f"--get_separation: {NO_VAL_STORE.format(args.store_dir, args.precision, args.decode)}")
    check_weights(opened, *store.read_layer())
    class_store = ClassStore(args.store_dir, run, training.load_meta())
    training.require_complete()

    separations = Separations(args.output_dir, model_dir_of(args))
    separations.check(run, context["weights_sha256"])
    number = _number_drawn(args, opened)
    thresholds = [_thresholds(args, asked, one.file.settings) for one in opened]
    name = separation_name(args, run, opened)
    known = describe_separation(name, run, opened, thresholds, store, training, number)
    found = separations.find(known)
    if found is None:
        validation = ValidationInputs(store, sorted({output for one in opened for output in one.outputs}))
        references = TrainingReferences(training, class_store, ClassMap(context["classes"]))
        rows = separate(opened, thresholds, validation, references, number)
        found = {**known, "images": len(validation.targets), "rows": rows}
        separations.write(found)
    else:
        separations.make_newest(found)
    tables = write_separation_tables(separations)
    print_separation(found, separations)
    return [*tables, separations.path(found), *write_separation_figure(args.output_dir, found, args.figure_width)]


def separation_name(args, run, opened):
    """What a separation is called: its candidates file, or manifest, or split.

    A candidates file has RUN in front, once, and behind it what the names of its splits end in; channels beside it, and
    a rho that is asked for, are part of the name.
    """
    stems = [one.path.stem for one in opened]
    if args.candidates is not None:
        name = Path(args.candidates).stem
        name = name if name.startswith(run) else f"{run}_{name}"
        plain = [split_name(run, one.file.split.channel, one.file.split.classes) for one in opened]
        name += "".join(sorted({stem.removeprefix(start) for stem, start in zip(stems, plain, strict=True)}))
        channels = sorted(set(args.channel_of_interest or ()))
        name += f"_channel{'-'.join(map(str, channels))}" if channels else ""
    elif args.splits and len(args.splits) == 1:
        name = Path(args.splits[0]).stem
    else:
        name = "_".join(stems)
    name += f"_rho{args.rho}" if args.rho is not None else ""
    if len(name) > LONGEST_NAME:
        name = f"{run}_{len(opened)}splits_{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return name


def _thresholds(args, asked, settings):
    """Tau and p, of stage 2: where they are not known, the defaults."""
    known = [source["p"] for source in (asked, settings) if source.get("p") is not None]
    return setting("tau", args, asked, settings), known[0] if known else UNKNOWN_P


def _number_drawn(args, opened):
    """How many irrelevant channels are drawn; None: all are used."""
    if args.irrelevant_channels is not None:
        return None if args.irrelevant_channels == "all" else args.irrelevant_channels
    return DRAWN if any(one.file.split.split_by == "least_squares" for one in opened) else None
