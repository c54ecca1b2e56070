"""What concepts without labels are called, and the count of names, against cases by hand."""

import csv

import pytest
import torch

from utils.concept_sources.image_sets import name_parts
from utils.report.image_set_text import ScoredSplit, count_in_words, score_in_words
from utils.report.name_text import share_named, shown_names, texts_of, write_names
from utils.stages.concept_names import SearchedNames
from utils.stages.image_set_nulls import ImageSetScores

NAN, UNITS = float("nan"), 21
STORED = ["circuit 1 (bikini, seashore)", "circuit 2 (31 classes)", "circuit 3 (ant)"]


def searched():
    """The first concept is above all units, the second is below one; of the third no name could be searched."""
    values = torch.zeros(UNITS, 3, dtype=torch.float64)
    values[:, :2] = torch.linspace(0, 0.2, UNITS)[:, None]
    values[0] = torch.tensor([0.5, 0.15, NAN])
    values[1:, 2] = NAN
    return SearchedNames(["swimwear or seashore", "dog", ""], values)


def scores(names):
    values = torch.full((3,), 0.3, dtype=torch.float64)
    nulls = torch.full((UNITS - 1, 3), 0.4, dtype=torch.float64)
    return ImageSetScores([[1, 2], [], [3]], values, nulls, names)


def test_a_name_that_has_passed_comes_first_and_frequent_classes_are_marked_as_such():
    assert texts_of(STORED, scores(searched())) == [
        "swimwear or seashore (circuit 1)",
        "circuit 2, no name (31 classes)",
        "circuit 3 (ant)",
    ]
    first, second, _ = shown_names(STORED, scores(searched()))
    assert first == ("swimwear or seashore", "circuit 1") and second.heading == "circuit 2, no name"
    assert [name.short for name in shown_names(STORED, scores(searched()))] == [
        "swimwear or seashore",
        "circuit 2",
        "circuit 3 (ant)",
    ]
    without = searched()
    without.values[0, 0] = 0.1
    assert texts_of(STORED, scores(without))[0] == "circuit 1, no name (many: bikini, seashore)"


def test_without_a_search_concepts_are_called_as_they_are_stored():
    assert texts_of(STORED, None) == STORED == texts_of(STORED, scores(None))


@pytest.mark.parametrize(
    ("name", "parts"),
    [("circuit 7 (bikini, sea (salt))", ("circuit 7", "bikini, sea (salt)")), ("ant", ("ant", ""))],
)
def test_parts_of_a_stored_name(name, parts):
    assert name_parts(name) == parts


def test_the_score_below_a_name_is_that_of_the_name():
    words = [score_in_words(scores(searched()), k) for k in (0, 2)]
    assert words == ["name 0.50; permuted weights 0.01 to 0.20", "0.30; permuted weights 0.40 to 0.40"]


def test_a_name_stands_alone_where_those_of_all_units_have_no_validation_images():
    names = searched()
    names.values[1:, 0] = -torch.inf
    assert names.names()[0] == "swimwear or seashore"
    words = "name 0.50; those of permuted weights have no validation images"
    assert score_in_words(scores(names), 0) == words


def test_the_count_has_the_share_of_units_that_are_named_in_their_place():
    """Of 21 units one is the highest of each column: the concept in the first, a unit in the second."""
    share = "1 of 2 circuits have a name (50.0%; with permuted weights 1 of 40, 2.5%; 5% expected by chance)"
    assert share_named([searched()], "circuits") == share
    count = count_in_words([ScoredSplit("circuits", 3, STORED, scores(searched()))])
    assert count.endswith(f"; {share}: 1 (swimwear or seashore)")
    several = [ScoredSplit("circuits", channel, STORED, scores(searched())) for channel in (3, 4)]
    assert count_in_words(several).endswith("channel 3: 1 (swimwear or seashore), channel 4: 1 (swimwear or seashore)")
    nothing = SearchedNames([""], torch.full((UNITS, 1), NAN, dtype=torch.float64))
    assert share_named([nothing], "circuits") == ""


def test_the_table_has_every_best_name_whether_it_passes_or_not(tmp_path):
    with open(write_names(tmp_path / "names.csv", 9, STORED, [10, 20, 30], searched()), newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["BestName"] for row in rows] == ["swimwear or seashore", "dog", ""]
    assert [row["Named"] for row in rows] == ["yes", "no", "no"]
    assert float(rows[0]["Value"]) == 0.5 and float(rows[0]["NullHighest"]) == pytest.approx(0.2)
    assert float(rows[0]["P"]) == pytest.approx(1 / UNITS)
    assert [row["NullsNamed"] for row in rows] == ["0", "1", "0"] and rows[2]["Nulls"] == "0"


def test_a_unit_without_such_a_set_does_not_count():
    values = torch.tensor([[0.5], [NAN], [0.2], [-torch.inf]], dtype=torch.float64)
    p = SearchedNames(["ant"], values).p_values()[:, 0]
    assert p.isnan().tolist() == [False, True, False, False]
    assert p[[0, 2, 3]].tolist() == pytest.approx([1 / 3, 2 / 3, 1])
