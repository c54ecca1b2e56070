"""Tables and the figure of edits, from made-up ones."""

import csv
import io
from math import isnan, nan

import numpy as np
import pytest

from tests.entries import edit, edits_of, with_split_of_effect
from utils.errors import UserError
from utils.report.edit_figure import MARKS, edit_figure, write_edit_figure
from utils.report.edit_tables import (
    comma_separated,
    document,
    edit_rows,
    groups,
    headline_lines,
    latex,
    print_edits,
    summaries,
    table,
    write_edit_tables,
)
from utils.stages.edit_methods import METHODS

SIX = [edit(channel, factor) for channel, factor in enumerate((0.9, 1.1, 1.0, 1.0, 0.95, 1.05))]


def test_a_method_over_a_layer_has_ratios_of_sums_over_concepts():
    rows = [row for one in SIX for row in edit_rows(one)]
    part, whole, permuted = summaries(rows)
    assert [summary.method for summary in (part, whole, permuted)] == ["part", "whole_channel", "shares_permuted"]
    assert part.effect.mean == pytest.approx(0.4) and part.harm.mean == pytest.approx(0.2)
    assert part.selectivity[0] == (pytest.approx(2.0), False) and whole.selectivity[0].value == pytest.approx(1.0)
    assert part.selectivity[1].low > whole.selectivity[1].high
    assert part.selectivity_rest[0].value == np.inf  # no harm at all
    assert (part.reached, permuted.reached) == (1.0, 0.5)
    assert part.harm_at_equal_effect.mean == pytest.approx(0.1)
    assert permuted.harm_at_equal_effect.mean == pytest.approx(0.3)  # of the concepts that reach it
    assert whole.times_part.mean == pytest.approx(1.5) and permuted.times_part.mean == pytest.approx(3.0)


def test_the_headline_says_whether_intervals_lie_apart():
    rows = [row for one in SIX for row in edit_rows(one)]
    first, second = headline_lines(summaries(rows))
    assert "part 2.00 (" in first and "whole channel 1.00 (" in first and "permuted shares 1.00 (" in first
    assert first.endswith("the part's interval lies above the others.")
    assert "part 0.100 (0.100 to 0.100) logits; over the concepts that both reach, whole channel 1.50 (" in second
    assert "permuted shares 3.00 (3.00 to 3.00) times that, reached by 50%" in second
    assert second.endswith("; the others' intervals lie above 1.")
    weak = [{**row, "change_own": row["change_own"] / (2 if row["method"] == "part" else 1)} for row in rows]
    assert headline_lines(summaries(weak))[0].endswith("does not lie above all others.")
    few = headline_lines(summaries(edit_rows(edit())))
    assert all(line.endswith("too few channels for intervals.") for line in few)
    even = [{**row, "harm_at_equal_effect": 0.1} for row in rows]
    assert headline_lines(summaries(even))[1].endswith("; not all of these intervals lie above 1.")
    unknown = [{**row, "change_own": nan, "harm_other": nan} for row in rows]
    assert headline_lines(summaries(unknown)) == ["No concept could be measured."]


def test_harms_are_compared_over_the_concepts_that_both_reach():
    """Permuted shares reach only concepts that are easy for the part, too: their mean harm is lower, and yet thrice."""

    def harder(one):
        rows = [row | {"harm_at_equal_effect": 1.0} if row["concept"] == 2 else row for row in one["rows"]]
        permuted = {"method": "shares_permuted", "concept": 2, "harm_at_equal_effect": nan}
        return {
            **one,
            "rows": [
                row | permuted if row["method"] == "shares_permuted" and row["concept"] == 2 else row for row in rows
            ],
        }

    rows = [row for one in SIX for row in edit_rows(harder(one))]
    part, _, permuted = summaries(rows)
    assert permuted.harm_at_equal_effect.high < part.harm_at_equal_effect.low
    assert permuted.times_part.low == pytest.approx(3)
    whole = [row | {"harm_at_equal_effect": 2.0} if row["method"] == "whole_channel" else row for row in rows]
    assert headline_lines(summaries(whole))[1].endswith("; the others' intervals lie above 1.")


def test_where_the_part_has_no_effect_nothing_is_asked_of_the_others(tmp_path):
    """Its strength is not known then: of such a concept no method is counted as one that does not reach it."""
    nothing = {"strength": nan, "harm_at_equal_effect": nan}
    some = [
        edit(channel, rows=[row | nothing if row["concept"] == 2 else row for row in edit()["rows"]])
        for channel in range(6)
    ]
    assert [summary.reached for summary in summaries([row for one in some for row in edit_rows(one)])] == [1, 1, 1]
    assert "not reached" not in table(edit_rows(some[0])).as_markdown()
    none = [{**one, "rows": [row | nothing for row in one["rows"]]} for one in some]
    ((title, rows),) = groups(none)
    assert isnan(summaries(rows)[0].reached)
    equal = edit_figure(title, rows).axes[1]
    assert [label.get_text() for label in equal.get_yticklabels()] == ["permuted shares", "whole channel", "part"]


