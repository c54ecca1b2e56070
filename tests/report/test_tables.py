"""Tables as CSV, Markdown and LaTeX, numbers as text, and entries that may be summarised together."""

import csv
import io

import numpy as np
import pytest

from utils.errors import listed
from utils.report.numbers import csv_number, formatted, interval_text
from utils.report.tables import Table, grouped, short_name, warn_of

TABLE = Table(["channel", "name"], [[3, "a|b, c"], [12, "d"]], totals=[["all 2", ""]])


def test_csv_can_be_read_back():
    rows = list(csv.reader(io.StringIO(TABLE.as_csv())))
    assert rows == [["channel", "name"], ["3", "a|b, c"], ["12", "d"], ["all 2", ""]]


def test_markdown_columns_have_one_width_and_a_bar_is_escaped():
    assert TABLE.as_markdown().split("\n") == [
        "| channel | name    |",
        "|---------|---------|",
        r"| 3       | a\|b, c |",
        "| 12      | d       |",
        "| all 2   |         |",
    ]
    numbers = Table(["tau", "pairs"], [["0.03", 7], ["0.1", 12]])
    assert numbers.as_markdown(right_aligned=True).split("\n") == [
        "|  tau | pairs |",
        "|-----:|------:|",
        "| 0.03 |     7 |",
        "|  0.1 |    12 |",
    ]


def test_latex_separates_the_totals_by_a_rule_and_escapes_all_but_the_given_headings():
    text = TABLE.as_latex("50 %", heading=str.upper)
    assert r"\caption{50 \%}" in text and r"CHANNEL & NAME \\" in text
    assert text.count(r"\midrule") == 2 and text.index(r"12 & d \\") < text.rindex(r"\midrule") < text.index("all 2")
    assert Table(TABLE.header, TABLE.rows).as_latex("").count(r"\midrule") == 1


@pytest.mark.parametrize(
    ("value", "spec", "expected"),
    [
        (0.256, ".2f", "0.26"),
        (-0.5, "+.3f", "-0.500"),
        (np.float64(3), ".3g", "3"),
        (np.nan, ".2f", "–"),
        (None, "", "–"),
    ],
)
def test_a_number_that_was_not_measured_is_a_dash(value, spec, expected):
    assert formatted(value, spec) == expected


def test_numbers_of_csv_and_intervals_are_empty_where_there_is_none():
    assert [csv_number(value) for value in (1 / 3, 1e-7, np.nan, None)] == ["0.333333", "1e-07", "", ""]
    assert interval_text(-0.1, 0.25) == " (95 % -0.100 to +0.250)"
    assert interval_text(0.1, 0.25, ".1f", label="") == " (0.1 to 0.2)" and interval_text(np.nan, np.nan) == ""


def test_names_and_lists_are_cut_where_they_are_long(capsys):
    assert (
        short_name("x" * 40) == "x" * 40 and short_name("x" * 41) == "x" * 37 + "..." and short_name("abcd", 3) == "..."
    )
    names = ["a", "b", "c"]
    assert listed(names) == listed(names, 3) == "a, b, c" and listed([]) == ""
    assert listed(names, 2) == "a, b and 1 more" and listed(names, 1, "; ", more="; and {} more") == "a; and 2 more"
    assert listed(names, 2, more=", ...") == "a, b, ..."
    warn_of([], "result", "left out")
    warn_of(names * 2, "result", "left out")
    assert capsys.readouterr().err == "warning: 6 results left out (a, b, c, a, b and 1 more)\n"


def test_entries_are_grouped_by_settings_and_agree_in_every_class_folder():
    folders = [{"a": "1"}, {"b": "1"}, {"a": "1", "b": "2"}, {"a": "2", "b": "1"}, {"a": "1", "b": "1"}]
    entries = [{"run": "x", "number": number, "validation": one} for number, one in enumerate(folders)]
    entries += [{"run": "y", "number": 5, "validation": {"a": "1"}}]
    groups = grouped(entries, lambda entry: entry["run"])
    assert [[entry["number"] for entry in group] for group in groups] == [[0, 1, 4], [2], [3], [5]]
    assert [entry["validation"] for entry in entries[:5]] == folders


def test_a_column_without_a_value_is_left_out_where_people_read():
    table = Table(
        ["a", "rho", "areas", "c"], [["1", "–", "– / –", ""], ["2", "", "– / –", "–"]], [["all", "", "", "3"]]
    )
    assert table.as_markdown().split("\n")[0] == "| a   | c |"
    assert table.as_latex("t").count("&") == 4
    assert table.as_csv().startswith("a,rho,areas,c\n")
    assert Table(["a", "b"], []).as_markdown().startswith("| a | b |")
