"""Channels and circuits ranked by a list of images, against loops over all images."""

import shutil
from dataclasses import replace

import pytest
import torch

from tests.oracles import average_precision, stored_images
from tests.scripts import RUN, stage1
from tests.stores import study_of
from utils.concept_sources.circuits import Circuits
from utils.concept_sources.compared_channels import permuted_weights
from utils.divisions.least_squares import LeastSquares
from utils.errors import UserError
from utils.stages import image_ranking
from utils.stages.image_ranking import ListInStore, find_circuits, rank_channels, rank_circuits, rank_rows
from utils.store.image_lists import read_image_list
from utils.store.importance_store import ImportanceStore
from utils.store.unfinished import Unfinished

DRAWS = 3
LISTED = [1, 6, 8, 20, 21]
CHANNELS = 12
OF_SHARES = 5e-3  # what new channels differ by where the fit of shares ends a step earlier; other sets differ by 0.2


@pytest.fixture(scope="module")
def folder(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranking") / "copy"
    shutil.copytree(finished, folder)
    stage1("data", "store", "--images", "val", cwd=folder)
    return folder


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(image_ranking, "DRAWS", DRAWS)


def store_of(folder, images="train"):
    store = ImportanceStore(folder / "store", RUN, images)
    store.load_meta()
    return store


@pytest.fixture
def study(folder):
    return study_of(store_of(folder), run=RUN, store_dir=folder / "store", background=1.0)


@pytest.fixture
def list_file(folder, tmp_path):
    paths = store_of(folder).read_images("train").paths[LISTED]
    file = tmp_path / "mine.txt"
    file.write_text("\n".join(path.decode() for path in paths))
    return file


@pytest.fixture
def in_store(study, list_file):
    return ListInStore.of(read_image_list(list_file, "--rank_by_images", 1), study.training, study.labels)


def by_loop(folder, row, own=LISTED, images="train"):
    """The average precision of a row of weights [C_in, taps], from its spatial sum in every image."""
    inputs = stored_images(store_of(folder, images))["input_sums"].double()
    sums = [float((row.double() * image).sum()) for image in inputs]
    return average_precision(sums, [index in own for index in range(len(sums))])


def test_channels_and_their_nulls_equal_loops(folder, in_store):
    ranks, lowest = rank_channels(in_store, None)
    weight, _ = in_store.store.read_layer()
    assert in_store.prevalence == len(LISTED) / 24 and len(weight) == CHANNELS
    for channel in range(CHANNELS):
        rows = permuted_weights(weight[channel], channel, DRAWS)
        assert ranks.values[channel].item() == pytest.approx(by_loop(folder, rows[0]))
        assert ranks.nulls[channel].tolist() == pytest.approx([by_loop(folder, row) for row in rows[1:]])
        assert lowest.values[channel].item() == pytest.approx(by_loop(folder, -rows[0]))
        assert lowest.nulls[channel].tolist() == pytest.approx([by_loop(folder, -row) for row in rows[1:]])
    expected = sorted(range(CHANNELS), key=lambda channel: -ranks.values[channel].item())
    assert ranks.best(3) == expected[:3]
    assert ranks.best_of_nulls.tolist() == [max(row[draw] for row in ranks.nulls.tolist()) for draw in range(DRAWS)]
    best = ranks.best_units(2)
    assert best[:, 0].tolist() == expected[:2] and best.shape == (2, 1 + DRAWS)
    for draw, column in enumerate(best[:, 1:].T.tolist()):
        assert column == sorted(range(CHANNELS), key=lambda channel: -ranks.nulls[channel, draw].item())[:2]


def test_images_of_the_other_store_are_ranked_there(folder, tmp_path):
    store = store_of(folder, "val")
    file = tmp_path / "mine.txt"
    file.write_text("bee/0.png\nbee/1.png\ndog/3.png\n")
    own = [4, 5, 15]
    in_val = ListInStore.of(read_image_list(file, "--rank_by_images", 1), store, store.read_labels())
    assert in_val.listed.tolist() == own and in_val.num_images == 16
    weight, _ = store.read_layer()
    highest, _ = rank_rows(lambda part: weight[part.start : part.stop], len(weight), in_val, words="")
    assert highest.tolist() == pytest.approx([by_loop(folder, row, own, "val") for row in weight])


def test_small_blocks_and_several_passes_change_nothing(in_store, monkeypatch):
    whole = rank_channels(in_store, None)
    monkeypatch.setattr(image_ranking, "MOST_SCORES", 20)
    monkeypatch.setattr(image_ranking, "MOST_VALUES", 5 * (1 + DRAWS) * 8)  # five channels a pass
    for ranks, expected in zip(rank_channels(in_store, None), whole, strict=True):
        assert torch.equal(ranks.values, expected.values) and torch.equal(ranks.nulls, expected.nulls)


def test_a_stopped_pass_goes_on(in_store, tmp_path, monkeypatch):
    monkeypatch.setattr(image_ranking, "KEPT_CHUNKS", 1)
    whole = rank_channels(in_store, None)
    kept = Unfinished(tmp_path / "ranking.csv", {})
    read = ImportanceStore.read_chunk
    chunks = []

    def stops_at_the_last(store, chunk, names=None):
        chunks.append(chunk)
        if chunk == 2 and chunks.count(2) == 1:
            raise KeyboardInterrupt
        return read(store, chunk, names)

    monkeypatch.setattr(ImportanceStore, "read_chunk", stops_at_the_last)
    with pytest.raises(KeyboardInterrupt):
        rank_channels(in_store, kept)
    for ranks, expected in zip(rank_channels(in_store, kept), whole, strict=True):
        assert torch.equal(ranks.nulls, expected.nulls)
    assert chunks == [0, 1, 2, 2]


def candidate_of_stage_3(study, channel, row):
    """The candidate and its new channels, as stage 3 makes them if the channel's row of weights is another one."""
    weight, bias = study.weight_and_bias
    changed = replace(study)
    changed.__dict__["weight_and_bias"] = (
        weight.clone().index_copy(0, torch.tensor([channel]), row[None].float()),
        bias,
    )
    candidate = Circuits.from_given({}, changed).maker(changed, [channel]).make(channel, [])
    settings = LeastSquares.settings_from({})
    divider = LeastSquares.divider(settings, None, inputs_of=changed.inputs_of, background=changed.background)
    return candidate, candidate.split(divider.divide(candidate)).rows()[: len(candidate.own_concepts)]


UNITS = torch.tensor([[9, 4, 9, 3], [4, 2, 4, 9]])  # two channels, and of each draw two whose permuted weights are best


@pytest.fixture
def two_circuits(monkeypatch):
    monkeypatch.setattr("utils.concept_sources.circuits.NUMBER", 2)


@pytest.mark.usefixtures("two_circuits")
def test_circuits_and_those_of_permuted_weights_are_those_of_stage_3(study):
    found = find_circuits(study, UNITS)
    weight, _ = study.weight_and_bias
    assert [of_channel.channel for of_channel in found.channels] == UNITS[:, 0].tolist()
    for of_channel in found.channels:
        candidate, rows = candidate_of_stage_3(study, of_channel.channel, weight[of_channel.channel])
        assert of_channel.names == [concept.name for concept in candidate.own_concepts]
        assert of_channel.sizes == [len(concept.images) for concept in candidate.own_concepts]
        torch.testing.assert_close(of_channel.rows, rows, rtol=0, atol=OF_SHARES)
    for draw, of_draw in enumerate(found.nulls, start=1):
        permuted = [permuted_weights(weight[c], c, DRAWS)[draw] for c in UNITS[:, draw].tolist()]
        pairs = zip(UNITS[:, draw].tolist(), permuted, strict=True)
        expected = torch.cat([candidate_of_stage_3(study, channel, row)[1] for channel, row in pairs])
        torch.testing.assert_close(of_draw, expected, rtol=0, atol=OF_SHARES)


@pytest.mark.usefixtures("two_circuits")
def test_the_null_of_circuits_is_the_best_of_all_units_of_each_draw(folder, study, in_store, monkeypatch):
    found = find_circuits(study, UNITS)
    monkeypatch.setattr(image_ranking, "MOST_VALUES", 3 * len(LISTED) * 8)  # several passes
    ranks = rank_circuits(found, in_store)
    for of_channel, values in zip(ranks.channels, ranks.values, strict=True):
        assert values.tolist() == pytest.approx([by_loop(folder, row.float()) for row in of_channel.rows])
    best = [max(by_loop(folder, row.float()) for row in rows) for rows in found.nulls]
    assert ranks.best_of_nulls.tolist() == pytest.approx(best)
    without_second = replace(found, nulls=[found.nulls[0], found.nulls[1][:0], found.nulls[2]])
    assert rank_circuits(without_second, in_store).best_of_nulls.tolist() == pytest.approx([best[0], best[2]])


def test_units_of_too_few_images_have_no_circuits_but_another_error_is_not_swallowed(study, in_store, monkeypatch):
    found = find_circuits(study, UNITS)  # 6 reference images make no 12 circuits
    assert found.channels == [] and [len(rows) for rows in found.nulls] == [0] * DRAWS
    ranks = rank_circuits(found, in_store)
    assert ranks.channels == ranks.values == [] and not len(ranks.best_of_nulls)

    def fails(*_):
        raise UserError("the store is damaged")

    monkeypatch.setattr(Circuits, "features", fails)
    with pytest.raises(UserError, match="the store is damaged"):
        find_circuits(study, UNITS)
    monkeypatch.undo()
    monkeypatch.setattr(image_ranking, "DRAWS", DRAWS)
    monkeypatch.setattr(Circuits, "clusters", fails)
    with pytest.raises(UserError, match="the store is damaged"):
        find_circuits(study, UNITS)


def test_a_list_of_all_images_is_refused(study, tmp_path):
    file = tmp_path / "all.txt"
    file.write_bytes(b"\n".join(study.training.read_images("train").paths.tolist()))
    with pytest.raises(UserError, match="no other images are left to rank them against"):
        ListInStore.of(read_image_list(file, "--rank_by_images", 1), study.training, study.labels)
