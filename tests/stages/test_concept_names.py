"""Candidates for names: classes, and the synsets of a miniature WordNet above them."""

import shutil

import pytest
import torch

from tests.miniature_wordnet import install
from utils.images.folders import ClassMap
from utils.stages import concept_names
from utils.stages.concept_names import CandidateNames
from utils.store.synsets import NamedClasses


@pytest.fixture
def database(tmp_path, monkeypatch):
    return install(tmp_path, monkeypatch)


def test_candidates_are_classes_and_the_synsets_above_several_of_them(database):
    candidates = CandidateNames.of(ClassMap({database.ids["cat"]: 7, database.ids["dog"]: 2, database.ids["car"]: 5}))
    assert candidates.outputs == [2, 5, 7] and not candidates.without_synsets
    assert candidates.words[3:] == ["animal", "entity"]
    assert candidates.classes.int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1]]


def test_without_ids_or_without_a_corpus_classes_are_names_alone_and_the_reason_is_known(database):
    candidates = CandidateNames.of(ClassMap({"ant": 0, "bee": 1}))
    assert candidates.words == ["ant", "bee"] and torch.equal(candidates.classes, torch.eye(2, dtype=torch.bool))
    assert candidates.without_synsets == "names: class folder 'ant' is no WordNet id such as n02124075"
    classes = ClassMap({database.ids["cat"]: 0, database.ids["dog"]: 1})
    with_corpus = CandidateNames.of(classes)
    shutil.rmtree(database.folder)
    without = CandidateNames.of(classes)
    assert "NLTK_DATA" in without.without_synsets and len(without.words) == 2
    assert with_corpus.digest() != without.digest() == CandidateNames.of(classes).digest()


def test_names_that_several_sets_of_classes_have_are_told_apart(monkeypatch):
    """As in ImageNet: two classes are a crane, two synsets a car."""
    classes = ClassMap({"n1": 0, "n2": 1, "cab": 2, "van": 3, "tram": 4, "tug": 5, "bus": 6})
    shown = {0: "crane", 1: "crane"}
    name = ClassMap.name
    monkeypatch.setattr(ClassMap, "name", lambda self, output: shown.get(output) or name(self, output))
    above = [
        NamedClasses("car", frozenset({3, 2})),
        NamedClasses("car", frozenset({4, 2, 3, 6})),
        NamedClasses("thing", frozenset(range(7))),
    ]
    monkeypatch.setattr(concept_names, "class_synsets", lambda *_, **__: {})
    monkeypatch.setattr(concept_names, "classes_below", lambda _: above)
    assert CandidateNames.of(classes).words == [
        *("crane (n1)", "crane (n2)", "cab", "van", "tram", "tug", "bus"),
        *("car (cab, van)", "car (4 classes)", "thing"),
    ]


def test_positions_and_texts():
    candidates = CandidateNames.of(ClassMap({"ant": 4, "bee": 9}))
    assert candidates.positions(torch.tensor([9, 4, 0, 5, 11])).tolist() == [1, 0, -1, -1, -1]
    assert candidates.text(1, 0) == "bee or ant" and candidates.text(0, -1) == "ant" and candidates.text(-1, -1) == ""
