"""The quantitative summary: from stored rows, in whatever order the pairs came, without a network or images."""

import csv
import io
import itertools
import json

import numpy as np
import pytest

from tests import factories
from tests.entries import measured_images, pair_result, result_of_three
from tests.oracles import load
from tests.scripts import (
    CHANNEL,
    COMPUTE,
    PAIR,
    RUN,
    SMALL_IMAGES,
    contents,
    messages,
    run_script,
    stage3,
    stage4,
    succeed,
)
from tests.with_toys import registered
from utils.method.evaluation import auroc, separation
from utils.report import result_tables as summary
from utils.report.result_files import print_summary, write_tables
from utils.store.results import Results

NEEDED = ("original", "sums", "included")
TAU = ("--proportion_attribution_required", "0.0001")


def markdown(*results):
    """The Markdown of results that belong into one table."""
    (one,) = summary.result_groups(results)
    return summary.markdown(one)


def overall_rows(results):
    return summary.overall_rows(results, [summary.result_rows(one) for one in results])


def table(text):
    """The cells of a Markdown table, a list a row."""
    lines = [line for line in text.split("\n") if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_the_table_of_a_pair_equals_a_computation_by_hand():
    one = pair_result(3)
    header, *rows = table(markdown(one))
    assert header[:5] == ["channel", "concept", "cosine", "rho", "included"]
    assert len(rows) == 4
    both = [np.array(part["sums"]) for part in one["images"]]
    for k, (part, row) in enumerate(zip(one["images"], rows, strict=False)):
        sums, original, included = (np.array(part[name]) for name in ("sums", "original", "included"))
        counted = included & (original > 0)
        fractions = sums[counted] / original[counted, None]
        assert row[:4] == ["3", f"name {k + 1}", "0.25", "0.95"]
        assert row[4].startswith(f"{included.sum()} of {6 + k}")
        for column in range(3):
            values = fractions[:, column]
            assert row[5 + column] == f"{values.mean():.2f} ± {values.std(ddof=1):.2f} ({np.median(values):.2f})"
        area = auroc(both[k][:, k], both[1 - k][:, k])
        original_area = auroc(one["images"][0]["original"], one["images"][1]["original"])
        assert row[8] == summary.verdict(summary.summarise(**{name: one["images"][k][name] for name in NEEDED}), k)
        assert row[9] == f"{area:.2f} / {max(original_area, 1 - original_area):.2f}"
        correct = np.mean(
            [t == p for part in one["images"] for t, p in zip(part["targets"], part["predictions"], strict=True)]
        )
        assert row[10] == f"{correct:.3f}"


def test_results_that_a_way_keeps_apart_have_files_and_headings_of_their_own(tmp_path):
    results = Results(tmp_path, tmp_path)
    for channel, sharpness in ((3, 3.0), (4, 5.0)):
        way = {"split_by": "softmax", "division": {"sharpness": sharpness}, "rho": None}
        found_by = {"from": "classes", "sharpness": sharpness}
        results.write(pair_result(channel, **way, found_by=found_by))
    with registered():
        tables = write_tables(results)
        assert len({summary.heading(one) for one in tables.groups}) == 2
    assert len([path for path in tables.paths if path.suffix == ".txt"]) == 4  # of each concept of each result


def test_images_without_positive_activation_are_named_and_not_counted():
    one = pair_result(3)
    one["images"][0] |= {"included": [True] * 6, "original": [-1.0, 2.0, 0.0, 2.0, 2.0, 2.0]}
    assert table(markdown(one))[1][4] == "6 of 6, 2 not counted"


def test_a_concept_without_a_measured_image_and_one_with_a_single_image_have_a_row():
    one = pair_result(3)
    one["images"][0]["included"] = [False] * 6
    one["images"][1] |= {"included": [True] + [False] * 6, "original": [2.0] * 7}
    _, first, second, *_ = table(markdown(one))
    assert first[5:8] == ["–"] * 3
    assert "nan" not in "".join(second) and "±" not in second[5]


def test_the_original_channels_area_is_of_its_better_direction():
    originals = [np.array([1.0, 2.0]), np.array([3.0, 4.0])]
    sums = [np.array([[5.0, 0, 0], [6.0, 0, 0]]), np.array([[1.0, 1, 0], [5.0, 2, 0]])]
    assert separation(originals, sums) == [(0.875, 1.0), (1.0, 1.0)]


def test_three_concepts_are_told_from_the_two_others_together():
    one = result_of_three(4)
    sums = [np.array(part["sums"]) for part in one["images"]]
    areas = separation([np.array(part["original"]) for part in one["images"]], sums)
    for k in range(3):
        wins = [
            (own > other) + 0.5 * (own == other)
            for own in sums[k][:, k]
            for other in itertools.chain(*(sums[j][:, k] for j in range(3) if j != k))
        ]
        assert areas[k][0] == pytest.approx(np.mean(wins))
    _, *rows = table(markdown(one))
    assert [row[2] for row in rows] == ["0.30", "0.20", "0.30"] * 2  # of the closest other concept
    assert len(rows[0]) == 5 + 4 + 3


def test_all_pairs_pool_images_and_average_areas():
    pairs = [pair_result(3), pair_result(5, cosines=((1, 0.5), (0.5, 1)))]
    overall = table(markdown(*pairs))[-2:]
    rows = [summary.result_rows(one) for one in pairs]
    for k in (0, 1):
        parts = [one["images"][k] for one in pairs]
        original, sums, included = (
            np.concatenate([np.array(part[name]) for part in parts]) for name in ("original", "sums", "included")
        )
        counted = included & (original > 0)
        values = sums[counted, k] / original[counted]
        assert overall[k][:2] == ["all 2", f"concept {k + 1}"]
        assert overall[k][5 + k] == f"{values.mean():.2f} ± {values.std(ddof=1):.2f} ({np.median(values):.2f})"
        mean = np.mean([of_pair[k].aurocs for of_pair in rows], axis=0)
        assert overall[k][9] == f"{mean[0]:.2f} / {mean[1]:.2f}"
        assert overall[k][8] == f"{sum(of_pair[k].clean.startswith('yes') for of_pair in rows)} of 2"
        assert float(overall[k][2]) == pytest.approx(0.375, abs=0.006)


def test_pairs_in_any_order_make_one_document_with_a_table_for_each_network_tau_and_k():
    pairs = [
        pair_result(12),
        pair_result(3),
        result_of_three(3),
        pair_result(3, run="other"),
        pair_result(3, tau=0.1),
        pair_result(3, ((1,), (7,))),
    ]
    tables = summary.result_groups(pairs)
    document, comma_separated = summary.document(tables), summary.comma_separated(tables)
    for order in ([5, 4, 3, 2, 1, 0], [2, 0, 5, 1, 3, 4]):
        tables = summary.result_groups([pairs[i] for i in order])
        assert summary.document(tables) == document
        assert summary.comma_separated(tables) == comma_separated
    assert document.count("### ") == 4
    channels = [row[0] for row in table(document.split("### ")[1]) if row[0].isdecimal()]
    assert channels == ["3", "3", "3", "3", "12", "12"]


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16"},
        {"decoding": "fast"},
        {"transform": {"crop_size": 24, "mean": [0.4, 0.5, 0.5]}},
        {"validation": {"folder 3 1": "another digest", "folder 5 2": "digest"}},
        {"tau": 0.1},
        {"run": "other"},
    ],
    ids=str,
)
def test_what_was_measured_otherwise_or_on_other_images_is_never_in_one_table(changes):
    one, alike, other = pair_result(3), pair_result(4), pair_result(5, **changes)
    for order in itertools.permutations([one, alike, other]):
        tables = summary.result_groups(order)
        assert sorted([result["channel"] for result in one.results] for one in tables) == [[3, 4], [5]]
        assert all(row[0] in ("all 1", "all 2") for row in table(summary.document(tables)) if row[0].startswith("all"))
        assert len({summary.heading(one) for one in tables}) == (
            1 if changes.keys() & {"validation", "transform"} else 2
        )


