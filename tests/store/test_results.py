"""Results: one file each, of splits as they are, and tables that miss none."""

import os

import pytest
from torch import nn

from tests.entries import pair_result, result_of_three
from tests.scripts import messages, run_script
from tests.stores import split_file
from utils.errors import UserError
from utils.report import result_files, result_tables
from utils.store import splits
from utils.store.files import write_json
from utils.store.results import Results
from utils.store.splits import write_split


def results_of(folder):
    return Results(folder / "out", folder / "models")


def with_split(folder, result):
    """Write the split that a result is of; the result with its digest."""
    file = split_file(nn.Conv2d(2, 20, 1), result["channel"], num_channels=20)
    write_split(folder / "models" / f"{result['split']}.pt", file)
    return {**result, "split_sha256": file.sha256}


def write(folder, *given):
    results = results_of(folder)
    for result in given:
        results.write(result)
    return results


def without_time(result):
    return {name: value for name, value in result.items() if name not in ("evaluation", "format")}


def test_results_are_read_as_they_were_and_named_after_split_rho_and_tau(tmp_path):
    given = [with_split(tmp_path, pair_result(3)), with_split(tmp_path, result_of_three(4))]
    results = write(tmp_path, *given)
    assert sorted(path.name for path in (tmp_path / "out/results_quantitative/pairs").iterdir()) == [
        *("net_channel3_1_2_rho0.95_required0.03.json", "net_channel4_1_2_3-4_rho0.95_required0.03.json")
    ]
    assert list(map(without_time, results.read_all())) == list(map(without_time, given))
    assert results.stale == results.unchecked == []


def test_the_newest_of_several_rho_counts_and_each_tau_for_itself(tmp_path):
    one = with_split(tmp_path, pair_result(3))
    results = write(tmp_path, {**one, "rho": 0.5}, {**one, "rho": 0.9}, {**one, "tau": 0.1}, {**one, "rho": 0.7})
    assert [(result["tau"], result["rho"]) for result in results.read_all()] == [(0.03, 0.7), (0.1, 0.95)]


@pytest.mark.parametrize(
    "renamed", ["net_channel3_1_2_rho0.95_required0.1", "net_channel3_1_2_rho0.5_required0.03", "x"]
)
def test_a_result_whose_name_and_content_disagree_is_refused(tmp_path, renamed):
    results = write(tmp_path, with_split(tmp_path, pair_result(3)))
    path = results.path(pair_result(3))
    path.rename(path.with_stem(renamed))
    with pytest.raises(
        UserError, match=rf"{renamed}.json is damaged .it is the result of net_channel3_1_2_rho0.95_req"
    ):
        results.read_all()


def test_a_result_whose_split_has_changed_is_left_out_and_named(tmp_path, capsys):
    results = write(tmp_path, *(with_split(tmp_path, pair_result(channel)) for channel in (3, 4)))
    with_split(tmp_path, pair_result(4))  # other ARVs over all training images: another split
    assert [result["channel"] for result in results.read_all()] == [3]
    assert results.stale == ["net_channel4_1_2_rho0.95_required0.03.json"] and results.unchecked == []
    result_files.print_summary(results)
    printed = capsys.readouterr()
    (line,) = messages(printed.err)
    assert "warning: 1 result left out, as the split has changed since: evaluate again" in line
    assert "net_channel4_1_2_rho0.95_required0.03.json" in line
    assert "| all 1 " in printed.out and "\n| 4 " not in printed.out


def test_results_whose_splits_are_missing_or_damaged_are_named_and_stay(tmp_path, capsys):
    results = write(
        tmp_path,
        with_split(tmp_path, pair_result(3)),
        pair_result(5),
        *(pair_result(channel) for channel in range(6, 12)),
    )
    (tmp_path / "models" / "net_channel5_1_2.pt").write_bytes(b"damaged")
    assert len(results.read_all()) == 8
    assert len(results.unchecked) == 7 and "net_channel5_1_2_rho0.95_required0.03.json" in results.unchecked
    result_files.print_summary(results)
    (line,) = messages(capsys.readouterr().err)
    assert f"warning: 7 results not checked, as the split is not in {tmp_path}/models (" in line
    assert line.endswith("and 2 more)") and "channel5" in line


def test_other_weights_under_the_same_name_are_refused(tmp_path):
    results = write(tmp_path, with_split(tmp_path, pair_result(3)))
    results.check("net", "0")
    results.check("other", "1")
    with pytest.raises(UserError, match="holds results of net with other weights: use another --output_dir"):
        results.check("net", "1")


def test_what_is_there_and_equal_is_found_and_everything_else_is_not(tmp_path):
    known = without_time(with_split(tmp_path, pair_result(3)))
    results = write(tmp_path, known)
    assert without_time(results.find(known)) == known
    for name, value in (("split_sha256", "1"), ("precision", "bf16"), ("transform", {}), ("rho", 0.5), ("tau", 0.1)):
        assert results.find({**known, name: value}) is None
    results.path(known).write_bytes(b"damaged")
    assert results.find(known) is None


