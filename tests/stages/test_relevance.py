"""Stage 2's pass over the chunks: a pass that was stopped, and the taus that would find pairs."""

import pytest
import torch

from tests.scripts import RUN, contents
from utils.stages import relevance
from utils.store.class_statistics import ClassStore
from utils.store.importance_store import ImportanceStore

TAUS = [0.05, 0.1]


@pytest.fixture
def store(copy):
    store = ImportanceStore(copy / "store", RUN)
    store.load_meta()
    return store


@pytest.mark.parametrize("needs_means", [True, False])
def test_a_pass_that_was_stopped_goes_on_to_the_same_statistics(store, tmp_path, monkeypatch, needs_means):
    monkeypatch.setattr(relevance, "KEPT_CHUNKS", 2)
    whole, stopped = (ClassStore(tmp_path / name, RUN, store.meta) for name in ("whole", "stopped"))
    if not needs_means:
        for class_store in (whole, stopped):
            relevance.class_statistics(store, class_store, [])
    relevance.class_statistics(store, whole, TAUS)
    read, read_chunk = [], ImportanceStore.read_chunk

    def read_or_stop(store, chunk, names):
        if len(read) == stop:
            raise KeyboardInterrupt
        read.append(chunk)
        return read_chunk(store, chunk, names)

    monkeypatch.setattr(ImportanceStore, "read_chunk", read_or_stop)
    stop = 2
    with pytest.raises(KeyboardInterrupt):
        relevance.class_statistics(store, stopped, TAUS)
    stop = None
    read.clear()
    relevance.class_statistics(store, stopped, TAUS)
    assert store.num_chunks == 3 and read == [2]
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_counts_for_other_taus_are_kept_for_the_command_that_is_run_next(store, copy, monkeypatch):
    class_store = ClassStore(copy / "store", RUN, store.meta)
    counts = relevance.class_statistics(store, class_store, TAUS).relevant
    monkeypatch.delattr(ImportanceStore, "read_chunk")
    for tau, relevant in zip(TAUS, counts, strict=True):
        criteria = {"p": 0.5, "only_correct": False, "min_images": 1, "only_above_mean": False}
        again = relevance.find_classes(store, class_store, 0.5, tau=tau, **criteria)
        assert torch.equal(again.relevant, relevant[0] >= 0.5 * again.images[0, :, None])