def test_all_results_of_one_table_agree_in_every_class_folder():
    """The second agrees with the first, which has none of its folders, but the third with only one of them."""
    folders = [{"a": "1"}, {"b": "1"}, {"a": "1", "b": "2"}, {"a": "2", "b": "1"}, {"a": "1", "b": "1"}]
    results = [pair_result(channel, validation=validation) for channel, validation in enumerate(folders)]
    tables = summary.result_groups(results)
    assert [[result["channel"] for result in one.results] for one in tables] == [[0, 1, 4], [2], [3]]


def test_an_image_of_several_results_counts_once_in_the_top_1_of_all():
    shared, own = measured_images(1, 6), measured_images(2, 4)
    shared["predictions"], own["predictions"] = [1] * 6, [0] * 4
    one = pair_result(3, images=[shared, own])
    other = pair_result(4, images=[shared, measured_images(5, 10) | {"predictions": [5] * 10}])
    assert [row.top1 for row in overall_rows([one, other])] == [16 / 20] * 2
    assert [row.top1 for row in overall_rows([one])] == [6 / 10] * 2
    assert table(markdown(one, other))[-1][10] == "0.800"


def test_only_the_results_that_are_asked_for_have_rows_of_their_own():
    results = [pair_result(3), pair_result(4), pair_result(5)]
    (one,) = summary.result_groups(results)
    rows = table(summary.markdown(one, {(results[1]["split"], 0.95), (results[2]["split"], 0.5)}))
    assert [row[0] for row in rows[1:]] == ["4", "4", "all 3", "all 3"]


