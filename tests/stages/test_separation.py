"""Separation from small stores, against loops over images, concepts, draws and channels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers import as_layer
from tests.oracles import area, average_precision, correlation, least_squares_by_scipy
from tests.stores import META, study_of
from utils.concept_sources.source_registry import SOURCES
from utils.divisions.arv import Arv
from utils.divisions.least_squares import LeastSquares
from utils.errors import UserError
from utils.images.folders import ImageList
from utils.method.disentangling import split_sources
from utils.method.probes import ProbedConcept, linear_probe
from utils.method.rho import RHOS
from utils.method.shares import least_squares_shares
from utils.method.significance import permutation, sequential_test
from utils.stages import separation
from utils.stages.separation import (
    DRAWS,
    NumbersDrawn,
    Thresholds,
    TrainingUnits,
    ValidationInputs,
    describe_separation,
    separate,
)
from utils.store.importance_store import ImportanceStore
from utils.store.opened_splits import OpenedSplit
from utils.store.splits import SETTINGS, SplitFile

CLASSES = {"a": 0, "b": 1, "c": 2, "d": 3}
TAU, P = 0.1, 0.75
SIZES = {"num_channels": 14, "num_inputs": 6, "num_taps": 2, "num_outputs": 4, "chunk_size": 20, "classes": CLASSES}


def make_store(folder, images, count):
    """A complete store of images whose inputs tell their classes a little; class d has none in ``val``."""
    random = np.random.default_rng(1)
    of = np.sort(np.arange(count) % (4 if images == "train" else 3))
    names = list(CLASSES)[: of.max() + 1]
    listed = ImageList(Path("x"), names, np.array([b"%d" % i for i in range(count)]), np.full(count, 9), of)
    torch.manual_seed(0)
    layer = as_layer(nn.Conv2d(6, 14, (1, 2)).requires_grad_(False))
    meta = {**META, **SIZES, "images": images, "num_images": count, "data_sha256": listed.digest()}
    meta["class_counts"] = {name: int((of == output).sum()) for output, name in enumerate(names)}
    store = ImportanceStore(folder, "m", images)
    store.begin(meta, layer, listed)
    prototypes = np.random.default_rng(0).normal(0, 1, (4, 6, 2))
    for chunk in range(store.num_chunks):
        indices = np.array(store.chunk_range(chunk))
        shape = len(indices)
        batch = {
            "relative_importances": random.random((shape, 14)) * 0.09,
            "positive_sums": np.ones(shape),
            "input_sums": prototypes[of[indices]] + random.normal(0, 2, (shape, 6, 2)),
            "targets": of[indices],
            "predictions": np.where(random.random(shape) < 0.8, of[indices], 3),
            "indices": indices,
            "content": indices.astype(np.uint64),
            "shares": random.random((shape, 14)),
            "logits": random.normal(0, 1, (shape, 4)),
        }
        # channels 0 and 1 are relevant for all classes
        batch["relative_importances"][:, :2] = 0.5
        store.write_chunk(chunk, [batch])
    return store


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(training store, validation store) of a small layer; not to be changed."""
    folder = tmp_path_factory.mktemp("world")
    training, validation = make_store(folder, "train", 60), make_store(folder, "val", 33)
    separation.class_statistics(training, study_of(training).class_store, [TAU])
    return training, validation


def opened_split(world, channel, concepts, *, by="arv", background=None, rho=0.8, only_correct=False):
    study = study_of(world[0], only_correct=only_correct, background=background)
    candidate = SOURCES.get("classes").from_given({}, study).maker(study, []).make(channel, concepts)
    if by == "arv":
        owners = torch.stack([split_sources(candidate.arvs, one) for one in RHOS])
        division = Arv(owners, torch.zeros(20, 3), "positive", rho, len(candidate.concepts))
    else:
        moments = study.inputs_of(candidate.own_concepts, background).second_moments()
        shares = least_squares_shares(candidate.weight[None].double(), *moments)[0]
        division = LeastSquares(shares, **LeastSquares.settings_from({}))
    split, settings = candidate.split(division), {**dict.fromkeys(SETTINGS), "only_correct": only_correct}
    file = SplitFile(split, {}, settings, background, candidate.source, {}, f"{channel} {concepts}")
    return OpenedSplit(Path(f"m_channel{channel}.pt"), file, split.rho)


