"""Candidates: the grammar of text, stage 2's table and its JSON, and files that are neither."""

import json

import pytest
import torch

from tests.stores import flips
from utils.command_line import opening
from utils.errors import UserError
from utils.images.folders import ClassMap
from utils.method.grouping import ChannelGroups
from utils.method.polysemanticity import ClassPairs
from utils.store.candidates import (
    RequestedCandidate,
    RequestedCandidates,
    pairs_path,
    read_candidates,
    write_groups,
    write_pairs,
)
from utils.store.files import write_json

SETTINGS = {"tau": 0.03, "p": 0.75, "gamma": 0.5, "only_correct": True, "weights_sha256": "00", "layer": "last"}


def read(folder, text):
    path = folder / "asked.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return [(one.channel, one.concepts) for one in read_candidates(path).candidates]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("9: 1, 3", (9, [["1"], ["3"]])),
        ("  9 :1,3  ", (9, [["1"], ["3"]])),
        ("9: 1+2, bee + 4, 5", (9, [["1", "2"], ["bee", "4"], ["5"]])),
        ('9: "great dane", cat', (9, [["great dane"], ["cat"]])),
        ('9: "a, b: c; d + e # f"+x, "\\"q\\" \\u00e9"', (9, [["a, b: c; d + e # f", "x"], ['"q" é']])),
        ('9: "", 5/', (9, [[""], ["5/"]])),
        ('9: 1, 3 # a "comment: with, signs', (9, [["1"], ["3"]])),
        ("9: 1, 3#x", (9, [["1"], ["3"]])),
        ("9 1 3", (9, [["1"], ["3"]])),
        ("9,1,3", (9, [["1"], ["3"]])),
        ("9;1;3", (9, [["1"], ["3"]])),
        ("9, n01, n02, 0.25", (9, [["n01"], ["n02"]])),
        *[(f"9,1,3,{cosine}", (9, [["1"], ["3"]])) for cosine in ("1.000000", "-0.123456", "0.0", "1.2e-7")],
        ("9: été, 猫", (9, [["été"], ["猫"]])),
    ],
)
def test_lines_of_text(tmp_path, line, expected):
    assert read(tmp_path, f"\ufeff# mine\n\n   \n{line}\r\n#end") == [expected]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("9:", "a class is missing at its end"),
        ("9: 1,", "a class is missing at its end"),
        ("9: 1, 2+", "a class is missing at its end"),
        ("9: 1,, 2", "a class is expected in place of ','"),
        ("9: great dane, cat", "a comma or + is expected in place of 'dane'"),
        ("9: 1; 2", "a comma or + is expected in place of ';'"),
        ("9: 1: 2", "a comma or + is expected in place of ':'"),
        ('9: "a, b', "a quotation mark is not closed"),
        ('9: "\\x", b', "escape"),
        ("nine: 1, 2", "it does not begin with a channel"),
        (": 1, 2", "it does not begin with a channel"),
        ("-9: 1, 2", "it does not begin with a channel"),
        ("٣: 1, 2", "it does not begin with a channel"),
        ("9.5: 1, 2", "it does not begin with a channel"),
        ("9" * 5000 + ": 1, 2", "it does not begin with a channel"),
        ("9 1", "a channel and two classes are expected"),
        ("9 1+2 3", "a channel and two classes are expected"),
        ("9, 1, 2, 0.5, 3", "a channel and two classes are expected"),
        ("9, 1, 2, 3", "after the two classes there may only be a cosine"),
        ("9, 1, 2, nan", "after the two classes there may only be a cosine"),
    ],
)
def test_a_line_that_is_none_is_named_with_its_number(tmp_path, line, reason):
    with pytest.raises(UserError) as refused:
        read(tmp_path, f"9: 1, 2\n\n{line}\n")
    message = str(refused.value)
    assert (
        f"--candidates {tmp_path}/asked.txt, line 3 is not of the form 'channel: class, class' ({line[:60]}): "
        in message
    )
    assert reason in message
    assert len(message) < 300 + len(str(tmp_path)) and "\n" not in message


@pytest.mark.parametrize("line", ["\x1b[31mred\x07: 1, 2", "9: \x1b[2J x, 2", '9: "\x00", 2', "9: 1, 2, \x9b5m x"])
def test_what_a_terminal_obeys_is_not_printed(tmp_path, line):
    with pytest.raises(UserError) as refused:
        read(tmp_path, line)
    assert str(refused.value).isprintable()