def test_a_row_shows_bounds_what_is_not_reached_and_what_is_infinite():
    text = table(edit_rows(edit())).as_markdown()
    first, *_, last = text.splitlines()[2:]
    assert "| 1 a     | part " in first and " 2/3/5 " in first and "-0.400" in first and " inf " in first
    assert " not reached " in last and " >1.00 " in last


def test_the_csv_has_numbers_and_empty_cells():
    rows = list(csv.DictReader(io.StringIO(comma_separated([edit(), edit(4)]))))
    assert len(rows) == 12 and rows[0]["change_own"] == "-0.4" and rows[0]["selectivity"] == "2"
    assert rows[0]["selectivity_rest"] == "inf" and rows[0]["selectivity_is_least"] == "0"
    assert rows[5]["strength"] == rows[5]["harm_at_equal_effect"] == "" and rows[5]["selectivity_is_least"] == "1"
    assert rows[5]["classes"] == "1" and rows[0]["channel"] == "3"


def test_what_was_measured_otherwise_is_summarised_apart():
    for changes in ({"precision": "bf16"}, {"split_by": "arv", "rho": 0.9}, {"validation": {"a": "9"}}, {"layer": "x"}):
        assert [len(rows) for _, rows in groups([edit(), edit(4), edit(5, **changes)])] == [12, 6]


def test_documents_lead_with_the_headline(tmp_path):
    for text in (document(SIX), latex(SIX)):
        assert text.index("Selectivity against") < text.index("whole channel  " if text.startswith("#") else "toprule")
        assert "PURE" in text and "NeuronLens" in text
    assert r"\begin{tabular}" in latex(SIX) and "12 concepts of 6 channels" in document(SIX)
    paths = write_edit_tables(edits_of(tmp_path, *SIX))
    assert [path.name for path in paths] == ["edits.csv", "edits.md", "edits.tex"]


def test_what_is_printed_names_stale_and_unchecked_edits(tmp_path, capsys):
    measured = with_split_of_effect(tmp_path, edit())
    edits = edits_of(tmp_path, measured, edit(4), with_split_of_effect(tmp_path, edit(5)))
    with_split_of_effect(tmp_path, edit(5), seed=1)
    edits.read_all()
    print_edits([edits.find(measured)], edits)
    printed = capsys.readouterr()
    assert "harm at equal effect" in printed.out and "not reached" in printed.out
    assert "1 edit left out, as the split has changed since: measure again (net_channel5_0_1.json" in printed.err
    assert "1 edit not checked" in printed.err


def test_the_figure_has_a_mark_for_every_method(tmp_path):
    assert set(MARKS) == set(METHODS) and len({mark for mark, _ in MARKS.values()}) == len(MARKS)
    ((title, rows),) = groups(SIX)
    full, equal = edit_figure(title, rows).axes
    labels = full.get_legend_handles_labels()[1]
    assert labels == ["part", "whole channel", "permuted shares"]
    places = [(line.get_xdata()[0], line.get_ydata()[0]) for line, *_ in (bar.lines for bar in full.containers)]
    np.testing.assert_allclose(places, [(0.2, 0.4), (0.6, 0.6), (0.1, 0.1)], atol=1e-9)
    assert [label.get_text().split("\n")[0] for label in equal.get_yticklabels()] == labels[::-1]
    assert full.get_xlim()[1] >= 0.6 and full.get_ylim()[1] < 1
    nothing = [{**one, "rows": [{**row, "change_own": nan} for row in one["rows"]]} for one in SIX]
    assert write_edit_figure(tmp_path, "net", nothing) == []


def test_every_group_of_edits_has_a_figure(tmp_path):
    by_rule = [{**one, "split_by": "arv", "rho": 0.9} for one in SIX[:2]]
    paths = write_edit_figure(tmp_path, "net", [*SIX[2:4], *by_rule])
    assert [path.name for path in paths] == ["net_edits.png", "net_edits_2.png"]
    assert all(path.is_file() and path.with_suffix(".pdf").is_file() for path in paths)
    assert paths[0].read_bytes() != paths[1].read_bytes()


def test_a_stored_edit_is_read_as_it_was(tmp_path):
    edits = edits_of(tmp_path, edit())
    stored = edits.find({**edit(), "methods": ["part"], "rows": edits.read(edits.path(edit()))["rows"]})
    assert (
        stored is not None and stored["rows"][0]["selectivity_rest"] == np.inf and isnan(stored["rows"][5]["strength"])
    )
    known = {name: value for name, value in edit().items() if name != "rows"}
    assert edits.find({**known, "methods": ["part", "pure_gate"]}) is None
    assert edits.find({**known, "training_sha256": "22"}) is None
    path = edits.path(edit())
    path.write_text(path.read_text().replace('"strength"', '"strong"'))
    with pytest.raises(UserError, match=r"get_results.py --get_edit again"):
        edits.read(path)