class Remembered:
    """MeasuredRows in memory: the rows of splits by name."""

    def __init__(self):
        self.rows = {}
        self.find = self.rows.get
        self.require = self.rows.__getitem__
        self.keep = self.rows.__setitem__


def measure(world, *opened, number=None, most_draws=DRAWS, measured=None):
    outputs = sorted({output for one in opened for output in one.outputs})
    validation = ValidationInputs(world[1], outputs)
    return separate(
        opened,
        [Thresholds(TAU, P)] * len(opened),
        validation,
        TrainingUnits(study_of(world[0])),
        numbers=NumbersDrawn(dict.fromkeys(("arv", "least_squares"), number), most_draws),
        measured=measured or Remembered(),
    )


def images_of(store):
    """All tap sums [N, C_in, taps] and targets [N] of a store, as arrays."""
    chunks = [store.read_chunk(chunk) for chunk in range(store.num_chunks)]
    return [np.concatenate([chunk[name] for chunk in chunks]) for name in ("input_sums", "targets")]


def loops(weight, training, validation, rho, concepts, background, own):
    """Area, precision and correlation of each ``c'_k`` of a unit [C_in, taps] by Ineq. 5, from class means."""
    sums, targets = training
    means = [np.mean([sums[targets == output].mean(0, dtype=float) for output in one], axis=0) for one in concepts]
    means += [sums.mean(0, dtype=float)] if background else []
    arvs, found = [(weight * mean).sum(1) for mean in means], []
    for k in range(len(concepts)):
        kept = np.ones(6, dtype=bool)
        for i in range(6):
            owner = next((j for j in range(len(arvs)) if all(rho * arvs[j][i] > other[i]
                          for o, other in enumerate(arvs) if o != j)), None)  # fmt: skip
            kept[i] = owner in (None, k)
        scores = [(weight * kept[:, None] * image).sum() for image in validation]
        measures = area, average_precision, correlation
        found.append([measure(scores, own[k]) if np.ptp(scores) else np.nan for measure in measures])
    return found