def test_the_csv_has_all_numbers_of_the_table():
    pairs = [pair_result(3), result_of_three(4)]
    text = summary.comma_separated(summary.result_groups(pairs))
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == (2 + 2) + (3 + 3)
    for row, expected in zip(rows, [*summary.result_rows(pairs[0]), *overall_rows(pairs[:1])], strict=False):
        for column, name in enumerate(("c1", "c2", "residual")):
            for statistic in ("mean", "std", "median"):
                value = getattr(expected.summary, statistic)[column]
                assert float(row[f"{name}_{statistic}"]) == pytest.approx(value, rel=1e-5)
        assert row["c3_mean"] == ""
        assert int(row["counted"]) == expected.summary.counted
        assert float(row["auroc"]) == pytest.approx(expected.aurocs[0], rel=1e-5)
        assert float(row["auroc_original"]) == pytest.approx(expected.aurocs[1], rel=1e-5)
        assert float(row["top1"]) == pytest.approx(expected.top1, rel=1e-5)
        assert (row["precision"], row["decoding"]) == ("fp32", "pil")
    assert [row["channel"] for row in rows] == ["3", "3", "", "", "4", "4", "4", "", "", ""]
    assert rows[6]["classes"] == "3 4"
    assert "nan" not in text


def test_a_name_cannot_break_the_table():
    one = pair_result(3, concept_names=["a|b", "n" * 60])
    header, first, second, *_ = [line.replace("\\|", "") for line in markdown(one).split("\n") if "--" not in line]
    assert header.count("|") == first.count("|") == second.count("|")
    assert "n" * 41 not in second


def test_stage4_measures_what_the_summary_needs(copy):
    out = stage4("data", "store", "--get_quantitative", *TAU, cwd=copy)
    (path,) = (copy / "results_quantitative" / "pairs").iterdir()
    stored = json.loads(path.read_text())
    pixels, targets = load(copy, "val")
    network = factories.small()
    predictions = network(pixels).argmax(1)
    for k, target in enumerate((1, 3)):
        part = stored["images"][k]
        assert part["predictions"] == predictions[targets == target].tolist()
        assert part["targets"] == [target] * 4
    assert stored["cosines"][0][1] == stored["cosines"][1][0] == pytest.approx(0.04, abs=0.01)
    _, *rows = table(out)
    assert [row[0] for row in rows] == [str(CHANNEL)] * 2 + ["all 1"] * 2
    written = (copy / "results_quantitative" / "summary.md").read_text()
    assert table(written) == table(out)


def test_the_summary_needs_neither_network_nor_images(copy, tmp_path):
    stage4("data", "store", "--get_quantitative", *TAU, cwd=copy)
    stage3("data", "store", channel=4, cwd=copy)
    stage4("data", "store", "--get_quantitative", *TAU, channel=4, cwd=copy)
    before = contents(copy / "results_quantitative")
    for name in ("summary.csv", "summary.md"):
        (copy / "results_quantitative" / name).unlink()
    out = succeed("get_results.py", "--summary", "--output_dir", copy, cwd=tmp_path)
    assert contents(copy / "results_quantitative") == before
    assert out.startswith(before["summary.md"].decode())
    assert f"### {RUN}, layer last, tau 0.0001" in out
    assert [row[0] for row in table(out)[1:]] == ["4", "4", "9", "9", "all 2", "all 2"]


def test_the_summary_of_all_pairs_follows_an_evaluation_where_asked_for(copy):
    out = stage4("data", "store", "--get_qualitative", "--get_quantitative", "--summary", *TAU, cwd=copy)
    assert f"### {RUN}, layer last, tau 0.0001" in out


def refused(*arguments, cwd):
    result = run_script("get_results.py", *arguments, cwd=cwd)
    assert result.returncode == 2
    assert len(messages(result.stderr)) == 1
    return result.stderr


