"""Separations: one file each, of splits as they are, without NaN in JSON."""

import json
from math import nan

import pytest

from tests.entries import separation, separation_row, separations_of, with_splits
from utils.errors import UserError
from utils.store.files import write_json
from utils.store.separations import MeasuredRows, Separations, newest_rows


def test_a_separation_is_read_as_it_was_and_nothing_in_its_file_is_nan(tmp_path):
    given = with_splits(tmp_path, separation())
    separations = separations_of(tmp_path, given)
    path = tmp_path / "out/results_quantitative/separation/net_pairs.json"

    def refuse(constant):
        raise AssertionError(constant)

    json.loads(path.read_text(), parse_constant=refuse)
    (found,) = separations.read_all()
    assert found.pop("format") == Separations.version
    assert found["evaluation"] > given["evaluation"]
    assert str({**found, "evaluation": 1}) == str(given)  # nan equals nan
    assert separations.stale == separations.unchecked == []


def test_what_is_there_and_equal_is_found(tmp_path):
    given = separation()
    separations = separations_of(tmp_path, given)
    known = {name: value for name, value in given.items() if name not in ("rows", "images", "evaluation")}
    assert separations.find(known)["images"] == 400
    assert separations.find({**known, "irrelevant": 200}) is None
    assert separations.find({**known, "name": "other"}) is None
    separations.path({"name": "net_pairs"}).write_text("{")
    assert separations.find(known) is None


def test_rows_of_a_split_that_has_changed_are_left_out_and_named(tmp_path):
    rows = [separation_row("net_channel3_1_2"), separation_row("net_channel4_1_2")]
    separations = separations_of(tmp_path, with_splits(tmp_path, separation(rows=rows)))
    with_splits(tmp_path, separation(rows=rows[1:]), seed=1)
    assert [one["split"] for one in separations.read_all()[0]["rows"]] == ["net_channel3_1_2"]
    assert separations.stale == ["net_channel4_1_2"]
    with_splits(tmp_path, separation(rows=rows[:1]), seed=1)
    assert separations.read_all() == []
    (tmp_path / "models/net_channel4_1_2.pt").unlink()
    assert [one["split"] for one in separations.read_all()[0]["rows"]] == ["net_channel4_1_2"]
    assert separations.unchecked == ["net_channel4_1_2"]


def test_a_split_of_several_separations_counts_where_most_others_are_then_where_it_is_newest(tmp_path):
    three, four = separation_row("net_channel3_1_2"), separation_row("net_channel4_1_2")
    separations = separations_of(
        tmp_path, separation("all", [three, four]), separation("single", [three]), separation("newer", [four, three])
    )
    found = [(one["name"], of["split"]) for one, of in newest_rows(separations.read_all())]
    assert found == [("newer", "net_channel4_1_2"), ("newer", "net_channel3_1_2")]
    separations.write(separation("all", [three, four]))
    assert {one["name"] for one, _ in newest_rows(separations.read_all())} == {"all"}


def test_size_decides_among_equal_settings_alone_and_else_the_newest_counts(tmp_path):
    three, four = separation_row("net_channel3_1_2"), separation_row("net_channel4_1_2")

    def counts(**changes):
        other = separation("single", [three], **changes)
        newest = separations_of(tmp_path, separation("all", [three, four]), other)
        return {row["split"]: one["name"] for one, row in newest_rows(newest.read_all())}

    both = {"net_channel3_1_2": "all", "net_channel4_1_2": "all"}
    assert counts() == both
    for changes in (
        *({"validation_sha256": "x"}, {"training_sha256": "x"}, {"splits": {three["split"]: ["", 0.5, 0.03, 0.75]}}),
        *({"splits": {three["split"]: ["", 0.9, 0.1, 0.75]}}, {"splits": {three["split"]: ["", 0.9, 0.03, 0.5]}}),
    ):
        assert counts(**changes) == {**both, "net_channel3_1_2": "single"}


def test_what_is_asked_for_again_counts_again_where_another_rho_was_newer(tmp_path):
    separations = separations_of(tmp_path, separation("first"), separation("other_rho", [separation_row(rho=0.5)]))
    first = next(one for one in separations.read_all() if one["name"] == "first")

    def rhos():
        return {one["name"] for one, _ in newest_rows(separations.read_all())}

    assert rhos() == {"other_rho"}
    separations.make_newest(first)
    assert rhos() == {"first"}
    before = separations.state()
    separations.make_newest(first)
    separations.write(separation("same", [separation_row(), separation_row(concept=2)]))
    separations.make_newest(first)  # the newer one has the same rho and setting
    assert [one for one in separations.state() if one[0] == "first.json"] == before[:1]


