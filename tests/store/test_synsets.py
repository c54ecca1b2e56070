"""Synsets of class folders by the real nltk reader on a miniature database, and what can go wrong."""

import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.miniature_wordnet import install
from utils.errors import UserError
from utils.store import synsets
from utils.store.synsets import NamedClasses, class_synsets, classes_below

read = partial(class_synsets, needed_by="--plot_wordnet", may_download=True)


@pytest.fixture
def database(tmp_path, monkeypatch):
    return install(tmp_path, monkeypatch)


def names_of(synsets):
    return {output: synset.lemma_names()[0] for output, synset in synsets.items()}


def test_a_corpus_in_a_zip_file_is_read_as_it_is(database):
    shutil.make_archive(database.corpus, "zip", database.corpus.parent, "wordnet")
    shutil.rmtree(database.corpus)
    assert names_of(read({database.ids["dog"]: 3})) == {3: "dog"}


def test_a_damaged_zip_file_is_one_line(database):
    archive = Path(shutil.make_archive(database.corpus, "zip", database.corpus.parent, "wordnet"))
    shutil.rmtree(database.corpus)
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"wordnet.zip.* is damaged"):
        read({database.ids["dog"]: 0})


def damage(name, content=None):
    def spoil(corpus):
        path = corpus / name
        path.write_bytes(path.read_bytes()[:-40] if content is None else content)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (damage("data.noun", b""), "is no noun of the WordNet 3.0 in"),
        (lambda corpus: (corpus / "data.noun").unlink(), "is damaged"),
        (damage("index.noun", b"entity n one\n"), "is damaged"),
        (damage("index.noun"), "is damaged"),
        (damage("lexnames", b"\xff"), "is damaged"),
        (damage("data.adj", b"  1 WordNet 3.1 Copyright 2012  \n"), "it is WordNet 3.1, not 3.0"),
        (damage("data.adj", b""), "it is WordNet None, not 3.0"),
    ],
)
def test_a_damaged_or_other_corpus_is_one_line(database, spoil, message):
    spoil(database.corpus)
    with pytest.raises(UserError, match=message) as caught:
        read({database.ids["toy_dog"]: 0})
    assert "\n" not in str(caught.value)
    assert str(database.corpus) in str(caught.value)


def test_a_way_to_the_root_that_is_broken_is_found_before_the_pass_over_the_chunks(database):
    text = (database.corpus / "data.noun").read_text()
    animal = f"{int(database.ids['animal'][1:]):08d} 03"
    (database.corpus / "data.noun").write_text(text.replace(animal, "00000000 03"))
    with pytest.raises(UserError, match="is damaged"):
        read({database.ids["dog"]: 0})
    assert list(read({database.ids["car"]: 5})) == [5]


def test_folders_that_are_no_ids_are_named(database):
    with pytest.raises(UserError, match="class folder 'bee' is no WordNet id such as n02124075"):
        read({database.ids["dog"]: 0, "bee": 1, "cat": 2})
    with pytest.raises(UserError, match="class folder n00000003 is no noun of the WordNet"):
        read({database.ids["dog"]: 0, "n00000003": 1, "n99999999": 2})


def test_a_missing_corpus_is_downloaded_by_nltk(database, monkeypatch):
    shutil.move(database.folder, database.folder.with_name("elsewhere"))
    calls = []

    def download(command, timeout, **options):
        calls.append(command)
        assert timeout <= 60
        shutil.move(database.folder.with_name("elsewhere"), database.folder)

    monkeypatch.setattr(synsets.subprocess, "run", download)
    assert names_of(read({database.ids["dog"]: 3})) == {3: "dog"}
    assert calls == [[sys.executable, "-m", "nltk.downloader", "-q", "wordnet"]]


@pytest.mark.parametrize("error", [None, subprocess.TimeoutExpired("nltk.downloader", 60)])
def test_a_corpus_that_cannot_be_downloaded_is_one_line_that_says_how_to_get_it(database, monkeypatch, error):
    shutil.rmtree(database.folder)

    def fail(*arguments, **options):
        if error:
            raise error

    monkeypatch.setattr(synsets.subprocess, "run", fail)
    with pytest.raises(UserError, match=r"python -m nltk.downloader wordnet .*NLTK_DATA"):
        read({database.ids["dog"]: 0})


def test_without_nltk_the_message_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "nltk.corpus.reader", None)
    with pytest.raises(UserError, match="pip install nltk"):
        read({"n02124075": 0})


def test_a_corpus_is_not_downloaded_where_it_may_not_be(database, monkeypatch):
    shutil.rmtree(database.folder)
    monkeypatch.setattr(synsets.subprocess, "run", lambda *given, **options: pytest.fail("it was downloaded"))
    with pytest.raises(UserError, match=r"^names: nltk finds no WordNet corpus; get it with python -m nltk.downloader"):
        class_synsets({database.ids["dog"]: 0}, needed_by="names", may_download=False)


def test_the_classes_below_a_synset_are_named_by_the_lowest(database):
    """A toy dog is a dog and an artifact; car and dog are each above one class alone, which needs no other name."""
    outputs = {"sports_car": 0, "cat": 1, "toy_dog": 2}
    found = classes_below(read({database.ids[noun]: output for noun, output in outputs.items()}))
    assert found == [
        NamedClasses("artifact", frozenset({0, 2})),
        NamedClasses("animal", frozenset({1, 2})),
        NamedClasses("entity", frozenset({0, 1, 2})),
    ]


def test_a_class_above_another_class_names_both(database):
    found = classes_below(read({database.ids["dog"]: 5, database.ids["toy_dog"]: 6}))
    assert found == [NamedClasses("dog", frozenset({5, 6}))]