@pytest.mark.parametrize("version", [None, 2, Results.version + 1])
def test_results_of_another_version_are_one_line(tmp_path, version):
    path = results_of(tmp_path).path(pair_result(3))
    write_json(path, {**pair_result(3), "format": version})
    result = run_script("get_results.py", "--summary", "--output_dir", tmp_path / "out", cwd=tmp_path)
    assert result.returncode == 2
    (line,) = messages(result.stderr)
    assert f"{path.name} is of another version of this program: delete it and evaluate the split again" in line


def test_a_file_is_read_once_by_everything_that_needs_all_results(tmp_path, monkeypatch):
    known = [without_time(with_split(tmp_path, pair_result(channel))) for channel in (3, 4, 5)]
    write(tmp_path, *known, {**known[0], "rho": 0.5})
    read, splits_read = [], []
    read_result, read_split = Results.read, splits.read_split
    monkeypatch.setattr(Results, "read", lambda results, path: (read.append(path.name), read_result(results, path))[1])
    monkeypatch.setattr(splits, "read_split", lambda path: (splits_read.append(path.name), read_split(path))[1])
    results = results_of(tmp_path)
    results.check("net", "0")
    found = [results.find(of_split) for of_split in known]
    results.make_newest(found)  # one of them is written again
    tables = result_files.write_tables(results)
    assert [result["rho"] for result in tables.groups[0].results] == [0.95] * 3
    assert len(read) == 5 and len(set(read)) == 4 and sorted(splits_read) == sorted(set(splits_read))
    with_split(tmp_path, pair_result(5))
    assert len(results.read_all()) == 2 and len(read) == 5 and splits_read[-1] == "net_channel5_1_2.pt"


def test_no_folder_is_listed_for_each_result(tmp_path, monkeypatch):
    known = [without_time(with_split(tmp_path, pair_result(channel))) for channel in range(3, 9)]
    write(tmp_path, *known)
    listed, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (listed.append(path), scandir(path))[1])
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(path))
    results = results_of(tmp_path)
    results.make_newest([results.find(of_split) for of_split in known])
    assert len(listed) == 1


# --------------------------------------------------------------------------------------------------------------------
# Tables, while others write results


def write_meanwhile(monkeypatch, *given):
    """Others write these results, one each time that all have just been read."""
    waiting, read_all = list(given), Results.read_all

    def read(results):
        found = read_all(results)
        if waiting:
            results.write(waiting.pop(0))
        return found

    monkeypatch.setattr(Results, "read_all", read)
    return waiting


def test_tables_are_made_again_until_no_result_has_come_meanwhile(tmp_path, monkeypatch):
    results = write(tmp_path, pair_result(3))
    waiting = write_meanwhile(monkeypatch, pair_result(4), pair_result(4, tau=0.1), pair_result(5))
    tables = result_files.write_tables(results)
    assert not waiting
    assert [len(group.results) for group in tables.groups] == [3, 1]
    text = (tmp_path / "out/results_quantitative/summary.md").read_text()
    assert text == result_tables.document(tables.groups, tables.left_out) and "| all 3 " in text
    for k, per_pair in ((1, 6), (2, 7)):
        rows = (
            (tmp_path / f"out/results_quantitative/quantitative_concept{k}_required0.03.txt").read_text().splitlines()
        )
        assert (
            len(rows)
            == sum(sum(pair_result(channel)["images"][k - 1]["included"]) for channel in (3, 4, 5))
            <= 3 * per_pair
        )
    assert {path.name for path in tables.paths} == {
        *("summary.csv", "summary.md", "summary.tex"),
        *(f"quantitative_concept{k}_required{tau}.txt" for k in (1, 2) for tau in (0.03, 0.1)),
    }


def test_a_result_that_is_measured_again_meanwhile_counts(tmp_path, monkeypatch):
    results = write(tmp_path, pair_result(3))
    write_meanwhile(monkeypatch, pair_result(3, concept_names=["new", "newer"]))
    result_files.write_tables(results)
    assert "new" in (tmp_path / "out/results_quantitative/summary.csv").read_text()


def test_rows_of_a_second_network_change_the_names_of_the_files(tmp_path):
    results, other = write(tmp_path, pair_result(3)), pair_result(3, run="other", split="other_channel3_1_2")
    result_files.write_tables(results)
    results.write(other)
    paths = result_files.write_tables(results).paths
    left = {path.name for path in (tmp_path / "out/results_quantitative").glob("*.txt")}
    assert left == {path.name for path in paths if path.suffix == ".txt"}
    assert left == {f"{run}_quantitative_concept{k}_required0.03.txt" for run in ("net", "other") for k in (1, 2)}


def test_without_a_result_there_is_no_table(tmp_path):
    with pytest.raises(UserError, match=r"there are no results in .*: run get_results.py --get_quantitative first"):
        result_files.write_tables(results_of(tmp_path))
