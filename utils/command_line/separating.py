"""Stage 4's separation: splits against all validation images, from the stores alone."""

import hashlib
from pathlib import Path

from utils.command_line import flags
from utils.command_line.opening import check_asked_network
from utils.command_line.split_opening import matching_val_store, model_dir_of
from utils.errors import UserError
from utils.images.classes import ClassMap
from utils.report.files import write_figure
from utils.report.separation_figure import separation_figure
from utils.report.separation_tables import print_separation, write_separation_tables
from utils.stages.separation import TrainingReferences, ValidationInputs, describe_separation, separate
from utils.store.class_statistics import ClassStore
from utils.store.importances import ImportanceStore
from utils.store.names import split_name
from utils.store.separations import Separations
from utils.store.splits import require_weight

LONGEST_NAME = 150
DRAWN = 200  # irrelevant channels, where each of them takes milliseconds


def measure_separation(args, run, opened):
    """Measure, store and print the separation of splits; paths of what was written.

    Parameters
    ----------
    args : argparse.Namespace
    run : str
    opened : list of OpenedSplit
    """
    context, training = opened[0].file.context, ImportanceStore(args.store_dir, run)
    check_asked_network(args, context, opened[0].path)
    store = matching_val_store(args, run, context)
    if store is None:
        raise UserError(
            "--get_separation needs all validation images in the store, complete and measured like the splits' training "
            "images: run stage 1 again with --images val (" + flags.next_command(*_first_stage(args)) + ")"
        )
    layer = store.read_layer()
    for one in opened:
        require_weight(one.path, one.file.split, *layer)
    class_store = ClassStore(args.store_dir, run, training.load_meta())
    training.require_complete()

    separations = Separations(args.output_dir, model_dir_of(args))
    separations.check(run, context["weights_sha256"])
    number = _number_drawn(args, opened)
    known = describe_separation(separation_name(args, run, opened), run, opened, store, training, number)
    found = separations.find(known)
    if found is None:
        validation = ValidationInputs(store, sorted({output for one in opened for output in one.outputs}))
        references = TrainingReferences(training, class_store, ClassMap(context["classes"]))
        rows = separate(opened, validation, references, number)
        found = {**known, "images": len(validation.targets), "rows": rows}
        separations.write(found)
    tables = write_separation_tables(separations)
    figure = Path(args.output_dir) / "plots" / f"{known['name']}_separation"
    print_separation(found, separations)
    return [*tables, separations.path(known["name"]), write_figure(figure, separation_figure(found))]


def separation_name(args, run, opened):
    """What a separation is called: its candidates file, with RUN once and what its splits' names end in; else its split.

    Channels beside the candidates, and a rho that is not the chosen one, are part of it.
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


def _number_drawn(args, opened):
    """How many irrelevant channels are drawn; None: all are used."""
    if args.irrelevant_channels is not None:
        return None if args.irrelevant_channels == "all" else args.irrelevant_channels
    return DRAWN if any(one.file.split.split_by == "least_squares" for one in opened) else None


def _first_stage(args):
    return "get_importances_for_classes.py", args, "--images", "val"
