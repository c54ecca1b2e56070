"""Concepts without labels beside units of permuted weights: against loops over images, kept beside the splits."""

import itertools
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.oracles import average_precision, stored_images
from tests.scripts import RUN, stage1, stage3
from tests.stores import study_of
from utils.command_line.image_sets import open_nulls
from utils.command_line.settings import ResultSettings
from utils.divisions.least_squares import LeastSquares
from utils.errors import UserError
from utils.method import naming
from utils.method.clustering import k_means
from utils.method.disentangling import split_sources
from utils.method.shares import least_squares_shares
from utils.method.significance import permutation
from utils.report.image_set_text import ScoredSplit, count_in_words, score_in_words, scores_of
from utils.stages import concept_names, image_set_nulls
from utils.stages.concept_names import CandidateNames
from utils.stages.image_set_nulls import ImageSetNulls, ImageSetScores
from utils.store.importance_store import ImportanceStore
from utils.store.opened_splits import OpenedSplit
from utils.store.splits import read_split

DRAWS = 4
CONCEPTS = 3
REFERENCES = 14
CIRCUITS = ("--concepts_from", "circuits", "--nr_concepts", CONCEPTS, "--nr_reference_images", REFERENCES)
SPLITS = {"arv": (*CIRCUITS, "--split_by", "arv"), "least_squares": CIRCUITS, "pure": ("--concepts_from", "pure")}


@pytest.fixture(scope="module")
def folder(finished, tmp_path_factory):
    """A store of training and validation images, with splits of channel 9 without labels."""
    folder = tmp_path_factory.mktemp("nulls") / "copy"
    shutil.copytree(finished, folder)
    stage1("data", "store", "--images", "val", cwd=folder)
    for more in SPLITS.values():
        stage3("data", "store", *more, pair=(), cwd=folder)
    return folder


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(image_set_nulls, "DRAWS", DRAWS)


def opened_split(folder, name):
    """A split by circuits and a division, or by another source, or by classes."""
    patterns = {"arv": "*circuits_*d.pt", "least_squares": "*circuits_*least_squares*.pt", "pure": "*pure_*.pt"}
    paths = list((folder / "store" / "models_disentangled").glob(patterns.get(name, f"{RUN}_channel9_1_3.pt")))
    (path,) = [
        path for path in paths if name == "least_squares" or "circuits_" not in path.name or "least" not in path.name
    ]
    return OpenedSplit(path, file := read_split(path), file.split.rho)


def stores(folder):
    opened = ImportanceStore(folder / "store", RUN), ImportanceStore(folder / "store", RUN, "val")
    for store in opened:
        store.load_meta()
    return opened


def nulls_of(folder, *opened):
    training, validation = stores(folder)
    study = study_of(training, run=RUN, store_dir=folder / "store")
    return ImageSetNulls(opened, study, validation, candidates=CandidateNames.of(study.classes))


def rows_by_hand(opened, unit, sets, inputs):
    """``c'_1 .. c'_K`` of a unit [C_in], from the inputs [n, C_in] of its image sets."""
    split = opened.file.split
    others = [image for image in range(len(inputs)) if not any(image in of_set for of_set in sets)]
    if isinstance(split.division, LeastSquares):
        moments = [sum(np.outer(inputs[i], inputs[i]) for i in images) / len(images) for images in (*sets, others)]
        moments = [torch.from_numpy(moment) for moment in moments]
        settings = split.division.settings()
        weights = [1.0] * len(sets) + [opened.file.background]
        shares = least_squares_shares(unit[None, :, None], moments, weights, ridge=settings["ridge"])[0]
        return [(share / shares.sum(0) * unit).numpy() for share in shares[: len(sets)]]
    arvs = [unit.numpy() * np.mean([inputs[i] for i in images], axis=0) for images in (*sets, range(len(inputs)))]
    owners = split_sources(torch.from_numpy(np.stack(arvs)), opened.rho).numpy()
    return [np.where(np.isin(owners, (0, k + 1)), unit.numpy(), 0) for k in range(len(sets))]


