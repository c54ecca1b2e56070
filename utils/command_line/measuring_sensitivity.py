"""Stage 2 with several values of a threshold: what each combination finds, in one table and one figure."""

from pathlib import Path

from utils.command_line.flags import THRESHOLDS
from utils.command_line.run import print_end
from utils.report.files import write_figure
from utils.report.layer_tables import counted_text, gamma_from
from utils.report.sensitivity import EXPLANATION, sensitivity_figure, table, write_sensitivity
from utils.stages.sensitivity import sensitivity
from utils.stages.separation import ValidationInputs
from utils.store.importances import ImportanceStore


def measure_sensitivity(args, run, store, class_store):
    """Measure, write and print what the combinations of thresholds find; no candidates are written.

    Parameters
    ----------
    args : argparse.Namespace
    run : str
    store : ImportanceStore
        Complete.
    class_store : ClassStore
    """
    taus, ps, highs = (sorted(set(getattr(args, name))) for name in THRESHOLDS)
    counted = {name: getattr(args, name) for name in ("only_correct", "min_images", "only_above_mean")}
    validation = _validation(args, run, store.meta)
    rows = sensitivity(store, class_store, taus, ps, sorted(set(map(gamma_from, highs))), counted, validation)
    stem = f"{run}_sensitivity" + "".join(f"_{name}" for name in ("only_correct", "only_above_mean") if counted[name])
    stem += f"_min{args.min_images}" if args.min_images > 1 else ""
    path = write_sensitivity(Path(args.output_dir) / "results_get_cosine_similarities" / f"{stem}.csv", rows)
    title = f"{args.model}, layer {store.meta['layer']}: what τ, p and γ change{counted_text(**counted)}"
    drawn = sensitivity_figure(rows, title, args.figure_width)
    figure = write_figure(Path(args.output_dir) / "plots" / stem, drawn, args.figure_width)
    print(f"\n{table(rows)}\n\n{EXPLANATION}")
    if validation is None:
        print("no separation: it needs a complete val store (get_importances_for_classes.py --images val)")
    print_end([path, figure], [])


def _validation(args, run, meta):
    """What a complete val store of the same network, layer and images has; else None."""
    store = ImportanceStore(args.store_dir, run, "val")
    if not store.meta_path.is_file():
        return None
    found = store.load_meta()
    complete = store.images_path.is_file() and not store.missing_chunks()
    if not complete or any(found[key] != meta[key] for key in ("weights_sha256", "layer", "transform", "classes")):
        return None
    return ValidationInputs(store, [])
