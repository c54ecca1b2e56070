"""The summaries of all stored results of stage 4, which are made anew after any of them has been deleted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from utils.errors import OUTPUT_FLAG, UserError, looked_in
from utils.report.comparison_tables import write_comparison_tables
from utils.report.edit_tables import write_edit_tables
from utils.report.effect_tables import write_effect_tables
from utils.report.result_files import NOTHING, print_summary, remove_tables
from utils.report.separation_tables import print_headlines, write_separation_tables
from utils.store.comparisons import Comparisons
from utils.store.edit_results import Edits
from utils.store.effects import Effects
from utils.store.measurements import Measurements
from utils.store.results import Results
from utils.store.separations import Separations

WRITERS: tuple[tuple[type[Measurements], Callable[[Any], list[Path]]], ...] = (
    (Separations, write_separation_tables),
    (Effects, write_effect_tables),
    (Edits, write_edit_tables),
    (Comparisons, write_comparison_tables),
)


def summarise_all(results: Results) -> list[Path]:
    """Write the tables of all results, separations, effects, edits and comparisons, and print summaries of them.

    Tables of a kind of which nothing is stored any more are removed. Returns the paths of the others.

    Raises
    ------
    UserError
        Nothing is stored, and there were no tables of it.
    """
    written: list[Path] = []
    present = bool(results.paths())
    for kind, write in WRITERS:
        measurements = kind(results.output_dir, results.model_dir)
        had_tables = any(results.folder.glob(f"{measurements.kind}.*"))
        if measurements.paths() or had_tables:
            present = True
            written += write(measurements)
            if isinstance(measurements, Separations):
                print_headlines(measurements)
    if results.paths():
        return [*print_summary(results), *written]
    removed = remove_tables(results)
    if not (present or removed):
        raise UserError(f"there are no results in {looked_in(results.folder, OUTPUT_FLAG)}: {NOTHING}")
    if not written:
        print(f"no results are left in {results.folder}: the tables of them were removed")
    return written
