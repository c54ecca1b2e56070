"""Candidates for names: classes, and the synsets of a miniature WordNet above them."""

import shutil

import pytest
import torch

from tests.miniature_wordnet import install
from utils.images.folders import ClassMap
from utils.stages.concept_names import CandidateNames


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


def test_positions_and_texts():
    candidates = CandidateNames.of(ClassMap({"ant": 4, "bee": 9}))
    assert candidates.positions(torch.tensor([9, 4, 0, 5, 11])).tolist() == [1, 0, -1, -1, -1]
    assert candidates.text(1, 0) == "bee or ant" and candidates.text(0, -1) == "ant" and candidates.text(-1, -1) == ""
