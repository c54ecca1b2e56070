"""Tables and the figure of separation, from made-up rows."""

import csv
import io
import re

import numpy as np
import pytest

from tests.entries import random_separation_rows, separation, separation_row, separations_of, with_splits
from utils.method.significance import mean_with_interval, ratio_with_interval
from utils.report.figure_files import write_figure
from utils.report.separation_figure import separation_figure, write_separation_figure
from utils.report.separation_headline import headline
from utils.report.separation_tables import (
    LEADING,
    WHY_AP,
    comma_separated,
    document,
    headline_lines,
    latex,
    meanings_of_nulls,
    print_separation,
    summary,
    table,
    write_separation_tables,
)
from utils.report.sheets import Sheet
from utils.report.verdicts import verdict
from utils.store.separations import VALUES, judged_together

HEADER = (
    "run,layer,channel,concept,classes,name,images,prevalence,"
    "ap_all,ap_all_original,ap_all_weights_permuted,ap_all_real_target,ap_all_owners_permuted,"
    "ap_all_mean_difference,ap_all_probe,ap_all_own_logit,ap_all_random_groups,"
    "pearson_all,pearson_all_original,pearson_all_weights_permuted,pearson_all_real_target,"
    "pearson_all_owners_permuted,pearson_all_mean_difference,pearson_all_probe,pearson_all_own_logit,"
    "auroc_all,auroc_all_original,auroc_all_weights_permuted,auroc_all_real_target,auroc_all_owners_permuted,"
    "auroc_all_mean_difference,auroc_all_probe,auroc_all_own_logit,auroc_others,auroc_others_original,p_null,q_null,p_irrelevant,"
    "q_irrelevant,null_reached,null_draws,most_draws,split,rho"
)


def markdown(rows, *columns):
    return table(rows, *columns).as_markdown()


def test_the_csv_has_the_columns_of_the_specification_and_a_row_a_concept():
    rows = random_separation_rows()
    rows[3] |= {"ap_all_real_target": np.nan, "name": "a, b", "classes": [3, 14]}
    text = comma_separated([separation(rows=rows)])
    found = list(csv.DictReader(io.StringIO(text)))
    assert list(found[0]) == HEADER.split(",")
    assert [(one["channel"], one["concept"]) for one in found] == [(str(c), k) for c in range(6) for k in "12"]
    assert {one["rho"] for one in found} == {"0.9"}
    assert found[3]["ap_all_real_target"] == "" and (found[3]["name"], found[3]["classes"]) == ("a, b", "3 14")
    for one, of in zip(found, rows, strict=True):
        assert all(float(one[name]) == pytest.approx(of[name], rel=1e-5) for name in HEADER.split(",") if one[name]
                   and name in VALUES)  # fmt: skip


def test_the_summary_has_means_intervals_and_counts():
    rows = random_separation_rows(p_irrelevant=0.03, q_irrelevant=0.06, q_null=0.04)
    rows[0] |= {"p_irrelevant": 0.2, "q_null": 0.05}
    text, channels = summary(separation(rows=rows)), [one["channel"] for one in rows]
    texts = []
    for words, column in (("AP", "ap_all"), ("Pearson", "pearson_all"), ("AUROC", "auroc_all")):
        mean, low, high = mean_with_interval([one[column] - one[f"{column}_original"] for one in rows], channels)
        texts.append(f"{words} {mean:+.3f} (95 % {low:+.3f} to {high:+.3f})")
    assert f"- new channel minus original: {', '.join(texts)}\n" in text
    assert "| | AP, all | Pearson, all | AUROC, all | AUROC, others |" in text
    for words, ending in (("new channel c'_k", ""), ("the class's own logit", "_own_logit")):
        columns = [f"{measure}_all{ending}" for measure in ("ap", "pearson", "auroc")]
        cells = [f"{np.mean([one[name] for one in rows]):.3f}" for name in columns]
        cells.append("-" if ending else f"{np.mean([one['auroc_others'] for one in rows]):.3f}")
        assert f"| {words} | {' | '.join(cells)} |" in text
    assert "too few channels" not in text
    in_order = ["11 of 12 concepts stand above their primary null", "| original |"]
    in_order += [f"- against irrelevant channels {count} of 12 concepts" for count in ("p < 0.05: 11", "q < 0.05: 0")]
    assert sorted(in_order, key=text.index) == in_order
    assert "12 concepts of 6 channels, 400 images, 20 draws of each null (of the primary one up to 199), all 9 " in text
    assert "irrelevant channels at tau 0.03, p 0.75" in text
    assert "20 draws of each null, all 9" in summary(separation(rows=rows, draws=20))