def classes_by_hand(targets):
    counts = {output: targets.count(output) for output in sorted(set(targets))}
    frequent = sorted(counts, key=lambda output: -counts[output])[:3]
    return [output for output in frequent if counts[output] >= 0.1 * len(targets)]


def scores_by_hand(rows, sets, training, validation):
    """The classes of each set, and the score of its row."""
    found = []
    for row, images in zip(rows, sets, strict=True):
        classes = classes_by_hand([int(training["targets"][image]) for image in images])
        sums = np.array([float(row @ x[:, 0].double().numpy()) for x in validation["input_sums"]])
        is_own = np.array([int(target) in classes for target in validation["targets"]])
        precision = average_precision(sums, is_own)
        found.append((classes, (precision - is_own.mean()) / (1 - is_own.mean())))
    return found


def units_by_hand(opened, inputs):
    """``c'_1 .. c'_K`` and the image sets of a split, then those of each unit of permuted weights."""
    split = opened.file.split
    weight = split.weight[:, 0].double()
    rows = split.rows(opened.rho)[:CONCEPTS, :, 0].double().numpy()
    units = [(rows, [concept.images for concept in split.own_concepts])]
    for draw in range(1, 1 + DRAWS):
        unit = weight[permutation(len(weight), "weights", split.channel, draw)]
        sums = [float(unit.numpy() @ x) for x in inputs]
        strongest = sorted(range(len(inputs)), key=lambda image: -sums[image])[:REFERENCES]
        circuits = np.stack([unit.numpy() * inputs[image] for image in strongest])
        labels = k_means(torch.from_numpy(circuits / np.abs(circuits).sum(1, keepdims=True)), CONCEPTS).labels.tolist()
        sets = [sorted(image for image, label in zip(strongest, labels, strict=True) if label == k) for k in range(3)]
        units.append((rows_by_hand(opened, unit, sets, inputs), sets))
    return units


@pytest.mark.parametrize("name", ["arv", "least_squares"])
def test_scores_and_permuted_weights_equal_loops(folder, name):
    opened = opened_split(folder, name)
    training, validation = map(stored_images, stores(folder))
    inputs = training["input_sums"][..., 0].double().numpy()
    expected = [scores_by_hand(*unit, training, validation) for unit in units_by_hand(opened, inputs)]
    found = nulls_of(folder, opened).of(opened)
    assert found.classes == [classes for classes, _ in expected[0]]
    np.testing.assert_allclose(found.values, [value for _, value in expected[0]], rtol=1e-9)
    np.testing.assert_allclose(found.nulls, [[value for _, value in of_unit] for of_unit in expected[1:]], rtol=1e-3)


def name_values(rows, images, outputs):
    """For each unit (row), the score of a name less the mean of the other units, image by image."""
    is_own = np.isin(images["targets"].numpy(), outputs)
    scores = []
    for row in rows:
        sums = np.array([float(row @ x[:, 0].double().numpy()) for x in images["input_sums"]])
        scores.append((average_precision(sums, is_own.tolist()) - is_own.mean()) / (1 - is_own.mean()))
    return [score - np.mean([other for v, other in enumerate(scores) if v != u]) for u, score in enumerate(scores)]


@pytest.mark.parametrize("name", ["arv", "least_squares"])
def test_names_equal_loops_over_units_and_names(folder, tmp_path, name, monkeypatch):
    """Four classes and their pairs are names, as a prevalence of more than a half is allowed here."""
    shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns("*permuted_weights*"))
    folder = tmp_path / "copy"
    for module in (naming, concept_names):
        monkeypatch.setattr(module, "LARGEST_PREVALENCE", 0.6)
    opened = opened_split(folder, name)
    training, validation = map(stored_images, stores(folder))
    units = units_by_hand(opened, training["input_sums"][..., 0].double().numpy())
    classes = sorted(set(training["targets"].tolist()))
    sets = [outputs for n in (1, 2) for outputs in itertools.combinations(classes, n)]
    sets = [outputs for outputs in sets if np.isin(training["targets"].numpy(), outputs).mean() <= 0.6]
    assert max(map(len, sets)) == 2
    nulls = nulls_of(folder, opened)
    found = nulls.of(opened).names
    for k in range(CONCEPTS):
        rows = [of_unit[k] for of_unit, _ in units]
        chosen = [name_values(rows, training, outputs) for outputs in sets]
        for unit in range(len(units)):
            outputs = sets[int(np.argmax([values[unit] for values in chosen]))]
            value = name_values(rows, validation, outputs)[unit]
            assert found.values[unit, k].item() == pytest.approx(value, abs=1e-4)
            if unit == 0:
                words = [nulls._study.classes.name(output) for output in outputs]
                assert sorted(found.words[k].split(" or ")) == sorted(words)