def test_a_summary_of_nothing_says_what_to_do(tmp_path):
    message = refused("--summary", cwd=tmp_path)
    assert "results_quantitative (if elsewhere, give --output_dir): run get_results.py --get_quantitative" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flags", [("--get_channel_card",), PAIR, ("--model", "m"), ("--rho", "0.5")])
def test_flags_that_a_summary_alone_would_ignore_are_refused(tmp_path, flags):
    assert f"{flags[0]} has no effect with --summary alone" in refused("--summary", *flags, cwd=tmp_path)


@pytest.mark.parametrize(("what", "image"), [("--get_quantitative", "bee/0.png"), ("--get_channel_card", "ant/0.png")])
def test_an_image_that_gives_nan_is_named_and_nothing_is_stored(copy, what, image):
    """A split of a network that gives NaN only in batches of three images, which stage 4 alone asks for here.

    The card searches all validation images, the fractions those of the concepts.
    """
    model = ("--model", "tests.factories:nan_in_batches_of_three", "--store_dir", "nan", "--data_dir", "data", *COMPUTE)
    for script, flags in (
        ("get_importances_for_classes.py", (*SMALL_IMAGES, "--batch_size", "4")),
        ("get_cosine_similarities.py", None),
        ("disentangle_channel.py", ("--channel_disentangle", CHANNEL, *PAIR, "--batch_size", "6")),
    ):
        succeed(script, *(model[:4] if flags is None else (*model, *flags)), cwd=copy)
    asked = ("--channel_of_interest", CHANNEL, *PAIR, "--batch_size", "3", what)
    message = refused(*model, *asked, cwd=copy)
    assert f"the network gives NaN or infinite values for data/val/{image}: it cannot be measured" in message
    assert not (copy / "results_quantitative").exists()


def test_only_parts_of_the_pair_may_be_missing_when_all_of_it_is(tmp_path):
    assert "--channel_of_interest must be given" in refused("--model", "m", *PAIR, cwd=tmp_path)


def test_a_concept_without_images_is_a_row_without_values(tmp_path):
    # of sets of training images some have no validation image
    whole, empty = pair_result(3), pair_result(4)
    empty["images"][1] = {name: [] for name in empty["images"][1]}
    both = summary.result_groups([whole, empty])[0]
    header, *rows = table(summary.markdown(both))
    of_empty = dict(zip(header, rows[3], strict=True))
    assert of_empty["channel"] == "4" and of_empty["included"] == "0 of 0"
    assert of_empty["clean"] == "no: no image" and of_empty["AUROC c'_k / c"] == "– / –"
    alone = summary.result_groups([whole])[0]
    assert rows[5][5:8] == table(summary.markdown(alone))[-1][5:8]  # fractions and areas are those of the other channel
    np.testing.assert_allclose(both.overall[1].aurocs, alone.rows[0][1].aurocs)


def test_a_result_without_an_included_image_is_named_and_in_no_table(tmp_path, capsys):
    results = Results(tmp_path, tmp_path)
    empty = pair_result(4)
    for of_concept in empty["images"]:
        of_concept["included"] = [False] * len(of_concept["included"])
    for entry in (pair_result(3), empty):
        results.write(entry)
    print_summary(results)
    out, err = capsys.readouterr()
    name = results.path(empty).name
    assert [row[0] for row in table(out)[1:]] == ["3", "3", "all 1", "all 1"]
    assert f"{summary.WITHOUT_INCLUSION}: {name}\n" in (tmp_path / "results_quantitative" / "summary.md").read_text()
    assert f"1 result left out, no image has a relative attribution of tau: measure at a lower one ({name})" in err
    rows = list(csv.DictReader((tmp_path / "results_quantitative" / "summary.csv").open()))
    assert {row["channel"] for row in rows} == {"3", ""}
    # what the summary says of how to take a result out
    assert summary.TO_DELETE in out
    assert "has no null" in out and "A concept may pass one and fail the other." in out
    (tmp_path / "results_quantitative" / "pairs" / name).unlink()
    print_summary(results)
    assert name not in capsys.readouterr().out


def test_where_no_result_has_an_included_image_the_files_have_no_table(tmp_path):
    results = Results(tmp_path, tmp_path)
    empty = pair_result(4)
    for of_concept in empty["images"]:
        of_concept["included"] = [False] * len(of_concept["included"])
    results.write(empty)
    written = write_tables(results)
    assert written.groups == [] and written.left_out == [results.path(empty).name]
    assert [path.name for path in written.paths] == ["summary.csv", "summary.md", "summary.tex"]