def test_the_headline_counts_concepts_above_their_null_and_has_an_interval_over_channels():
    rows = random_separation_rows(q_null=0.01, ap_all_original=0.1, ap_all=0.5, ap_all_weights_permuted=0.2)
    for number, row in enumerate(rows):
        row["ap_all"] += 0.01 * number
    rows[3]["q_null"] = 0.05
    leading = headline(rows)
    assert leading.count == (
        "11 of 12 concepts stand above their primary null (permuted weights) at q < 0.05 (199 draws, min p 0.005)"
    )
    mean, low, high = mean_with_interval(
        [0.3 + 0.01 * number for number in range(12)], [row["channel"] for row in rows]
    )
    assert leading.precision == (
        f"Mean AP 0.100 before the split, 0.555 after it, 0.200 for the null; gain over the null +{mean:.3f} "
        f"(95 % interval +{low:.3f} to +{high:.3f})"
    )
    few = headline([{**row, "most_draws": 20} for row in rows[:8]])
    assert few.count.endswith("(20 draws, min p 0.048)")
    assert few.precision.endswith("+0.335 (no 95 % interval: 4 channels, fewer than 5)")
    mixed = headline([*rows, {**rows[0], "split_by": "least_squares", "most_draws": 20, "ap_all_real_target": 0.4}])
    null = "arv: permuted weights; least squares: permuted weights fitted to the real channel"
    assert mixed.count.startswith(f"12 of 13 concepts stand above their primary null ({null}) at")
    assert mixed.count.endswith("(20 to 199 draws, min p 0.005 to 0.048)")
    assert mixed.mean.null == pytest.approx((12 * 0.2 + 0.4) / 13)


def test_a_mean_gain_above_0_without_concepts_above_their_null_is_explained():
    rows = random_separation_rows(q_null=0.3, ap_all=0.5, ap_all_weights_permuted=0.2)
    rows[0] |= {"ap_all": 0.6}
    sentence = "The mean gain is above 0 (its interval excludes 0), but {} above the null individually"
    assert sentence.format("no concept stands") in headline_lines(rows)
    rows[0] |= {"q_null": 0.01}
    assert sentence.format("only 1 of 12 concepts stand") in headline_lines(rows)
    assert headline([{**row, "q_null": 0.01} for row in rows]).of_mean_alone == ""
    assert headline(rows[:8]).of_mean_alone == ""  # no interval
    assert headline([{**row, "ap_all_weights_permuted": 0.7} for row in rows]).of_mean_alone == ""


def test_rows_of_several_separations_are_judged_together():
    rows = [separation_row(channel=number, p_null=p, q_null=0.01) for number, p in enumerate((0.02, 0.9, 0.04))]
    assert [row["q_null"] for row in judged_together(rows)] == pytest.approx([0.06, 0.9, 0.06])
    assert headline(rows).above == 3 and headline(judged_together(rows)).above == 0


def test_of_least_squares_what_is_fitted_to_the_real_channel_decides():
    rows = [separation_row(split_by="least_squares", ap_all=0.6, ap_all_real_target=0.55, ap_all_weights_permuted=0.1)]
    leading = headline(rows)
    assert "(permuted weights fitted to the real channel)" in leading.count
    assert "0.550 for the null; gain over the null +0.050" in leading.precision