@pytest.mark.parametrize("name", ["arv", "least_squares"])
def test_a_unit_is_divided_as_the_split_is(folder, name):
    """The channel itself, as a unit with the split's own sets."""
    opened = opened_split(folder, name)
    split = opened.file.split
    sets = [torch.tensor(concept.images) for concept in split.own_concepts]
    rows = nulls_of(folder, opened).rows_of_unit(opened, split.weight, sets)
    torch.testing.assert_close(rows.double(), split.rows(opened.rho)[: len(sets)].double(), rtol=0, atol=5e-4)


def test_scores_are_kept_and_measured_again_where_they_are_damaged_or_of_something_else(folder, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / "copy")
    opened = opened_split(tmp_path / "copy", "least_squares")
    first = nulls_of(tmp_path / "copy", opened).of(opened)
    measured = []
    measure = ImageSetNulls._measure
    monkeypatch.setattr(ImageSetNulls, "_measure", lambda self, *given: measured.append(1) or measure(self, *given))

    def again():
        found = nulls_of(tmp_path / "copy", opened).of(opened)
        assert torch.equal(found.values, first.values) and torch.equal(found.nulls, first.nulls)
        return len(measured)

    assert again() == 0
    (path,) = opened.path.parent.glob("*least_squares*permuted_weights*.npz")
    path.write_bytes(path.read_bytes()[:-40])
    assert again() == 1
    assert again() == 1
    monkeypatch.setattr(image_set_nulls, "VERSION", 0)
    assert again() == 2