@pytest.mark.parametrize("concepts, background", [([[0], [1]], None), ([[0, 2], [1]], 1.0)])
def test_every_value_of_the_rule_equals_loops(world, concepts, background):
    opened = opened_split(world, 1, concepts, background=background)
    rows = measure(world, opened)
    sums, targets = images_of(world[1])
    weights, own = world[0].read_layer()[0].double().numpy(), [np.isin(targets, concept) for concept in concepts]
    setting = images_of(world[0]), sums, 0.8, concepts, background, own
    actual = loops(weights[1], *setting)
    orders = [permutation(6, "weights", 1, concepts, draw).numpy() for draw in range(DRAWS)]
    drawn = np.array([loops(weights[1][order], *setting) for order in orders])
    irrelevant = np.array([loops(weights[channel], *setting) for channel in range(2, 14)])
    plain = np.array([(weights[1] * image).sum() for image in sums])
    logits = np.concatenate([world[1].read_chunk(chunk)["logits"] for chunk in (0, 1)])
    for k, row in enumerate(rows):
        assert (row["channel"], row["concept"], row["classes"]) == (1, k + 1, concepts[k])
        assert row["images"] == own[k].sum() and row["prevalence"] == own[k].mean()
        assert (row["auroc_all"], row["ap_all"], row["pearson_all"]) == pytest.approx(actual[k])
        assert row["auroc_all_original"] == pytest.approx(area(plain, own[k]))
        assert row["ap_all_original"] == pytest.approx(average_precision(plain, own[k]))
        assert row["pearson_all_original"] == pytest.approx(correlation(plain, own[k]))
        assert (row["auroc_draws"], row["ap_draws"]) == tuple(
            pytest.approx(drawn[:, k, i], nan_ok=True) for i in (0, 1)
        )
        means = np.nanmean(drawn[:, k], axis=0)
        columns = [f"{measure}_all_weights_permuted" for measure in ("auroc", "ap", "pearson")]
        assert [row[column] for column in columns] == pytest.approx(means)
        assert row["ap_all_irrelevant"] == pytest.approx(np.nanmean(irrelevant[:, k, 1]))
        assert row["pearson_all_irrelevant"] == pytest.approx(np.nanmean(irrelevant[:, k, 2]))
        assert (
            row["p_irrelevant"] == (1 + (irrelevant[:, k, 1] >= row["ap_all"]).sum()) / 13 and row["irrelevant"] == 12
        )
        both = own[0] | own[1]
        assert row["auroc_others_original"] == pytest.approx(area(plain[both], own[k][both]))
        largest = logits[:, concepts[k]].max(1)
        assert row["ap_all_own_logit"] == pytest.approx(average_precision(largest, own[k].tolist()))
        assert row["pearson_all_own_logit"] == pytest.approx(correlation(largest, own[k]))
        assert row["auroc_all_own_logit"] == pytest.approx(area(largest, own[k]))
        assert np.isnan(row["ap_all_real_target"])
    smaller, larger = sorted(row["p_irrelevant"] for row in rows)
    assert sorted(row["q_irrelevant"] for row in rows) == pytest.approx([min(2 * smaller, larger), larger])


def test_a_row_has_its_columns_in_the_order_in_which_they_are_stored(world):
    row, _ = measure(world, opened_split(world, 1, [[0], [1]]))
    units = ["_weights_permuted", "_real_target", "_owners_permuted", "_irrelevant", "", "_original"]
    units += ["_mean_difference", "_probe", "_own_logit"]
    assert list(row) == [
        *("split", "split_by", "rho", "channel", "concept", "classes", "name", "images", "prevalence"),
        *(f"{measure}_all{unit}" for measure in ("ap", "pearson", "auroc") for unit in units),
        "ap_all_random_groups",
        *("auroc_others", "auroc_others_original"),
        *("p_null", "null_reached", "null_draws", "most_draws", "irrelevant", "irrelevant_there"),
        *("p_irrelevant", "auroc_draws", "ap_draws", "ap_draws_real_target", "q_null", "q_irrelevant"),
    ]


@pytest.fixture(scope="module")
def going_on(world):
    """Splits with a concept that fewer than three of the first draws reach, and their rows of up to 60 draws."""
    splits = [opened_split(world, channel, [[0], [2]]) for channel in range(14)]
    rows = [measure(world, opened, most_draws=60) for opened in splits]
    return [both for both in zip(splits, rows, strict=True) if max(row["null_draws"] for row in both[1]) > DRAWS]


def test_draws_of_the_primary_null_go_on_until_three_reach_a_concept(world, going_on):
    """Every draw by loops, one after another: how many there are changes none of them, nor the means."""
    most, concepts = 60, [[0], [2]]
    sums, targets = images_of(world[1])
    own = [np.isin(targets, concept) for concept in concepts]
    setting = images_of(world[0]), sums, 0.8, concepts, None, own
    for opened, rows in going_on[:3]:
        channel = opened.file.split.channel
        weight = world[0].read_layer()[0].double().numpy()[channel]
        orders = [permutation(6, "weights", channel, concepts, draw).numpy() for draw in range(most)]
        drawn = np.array([loops(weight[order], *setting) for order in orders])[..., 1]
        for k, (row, first) in enumerate(zip(rows, measure(world, opened), strict=True)):
            reaching = np.flatnonzero(drawn[:, k] >= row["ap_all"] - 1e-12)
            if len(reaching) >= 3:
                expected = (3 / (reaching[2] + 1), 3, reaching[2] + 1)
            else:
                expected = ((len(reaching) + 1) / (most + 1), len(reaching), most)
            assert (row["p_null"], row["null_reached"], row["null_draws"]) == pytest.approx(expected)
            differing = {name for name, value in row.items() if first[name] != value and value == value}
            assert differing <= {"p_null", "q_null", "null_reached", "null_draws", "most_draws"}
        smaller, larger = sorted(row["p_null"] for row in rows)
        assert sorted(row["q_null"] for row in rows) == pytest.approx([min(2 * smaller, larger), larger])