def test_what_is_not_measured_is_left_out_of_the_summary_and_named():
    rows = random_separation_rows(
        channels=2,
        q_irrelevant=np.nan,
        **{f"{measure}_all_real_target": np.nan for measure in ("ap", "pearson", "auroc")},
    )
    rows[1] |= {**dict.fromkeys(VALUES, np.nan), "images": 0}
    for number, one in enumerate(rows):
        one["irrelevant_there"] = 12 + number
    text = summary(separation(rows=rows, irrelevant=200))
    assert "permuted weights, fitted" not in text and "channels q < 0.05" not in text and "nan" not in text
    assert text.count("95 %") == text.count("(no 95 % interval: 2 channels, fewer than 5)") == 1
    assert "- without validation images: name 2 (channel 0)" in text and "9 of 12 to 15 irrelevant channels at" in text
    assert text.count("too few channels for an interval") == 1
    assert "permuted weights, fitted" not in markdown(rows) and "| 0       | 2 name 2 | 0      | -" in markdown(rows)


def test_the_markdown_begins_with_the_headlines_and_explains_them_above_all_rows():
    text = document(
        [separation(rows=random_separation_rows()), separation("other", rows=[separation_row("net_channel9_1_2")])]
    )
    places = ("### net_pairs", "concepts stand above", "### other", "The first line counts", "| channel |")
    assert sorted(places, key=text.index) == list(places)
    assert '("others") is no evidence of its own' in text and WHY_AP in text
    assert sum(line.startswith("| ") and line[2].isdigit() for line in text.split("\n")) == 13


def test_tables_are_made_of_all_separations_and_stale_splits_are_named(tmp_path, capsys):
    one, other = separation(), separation("other", rows=[separation_row("net_channel9_1_2")])
    separations = separations_of(tmp_path, with_splits(tmp_path, one), with_splits(tmp_path, other))
    paths = write_separation_tables(separations)
    assert [path.name for path in paths] == ["separation.csv", "separation.md", "separation.tex"]
    assert rows_of(paths[2].read_text()) == [["3", "1 name 1"], ["3", "2 name 2"], ["9", "1 name 1"]]
    assert len(paths[0].read_text().splitlines()) == 4
    with_splits(tmp_path, separation("other", rows=[separation_row("net_channel9_1_2")]), seed=1)
    write_separation_tables(separations)
    assert len(paths[0].read_text().splitlines()) == 3
    print_separation(one, separations)
    printed = capsys.readouterr()
    assert "warning: 1 split left out, changed since: measure again (net_channel9_1_2)" in printed.err
    assert "### net_pairs" in printed.out and "weights shuffled" in printed.out


def rows_of(text):
    """The first two cells of each row of a LaTeX table."""
    lines = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().split("\n")
    return [line.split(" & ")[:2] for line in lines]


def test_many_rows_are_printed_in_part(tmp_path, capsys):
    print_separation(separation(rows=random_separation_rows(channels=21)), separations_of(tmp_path))
    out = capsys.readouterr().out
    assert "... 2 more in " in out and out.count("| 1 name 1") == 20
    assert "AUROC, others: only against images of the channel's other concepts" in out


def test_the_leading_columns_compare_with_the_primary_null(tmp_path, capsys):
    nulls = {"ap_all_weights_permuted": 0.2, "ap_all_real_target": 0.4}
    rows = [
        separation_row(null_reached=3, null_draws=7, p_null=3 / 7, **nulls),
        separation_row(concept=2, split_by="least_squares", **nulls),
        separation_row(concept=3, null_draws=0, p_null=np.nan, **nulls),
    ]
    head, _, *lines = markdown(rows, LEADING).split("\n")
    cells = [
        dict(zip(*([cell.strip() for cell in line.split("|")] for line in (head, row)), strict=True)) for row in lines
    ]
    assert [row["AP null"] for row in cells] == ["0.200", "0.400", "0.200"]
    assert [row["reached by"] for row in cells] == ["3 of 7", "0 of 199", "-"]
    assert cells[0]["p"] == "0.429" and cells[2]["p"] == "-" and "p irrelevant" in cells[0]
    names = ["AP original", "AP", "AP null", "Pearson", "AUROC"]
    assert [name for name in cells[0] if name.startswith(("AP", "Pearson", "AUROC")) and name != "AP probe"] == names
    others = markdown(rows).split("\n")[0]
    assert others.index("Pearson original") < others.index("AUROC original") and "Pearson original" not in head
    assert "AP permuted weights" not in head and "AP permuted weights" in markdown(rows)
    assert r"\shortstack[r]{reached \\ by}" in latex([separation(rows=rows)])
    print_separation(separation(), separations_of(tmp_path))
    printed = capsys.readouterr().out
    assert "reached by: number of draws of the primary null" in printed
    assert "draws of a concept end when 3 reach it, or at 199\n" in printed
    assert "misclassified ones included (whatever --only_correct)" in printed