def test_bytes_that_are_no_text_are_one_line(tmp_path):
    with pytest.raises(UserError, match="there is no class folder") as refused:
        asked = RequestedCandidates([RequestedCandidate(*one, "line 1") for one in read(tmp_path, b"1: \xff\xfe, 2\n")])
        opening.resolve_all(asked, "channel", META, CLASSES, opening.Problems(1))
    assert str(refused.value).isprintable()


def test_a_class_of_thousands_of_digits_is_one_short_line(tmp_path):
    asked = RequestedCandidates([RequestedCandidate(*one, "line 1") for one in read(tmp_path, f"1: {'9' * 5000}, 2\n")])
    with pytest.raises(UserError, match="is out of range, the network has outputs 0 to 3") as refused:
        opening.resolve_all(asked, "channel", META, CLASSES, opening.Problems(1))
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize("text", ["", "\n# only a comment\n", "Channel,Class1,Class2,CosineSimilarity\n"])
def test_a_file_without_a_candidate_says_so(tmp_path, text):
    with pytest.raises(UserError, match="it has no candidates"):
        read(tmp_path, text)
    with pytest.raises(UserError, match=r"none\.txt: there is no such file"):
        read_candidates(tmp_path / "none.txt")


# --------------------------------------------------------------------------------------------------------------------
# Stage 2's own


def pairs():
    numbers = torch.tensor([[3, 0, 1], [1, 2, 3], [3, 1, 2]])
    return ClassPairs(*numbers.T, torch.tensor([0.75, 0.5, -0.1234567], dtype=torch.float64))


def write(folder):
    path = pairs_path(folder, "m", tau=0.03, p=0.75, cosines=(-1.0, 1.0), only_correct=True, min_images=2)
    return path, write_pairs(path, pairs(), lambda output: f"name {output}", SETTINGS)


def test_the_published_table_and_the_json_say_the_same_and_settings_travel_with_the_latter(tmp_path):
    table, path = write(tmp_path)
    assert table.name == "m_required0.03_p0.75_cossim-1.0to1.0_only_correct_min2.txt" and path.stem == table.stem
    assert table.read_text().splitlines() == [
        *("Channel,Class1,Class2,CosineSimilarity", "3,0,1,0.750000", "1,2,3,0.500000", "3,1,2,-0.123457")
    ]
    of_table, of_json = read_candidates(table), read_candidates(path)
    assert of_table.settings == {} and of_json.settings == SETTINGS
    assert [(one.channel, one.concepts) for one in of_json.candidates] == [
        *((3, [[0], [1]]), (1, [[2], [3]]), (3, [[1], [2]]))
    ]
    resolved = [opening.resolve_all(one, "c", META, CLASSES, opening.Problems(3)) for one in (of_table, of_json)]
    assert resolved[0] == resolved[1]
    stored = json.loads(path.read_text())["candidates"][2]
    assert stored["names"] == ["name 1", "name 2"]
    assert stored["cosines"] == [[1.0, pytest.approx(-0.1234567)], [pytest.approx(-0.1234567), 1.0]]


def test_more_pairs_than_anybody_splits_are_in_the_table_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.store.candidates.MOST_PAIRS", 2)
    table, path = write(tmp_path)
    assert path is None and len(table.read_text().splitlines()) == 4
    assert [one.name for one in table.parent.iterdir()] == [table.name]


def test_groups_are_candidates_of_any_number_of_concepts_with_their_names_and_cosines(tmp_path):
    table, names = write(tmp_path)[0], ClassMap({f"class{output}": output for output in range(30)}).concept_name
    cosines = torch.eye(3, dtype=torch.float64)
    cosines[0, 1] = cosines[1, 0] = 0.25
    many = ChannelGroups(5, [[output] for output in range(30)], torch.eye(30))
    groups = [ChannelGroups(7, [[0, 3], [1], [2, 4, 5]], cosines), many, ChannelGroups(1, [[0, 1]], torch.ones(1, 1))]
    path = write_groups(table, groups, names, SETTINGS)
    assert path.name == f"{table.stem}_groups.json"
    asked = read_candidates(path)
    assert asked.settings == SETTINGS
    assert [(one.channel, one.concepts) for one in asked.candidates] == [
        (7, [[0, 3], [1], [2, 4, 5]]),
        (5, [[output] for output in range(30)]),
    ]
    stored = json.loads(path.read_text())["candidates"][0]
    assert stored["names"] == ["class0 + class3", "class1", "class2 + class4 + class5"]
    assert stored["cosines"] == cosines.tolist()


