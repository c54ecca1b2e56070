"""The WordNet figure: path similarities by the real nltk reader on a miniature database."""

import csv
import shutil

import numpy as np
import pytest

from tests.figures import class_pairs
from tests.miniature_wordnet import install, write_database
from tests.pictures import write_images
from tests.scripts import NETWORK, RUN, run_script, stage1
from utils.report.wordnet import most_surprising, path_similarities, rank_correlation
from utils.store.synsets import class_synsets


@pytest.fixture
def database(tmp_path, monkeypatch):
    return install(tmp_path, monkeypatch)


def similarities(ids, pairs):
    """Path similarities of pairs of nouns, as the script gets them."""
    outputs = {noun: output for output, noun in enumerate(ids)}
    synsets = class_synsets(
        {folder: outputs[noun] for noun, folder in ids.items()}, needed_by="--plot_wordnet", may_download=False
    )
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