def test_each_null_that_is_shown_is_explained_and_the_deciding_one_named():
    nulls = {"ap_all_weights_permuted": 0.2, "ap_all_real_target": 0.4, "ap_all_owners_permuted": np.nan}
    decides = "; the primary null: what it reaches is due to choosing inputs alone"
    shuffled = "permuted weights: the same rule on the channel's weights shuffled over its inputs"
    fitted = "permuted weights, fitted: shares of shuffled weights, fitted so that the new channels give the real"
    first, second = meanings_of_nulls([separation_row(split_by="least_squares", **nulls)])
    assert first == shuffled and second.startswith(fitted) and second.endswith(decides)
    (only,) = meanings_of_nulls([separation_row(**{**nulls, "ap_all_real_target": np.nan})])
    assert only == shuffled + decides
    owners = {**nulls, "ap_all_owners_permuted": 0.1}
    assert meanings_of_nulls([separation_row(**owners)])[0].startswith(
        "owners permuted: the split's own shares of inputs,"
    )


def test_splits_made_in_several_ways_are_told_apart_in_a_table():
    rows = [separation_row(), separation_row("net_channel3_1_2_least_squares", split_by="least_squares")]
    head, _, *lines = markdown(rows).split("\n")
    assert head.startswith("| channel | concept  | split by      | images |")
    assert [line.split("|")[3].strip() for line in lines] == ["arv", "least squares"]
    assert "split by" not in markdown(rows[:1])


def test_the_figure_has_a_dot_a_concept_a_cloud_of_draws_and_a_line_of_each_reference(tmp_path):
    rows = random_separation_rows(auroc_all_real_target=np.nan, ap_all_real_target=np.nan)
    rows[0] |= dict.fromkeys(VALUES, np.nan)
    figure = separation_figure(separation(rows=rows))
    cloud, lines = figure.axes
    draws, dots = cloud.lines[:2]
    assert len(dots.get_xdata()) == 11 and len(draws.get_xdata()) == 22
    np.testing.assert_array_equal(dots.get_ydata(), [one["ap_all"] for one in rows[1:]])
    leading = headline(rows[1:])
    title = " ".join(figure.texts[0].get_text().split())
    assert title == f"{leading.count} {leading.precision}"
    labels = [text.get_text() for text in lines.get_legend().get_texts()]
    assert len(labels) == 7 and f"new channel {np.mean([one['ap_all'] for one in rows[1:]]):.2f}" in labels
    assert write_figure(tmp_path / "x", figure).is_file() and (tmp_path / "x.pdf").is_file()


@pytest.mark.parametrize("sheet", [Sheet(), Sheet("column"), Sheet("text")], ids=["screen", "column", "text"])
def test_the_headline_of_the_figure_is_whole(sheet):
    rows = random_separation_rows(auroc_all_real_target=np.nan, ap_all_real_target=np.nan)
    leading = headline(rows)
    title = " ".join(separation_figure(separation(rows=rows), sheet).texts[0].get_text().split())
    assert "95 % interval" in leading.precision and title == f"{leading.count} {leading.precision}"


def test_no_figure_where_nothing_could_be_measured(tmp_path):
    rows = random_separation_rows(channels=1)
    for one in rows:
        one |= dict.fromkeys(VALUES, np.nan)
    assert write_separation_figure(tmp_path, separation(rows=rows)) == []
    assert "nan" not in summary(separation(rows=rows))


