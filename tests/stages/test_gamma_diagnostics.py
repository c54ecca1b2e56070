"""What gamma can go by, of a store: against loops over its images, of samples, and from the cache."""

import itertools

import numpy as np
import pytest
import torch

from tests.oracles import stored_images
from tests.scripts import RUN
from utils.method.gamma import clean_concepts, cosine_of_modes, held_out_fractions
from utils.method.grouping import group_classes
from utils.method.polysemanticity import Levels, averaged_relevance_vectors, cosine_similarities
from utils.stages import gamma_diagnostics as stage
from utils.stages import relevance
from utils.stages.relevance import find_classes
from utils.store.class_statistics import ClassStore
from utils.store.importance_store import ImportanceStore

SETTINGS = {"tau": 0.05, "p": 0.5, "only_correct": False, "min_images": 1, "only_above_mean": False}


@pytest.fixture
def opened(copy):
    """A store, stage 2's part of it, and what stage 2 finds."""
    store = ImportanceStore(copy / "store", RUN)
    classes = ClassStore(copy / "store", RUN, store.load_meta())
    return store, classes, find_classes(store, classes, 0.5, **SETTINGS)


def arvs_of(found, images, half, channel, outputs):
    """ARVs of classes over the images of even (0) or odd (1) index, from the images."""
    own = [(images["targets"] == output) & (images["indices"] % 2 == half) for output in outputs]
    sums = torch.stack([images["input_sums"][one].double().mean(0) for one in own])
    return averaged_relevance_vectors(found.weight[channel], sums), sums


def test_the_noise_floor_is_a_quantile_of_the_cosines_of_halves(opened):
    store, classes, found = opened
    images, cosines = stored_images(store), []
    for output, channel in found.relevant.nonzero().tolist():
        even, odd = (arvs_of(found, images, half, channel, [output])[0] for half in (0, 1))
        cosines.append(torch.cosine_similarity(even, odd).item())
    guide = stage.gamma_guide(store, classes, found, SETTINGS)["noise_floor"]
    assert guide == {"quantile": 0.01, "cosine": pytest.approx(np.quantile(cosines, 0.01)), "images_per_half": 3.0,
                     "measured": len(cosines)}  # fmt: skip


@pytest.mark.parametrize("only_correct", [False, True])
def test_modes_are_of_all_images_of_a_class_that_count_and_made_once(opened, only_correct, monkeypatch):
    store, classes, _ = opened
    settings = {**SETTINGS, "only_correct": only_correct}
    found = find_classes(store, classes, 0.5, **settings)
    images, expected = stored_images(store), []
    counts = (images["predictions"] == images["targets"]) | (not only_correct)
    for output, channel in found.relevant.nonzero().tolist():
        own = images["input_sums"][(images["targets"] == output) & counts]
        circuits = (found.weight[channel].double() * own.double()).sum(2)
        random = np.random.default_rng([channel, output])
        expected.append(cosine_of_modes(circuits, random) if len(own) > 1 else np.nan)
    expected = np.array(expected)[~np.isnan(expected)]
    modes = stage.gamma_guide(store, classes, found, settings)["modes"]
    assert modes["cosines"] == pytest.approx(np.quantile(expected, (0.05, 0.5, 0.95)).tolist())
    assert (modes["measured"], modes["of"]) == (len(expected), int(found.relevant.sum()))
    monkeypatch.setattr(ImportanceStore, "read_chunk", None)
    assert stage.gamma_guide(store, classes, found, settings)["modes"] == modes