def test_a_concept_that_three_draws_have_reached_makes_no_further_ones(world, going_on, monkeypatch):
    opened, whole = going_on[0]
    ranked = []

    def counted(rows, is_own, validation):
        ranked.append((len(is_own), *(of_unit.shape[1] for of_unit in rows.values())))
        return rank_together(rows, is_own, validation)

    rank_together = separation._rank_together
    monkeypatch.setattr(separation, "_rank_together", counted)
    assert str(measure(world, opened, most_draws=60)) == str(whole)
    numbers = [sum(row["null_draws"] > done for row in whole) for done in (20, 40)]
    assert ranked[1:] == [(number, 20) for number in numbers if number] != []


def test_permuted_owners_keep_the_weights_and_the_number_of_inputs(world):
    opened = opened_split(world, 1, [[0], [1]], rho=1.0)
    (row, _), split = measure(world, opened), opened.file.split
    sums, targets = images_of(world[1])
    scores = []
    for draw in range(DRAWS):
        owners = split.division.owners[-1][permutation(6, "owners", 1, [[0], [1]], draw)]
        kept = ((owners == 0) | (owners == 1)).numpy()
        scores.append((split.weight.double().numpy() * kept[:, None] * sums).sum((1, 2)))
    precisions = [average_precision(one, (targets == 0).tolist()) for one in scores]
    assert row["ap_all_owners_permuted"] == pytest.approx(np.mean(precisions))


def test_a_row_does_not_depend_on_what_else_is_measured(world):
    one, other = opened_split(world, 1, [[0], [1]]), opened_split(world, 0, [[1], [2]])
    together, alone = measure(world, one, other), measure(world, other)
    differing = {name for name, value in alone[0].items() if together[2][name] != value and value == value}
    assert differing <= {"q_irrelevant", "q_null"}
    assert [row["channel"] for row in measure(world, other, one)] == [0, 0, 1, 1]


def test_what_is_drawn_of_the_irrelevant_channels_has_no_q_values(world):
    rows = measure(world, opened_split(world, 1, [[0], [1]]), number=5)
    assert all(row["irrelevant"] == 5 and np.isnan(row["q_irrelevant"]) for row in rows)
    assert all(row["irrelevant_there"] == 12 for row in rows)
    assert all(row["p_irrelevant"] * 6 == pytest.approx(round(row["p_irrelevant"] * 6)) for row in rows)


@pytest.mark.parametrize("number", [12, 200])
def test_as_many_as_there_are_is_all_of_them(world, number):
    opened = opened_split(world, 1, [[0], [1]])
    assert str(measure(world, opened, number=number)) == str(measure(world, opened))


def test_without_irrelevant_channels_they_are_not_looked_for(world, monkeypatch):
    opened = opened_split(world, 1, [[0], [1]])
    whole = measure(world, opened)
    monkeypatch.setattr(separation, "class_statistics", None)
    for row, with_them in zip(measure(world, opened, number=0), whole, strict=True):
        absent = {"p_irrelevant", "q_irrelevant"}
        absent |= {f"{measure}_all_irrelevant" for measure in ("ap", "pearson", "auroc")}
        assert all(np.isnan(row[name]) for name in absent) and row["irrelevant"] == row["irrelevant_there"] == 0
        others = set(row) - absent - {"irrelevant", "irrelevant_there"}
        assert str({name: row[name] for name in others}) == str({name: with_them[name] for name in others})


