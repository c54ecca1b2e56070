"""Methods side by side on small stores: against loops, on a planted case, and every null like its method."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers import as_layer
from tests.oracles import area, average_precision, correlation
from tests.stores import META, study_of
from utils.concept_sources.compared_channels import (
    DRAWS,
    PARTITIONED_REFERENCES,
    PERMUTED_OWNERS,
    PERMUTED_WEIGHTS,
    REAL_TARGET,
    SAME_SETS,
    Comparison,
)
from utils.concept_sources.image_sets import Clusters
from utils.errors import UserError
from utils.images.folders import ImageList
from utils.method.disentangling import Concept, split_sources
from utils.method.significance import permutation
from utils.stages.comparison import agreement, compare, describe_comparison, draw_channels, require_comparable
from utils.stages.comparison_embedding import ChannelScores
from utils.stages.comparison_methods import comparison_methods
from utils.stages.input_readouts import InputReadouts
from utils.stages.separation import ValidationInputs
from utils.store.importance_store import ImportanceStore, Labels
from utils.store.scores import MEAN_DIFFERENCE, PROBE
from utils.store.unfinished import Unfinished

NUM_INPUTS, CLASSES = 96, {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4}
SIZES = {"num_channels": 3, "num_inputs": NUM_INPUTS, "num_taps": 1, "num_outputs": 5, "chunk_size": 40}
CONCEPTS = [[0], [1]]
METHODS = comparison_methods()
FROM_STORES = {name: one for name, one in METHODS.items() if not one.images}


def planted(folder, images, count):
    """A store in which channel 0 sees inputs 0 to 3 alone: two of class a, and two of class b."""
    random = np.random.default_rng([1, images == "val"])
    of = np.sort(np.arange(count) % 5)
    listed = ImageList(Path("x"), list(CLASSES), np.array([b"%d" % i for i in range(count)]), np.full(count, 9), of)
    torch.manual_seed(0)
    convolution = nn.Conv2d(NUM_INPUTS, 3, 1, bias=False).requires_grad_(False)
    convolution.weight[0] *= 0.02
    convolution.weight[0, :4] = torch.tensor([1.0, 0.9, 1.1, 0.8])[:, None, None]
    meta = {**META, **SIZES, "images": images, "num_images": count, "data_sha256": listed.digest()}
    meta |= {"classes": CLASSES, "class_counts": {name: int((of == k).sum()) for name, k in CLASSES.items()}}
    store = ImportanceStore(folder, "m", images)
    store.begin(meta, as_layer(convolution), listed)
    for chunk in range(store.num_chunks):
        indices = np.array(store.chunk_range(chunk))
        sums = random.normal(0, 0.3, (len(indices), NUM_INPUTS, 1))
        for output, inputs in ((0, (0, 1)), (1, (2, 3))):
            sums[np.ix_(of[indices] == output, inputs)] += 3
        batch = {
            "relative_importances": random.random((len(indices), 3)),
            "positive_sums": np.ones(len(indices)),
            "input_sums": sums,
            "targets": of[indices],
            "predictions": np.where(random.random(len(indices)) < 0.9, of[indices], 4),
            "indices": indices,
            "content": indices.astype(np.uint64),
            "shares": random.random((len(indices), 3)),
            "logits": random.normal(0, 1, (len(indices), 5)),
        }
        store.write_chunk(chunk, [batch])
    return store


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    return planted(folder, "train", 100), planted(folder, "val", 60)


def comparison_of(stores, given, rho=1.0, only_correct=False, channels=((0, CONCEPTS),)):
    """The Comparison of channels and their concepts; cosines are not looked at."""
    training, store = stores
    study = study_of(training, only_correct=only_correct)
    sums, targets = study.tap_sums.of_images(study.usable).double(), study.labels.targets[study.usable]
    means = torch.stack([sums[targets == output].mean(0) for output in range(5)])
    validation = ValidationInputs(store, [0, 1])
    return Comparison(study, list(channels), means, store, validation, rho=rho, given=given)


def kept_in(folder):
    return Unfinished(folder / "comparison.json", {})


def compared(comparison, names, folder):
    made = {name: METHODS[name].make(comparison) for name in names}
    concepts, channels, problems = compare(comparison, made, kept_in(folder))
    assert not problems
    return concepts, channels


def images_of(store):
    chunks = [store.read_chunk(chunk) for chunk in range(store.num_chunks)]
    return [np.concatenate([chunk[name] for chunk in chunks]) for name in ("input_sums", "targets", "predictions")]


@pytest.mark.parametrize("only_correct", [False, True])
def test_the_rule_and_its_permuted_weights_equal_loops(stores, only_correct, tmp_path):
    comparison = comparison_of(stores, {}, rho=0.8, only_correct=only_correct)
    rows, _ = compared(comparison, ["classes"], tmp_path)
    train, val = map(images_of, stores)
    usable = train[1] == train[2] if only_correct else np.full(100, True)
    weight = stores[0].read_layer()[0][0].double()
    orders = [torch.arange(NUM_INPUTS)]
    orders += [permutation(NUM_INPUTS, "weights", 0, draw) for draw in range(1, 1 + DRAWS)]
    found = []
    for order in orders:
        own = weight[order]
        owners = split_sources(torch.stack([(own * comparison.mean_inputs[k]).sum(-1) for k in (0, 1)]), 0.8)
        parts = [np.where(np.isin(owners, (0, k)), own[:, 0], 0) for k in (1, 2)]
        values = []
        for k in (0, 1):
            shown = usable & (train[1] < 2)
            areas = [area(train[0][shown, :, 0] @ one, train[1][shown] == k) for one in parts]
            scores = val[0][:, :, 0] @ parts[int(np.argmax(areas))]
            both = val[1] < 2
            judged = [measure(scores, val[1] == k) for measure in (average_precision, correlation, area)]
            values.append((*judged, area(scores[both], val[1][both] == k)))
        found.append(values)
    expected = {"": np.array(found[0]), PERMUTED_WEIGHTS: np.mean(found[1:], axis=0)}
    for row in rows:
        if row["null"] in expected:
            actual = [row[name] for name in ("ap_all", "pearson_all", "auroc_all", "auroc_others")]
            np.testing.assert_allclose(actual, expected[row["null"]][row["concept"] - 1], rtol=1e-6)
    assert {row["null"] for row in rows} == {"", PERMUTED_WEIGHTS, PERMUTED_OWNERS}


def test_circuits_find_planted_groups_and_their_nulls_do_not(stores, tmp_path):
    comparison = comparison_of(stores, {"number": 2, "references": 40})
    rows, channels = compared(comparison, ["circuits", "circuits_least_squares"], tmp_path)
    ari = {(row["method"], row["null"]): row["ari"] for row in channels}
    for method in ("circuits", "circuits_least_squares"):
        assert ari[method, ""] == 1
        assert abs(ari[method, PARTITIONED_REFERENCES]) < 0.3 and not ari[method, PERMUTED_WEIGHTS] > 0.5
        assert np.isnan(ari[method, PERMUTED_OWNERS]) and np.isnan(ari[method, SAME_SETS])  # the same sets
        # not of PARTITIONED_REFERENCES: however little random sets differ, they do so in what tells the groups apart
        means = {null: np.mean([row["ap_all"] for row in rows if (row["method"], row["null"]) == (method, null)])
                 for null in ("", PERMUTED_WEIGHTS, SAME_SETS, PERMUTED_OWNERS)}  # fmt: skip
        assert means[""] > 0.95 and all(means[null] < 0.9 for null in means if null)


@pytest.mark.parametrize("only_correct", [False, True])
def test_readouts_are_rows_that_labels_have_matched(stores, only_correct, tmp_path):
    comparison = comparison_of(stores, {}, only_correct=only_correct)
    rows, channels = compared(comparison, ["mean_difference", "probe"], tmp_path)
    assert [(row["method"], row["null"], row["k"], row["draws"]) for row in channels] == [
        ("mean_difference", "", len(CONCEPTS), 1),
        ("probe", "", len(CONCEPTS), 1),
    ]
    concepts = [Concept("", concept) for concept in CONCEPTS]
    is_own = comparison.validation.images_of(CONCEPTS)
    readouts = InputReadouts(comparison.study.tap_sums)
    for unit, name in ((MEAN_DIFFERENCE, "mean_difference"), (PROBE, "probe")):
        values = [row["ap_all"] for row in rows if row["method"] == name]
        scores = comparison.validation.scores(torch.stack([readouts.of(unit, concept) for concept in concepts]))
        expected = [average_precision(score.tolist(), own.tolist()) for score, own in zip(scores, is_own, strict=True)]
        assert values == pytest.approx(expected) and min(values) > 0.9


def test_every_null_has_as_many_units_as_its_method(stores, tmp_path):
    _, channels = compared(comparison_of(stores, {"number": 3, "references": 40}), FROM_STORES, tmp_path)
    numbers, nulls = {}, {}
    for row in channels:
        numbers.setdefault(row["method"], set()).add(row["k"])
        nulls.setdefault(row["method"], []).append(row["null"])
        assert row["draws"] == (DRAWS if row["null"] else 1)
    assert all(len(one) == 1 for one in numbers.values()) and set(numbers) == set(FROM_STORES)
    assert nulls["original"] == ["", PERMUTED_WEIGHTS] and nulls["logit"] == [""]
    assert nulls["circuits_least_squares"] == [
        "",
        PERMUTED_WEIGHTS,
        SAME_SETS,
        REAL_TARGET,
        PERMUTED_OWNERS,
        PARTITIONED_REFERENCES,
    ]
    assert nulls["directions"] == ["", PERMUTED_WEIGHTS, PARTITIONED_REFERENCES]


def test_a_method_that_cannot_be_made_is_a_problem_and_the_others_go_on(stores, tmp_path):
    comparison = comparison_of(stores, {"number": 41, "references": 40})
    methods = {name: METHODS[name].make(comparison) for name in ("circuits", "original")}
    rows, _, problems = compare(comparison, methods, kept_in(tmp_path))
    assert {row["method"] for row in rows} == {"original"}
    assert len(problems) == 1 and problems[0].startswith("circuits, channel 0: ")


def test_agreement_counts_references_that_are_in_both(stores):
    targets = torch.tensor([0, 0, 1, 1, 2, 0])
    labels = Labels(torch.arange(6) * 2, targets, targets, np.zeros(6))
    clusters = Clusters(torch.tensor([0, 2, 4, 6, 8, 10]), torch.tensor([1, 1, 0, 0, 0, -1]), torch.zeros(2, 3))
    assert agreement(clusters, CONCEPTS, labels) == 1
    assert np.isnan(agreement(None, CONCEPTS, labels)) and np.isnan(agreement(clusters, [[3], [4]], labels))


@pytest.mark.parametrize(
    "concepts, others, message",
    [([[0]], [], "only one concept"), ([[0], [0, 1]], [], "share a class"), (CONCEPTS, [7], "occurs twice")],
)
def test_channels_that_cannot_be_compared_are_refused(concepts, others, message):
    with pytest.raises(UserError, match=message):
        require_comparable(7, concepts, others)


def test_what_is_known_beforehand_depends_on_all_that_is_asked(stores):
    training, store = stores
    known = [
        describe_comparison(
            "n",
            "m",
            asked,
            available=available,
            settings=settings,
            methods={"a": {"words": "b"}},
            store=store,
            training=training,
        )
        for asked in ([(0, CONCEPTS)], [(1, CONCEPTS)])
        for available in (1, 2)
        for settings in ({"rho": 1.0}, {"rho": 0.5})
    ]
    assert all(one != other for k, one in enumerate(known) for other in known[:k])


@pytest.mark.parametrize("name", ["circuits", "directions"])
def test_patches_of_a_draw_are_of_the_weights_that_it_is_of(stores, name, monkeypatch):
    """Where the first of the permuted weights has no clusters, the second ones stand for this null."""
    comparison = comparison_of(stores, {"number": 2, "references": 40})
    method = METHODS[name].make(comparison)
    (channel,) = comparison
    collected = ChannelScores(None, channel)
    clusters = method.finder.clusters

    def not_of_the_first(index, draw, number=None):
        if draw == 1:
            raise UserError("its images are too alike")
        return clusters(index, draw, number)

    monkeypatch.setattr(method.finder, "clusters", not_of_the_first)
    units_by_null = method.units_by_null(channel)
    assert len(units_by_null[PERMUTED_WEIGHTS]) == DRAWS - 1
    monkeypatch.setattr(collected, "_add_from_stores", lambda *_, **__: None)
    network = SimpleNamespace(layer=SimpleNamespace(num_positions=1))
    monkeypatch.setattr(collected, "_embedded", SimpleNamespace(network=network))
    collected.collect(method, units_by_null, {null: {} for null in units_by_null}, first=0)
    weights = [clustered.weight for clustered in collected._clustered]
    assert torch.equal(torch.stack(weights), channel.weights[[0, 2, 0]])


def test_a_sample_of_channels_does_not_depend_on_their_order():
    channels = [(channel, CONCEPTS) for channel in range(30, 70)]
    drawn = draw_channels(channels, 10)
    assert len(drawn) == 10 and drawn == sorted(drawn) and drawn != channels[:10]
    assert draw_channels(channels[::-1], 10) == drawn[::-1]
    assert set(map(str, drawn)) < set(map(str, draw_channels(channels, 11)))
    assert draw_channels(channels, 40) == draw_channels(channels, 100) == channels


TWO_CHANNELS = ((0, CONCEPTS), (2, [[1], [2, 3]]))


def test_a_comparison_that_was_stopped_goes_on_after_the_last_finished_channel(stores, tmp_path, monkeypatch):
    given, names = {"number": 2, "references": 40}, ["original", "circuits", "directions"]

    def measured(folder):
        comparison = comparison_of(stores, given, channels=TWO_CHANNELS)
        made = {name: METHODS[name].make(comparison) for name in names}
        return compare(comparison, made, kept_in(folder))

    whole = measured(tmp_path / "whole")
    asked = []

    def stopped(self, index):
        asked.append(index)
        if asked == [0, 1]:
            raise KeyboardInterrupt
        return channel(self, index)

    channel = Comparison.channel
    monkeypatch.setattr(Comparison, "channel", stopped)
    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path / "stopped")
    again = measured(tmp_path / "stopped")
    assert asked == [0, 1, 1]
    np.testing.assert_equal(again._asdict(), whole._asdict())


def test_the_bar_counts_the_methods_of_channels_and_begins_at_those_that_were_kept(stores, tmp_path, capsys):
    bars = []
    for channels in (TWO_CHANNELS[:1], TWO_CHANNELS):
        compared(comparison_of(stores, {}, channels=channels), ["original", "classes"], tmp_path)
        bars.append([bar for bar in capsys.readouterr().err.split("\r") if bar.startswith("comparison:")])
    for of_run, ends in zip(bars, ((" 0/2 ", " 2/2 "), (" 2/4 ", " 4/4 ")), strict=True):
        assert all(end in bar for end, bar in zip(ends, (of_run[0], of_run[-1]), strict=True))