def test_scores_whose_file_has_gone_since_are_measured_again(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    opened = opened_split(tmp_path / "copy", "least_squares")
    first = nulls_of(tmp_path / "copy", opened).of(opened)
    nulls = nulls_of(tmp_path / "copy", opened)
    (path,) = opened.path.parent.glob("*least_squares*permuted_weights*.npz")
    path.unlink()
    again = nulls.of(opened)
    assert torch.equal(again.values, first.values) and torch.equal(again.nulls, first.nulls) and path.is_file()


def test_concepts_with_labels_and_units_that_need_a_pass_have_no_scores(folder):
    opened = [opened_split(folder, name) for name in ("classes", "pure")]
    nulls = nulls_of(folder, *opened)
    assert [nulls.of(split) for split in opened] == [None, None]


def test_a_split_of_other_training_images_is_refused(folder):
    opened = opened_split(folder, "least_squares")
    opened.file.split.own_concepts[0].images[0] = 10**6
    opened.file.sha256 = "another"
    with pytest.raises(UserError, match="made from other training images"):
        nulls_of(folder, opened).of(opened)


def test_without_a_val_store_the_command_that_makes_it_is_printed(folder, capsys):
    settings = ResultSettings(model="m", store_dir="s", data_dir="d", division_given={}, num_workers=0)
    study = study_of(stores(folder)[0])
    opened = [opened_split(folder, "classes")]
    assert open_nulls(settings, opened, None, lambda: study) is None and not capsys.readouterr().out
    opened.append(opened_split(folder, "least_squares"))
    assert open_nulls(settings, opened, None, lambda: study) is None
    assert "get_importances_for_classes.py --model m" in capsys.readouterr().out


def test_why_names_are_those_of_classes_alone_is_printed(folder, capsys):
    settings = ResultSettings(model="m", store_dir="s", data_dir="d", division_given={}, num_workers=0)
    training, validation = stores(folder)
    assert open_nulls(settings, [opened_split(folder, "least_squares")], validation, lambda: study_of(training))
    assert capsys.readouterr().out == (
        "concepts are named after classes only, without WordNet: names: class folder 'ant' is no WordNet id such as "
        "n02124075\n"
    )


def test_scores_in_words():
    nan = float("nan")
    nulls = torch.tensor([[0.2, nan, 0.1, nan], [0.12, nan, 0.1, nan], [0.15, nan, nan, 0.1]]).double()
    scores = ImageSetScores([[1, 2], [3], [4], []], torch.tensor([0.31, 0.4, nan, nan]).double(), nulls)
    assert [score_in_words(scores, k) for k in range(4)] == [
        "0.31; permuted weights 0.12 to 0.20",
        "0.40; permuted weights stand out in no class",
        "no validation image of its classes",
        "stands out in no class",
    ]
    scores.values[2] = -0.05
    assert score_in_words(scores, 2) == "-0.05; permuted weights 0.10 to 0.10 (2 of 3 units)"


def scored(values, nulls, classes):
    return ImageSetScores(classes, torch.tensor(values).double(), torch.tensor(nulls).double())


def split_with(scores, source="circuits", channel=3):
    return ScoredSplit(source, channel, ["ant", "bee", "cat", "dog", "eel"], scores)


def test_the_count_is_of_concepts_that_no_unit_of_20_reaches():
    """Against a count by hand: a unit without classes reaches none, a concept without classes is reached by all."""
    nan = float("nan")
    classes = [[1], [2], [3], [4], []]
    values = [0.31, 0.4, 0.2, nan, nan]
    nulls = [[0.1 + 0.01 * draw, nan, 0.2 if draw == 7 else 0.1, 0.1, 0.3] for draw in range(20)]
    scores = scored(values, nulls, classes)
    assert np.allclose(scores.p_values(), [1 / 21, 1 / 21, 2 / 21, nan, 1], equal_nan=True)
    assert score_in_words(scores, 0) == "0.31 (above); permuted weights 0.10 to 0.29"
    assert score_in_words(scores, 1) == "0.40 (above); permuted weights stand out in no class"
    assert score_in_words(scores, 2) == "0.20; permuted weights 0.10 to 0.20"
    assert count_in_words([split_with(scores), split_with(None)]) == (
        "2 of 4 circuits stand above permuted weights (20 units, p < 0.05 each; expected by chance 0.19): 1 (ant), "
        "2 (bee)"
    )
    few = scored(values, nulls[:19], classes)  # p is 0.05 at least
    assert count_in_words([split_with(few, source="concept_vectors")]) == (
        "0 of 4 concept vectors stand above permuted weights (19 units, p < 0.05 each; expected by chance 0)"
    )
    several = [split_with(scores), split_with(few, source="concept_vectors"), split_with(scores, channel=7)]
    of_circuits, of_vectors = count_in_words(several).split("; 0 of ")
    assert of_circuits.startswith("4 of 8 circuits stand") and of_circuits.endswith(
        ": channel 3: 1 (ant), channel 3: 2 (bee), channel 7: 1 (ant), channel 7: 2 (bee)"
    )
    assert of_vectors.startswith("4 concept vectors")
    assert count_in_words([split_with(None)]) == "" == count_in_words([split_with(scored([nan], [[0.1]], [[1]]))])


def test_a_long_list_of_concepts_is_cut():
    many = scored([1.0] * 30, [[0.1] * 30] * 20, [[1]] * 30)
    text = count_in_words([ScoredSplit("circuits", 3, ["ant"] * 30, many)])
    assert text.startswith("30 of 30 circuits stand") and text.endswith("20 (ant) and 10 more")


def test_p_values_are_uniform_where_weights_are_permuted_too():
    random = np.random.default_rng(0)
    drawn = random.normal(size=(21, 4000))
    p = scored(drawn[0], drawn[1:], [[1]] * 4000).p_values()
    assert abs((p < 0.05).double().mean().item() - 1 / 21) < 0.01


def test_a_split_of_other_images_is_shown_without_scores_and_a_warning_says_why(capsys):
    def refuse(split):
        raise UserError(f"{split} is of other images")

    assert scores_of(SimpleNamespace(of=refuse), "a.pt") is None
    assert capsys.readouterr().err == "warning: not compared with permuted weights: a.pt is of other images\n"
