"""Stage 2 with several values of a threshold: what each combination finds, in one table and one figure."""

from pathlib import Path
from typing import Any

from utils.command_line.commands import validation_store_command
from utils.command_line.run import print_end
from utils.command_line.settings import SimilaritySettings
from utils.report.figure_files import write_figure
from utils.report.layer_tables import counted_text, gamma_from
from utils.report.thresholds import EXPLANATION, sensitivity_figure, table, write_sensitivity
from utils.stages.sensitivity import sensitivity
from utils.stages.separation import ValidationInputs
from utils.store.class_statistics import ClassStore
from utils.store.importance_store import ImportanceStore
from utils.store.unfinished import Unfinished


def measure_sensitivity(
    settings: SimilaritySettings, run: str, store: ImportanceStore, class_store: ClassStore
) -> None:
    """Measure, write and print what the combinations of thresholds find. No candidates are written.

    ``store`` is complete.
    """
    criteria = {name: getattr(settings, name) for name in ("only_correct", "min_images", "only_above_mean")}
    stem = f"{run}_sensitivity" + "".join(f"_{name}" for name in ("only_correct", "only_above_mean") if criteria[name])
    stem += f"_min{settings.min_images}" if settings.min_images > 1 else ""
    output_dir = Path(settings.output_dir)
    path = output_dir / "results_get_cosine_similarities" / f"{stem}.csv"
    val_store = _val_store(settings, run, store.meta)
    validation = None if val_store is None else ValidationInputs(val_store, [])
    made_from = {"training": store.meta, "validation": val_store and val_store.meta, "counted": criteria}
    unfinished = Unfinished(path, made_from)
    rows = sensitivity(
        store,
        class_store,
        taus=sorted(set(settings.taus)),
        ps=sorted(set(settings.ps)),
        gammas=sorted(set(map(gamma_from, settings.cos_sim_highs))),
        counted=criteria,
        unfinished=unfinished,
        validation=validation,
    )
    write_sensitivity(path, rows)
    unfinished.remove()
    title = f"{settings.model_name}, layer {store.meta['layer']}: what τ, p and γ change{counted_text(**criteria)}"
    drawn = sensitivity_figure(rows, title, settings.figure_width)
    figure = write_figure(output_dir / "plots" / stem, drawn, settings.figure_width)
    print(f"\n{table(rows)}\n\n{EXPLANATION}")
    if validation is None:
        print("no separation: it needs a complete val store")
    command = validation_store_command(settings, training_meta=store.meta)
    print_end([path, figure], [] if validation else [("to make it", command)])


def _val_store(settings: SimilaritySettings, run: str, meta: dict[str, Any]) -> ImportanceStore | None:
    """A complete val store of the same network, layer and images; else None."""
    store = ImportanceStore(settings.store_dir, run, "val")
    if not store.meta_path.is_file():
        return None
    val_meta = store.load_meta()
    complete = store.images_path.is_file() and not store.missing_chunks()
    if not complete or any(val_meta[key] != meta[key] for key in ("weights_sha256", "layer", "transform", "classes")):
        return None
    return store