def test_where_no_channel_has_two_groups_no_older_file_of_them_stays(tmp_path):
    table, _ = write(tmp_path)
    one = ChannelGroups(1, [[0], [1]], torch.eye(2))
    path = write_groups(table, [one], str, SETTINGS)
    assert write_groups(table, [], str, SETTINGS) is None
    with pytest.raises(UserError, match="it has no candidates"):
        read_candidates(path)


def test_what_leaves_classes_out_is_in_the_names_of_files(tmp_path):
    asked = {"tau": 0.1, "p": 0.5, "cosines": (0.0, 0.5)}
    path = pairs_path(tmp_path, "m", **asked, only_correct=False, min_images=1, only_above_mean=True)
    assert path.name == "m_required0.1_p0.5_cossim0.0to0.5_only_above_mean.txt"


def everything(asked):
    return [(one.channel, one.concepts) for one in asked.candidates], asked.settings


def test_every_flipped_bit_and_every_truncation_of_a_json_is_found_or_changes_nothing(tmp_path):
    path = tmp_path / "x.json"
    one = {"channel": 3, "concepts": [[0], [1]], "names": ["a", "b"], "cosines": [[1.0, 0.5], [0.5, 1.0]]}
    write_json(path, {"format": 1, "settings": {"tau": 0.03}, "candidates": [one]})
    intact, data, refused = everything(read_candidates(path)), path.read_bytes(), 0
    shorter = ((end, data[:end]) for end in range(len(data)))
    for position, damaged in [*flips(data), *shorter]:
        path.write_bytes(damaged)
        try:
            assert everything(read_candidates(path)) == intact, position
        except UserError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 6 * len(data)


@pytest.mark.parametrize("version", [None, 0, 2])
def test_candidates_of_another_version_are_one_line(tmp_path, version):
    write_json(tmp_path / "x.json", {"format": version, "settings": {}, "candidates": []})
    with pytest.raises(UserError, match="another version of this program"):
        read_candidates(tmp_path / "x.json")


# --------------------------------------------------------------------------------------------------------------------
# Which are meant

META = {"num_channels": 12, "num_outputs": 4}
CLASSES = ClassMap({"ant": 0, "bee": 1, "cat": 2, "dog": 3})


def test_each_candidate_is_resolved_once_however_many_there_are_and_however_they_are_written(monkeypatch):
    words = [[["0"], ["1"]], [["ant"], ["bee"]], [[0], [1]], [["1"], ["0"]], [["0", "cat"], [1]], [["cat", "ant"], [1]]]
    asked = [
        RequestedCandidate(number % 12, words[number // 12 % len(words)], f"line {number}") for number in range(15_000)
    ]
    work, resolve = [], ClassMap.resolve
    monkeypatch.setattr(ClassMap, "resolve", lambda *given: (work.append(1), resolve(*given))[1])
    found = opening.resolve_all(RequestedCandidates(asked), "channel", META, CLASSES, opening.Problems(len(asked)))
    assert len(work) == 15_000
    distinct = ([[0], [1]], [[1], [0]], [[0, 2], [1]])
    assert found == [(channel, concepts) for concepts in distinct for channel in range(12)]


class Counted(str):
    """Text that counts how often it is compared."""

    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other):
        Counted.compared += 1
        return str.__eq__(self, other)


def test_to_find_duplicates_among_many_candidates_takes_a_look_each(monkeypatch):
    monkeypatch.setattr(opening, "str", Counted, raising=False)
    outputs = {f"class {output}": output for output in range(200)}
    asked = [RequestedCandidate(0, [[one], [other]]) for one in range(150) for other in range(100) if one != other]
    meta = {"num_channels": 1, "num_outputs": 200}
    found = opening.resolve_all(
        RequestedCandidates(asked), "channel", meta, ClassMap(outputs), opening.Problems(len(asked))
    )
    assert len(found) == len(asked) == 14_900
    assert Counted.compared < 10 * len(asked)


def test_problems_name_the_line_and_do_not_keep_the_others():
    asked = RequestedCandidates(
        [RequestedCandidate(1, [["0"], ["eel"]], "f, line 1"), RequestedCandidate(12, [[0], [1]], "f, line 2")]
    )
    asked.candidates.append(RequestedCandidate(2, [["0"], ["1"]], "f, line 3"))
    problems = opening.Problems(3)
    assert opening.resolve_all(asked, "channel_disentangle", META, CLASSES, problems) == [(2, [[0], [1]])]
    with pytest.raises(
        UserError, match=r"2 of 3 candidates could not be split: channel 1: f, line 1: .*; channel 12: f,"
    ):
        problems.finish("split")
