"""Stage 2 with several values of a threshold: what each combination finds, in one table and one figure."""

from pathlib import Path

from utils.command_line.closing import print_end
from utils.command_line.threshold_flags import THRESHOLDS
from utils.report.figure_files import write_figure
from utils.report.layer_tables import counted_text, gamma_from
from utils.report.thresholds import EXPLANATION, sensitivity_figure, table, write_sensitivity
from utils.stages.sensitivity import sensitivity
from utils.stages.separation import ValidationInputs
from utils.store.importance_store import ImportanceStore


def measure_sensitivity(settings, run, store, class_store):
    """Measure, write and print what the combinations of thresholds find; no candidates are written.

    Parameters
    ----------
    settings : SimilaritySettings
    run : str
    store : ImportanceStore
        Complete.
    class_store : ClassStore
    """
    taus, ps, highs = (sorted(set(getattr(settings, field))) for field in THRESHOLDS.values())
    counted = {name: getattr(settings, name) for name in ("only_correct", "min_images", "only_above_mean")}
    validation = _validation(settings, run, store.meta)
    rows = sensitivity(store, class_store, taus, ps, sorted(set(map(gamma_from, highs))), counted, validation)
    stem = f"{run}_sensitivity" + "".join(f"_{name}" for name in ("only_correct", "only_above_mean") if counted[name])
    stem += f"_min{settings.min_images}" if settings.min_images > 1 else ""
    path = write_sensitivity(Path(settings.output_dir) / "results_get_cosine_similarities" / f"{stem}.csv", rows)
    title = f"{settings.model}, layer {store.meta['layer']}: what τ, p and γ change{counted_text(**counted)}"
    drawn = sensitivity_figure(rows, title, settings.figure_width)
    figure = write_figure(Path(settings.output_dir) / "plots" / stem, drawn, settings.figure_width)
    print(f"\n{table(rows)}\n\n{EXPLANATION}")
    if validation is None:
        print("no separation: it needs a complete val store (get_importances_for_classes.py --images val)")
    print_end([path, figure], [])


def _validation(settings, run, meta):
    """What a complete val store of the same network, layer and images has; else None."""
    store = ImportanceStore(settings.store_dir, run, "val")
    if not store.meta_path.is_file():
        return None
    found = store.load_meta()
    complete = store.images_path.is_file() and not store.missing_chunks()
    if not complete or any(found[key] != meta[key] for key in ("weights_sha256", "layer", "transform", "classes")):
        return None
    return ValidationInputs(store, [])
