"""--summary after results were deleted: no table has what is not stored any more."""

import pytest

from tests.entries import (
    comparison,
    comparisons_of,
    effect,
    effects_of,
    pair_result,
    result_of_three,
    separation,
    separation_row,
    separations_of,
)
from utils.errors import UserError
from utils.report.all_summaries import summarise_all
from utils.report.effect_tables import TO_DELETE as EFFECT_TO_DELETE
from utils.report.separation_tables import TO_DELETE as SEPARATION_TO_DELETE
from utils.store.results import Results


def tables_in(folder):
    return {path.name for path in (folder / "out/results_quantitative").iterdir() if path.is_file()}


def stored(folder, kind, name):
    (path,) = (folder / "out/results_quantitative" / kind).glob(f"{name}*.json")
    return path


@pytest.fixture
def results(tmp_path):
    """Two entries of each kind, and the tables of all."""
    other = separation("other", rows=[separation_row("net_channel9_1_2")])
    separations_of(tmp_path, separation("first"), other)
    effects_of(tmp_path, effect(3), effect(4))
    comparisons_of(tmp_path / "out", comparison())
    results = Results(tmp_path / "out", tmp_path / "models")
    for result in (pair_result(3), result_of_three(4)):
        results.write(result)
    summarise_all(results)
    return results


def test_tables_are_of_what_is_left(results, tmp_path, capsys):
    folder = results.folder
    before = tables_in(tmp_path)
    assert {"summary.md", "separation.tex", "effect.csv", "comparison.md"} <= before
    assert SEPARATION_TO_DELETE in (folder / "separation.md").read_text()
    assert EFFECT_TO_DELETE in (folder / "effect.md").read_text()
    deleted = {"separation": "first", "effect": "net_channel3", "pairs": "net_channel4"}
    for kind, name in deleted.items():
        stored(tmp_path, kind, name).unlink()
    capsys.readouterr()
    written = summarise_all(results)
    out = capsys.readouterr().out
    assert "### other" in out and "### first" not in out and " concepts stand above " in out
    for name in ("separation.csv", "separation.md", "separation.tex"):
        assert "name 1" in (folder / name).read_text()
    assert "### first" not in (folder / "separation.md").read_text()
    assert "net_channel3" not in (folder / "separation.csv").read_text()
    assert "net_channel3" not in (folder / "effect.csv").read_text()
    assert before - tables_in(tmp_path) == {f"quantitative_concept{k}_required0.03_K3.txt" for k in (1, 2, 3)}
    assert {path.name for path in written} == tables_in(tmp_path)


@pytest.mark.parametrize(
    ("kind", "tables"),
    [
        ("separation", {"separation.csv", "separation.md", "separation.tex"}),
        ("effect", {"effect.csv", "effect.md"}),
        ("comparison", {"comparison.csv", "comparison.md"}),
    ],
)
def test_where_nothing_of_a_kind_is_left_its_tables_are_removed(results, tmp_path, kind, tables):
    before = tables_in(tmp_path)
    for path in (results.folder / kind).glob("*.json"):
        path.unlink()
    summarise_all(results)
    assert before - tables_in(tmp_path) == tables


def test_where_no_fractions_are_left_the_other_tables_stay(results, tmp_path):
    for path in results.paths():
        path.unlink()
    written = summarise_all(results)
    assert {path.name for path in written} == tables_in(tmp_path)
    assert not [name for name in tables_in(tmp_path) if name.startswith(("summary", "quantitative"))]


def test_after_the_last_result_nothing_is_left_and_then_there_is_nothing_to_summarise(tmp_path, capsys):
    results = Results(tmp_path / "out", tmp_path / "models")
    results.write(pair_result(3))
    summarise_all(results)
    results.paths()[0].unlink()
    capsys.readouterr()
    assert summarise_all(results) == [] and not tables_in(tmp_path)
    assert capsys.readouterr().out == f"no results are left in {results.folder}: the tables of them were removed\n"
    with pytest.raises(
        UserError,
        match=r"there are no results in /.*, give --output_dir.*: run get_results.py --get_q",
    ):
        summarise_all(results)
