"""The files of stage 4's results, which are rewritten from all results, and the tables that are printed."""

import glob
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.defaults import DECODER, PRECISION
from utils.divisions.division_registry import DIVISIONS
from utils.errors import OUTPUT_FLAG, UserError, listed, looked_in
from utils.report.result_tables import (
    EXPLANATION,
    ResultGroup,
    comma_separated,
    document,
    has_included_images,
    latex,
    markdown,
    measured,
    result_groups,
    where_from,
)
from utils.report.tables import settled, warn_of
from utils.store.files import image_sets_name, number_text, write_bytes
from utils.store.results import Results

KINDS = ("csv", "md", "tex")  # of summaries
NOTHING = "run get_results.py --get_quantitative first"
LEFT_OUT = "as the split has changed since: evaluate again"
USUAL = {"precision": PRECISION, "decoding": DECODER}  # other values are part of the names of files


@dataclass(frozen=True)
class ResultTables:
    """The ResultGroups of all results, and the ``paths`` of the files that were written of them.

    ``left_out`` are the names of results without an included image.
    """

    groups: list[ResultGroup]
    left_out: list[str]
    paths: list[Path]


def write_tables(results: Results) -> ResultTables:
    """Write the rows of images and the summaries of all results."""
    return settled(results, lambda entries: _write_tables_of(entries, results))


def _write_tables_of(entries: list[dict[str, Any]], results: Results) -> ResultTables:
    folder = results.folder
    if not entries and results.stale:
        raise UserError(f"{folder} has only results that are left out, {LEFT_OUT} ({listed(results.stale)})")
    if not entries:
        raise UserError(f"there are no results in {looked_in(folder, OUTPUT_FLAG)}: {NOTHING}")
    left_out = [results.path(entry).name for entry in entries if not has_included_images(entry)]
    entries = [entry for entry in entries if has_included_images(entry)]
    groups = result_groups(entries)
    paths = _write_rows(folder, entries)
    texts = {"csv": comma_separated(groups), "md": document(groups, left_out), "tex": latex(groups)}
    for kind, text in texts.items():
        path = folder / f"summary.{kind}"
        write_bytes(path, text.encode())
        paths.append(path)
    return ResultTables(groups, left_out, paths)


def _write_rows(folder: Path, results: list[dict[str, Any]]) -> list[Path]:
    """Write the fractions of the included images, a file for each concept and ``_rows_suffix`` (and RUN, if several).

    The files are comma-separated and have no header.
    """
    several = len({result["run"] for result in results}) > 1
    fractions: dict[str, list[np.ndarray]] = {}
    for result in results:
        for k, concept in enumerate(measured(result), start=1):
            plain = f"quantitative_concept{k}_required{result['tau']}{_rows_suffix(result)}.txt"
            name = f"{result['run']}_{plain}" if several else plain
            fractions.setdefault(name, []).append(concept.included_fractions())
    for name, arrays in fractions.items():
        text = "".join(",".join(f"{value:.6f}" for value in row) + "\n" for row in np.concatenate(arrays))
        write_bytes(folder / name, text.encode())
    runs = {result["run"] for result in results}
    for path in _row_files(folder, runs):  # of results that were deleted; or the names that they had with fewer RUNs
        if path.name not in fractions:
            path.unlink(missing_ok=True)
    return [folder / name for name in sorted(fractions)]


def _row_files(folder: Path, runs: Collection[str] = ()) -> list[Path]:
    """The files of rows without a RUN in their names, and those of ``runs``; other names are the user's."""
    starts = ["", *(f"{glob.escape(run)}_" for run in runs)]
    return [path for start in starts for path in folder.glob(f"{start}quantitative_concept*_required*.txt")]


def remove_tables(results: Results) -> bool:
    """Remove the files that are made of all results, when there is none any more; returns whether there were some."""
    files = [*_row_files(results.folder), *(results.folder / f"summary.{kind}" for kind in KINDS)]
    present = [path for path in files if path.is_file()]
    for path in present:
        path.unlink(missing_ok=True)
    return bool(present)


def _rows_suffix(result: dict[str, Any]) -> str:
    """The end of the names of files: settings that are not the usual ones and keep the rows of results apart."""
    suffix = f"_K{len(result['concepts'])}" if len(result["concepts"]) != 2 else ""
    suffix += f"_{image_sets_name(result['concepts_from'], result['found_by'])}" if result["assignment"] else ""
    suffix += DIVISIONS.get(result["split_by"]).suffix_in_tables(result["division"])
    suffix += f"_background{number_text(result['background'])}" if result["background"] else ""
    return suffix + "".join(f"_{result[name]}" for name, usual in USUAL.items() if result[name] != usual)


def print_results(
    results: Results, tables: ResultTables, shown: list[dict[str, Any]], called: Mapping[str, Sequence[str]]
) -> None:
    """Print the tables of the results that are ``shown``, with the rows over all results so far.

    ``called`` has what the concepts of some splits are called here, by the names of the splits.
    """
    names = {(result["split"], result["rho"]) for result in shown}
    for group in tables.groups:
        first = group.results[0]
        if any((result["split"], result["rho"]) in names for result in group.results):
            note = f"\n{where_from(first)}\n" if first["assignment"] else ""
            print(f"{note}\n{markdown(group.called(called), names)}")
    print(f"\n{EXPLANATION}")
    _print_doubts(results, tables)


def print_summary(results: Results) -> list[Path]:
    """Write the files of all results and print their summary; return the paths."""
    tables = write_tables(results)
    print(document(tables.groups, tables.left_out))
    _print_doubts(results, tables)
    return tables.paths


def _print_doubts(results: Results, tables: ResultTables) -> None:
    """Name results that are left out because no image counts or their split has changed, and unchecked ones."""
    warn_of(tables.left_out, "result", "left out, no image has a relative attribution of tau: measure at a lower one")
    warn_of(results.stale, "result", f"left out, {LEFT_OUT}")
    warn_of(results.unchecked, "result", f"not checked, as the split is not in {results.model_dir}")


def warn_of_empty_inclusion(result: dict[str, Any]) -> None:
    """Warn of concepts without an included image, and print the tau at which one would be included."""
    for name, of_concept in zip(result["concept_names"], result["images"], strict=True):
        if of_concept["paths"] and not any(of_concept["included"]):  # a concept without labels may have no image
            print(
                f"warning: channel {result['channel']}: none of {len(of_concept['paths'])} images of {name} has a "
                f"relative attribution of tau = {result['tau']}; the largest is {max(of_concept['shares']):.3g} "
                "(--proportion_attribution_required)",
                file=sys.stderr,
            )
