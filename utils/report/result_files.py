"""The files of stage 4's results, made anew from all of them, and what is printed of them."""

import sys

import numpy as np

from utils.defaults import DECODER, PRECISION
from utils.divisions.division_registry import DIVISIONS
from utils.errors import UserError, listed
from utils.report.result_tables import (
    EXPLANATION,
    comma_separated,
    document,
    included_rows,
    latex,
    markdown,
    measured,
    result_groups,
    where_from,
)
from utils.report.tables import warn_of
from utils.store.files import image_sets_name, number_text, write_bytes

LEFT_OUT = "as their splits have changed since: evaluate them again"
USUAL = {"precision": PRECISION, "decoding": DECODER}  # others are named in the names of files


def write_tables(results):
    """Make the rows of images and the summaries anew from all results.

    Others may write results at the same time: all is made again until nothing has changed meanwhile, so that whoever
    ends last has seen everything. (A lock would need a file system that has them.)

    Parameters
    ----------
    results : Results

    Returns
    -------
    tables : list of Table
    paths : list of Path
    """
    state = None
    while state != results.state():
        state, found = results.state(), results.read_all()
        if not found and results.stale:
            raise UserError(
                f"{results.folder} has only results that are left out, {LEFT_OUT} ({listed(results.stale)})"
            )
        if not found:
            raise UserError(f"there are no results in {results.folder}: run get_results.py --get_quantitative first")
        tables = result_groups(found)
        paths = _write_rows(results.folder, found)
        for kind, text in (("csv", comma_separated), ("md", document), ("tex", latex)):
            write_bytes(results.folder / f"summary.{kind}", text(tables).encode())
            paths.append(results.folder / f"summary.{kind}")
    return tables, paths


def _write_rows(folder, found):
    """Comma-separated fractions without header: one file for each concept, tau and K (and RUN, if several)."""
    several = len({result["run"] for result in found}) > 1
    files, names = {}, set()
    for result in found:
        suffix = f"_K{len(result['concepts'])}" if len(result["concepts"]) != 2 else ""
        suffix += f"_{image_sets_name(result['concepts_from'], result['found_by'])}" if result["assignment"] else ""
        suffix += DIVISIONS.get(result["split_by"]).suffix_in_tables(result["division"])
        suffix += f"_background{number_text(result['background'])}" if result["background"] else ""
        suffix += "".join(f"_{result[how]}" for how, usual in USUAL.items() if result[how] != usual)
        for k, part in enumerate(measured(result), start=1):
            plain = f"quantitative_concept{k}_required{result['tau']}{suffix}.txt"
            named = f"{result['run']}_{plain}"
            names |= {plain, named}
            files.setdefault(named if several else plain, []).append(included_rows(part))
    for name, rows in files.items():
        text = "".join(",".join(f"{value:.6f}" for value in row) + "\n" for row in np.concatenate(rows))
        write_bytes(folder / name, text.encode())
    for name in names - set(files):  # the same rows under the name they had when there were fewer RUNs
        (folder / name).unlink(missing_ok=True)
    return [folder / name for name in sorted(files)]


def print_results(results, tables, shown):
    """Print the Tables of the results that are ``shown``, with the rows of all so far."""
    names = {(result["split"], result["rho"]) for result in shown}
    for table in tables:
        if any((result["split"], result["rho"]) in names for result in table.results):
            note = f"\n{where_from(table.results[0])}\n" if table.results[0]["assignment"] else ""
            print(f"{note}\n{markdown(table, names)}")
    print(f"\n{EXPLANATION}")
    _print_doubts(results)


def print_summary(results):
    """Print the summary of all results, and make its files anew: their paths."""
    tables, paths = write_tables(results)
    print(document(tables))
    _print_doubts(results)
    return paths


def _print_doubts(results):
    """Name results that are left out because their split has changed, and those whose split was not found."""
    warn_of(results.stale, f"results left out, {LEFT_OUT}")
    warn_of(results.unchecked, f"results not checked, as their splits are not in {results.model_dir}")


def warn_of_empty_inclusion(result):
    """Say where no image of a concept counts, for which tau some would."""
    for name, part in zip(result["concept_names"], result["images"], strict=True):
        if part["paths"] and not any(part["included"]):  # a concept without labels may have no image
            print(
                f"warning: channel {result['channel']}: none of {len(part['paths'])} images of {name} has a relative "
                f"attribution of tau = {result['tau']}; the largest is {max(part['shares']):.3g} "
                "(--proportion_attribution_required)",
                file=sys.stderr,
            )
