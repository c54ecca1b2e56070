"""The WordNet figure: path similarities by the real nltk reader on a miniature database, and what can go wrong."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nltk
import numpy as np
import pytest

from tests.figures import class_pairs
from tests.pictures import write_images
from tests.scripts import NETWORK, RUN, run_script, stage1
from utils.errors import UserError
from utils.report import wordnet
from utils.report.wordnet import class_synsets, most_surprising, path_similarities, rank_correlation

# Hypernyms first; a toy dog is an animal and an artifact
NOUNS = {
    "entity": [],
    "animal": ["entity"],
    "dog": ["animal"],
    "cat": ["animal"],
    "artifact": ["entity"],
    "car": ["artifact"],
    "sports_car": ["car"],
    "toy_dog": ["dog", "artifact"],
}


def write_database(folder, version="3.0", nouns=NOUNS):
    """Write a WordNet of these nouns as nltk reads it; return the class folder that each is the id of."""
    corpus = folder / "corpora" / "wordnet"
    corpus.mkdir(parents=True)
    for kind in ("noun", "verb", "adj", "adv"):
        for name in (f"data.{kind}", f"index.{kind}", f"{kind}.exc"):
            (corpus / name).write_bytes(b"")
    (corpus / "index.sense").write_bytes(b"")
    (corpus / "data.adj").write_text(f"  1 WordNet {version} Copyright 2006 by nobody  \n")
    (corpus / "lexnames").write_text("".join(f"{i:02d}\t{name}\t1\n" for i, name in enumerate(["a", "b", "c", "d"])))
    data, index, offsets = "  1 A miniature  \n", "", {}
    for noun, hypernyms in nouns.items():
        offsets[noun] = len(data)
        pointers = "".join(f"@ {offsets[hypernym]:08d} n 0000 " for hypernym in hypernyms)
        data += f"{offsets[noun]:08d} 03 n 01 {noun} 0 {len(hypernyms):03d} {pointers}| a {noun}  \n"
        index += f"{noun} n 1 1 @ 1 0 {offsets[noun]:08d}  \n"
    (corpus / "data.noun").write_text(data)
    (corpus / "index.noun").write_text(index)
    return {noun: f"n{offset:08d}" for noun, offset in offsets.items()}


@pytest.fixture
def database(tmp_path, monkeypatch):
    """The miniature, where nltk looks: its folder, and the class folders of its nouns."""
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nltk_data")])
    ids = write_database(tmp_path / "nltk_data")
    return SimpleNamespace(folder=tmp_path / "nltk_data", corpus=tmp_path / "nltk_data/corpora/wordnet", ids=ids)


def similarities(ids, pairs):
    """Path similarities of pairs of nouns, as the script gets them."""
    outputs = {noun: output for output, noun in enumerate(ids)}
    synsets = class_synsets({folder: outputs[noun] for noun, folder in ids.items()})
    rows = [(0, outputs[first], outputs[second], 0.5) for first, second in pairs]
    return path_similarities(class_pairs(*rows), synsets)


HAND_COMPUTED = {
    ("dog", "cat"): 1 / 3,
    ("car", "sports_car"): 1 / 2,
    ("dog", "car"): 1 / 5,
    ("cat", "sports_car"): 1 / 6,
    ("toy_dog", "car"): 1 / 3,  # as an artifact
    ("toy_dog", "cat"): 1 / 4,  # as a dog
    ("dog", "entity"): 1 / 3,
}


def test_path_similarities_are_those_computed_by_hand(database):
    assert similarities(database.ids, HAND_COMPUTED) == pytest.approx(list(HAND_COMPUTED.values()))


def test_a_corpus_in_a_zip_file_is_read_as_it_is(database):
    shutil.make_archive(database.corpus, "zip", database.corpus.parent, "wordnet")
    shutil.rmtree(database.corpus)
    assert similarities(database.ids, HAND_COMPUTED) == pytest.approx(list(HAND_COMPUTED.values()))


def test_a_damaged_zip_file_is_one_line(database):
    archive = Path(shutil.make_archive(database.corpus, "zip", database.corpus.parent, "wordnet"))
    shutil.rmtree(database.corpus)
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"wordnet.zip.* is damaged"):
        class_synsets({database.ids["dog"]: 0})


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
        class_synsets({database.ids["toy_dog"]: 0})
    assert "\n" not in str(caught.value)
    assert str(database.corpus) in str(caught.value)


def test_a_way_to_the_root_that_is_broken_is_found_before_the_pass_over_the_chunks(database):
    text = (database.corpus / "data.noun").read_text()
    animal = f"{int(database.ids['animal'][1:]):08d} 03"
    (database.corpus / "data.noun").write_text(text.replace(animal, "00000000 03"))
    with pytest.raises(UserError, match="is damaged"):
        class_synsets({database.ids["dog"]: 0})
    assert list(class_synsets({database.ids["car"]: 5})) == [5]


def test_folders_that_are_no_ids_are_named(database):
    with pytest.raises(UserError, match="class folder 'bee' is no WordNet id such as n02124075"):
        class_synsets({database.ids["dog"]: 0, "bee": 1, "cat": 2})
    with pytest.raises(UserError, match="class folder n00000003 is no noun of the WordNet"):
        class_synsets({database.ids["dog"]: 0, "n00000003": 1, "n99999999": 2})


def test_a_missing_corpus_is_downloaded_by_nltk(database, monkeypatch):
    shutil.move(database.folder, database.folder.with_name("elsewhere"))
    calls = []

    def download(command, timeout, **options):
        calls.append(command)
        assert timeout <= 60
        shutil.move(database.folder.with_name("elsewhere"), database.folder)

    monkeypatch.setattr(wordnet.subprocess, "run", download)
    assert similarities(database.ids, HAND_COMPUTED) == pytest.approx(list(HAND_COMPUTED.values()))
    assert calls == [[sys.executable, "-m", "nltk.downloader", "-q", "wordnet"]]


@pytest.mark.parametrize("error", [None, subprocess.TimeoutExpired("nltk.downloader", 60)])
def test_a_corpus_that_cannot_be_downloaded_is_one_line_that_says_how_to_get_it(database, monkeypatch, error):
    shutil.rmtree(database.folder)

    def fail(*arguments, **options):
        if error:
            raise error

    monkeypatch.setattr(wordnet.subprocess, "run", fail)
    with pytest.raises(UserError, match=r"python -m nltk.downloader wordnet .*NLTK_DATA"):
        class_synsets({database.ids["dog"]: 0})


def test_without_nltk_the_message_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "nltk.corpus.reader", None)
    with pytest.raises(UserError, match="pip install nltk"):
        class_synsets({"n02124075": 0})


def test_rank_correlation_by_hand_and_where_there_is_none():
    assert rank_correlation([0.1, 0.2, 0.9, 0.8], [1, 2, 3, 4]) == pytest.approx(0.8)  # 1 - 6 * 2 / (4 * 15)
    assert rank_correlation([0.1, 0.5, 0.9], [1 / 3, 1 / 3, 1 / 3]) is None
    assert rank_correlation([0.5, 0.5, 0.5], [0.1, 0.2, 0.3]) is None
    assert rank_correlation([0.1, 0.3], [0.2, 0.1]) is None


def test_the_most_surprising_pairs_are_of_both_kinds_and_of_different_classes():
    rows = [(7, 0, 1, 0.9), (8, 0, 1, 0.85), (7, 2, 3, 0.8), (7, 4, 5, 0.3), (9, 6, 7, 0.2), (9, 4, 5, 0.1)]
    pairs = class_pairs(*rows)
    close = [0.1, 0.1, 0.5, 0.05, 0.4, 0.45]
    high, low = most_surprising(pairs, close)
    assert high == [0]  # the second is of the same classes; the third is close in WordNet
    assert low == [5, 4]  # the fourth is far apart
    assert most_surprising(pairs, close, count=1) == [[0], [5]]
    assert most_surprising(pairs, [0.2] * 6) == [[], []]
    assert most_surprising(pairs[:1], [0.2]) == [[], []]


@pytest.fixture(scope="module")
def named_by_ids(tmp_path_factory):
    """A folder with the store of a network whose class folders are nouns of the miniature, and the miniature."""
    folder = tmp_path_factory.mktemp("named_by_ids")
    ids = write_database(folder / "nltk_data")
    data = write_images(folder / "data", folders=[ids[noun] for noun in ("dog", "cat", "car", "sports_car")], val=0)
    stage1(data, folder / "store", cwd=folder)
    return folder


def stage2_with_wordnet(folder, output, *more):
    flags = ("--store_dir", folder / "store", "--proportion_attribution_required", "0.05", "--p", "0.5")
    flags = (*NETWORK, *flags, "--plot_wordnet", "--output_dir", output, *more)
    return run_script("get_cosine_similarities.py", *flags, cwd=output, NLTK_DATA=str(folder / "nltk_data"))


def test_stage2_draws_and_writes_the_similarity_of_every_pair(named_by_ids, with_full_figures, tmp_path):
    result = stage2_with_wordnet(named_by_ids, tmp_path, "--cos_sim_low", "0.2", "--cos_sim_high", "0.5")
    assert result.returncode == 0, result.stderr
    name = f"{RUN}_required0.05_p0.5_cossim0.2to0.5_wordnet"
    with open(tmp_path / "results_get_cosine_similarities" / f"{name}.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["Channel", "Class1", "Class2", "CosineSimilarity", "PathSimilarity"]
    nouns = ("dog", "cat", "car", "sports_car")
    for _, class1, class2, _, similarity in rows:
        key = (nouns[int(class1)], nouns[int(class2)])
        expected = {**HAND_COMPUTED, ("dog", "sports_car"): 1 / 6, ("cat", "car"): 1 / 5}[key]
        assert float(similarity) == pytest.approx(expected, abs=1e-6)
    cosines = np.array([float(row[3]) for row in rows])
    assert min(cosines) < 0.2 < 0.5 < max(cosines)  # all pairs, whatever the bounds
    for suffix in ("png", "pdf"):
        assert (tmp_path / "plots" / f"{name}.{suffix}").stat().st_size > 5000
    below = [float(row[4]) for row in rows if float(row[3]) < 0.5]
    assert f"median: {np.median(below):.3f} over {len(below)} pairs under gamma = 0.5" in result.stdout
    assert f"{len(rows)} pairs in all" in result.stdout
    assert f"{name}.png" in result.stdout


def test_stage2_without_pairs_draws_no_wordnet_figure(named_by_ids, tmp_path):
    result = stage2_with_wordnet(named_by_ids, tmp_path, "--min_images", "50")
    assert result.returncode == 0, result.stderr
    assert "no two classes share a relevant channel: there is no WordNet figure" in result.stdout
    assert not list(tmp_path.rglob("*wordnet*"))


def test_stage2_refuses_folders_that_are_no_ids_before_it_counts(copy):
    shutil.rmtree(copy / "store" / "results_get_cosine_similarities")
    flags = ("--store_dir", "store", "--plot_wordnet")
    result = run_script("get_cosine_similarities.py", *NETWORK, *flags, cwd=copy)
    assert result.returncode == 2
    assert "error: --plot_wordnet: class folder 'ant' is no WordNet id" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (copy / "store" / "results_get_cosine_similarities").exists()