def test_irrelevant_channels_that_were_not_measured_are_named_and_leave_no_columns():
    rows = random_separation_rows(
        p_irrelevant=np.nan, q_irrelevant=np.nan, ap_all_irrelevant=np.nan, auroc_all_irrelevant=np.nan
    )
    for row in rows:
        row |= {"irrelevant": 0, "irrelevant_there": 0, "split_by": "least_squares"}
    text = summary(separation(rows=rows, irrelevant={"least_squares": 0}))
    assert "irrelevant channels not measured:" in text and "| irrelevant channels |" not in text
    assert "- irrelevant channels: not measured (--irrelevant_channels all or a number)" in text and "nan" not in text
    header = markdown(rows).splitlines()[0]
    assert "| p " in header and "| p irrelevant " not in header and "| q irrelevant " not in header


def test_of_several_ways_the_irrelevant_channels_of_one_are_told():
    rows = random_separation_rows(channels=2)
    rows[0] |= {"irrelevant": 0, "irrelevant_there": 0, "p_irrelevant": np.nan, "q_irrelevant": np.nan}
    for row in rows[1:]:
        row |= {"irrelevant": 50, "irrelevant_there": 1900, "q_irrelevant": np.nan, "p_irrelevant": 1 / 51}
    text = summary(separation(rows=rows))
    assert "50 of 1900 irrelevant channels at tau" in text
    assert "- against irrelevant channels p < 0.05: 3 of 3 concepts" in text
    assert "- irrelevant channels are a sample: no p of theirs is below 0.02, and there is no q" in text


def test_with_few_draws_the_headline_says_that_few_concepts_can_pass():
    """As many concepts of 100 as just do not pass, and one more, at the least p of 20 draws."""
    least = 1 / 21
    rows = [separation_row(p_null=least, most_draws=20) for _ in range(95)]
    others = [separation_row(p_null=1.0, most_draws=20) for _ in range(5)]
    assert headline(judged_together([*rows, *others])).above == 0
    assert headline(judged_together([*rows, rows[0], *others[1:]])).above == 96
    leading = headline(rows)
    assert leading.caution == (
        "With 20 draws the smallest p is 0.048, so few concepts can pass at q < 0.05: more than 95% of those "
        "measured together must have that p (--draws 199)"
    )
    few = separation(rows=rows, draws=20)
    assert f"\n{leading.caution}\n" in summary(few)
    assert leading.caution in verdict(2, True, True, rows).text
    assert headline([separation_row(most_draws=199)]).caution == ""
    assert "few concepts can pass" not in summary(separation())


def test_the_way_to_the_probe_is_a_ratio_of_means_with_its_interval():
    rows = random_separation_rows(q_null=0.5)
    nulls, probes = (np.array([row[name] for row in rows]) for name in ("ap_all_weights_permuted", "ap_all_probe"))
    for row, probe in zip(rows, probes + 1, strict=True):
        row["ap_all_probe"] = probe
    new = np.array([row["ap_all"] for row in rows])
    channels = [row["channel"] for row in rows]
    mean, low, high = ratio_with_interval(new - nulls, probes + 1 - nulls, channels)
    assert mean == pytest.approx((new - nulls).sum() / (probes + 1 - nulls).sum())
    expected = f"That is {mean:.0%} (95 % interval {low:.0%} to {high:.0%}) of the way from the null to a linear probe"
    assert expected in summary(separation(rows=rows))
    for row in rows:
        row["ap_all_probe"] = -1.0  # below the null, the share would mean nothing
    assert "of the way" not in summary(separation(rows=rows))


def test_concepts_without_another_grouping_are_counted():
    rows = random_separation_rows()
    for row in rows[2:]:
        row["ap_all_random_groups"] = np.nan
    text = summary(separation(rows=rows))
    assert "- classes grouped otherwise: 2 of 12 concepts; others have no other grouping" in text
    assert re.search(r"\| classes grouped otherwise \| 0\.\d{3} \| - \| - \| - \|", text)
