"""The campaign of faults: a small fixed part of it finds nothing, and it notices what is wrong."""

import random
import re
import sys
from contextlib import ExitStack, nullcontext

import pytest

from benchmarks.faults.__main__ import Campaign, report
from benchmarks.faults.rounds import (
    LATE,
    LINE,
    NEEDS_IMAGES,
    NOT_HERE,
    ORDER,
    SAME,
    Failure,
    Worker,
    cases,
    check_line,
    damaged,
    differing,
    fill,
)
from benchmarks.faults.runs import PAIRS, Ended
from tests.scripts import python

FEW = {
    **{label: {SAME, LATE} for label in ("SIGKILL in stage 1", "SIGKILL in stage 3", "SIGKILL in stage 4")},
    "SIGINT in any stage": {LINE, LATE},
    **{f"damaged {kind}": {LINE, SAME} for kind in ("chunk", "split", "result JSON")},
    "SIGKILL in stage separation": {SAME, LATE},
    **{f"damaged {kind}": {LINE, SAME} for kind in ("manifest", "separation JSON")},
    "damaged steps of separation": {SAME, LATE},
    "full disk": {LINE, LATE, NOT_HERE},
    "stage 3 side by side": {SAME},
}


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "executable", python())  # the two servers of scripts need not import torch again
            stages = (*ORDER, NEEDS_IMAGES, "separation")
            started = Campaign(tmp_path_factory.mktemp("faults"), 2, stack, stages)
        yield started


def test_a_few_rounds_find_nothing(campaign, capsys):
    chosen = {label: case for label, case in cases().items() if label in FEW}
    outcomes = campaign.run(range(len(chosen)), 0, chosen)
    assert report(outcomes, chosen) == 0, capsys.readouterr().out
    assert [label for _, label, _ in outcomes] == list(chosen)
    assert [outcome for _, label, outcome in outcomes if outcome not in FEW[label]] == []
    done = [outcome for _, _, outcome in outcomes if outcome != NOT_HERE]
    assert f"| all | {len(done)} |" in capsys.readouterr().out


def test_a_result_that_differs_is_noticed(campaign, monkeypatch, capsys):
    after = campaign.reference.after["1"]
    (chunk,) = (name for name in after if name.endswith("chunk_000001.npz"))
    monkeypatch.setitem(after, chunk, after[chunk][:-1])
    chosen = {"SIGKILL in stage 1": cases()["SIGKILL in stage 1"]}
    outcomes = campaign.run([0], 0, chosen)
    assert report(outcomes, chosen) == 1
    text = capsys.readouterr().out
    assert "| SIGKILL in stage 1 | 1 | 0 | 0 | 0 | 1 |" in text
    assert re.search(rf"^round 0, SIGKILL in stage 1: .*{re.escape(chunk)}", text, re.MULTILINE)


class Scripts:
    """Scripts that end as they are told, and write nothing or a given file."""

    def __init__(self, ended, files=None):
        self.ended, self.files = ended, files or {}

    def run(self, stage, folder):
        return self.start(stage, folder)

    def start(self, stage, folder, *arguments, trap=None):
        for name, data in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        return self.ended

    def end(self, ended):
        return ended


@pytest.mark.parametrize(
    ("label", "ended", "problem"),
    [
        ("damaged split", Ended(0, "", [], 1, 0), "other files differ"),  # stages that do nothing, and say nothing
        ("damaged split", Ended(2, "", ["x: error: something"], 1, 0), "the line does not say"),
        ("damaged split", Ended(1, "", ["Traceback", "KeyError"], 1, 0), "not one line; status 1"),
        ("damaged split", Ended(None, "", [], 1, 0), "not one line; status None"),
        ("stage 4 side by side", Ended(2, "", ["x: error: something"], 1, 0), "failed"),
        ("stage 4 side by side", Ended(0, "", [], 1, 0), "side by side made others"),
    ],
)
def test_a_run_that_ends_in_a_wrong_way_is_noticed(campaign, tmp_path, label, ended, problem):
    worker = Worker(Scripts(ended), tmp_path, campaign.reference, campaign.workers[0].other)
    outcome = worker.round(0, 0, cases()[label])
    assert isinstance(outcome, Failure)
    assert problem in str(outcome)


def test_a_half_file_is_noticed(campaign, tmp_path):
    worker, after = campaign.workers[0], campaign.reference.after["2"]
    for files, wrong in ((after, []), ({**after, f"{PAIRS}.json": after[f"{PAIRS}.json"][:100]}, [f"{PAIRS}.json"])):
        fill(tmp_path, files)
        with pytest.raises(Failure, match=re.escape(str(wrong))) if wrong else nullcontext():
            worker.unharmed("2", tmp_path, campaign.reference.before["2"])


def test_damage_changes_a_file_and_differences_are_named():
    ways = {damaged(random.Random(seed), b"some content 1" * 9, [b"another"])[0] for seed in range(60)}
    assert ways == {"flip", "digit", "truncate", "zeros", "append", "swap"}
    assert all(damaged(random.Random(seed), bytes(50), [bytes(50)])[1] != bytes(50) for seed in range(60))
    result = "results_quantitative/pairs/a.json"
    assert differing({result: b'{"a": 1, "evaluation": 5}'}, {result: b'{"a": 1, "evaluation": 6}'}) == []
    assert differing({result: b'{"a": 1, "evaluation": 5'}, {result: b'{"a": 1, "evaluation": 5}'}) == [result]
    assert differing({"a": b"1", "b": b"2"}, {"a": b"1"}, {"a": b"2", "b": b"2", "c": b""}) == []
    assert differing({"a": b"1"}, {"a": b"1", "b": b"2"}) == ["b"]


def test_an_interrupt_must_be_one_line():
    check_line(Ended(130, "", ["x: interrupted; all is kept"], 1, 0), "interrupted", status=130)
    for lines in (["interrupted", "Traceback"], [], ["KeyboardInterrupt"]):
        with pytest.raises(Failure):
            check_line(Ended(130, "", lines, 1, 0), "interrupted", status=130)
