"""The flag that says what figures are drawn for. Nothing here imports torch or matplotlib."""

import argparse

from utils.errors import quoted
from utils.report.sheets import SCREEN, WIDTHS, Sheet


def add_figure_flag(parser):
    sizes = " or ".join(f"{width} in ({name})" for name, width in WIDTHS.items())
    parser.add_argument(
        "--figure_width",
        type=_sheet,
        default=SCREEN,
        metavar=f"{{{','.join(WIDTHS)}}}",
        help=f"figures for a paper, {sizes} wide and without type under 6 points, in files of their own (default: for "
        "a screen)",
    )


def _sheet(name):
    if name not in WIDTHS:
        raise argparse.ArgumentTypeError(f"must be {' or '.join(WIDTHS)}, not {quoted(name)}")
    return Sheet(name)
