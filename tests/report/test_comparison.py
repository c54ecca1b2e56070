"""Tables and the figure of a comparison, from made-up rows."""

import csv
import io

import pytest

from tests.entries import comparison, comparisons_of
from utils.concept_sources import compared_channels
from utils.method.significance import mean_with_interval
from utils.report.comparison_figure import MARKERS, comparison_figure, write_comparison_figure
from utils.report.comparison_tables import (
    COLUMNS,
    EMBEDDING,
    HOW_TO_READ,
    MATCHED,
    NULLS,
    comma_separated,
    fewer_draws,
    print_comparison,
    summary_rows,
    write_comparison_tables,
)
from utils.report.separation_tables import WHY_AP
from utils.store.comparisons import OF_CONCEPTS, PATCHES


def stored(tmp_path, **changes):
    found = comparisons_of(tmp_path, comparison(**changes))
    return found, found.read_all()[0]


def test_the_columns_and_values_of_the_csv(tmp_path):
    _, entry = stored(tmp_path)
    text = comma_separated([entry])
    assert text.startswith(",".join(COLUMNS))
    assert text.startswith("method,null,k,channels,concepts,ap_all,pearson_all,auroc_all,auroc_others,ari,")
    assert {*OF_CONCEPTS, "ari", "monosemanticity", "patch_gap", "labels", "images"} <= set(COLUMNS)
    rows = {(row["method"], row["null"]): row for row in csv.DictReader(io.StringIO(text))}
    assert list(rows) == [("circuits", ""), ("circuits", "weights_permuted"), ("classes", "")]
    own = [row for row in entry["concepts"] if (row["method"], row["null"]) == ("circuits", "")]
    mean, low, high = mean_with_interval([row["ap_all"] for row in own], [row["channel"] for row in own])
    row = rows["circuits", ""]
    actual = [float(row[f"ap_all{end}"]) for end in ("", "_low", "_high")]
    assert actual == pytest.approx([mean, low, high], rel=1e-5)
    assert (row["k"], row["channels"], row["concepts"], row["ari"]) == ("4", "6", "12", "0.25")
    assert row["ap_all_above"] == ""
    names = [name for name in row if name.endswith("_above")]
    assert names == ["ap_all_above", "pearson_all_above", "auroc_all_above"]
    assert float(row["pearson_all"]) == pytest.approx(0.5)
    assert float(rows["circuits", "weights_permuted"]["ap_all_above"]) == pytest.approx(0.4)
    assert (rows["classes", ""]["labels"], row["labels"], row["same_output"]) == ("yes", "no", "yes")
    assert rows["classes", ""]["ari"] == row["monosemanticity"] == row["patch_gap"] == ""


def test_every_null_has_words_and_a_marker():
    assert set(NULLS) == set(MARKERS)
    assert set(NULLS) == {
        compared_channels.PERMUTED_WEIGHTS,
        compared_channels.SAME_SETS,
        compared_channels.REAL_TARGET,
        compared_channels.PERMUTED_OWNERS,
        compared_channels.PARTITIONED_REFERENCES,
        compared_channels.UNITS_AT_RANDOM,
    }


def test_the_gap_is_of_averages_over_units(tmp_path):
    _, entry = stored(tmp_path)
    values = [(5.0, 6.0, 5.5), (6.0, 8.0, 7.0), (5.5, 7.0, 6.0)] * 2
    rows = [row for row in entry["channels"] if (row["method"], row["null"]) == ("circuits", "")]
    for row, three in zip(rows, values, strict=True):
        row |= dict(zip(PATCHES, three, strict=True))
    assert summary_rows(entry)[0]["patch_gap"] == pytest.approx((21 - 16.5) / 18.5)


def test_tables_say_how_they_were_matched_and_how_to_read_them(tmp_path, capsys):
    found, entry = stored(tmp_path, problems=["pure, channel 3: too few"])
    paths = write_comparison_tables(found)
    document = paths[1].read_text()
    assert [path.name for path in paths] == ["comparison.csv", "comparison.md"]
    header = "| AP, all | AP above the null | Pearson, all | AUROC, all | AUROC, others |"
    assert header in " ".join(document.split())
    for text in (MATCHED, HOW_TO_READ, EMBEDDING, WHY_AP, "- permuted weights", "pure, channel 3: too few"):
        assert text in document
    print_comparison(entry)
    printed = capsys.readouterr().out
    assert MATCHED in printed and HOW_TO_READ in printed
    assert "12 concepts of 6 channels, 20 validation images" in printed


def test_a_sample_of_the_channels_is_named_in_every_caption(tmp_path, capsys):
    found, entry = stored(tmp_path, available_channels=40)
    print_comparison(entry)
    words = "12 concepts of 6 channels (a sample of 40)"
    assert words in capsys.readouterr().out and words in write_comparison_tables(found)[1].read_text()
    assert words in comparison_figure(entry).get_suptitle().replace("\n", " ")


def test_the_figure_has_a_row_for_each_method_sorted_by_ap(tmp_path):
    _, entry = stored(tmp_path)
    left, right = comparison_figure(entry).axes
    assert [label.get_text().replace("\n", " ").replace("\u00a0", " ") for label in left.get_yticklabels()] == [
        "split by circuits, k 4",
        "split by classes, k 4",
    ]
    assert len(left.lines) == len(right.lines) == 5  # an interval and a dot each, and a null
    (path,) = write_comparison_figure(tmp_path, entry)
    assert path == tmp_path / "plots" / "net_groups_comparison.png" and path.is_file()


def test_too_few_channels_have_no_interval(tmp_path):
    _, entry = stored(tmp_path, channels=2)
    assert "(" not in comma_separated([entry]) and comparison_figure(entry).axes


def test_methods_whose_nulls_have_fewer_draws_are_named(tmp_path, capsys):
    entry = comparison()
    assert fewer_draws(entry) == []
    entry["settings"]["draws"] = 20
    (line,) = fewer_draws(entry)
    assert line == f"Fewer draws of each null than 20: {entry['methods']['circuits']['words']} (3)."
    stored_comparisons, stored_entry = stored(tmp_path, settings=entry["settings"])
    print_comparison(stored_entry)
    assert line in capsys.readouterr().out
    write_comparison_tables(stored_comparisons)
    assert line in next(tmp_path.glob("**/comparison.md")).read_text()
