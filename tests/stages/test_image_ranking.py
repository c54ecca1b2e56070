"""Channels and circuits ranked by a list of images, against loops over all images."""

import shutil

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
from utils.stages.image_ranking import ListInStore, count_rows, find_circuits, rank_channels, rank_circuits
from utils.store.image_lists import read_image_list
from utils.store.importance_store import ImportanceStore
from utils.store.unfinished import Unfinished

DRAWS = 3
LISTED = [1, 6, 8, 20, 21]
CHANNELS = 12


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


def test_images_of_the_other_store_are_ranked_there(folder, tmp_path):
    store = store_of(folder, "val")
    file = tmp_path / "mine.txt"
    file.write_text("bee/0.png\nbee/1.png\ndog/3.png\n")
    own = [4, 5, 15]
    in_val = ListInStore.of(read_image_list(file, "--rank_by_images", 1), store, store.read_labels())
    assert in_val.listed.tolist() == own and in_val.num_images == 16
    weight, _ = store.read_layer()
    found = count_rows(weight, in_val, words="").highest_first()
    assert found.tolist() == pytest.approx([by_loop(folder, row, own, "val") for row in weight])


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


def test_circuits_are_those_of_stage_3_and_their_nulls_the_best_of_permuted_weights(
    folder, study, in_store, monkeypatch
):
    assert find_circuits(study, [9]) == []  # 6 reference images make no 12 circuits
    monkeypatch.setattr("utils.concept_sources.circuits.NUMBER", 2)
    channels = [9, 4]
    circuits = find_circuits(study, channels)
    ranks = rank_circuits(circuits, in_store)
    assert [of_channel.channel for of_channel in ranks] == channels
    source = Circuits.from_given({}, study)
    maker = source.maker(study, [9])
    candidate = maker.make(9, [])
    settings = LeastSquares.settings_from({})
    divider = LeastSquares.divider(settings, None, inputs_of=study.inputs_of, background=study.background)
    split = candidate.split(divider.divide(candidate))
    assert ranks[0].names == [concept.name for concept in candidate.own_concepts]
    assert ranks[0].sizes == [len(concept.images) for concept in candidate.own_concepts]
    torch.testing.assert_close(circuits[0].rows[0], split.rows()[: len(ranks[0].names)], rtol=1e-4, atol=1e-5)
    for of_channel, rank in zip(circuits, ranks, strict=True):
        real, *permuted = [[by_loop(folder, row.float()) for row in rows] for rows in of_channel.rows]
        assert rank.values.tolist() == pytest.approx(real)
        assert rank.best_of_nulls.tolist() == pytest.approx([max(values) for values in permuted])


def test_a_list_of_all_images_is_refused(study, tmp_path):
    file = tmp_path / "all.txt"
    file.write_bytes(b"\n".join(study.training.read_images("train").paths.tolist()))
    with pytest.raises(UserError, match="there is nothing to rank them above"):
        ListInStore.of(read_image_list(file, "--rank_by_images", 1), study.training, study.labels)