def test_a_split_that_was_measured_is_not_measured_again(world, monkeypatch):
    """Stopped at the second split; the third run has one more split, whose q values are those of all."""
    splits = [opened_split(world, channel, [[0], [1]]) for channel in (0, 1, 2)]
    whole, two = measure(world, *splits, most_draws=45), measure(world, *splits[:2], most_draws=45)
    measured = Remembered()
    separate_one = separation._separate_one
    begun = []

    def stopped(opened, *more, most_draws):
        begun.append(opened.file.split.channel)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return separate_one(opened, *more, most_draws=most_draws)

    monkeypatch.setattr(separation, "_separate_one", stopped)
    with pytest.raises(KeyboardInterrupt):
        measure(world, *splits[:2], most_draws=45, measured=measured)
    assert str(measure(world, *splits[:2], most_draws=45, measured=measured)) == str(two)
    assert str(measure(world, *splits, most_draws=45, measured=measured)) == str(whole)
    assert begun == [0, 1, 1, 2]


def test_a_concept_without_validation_images_is_no_crash(world):
    rows = measure(world, opened_split(world, 1, [[0], [3]]))
    assert [row["images"] for row in rows] == [11, 0]
    values = ("auroc_all", "ap_all", "ap_all_weights_permuted", "auroc_others", "p_irrelevant", "q_irrelevant")
    assert all(np.isnan(rows[1][name]) for name in (*values, "p_null", "q_null")) and rows[1]["null_draws"] == 0
    assert np.isnan(rows[0]["auroc_others"]) and rows[0]["q_null"] == rows[0]["p_null"]
    assert np.isfinite(rows[0]["ap_all"]) and rows[0]["q_irrelevant"] == rows[0]["p_irrelevant"]


def test_least_squares_has_both_references(world):
    opened = opened_split(world, 1, [[0], [1]], by="least_squares", background=1.0, rho=None)
    rows, split = measure(world, opened), opened.file.split
    sums, targets = images_of(world[1])
    training, of = images_of(world[0])
    groups = [torch.from_numpy(training[of == output]) for output in (0, 1)]
    groups.append(torch.from_numpy(training[of > 1]))
    orders = torch.stack([permutation(6, "weights", 1, [[0], [1]], draw) for draw in range(DRAWS)])
    weights, real = split.weight.double()[orders], split.weight.double().expand(DRAWS, -1, -1)
    for name, target in (("weights_permuted", weights), ("real_target", real)):
        shares = [
            least_squares_by_scipy(weight.numpy(), groups, [1.0, 1.0, 1.0], real_or_permuted.numpy())[0]
            for weight, real_or_permuted in zip(weights, target, strict=True)
        ]
        found = np.einsum("nit,dit->dn", sums, np.array(shares)[..., None] * weights.numpy())
        mean = np.mean([average_precision(one, (targets == 0).tolist()) for one in found])
        assert rows[0][f"ap_all_{name}"] == pytest.approx(mean, abs=0.01)
        draws = rows[0]["ap_draws" if name == "weights_permuted" else "ap_draws_real_target"]
        assert len(draws) == DRAWS and np.mean(draws) == pytest.approx(mean, abs=0.01)
    test = sequential_test(rows[0]["ap_all"], draws)  # the weights that are fitted to the real channel decide
    assert (rows[0]["p_null"], rows[0]["null_reached"], rows[0]["null_draws"]) == test
    assert len(rows) == 2 and rows[0]["split_by"] == "least_squares" and rows[0]["rho"] is None


