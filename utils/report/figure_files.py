"""Files of figures, under the names that the paper's users know."""

import io
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from utils.report.sheets import SCREEN, Sheet
from utils.report.tables import Table
from utils.store.files import write_bytes
from utils.store.measurements import split_at

PDF_DOTS_PER_INCH = 300  # of pictures; lines and letters are vectors


def plot_path(output_dir: str | Path, result: dict, kind: str) -> Path:
    """Path of a figure of a split, without a suffix; ``result`` as in ``Results``, ``kind`` of the figure."""
    return Path(output_dir) / "plots" / f"{split_at(result)}_{kind}"


def write_figure(stem: Path, figure: Figure, sheet: Sheet = SCREEN) -> Path:
    """Write a matplotlib figure as png and as pdf of the same name; return the png's path.

    Text stays text in the pdf, in TrueType fonts, which journals ask for.
    """
    options_of: dict[str, dict] = {
        "pdf": {"metadata": {"CreationDate": None}, "dpi": PDF_DOTS_PER_INCH},
        "png": {"dpi": sheet.dots_per_inch},
    }
    for suffix, options in options_of.items():
        buffer = io.BytesIO()
        with rc_context({"pdf.fonttype": 42}):
            figure.savefig(buffer, format=suffix, **options)
        figure.set_layout_engine("none")  # laid out once, which takes as long as drawing
        path = stem.with_name(f"{stem.name}{sheet.suffix}.{suffix}")
        write_bytes(path, buffer.getvalue())
    return path


def write_curves(stem: Path, grid: np.ndarray, curves: dict[str, np.ndarray | None]) -> None:
    """Write the coordinates of density curves as comma-separated text.

    ``curves`` maps a label to its densities at ``grid``, or to None (written as nan) where there is none.
    """
    columns = [np.full(len(grid), np.nan) if curve is None else curve for curve in curves.values()]
    rows = [[f"{value:.6g}" for value in row] for row in zip(grid, *columns, strict=True)]
    Table(["spatial_sum", *curves], rows).write_csv(stem.with_name(f"{stem.name}.txt"))