def test_other_weights_under_one_name_are_refused(tmp_path):
    separations = separations_of(tmp_path, separation())
    separations.check("net", "00")
    separations.check("other", "01")
    with pytest.raises(UserError, match="holds results of net with other weights: use another --output_dir"):
        separations.check("net", "01")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"format": 0}, "is of another version of this program"),
        ({"name": "other"}, "it is the separation of other"),
        ({"rows": [{}]}, "is damaged"),
    ],
)
def test_what_cannot_be_a_separation_is_refused_and_named(tmp_path, changes, message):
    separations = Separations(tmp_path, tmp_path)
    content = {"format": Separations.version, **separation(), "evaluation": 1, **changes}
    write_json(separations.path({"name": "net_pairs"}), content)
    with pytest.raises(
        UserError, match=rf"net_pairs.json.*{message}.*delete it and run get_results.py --get_separation"
    ):
        separations.read_all()


@pytest.fixture
def two_measured(tmp_path):
    """(the fields that are known before two splits are measured, the rows of each, Separations)."""
    rows = [separation_row(f"net_channel{channel}_1_2", ap_all=nan) for channel in (3, 4)]
    given = separation(rows=rows)
    described = {name: value for name, value in given.items() if name not in ("rows", "images", "evaluation")}
    return described, {row["split"]: [row] for row in rows}, separations_of(tmp_path)


def test_rows_that_were_kept_are_found_until_they_are_removed(two_measured):
    described, rows, separations = two_measured
    first, second = rows
    measured = MeasuredRows(separations, described)
    assert measured.find(first) is None
    measured.keep(first, rows[first])
    again = MeasuredRows(separations, described)
    assert str(again.find(first)) == str(again.require(first)) == str(rows[first])  # nan equals nan
    assert again.find(second) is None
    assert separations.paths() == []  # no separation yet
    again.remove()
    assert MeasuredRows(separations, described).find(first) is None


@pytest.mark.parametrize("changed", [{"validation_sha256": "2"}, {"irrelevant": {"arv": 50}}, {"draws": 20}, "rho"])
def test_rows_of_other_images_or_settings_are_not_taken(two_measured, changed):
    described, rows, separations = two_measured
    (split, *_) = rows
    MeasuredRows(separations, described).keep(split, rows[split])
    separations.write({**described, "images": 400, "rows": [row for of_split in rows.values() for row in of_split]})
    other = {**described, **changed} if changed != "rho" else described
    if changed == "rho":
        other = {**described, "splits": {**described["splits"], split: ["no digest", 0.5, 0.03, 0.75]}}
    assert MeasuredRows(separations, other).find(split) is None


def test_an_earlier_separation_with_other_splits_has_the_rows_of_those_it_shares(two_measured):
    described, rows, separations = two_measured
    first, second = rows
    separations.write({**described, "images": 400, "rows": rows[first] + rows[second]})
    fewer = {**described, "splits": {first: described["splits"][first]}}
    more = {**described, "splits": {**described["splits"], "net_channel5_1_2": ["no digest", 0.9, 0.03, 0.75]}}
    for changed in (fewer, more):
        assert str(MeasuredRows(separations, changed).find(first)) == str(rows[first])
    assert MeasuredRows(separations, more).find("net_channel5_1_2") is None


def test_a_separation_of_more_draws_is_kept_and_one_line_says_so(two_measured, capsys):
    described, rows, separations = two_measured
    (first, *_) = rows
    separations.write({**described, "images": 400, "rows": [row for of_split in rows.values() for row in of_split]})
    fewer = {**described, "draws": 20, "splits": {first: described["splits"][first]}}
    assert separations.with_stored_draws(fewer)["draws"] == 199
    path = separations.path(described)
    assert capsys.readouterr().out == f"199 draws are stored: kept ({path}; delete it to have 20)\n"
    for draws in (199, 999):  # not fewer than the stored ones
        assert separations.with_stored_draws({**described, "draws": draws})["draws"] == draws
    assert separations.with_stored_draws({**fewer, "name": "other"})["draws"] == 20
    assert not capsys.readouterr().out
    other_images = {**fewer, "validation_sha256": "2"}
    assert separations.with_stored_draws(other_images) == other_images
    replaced = f"{path}, of 199 draws, was measured with other settings or images: it is replaced\n"
    assert capsys.readouterr().out == replaced