def test_of_many_modes_those_of_few_classes_are_looked_at_and_only_their_chunks_are_read(opened, monkeypatch):
    store, classes, found = opened
    monkeypatch.setattr(stage, "MOST_MODES", 3)
    read, read_chunk = [], ImportanceStore.read_chunk
    monkeypatch.setattr(ImportanceStore, "read_chunk", lambda *given: (read.append(given[1]), read_chunk(*given))[1])
    settings = {**SETTINGS, "p": 0.25}
    modes = stage.gamma_guide(store, classes, found, settings)["modes"]
    assert modes["measured"] == 3 < modes["of"]
    with np.load(classes.modes_path(**settings)) as arrays:
        (output,) = set(arrays["classes"].tolist())
        assert found.relevant[output, arrays["channels"]].all()
    assert sorted(set(read)) == sorted({6 * output // 8, (6 * output + 5) // 8}) and len(read) == len(set(read))


def test_of_a_class_of_very_many_images_evenly_spread_ones_are_taken(opened, monkeypatch):
    store, _, _ = opened
    monkeypatch.setattr(stage, "MOST_IMAGES_OF_CLASS", 2)
    inputs = stage._Chunks(store).inputs(6, 12, False)
    assert torch.equal(inputs, stored_images(store)["input_sums"][6:12:3])


def clean_by_hand(found, images, channel, concepts):
    means = [
        torch.stack([arvs_of(found, images, half, channel, one)[1].mean(0) for one in concepts]) for half in (0, 1)
    ]
    fractions = held_out_fractions(found.weight[channel], None, found.positions, *means)
    return clean_concepts(fractions) if np.isfinite(fractions).all() else None


def test_shares_of_clean_splits_equal_a_loop_over_pairs_and_groups(opened):
    store, classes, found = opened
    images, clean = stored_images(store), stage.gamma_guide(store, classes, found, SETTINGS)["clean"]
    assert clean["gamma"] == list(stage.GAMMAS) and clean["gamma"][0] == 0.1 and clean["gamma"][-1] == 0.95
    pairs = [(cosine, clean_by_hand(found, images, channel, [[one], [other]]))
             for channel, one, other, cosine in found.pairs.rows()]  # fmt: skip
    several = 0
    for place, gamma in enumerate(stage.GAMMAS):
        groups = []
        for channel in (found.relevant.sum(0) > 1).nonzero().flatten().tolist():
            outputs = found.relevant[:, channel].nonzero().flatten()
            arvs = averaged_relevance_vectors(found.weight[channel], found.mean_inputs[0, outputs])
            concepts = [outputs[group].tolist() for group in group_classes(cosine_similarities(arvs), gamma)]
            if len(concepts) > 1:
                groups.append(clean_by_hand(found, images, channel, concepts))
        for what, of in (("pairs", [one for cosine, one in pairs if cosine < gamma]), ("groups", groups)):
            known = [one for one in of if one is not None]
            assert (clean[what]["measured"][place], clean[what]["of"][place]) == (len(known), len(of))
            splits, concepts = (np.mean(part) if known else None for part in (
                [one.all() for one in known], np.concatenate(known) if known else []))  # fmt: skip
            assert clean[what]["splits"][place] == (None if splits is None else pytest.approx(splits))
            assert clean[what]["concepts"][place] == (None if concepts is None else pytest.approx(concepts))
        several += len(groups)
    assert several and any(one is not None and not one.all() for _, one in pairs)


def test_of_many_pairs_a_sample_of_each_range_stands_for_all_in_it(opened, monkeypatch):
    _, _, found = opened
    monkeypatch.setattr(stage, "MOST_PAIRS", len(stage.GAMMAS))  # one of each range
    seen = []
    monkeypatch.setattr(stage, "clean_split", lambda *given: (seen.append(given[1:]), np.array([True, False]))[1])
    shares = stage._clean_pairs(found)
    cosines = {row[:3]: row[3] for row in found.pairs.rows()}
    ranges = []
    for channel, ((one,), (other,)) in seen:
        ranges.append(np.searchsorted(stage.GAMMAS, cosines[channel, one, other], side="right"))
    assert len(set(ranges)) == len(seen) < len(found.pairs)
    numbers = [sum(cosine < gamma for cosine in cosines.values()) for gamma in stage.GAMMAS]
    assert shares["measured"] == shares["of"] == numbers
    assert {share for share in shares["concepts"] if share is not None} == {0.5}
    assert {share for share in shares["splits"] if share is not None} == {0.0}


def test_nothing_relevant_has_nothing_to_go_by(opened):
    store, classes, _ = opened
    settings = {**SETTINGS, "min_images": 1000}
    guide = stage.gamma_guide(store, classes, find_classes(store, classes, 0.5, **settings), settings)
    assert guide["noise_floor"]["cosine"] is None and guide["modes"]["cosines"] == [None] * 3
    shares = (
        guide["clean"][what][kind] for what, kind in itertools.product(("pairs", "groups"), ("splits", "concepts"))
    )
    assert {share for of in shares for share in of} == {None}


def test_only_above_mean_leaves_out_classes_below_it(opened, monkeypatch):
    store, classes, all_classes = opened
    sums = torch.rand(all_classes.relevant.shape, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(relevance, "channel_levels", lambda *_: Levels(sums, torch.full((sums.shape[1],), 0.3)))
    found, above = (
        find_classes(store, classes, 0.5, **{**SETTINGS, "only_above_mean": only}) for only in (False, True)
    )
    low = found.relevant & (sums < 0.3)
    assert low.any() and torch.equal(found.relevant, all_classes.relevant)
    assert torch.equal(above.relevant, found.relevant & ~low)
    kept = [row for row in found.pairs.rows() if not low[[row[1], row[2]], row[0]].any()]
    assert list(above.pairs.rows()) == kept and 0 < len(kept) < len(found.pairs)
    assert not any(low[concept, channel].any() for channel, one in above.groups.items() for concept in one.concepts)
