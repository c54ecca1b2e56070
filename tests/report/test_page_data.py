"""What the report says of channels and splits, from made-up layers."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from utils.images.folders import ClassMap
from utils.method.polysemanticity import Levels, class_pairs
from utils.report import page_data
from utils.report.page_data import ReportedLayer, best_first, class_rows, table_data, units_of
from utils.report.page_splits import MeasuredSplit, in_order, kind_of
from utils.report.separation_headline import MeanSeparation
from utils.report.verdicts import Verdict
from utils.stages.relevance import LayerClasses

CLASSES = ClassMap({"ant": 0, "bee": 1, "cat": 2, "dog": 3})
SETTINGS = {"tau": 0.03, "p": 0.5, "gamma": 0.5, "only_correct": False, "min_images": 4, "only_above_mean": True}


def layer(splits=None):
    """Two channels; channel 0 is relevant for ant and bee, whose inputs are orthogonal."""
    weight = torch.ones(2, 2, 1)
    inputs = torch.tensor([[1.0, 0], [0, 1], [1, 1], [1, 1]])[:, :, None].double()
    counts = torch.tensor([[8, 0], [5, 0], [3, 0], [6, 0]])
    images = torch.tensor([[10, 10, 3, 10]] * 3)
    relevant = torch.tensor([[True, False], [True, False], [False, False], [False, False]])
    levels = Levels(torch.tensor([[3.0, 0], [3, 0], [3, 0], [1, 0]]), torch.tensor([2.0, -1]))
    pairs = class_pairs(weight, inputs, relevant)
    found = LayerClasses(weight, None, 4, inputs[None], images, levels, relevant, pairs, {})
    found.groups[0] = SimpleNamespace(concepts=[[0], [1]], cosines=torch.eye(2), channel=0, lowest_cosine=lambda: 0)
    return ReportedLayer({}, SETTINGS, CLASSES, found, counts, None, splits or {}, accuracy=0.5)


def known_split(kind="groups", split_by="arv", only_correct=False, name="a"):
    division, rows = SimpleNamespace(name=split_by), torch.zeros(3, 2, 1)
    split = SimpleNamespace(division=division, shown_rows=lambda _: rows, classes=[[0], [1]], rho=1.0, channel=0)
    file = SimpleNamespace(split=split, settings={"only_correct": only_correct})
    return MeasuredSplit(Path(f"{name}.pt"), file, kind, None, None, [], [])


def test_one_sees_how_near_a_class_came_and_why_it_did_not():
    """Shares: ant 8/10, bee 5/10, cat 3/3 (too few images), dog 6/10 (below the channel's mean)."""
    known = layer()
    rows = class_rows(known, 0, {0: 0, 1: 1})
    assert [(one["name"], one["share"], one["relevant"], one["why"]) for one in rows] == [
        ("ant", 0.8, True, ""),
        ("bee", 0.5, True, ""),
        ("cat", 1.0, False, "fewer than 4 images"),
        ("dog", 0.6, False, "below the channel's mean"),
    ]
    assert [one["number"] for one in rows] == [1, 2, None, None]
    known = replace(known, settings={**SETTINGS, "p": 0.7})
    assert [one["why"] for one in class_rows(known, 0, {})][3] == "below p"
    assert class_rows(known, 1, {}) == []


def test_new_channels_without_labels_have_units_unless_they_are_too_many(monkeypatch):
    splits = {0: [known_split(), known_split("images", name="b")], 1: [known_split("images", name="c")]}
    shown = units_of(layer(splits))
    assert shown.of_channels == {0: range(3), 1: range(3, 4)}
    assert shown.of_splits == {Path("b.pt"): range(4, 6), Path("c.pt"): range(6, 8)} and len(shown.rows) == 8
    monkeypatch.setattr(page_data, "MOST_STRIPS", 3)
    assert units_of(layer(splits)).of_splits == {Path("b.pt"): range(4, 6)}
    monkeypatch.setattr(page_data, "MOST_UNLABELLED", 0)
    assert layer(splits).shown == [0]


def test_the_channels_shown_are_polysemantic_or_split():
    assert layer().shown == [0]
    assert layer({1: [known_split()]}).shown == [0, 1]
    without = layer({0: [known_split("images")], 1: [known_split("images")]})
    assert without.shown == [0, 1] and without.first_split(0) is None
    assert without.concept_of(0) == {0: 0, 1: 1}


def test_units_are_the_channel_and_the_new_channels_of_its_first_split():
    rows, biases, places, _ = units_of(layer({1: [known_split()]}))
    assert rows.shape == (4, 2, 1) and biases is None and places == {0: range(1), 1: range(1, 4)}
    with_bias = layer()
    with_bias.layer_classes.bias = torch.tensor([7.0, 8.0])
    assert units_of(with_bias)[1].tolist() == [7]
    empty = layer()
    empty = replace(empty, settings={**SETTINGS, "gamma": -1})
    assert len(units_of(empty)[0]) == 0


def test_the_split_that_is_shown_first():
    given = [known_split("images", name="1"), known_split("own choice", name="2"), known_split("pair", name="3"),
             known_split("groups", name="4"), known_split("groups", "least_squares", name="5"),
             known_split("groups", "least_squares", True, name="6")]  # fmt: skip
    assert [one.path.stem for one in in_order(given, False, None)] == list("546321")
    assert in_order(given, True, None)[0].path.stem == "6"
    assert [one.path.stem for one in in_order(given, False, "arv")][:3] == ["4", "5", "6"]


@pytest.mark.parametrize(
    ("concepts", "kind"),
    [([[4], [1, 2]], "groups"), ([[5], [1]], "pair"), ([[5], [2]], "own choice"), ([[1, 5], [2]], "own choice"),
     ([[], []], "images"), ([[4]], "own choice")],
)  # fmt: skip
def test_what_a_splits_concepts_are(concepts, kind):
    file = SimpleNamespace(split=SimpleNamespace(classes=concepts))
    assert kind_of(file, [[1, 2], [4]], {(1, 5)}) == kind


def test_the_best_founded_come_first_and_what_is_not_known_is_null():
    def channel(number, rank, after=np.nan, cosine=0.1):
        separation = MeanSeparation(0.1, after, 0.2, 0.9)
        return {"channel": number, "verdict": Verdict(rank, "", ""), "separation": separation, "cosine": cosine,
                "groups": [{"names": ["Dog", "cat"]}], "shares": (0.8, 0.9)}  # fmt: skip

    given = [channel(1, 4), channel(2, 0, 0.5), channel(3, 0, 0.9), channel(4, 4, cosine=0.05)]
    given.append(channel(5, 6, cosine=np.nan))
    ordered = best_first(given)
    assert [one["channel"] for one in ordered] == [3, 2, 4, 1, 5]
    data = table_data(ordered)
    assert data[0] == {**data[0], "channel": 3, "best": 0, "text": "3 dog cat", "after": 0.9, "gain": 0.7, "share": 0.8}
    assert data[4]["cosine"] is None and data[4]["gain"] is None