@pytest.mark.parametrize("only_correct", [False, True])
def test_readouts_are_fitted_to_training_images_and_ranked_on_validation_images(world, only_correct):
    (row, _) = measure(world, opened_split(world, 1, [[0, 2], [1]], only_correct=only_correct))
    (training, of), (sums, targets) = (images_of(store) for store in world[:2])
    training, sums = (inputs.reshape(-1, 12).astype(float) for inputs in (training, sums))
    labels = world[0].read_labels()
    counts = np.isin(of, [1, 3]) | (labels.counting(only_correct).numpy())
    standardised = (training[counts] - training.mean(0)) / training.std(0)
    is_own = np.isin(of[counts], [0, 2])
    difference = standardised[is_own].mean(0) - standardised[~is_own].mean(0)
    probe = linear_probe(ProbedConcept(*map(torch.from_numpy, (standardised, is_own, np.ones(len(is_own))))))
    for name, weights in (("mean_difference", difference), ("probe", probe.numpy())):
        scores = (sums / training.std(0)) @ weights
        own = np.isin(targets, [0, 2])
        assert row[f"ap_all_{name}"] == pytest.approx(average_precision(scores, own), abs=0.01)
        assert row[f"auroc_all_{name}"] == pytest.approx(area(scores, own), abs=0.01)
    assert row["ap_all_probe"] > row["ap_all_original"]


def test_other_groupings_of_the_classes_are_judged_on_their_own_images(world):
    concepts = [[0, 2], [1]]
    row, single = measure(world, opened_split(world, 1, concepts))
    weights = world[0].read_layer()[0].double().numpy()
    sums, targets = images_of(world[1])
    above = []
    for groups in ([[0, 1], [2]], [[1, 2], [0]]):  # the two other ways to make a pair of three classes
        own = [np.isin(targets, group) for group in groups]
        values = loops(weights[1], images_of(world[0]), sums, 0.8, groups, None, own)
        shares = [of_group.mean() for of_group in own]
        above.append([(value[1] - share) / (1 - share) for value, share in zip(values, shares, strict=True)])
    for of_concept, expected in zip((row, single), np.mean(above, axis=0), strict=True):
        prevalence = of_concept["prevalence"]
        assert of_concept["ap_all_random_groups"] == pytest.approx(prevalence + (1 - prevalence) * expected, abs=1e-4)
    alone, _ = measure(world, opened_split(world, 1, [[0], [1]]))
    assert np.isnan(alone["ap_all_random_groups"])  # two classes are two groups in one way alone


def test_blocks_change_nothing(world, monkeypatch):
    opened = opened_split(world, 1, [[0], [1]])
    whole = measure(world, opened)
    monkeypatch.setattr(separation, "MOST_SCORES", 200)
    for row, of_whole in zip(measure(world, opened), whole, strict=True):
        correlations = {name for name in row if name.startswith("pearson")}  # last digits of sums, which ranks hide
        for name in correlations:
            assert row.pop(name) == pytest.approx(of_whole.pop(name), rel=1e-6, nan_ok=True)
        assert correlations and str(row) == str(of_whole)


def test_a_split_of_other_training_images_is_refused(world):
    opened = opened_split(world, 1, [[0], [1]], only_correct=True)
    opened.file.settings["only_correct"] = False
    with pytest.raises(UserError, match=r"m_channel1.pt was made of other training images: run disentangle_channel"):
        measure(world, opened)


def test_what_is_known_before_tells_splits_stores_and_settings_apart(world):
    training, validation = world
    one = opened_split(world, 1, [[0], [1]])

    def known(opened=one, tau=TAU, number=None, most_draws=DRAWS, store=validation):
        numbers = NumbersDrawn({"arv": number}, most_draws)
        thresholds = [Thresholds(tau, P)]
        stores = {"validation": store, "training": training}
        return describe_separation("name", "m", [opened], thresholds, **stores, numbers=numbers)

    assert known() == known()
    others = [known(opened_split(world, 0, [[0], [1]])), known(tau=0.2), known(number=3), known(store=training)]
    others.append(known(most_draws=199))
    assert all(other != known() for other in others)
    assert known()["splits"] == {"m_channel1": ["1 [[0], [1]]", 0.8, TAU, P]}
