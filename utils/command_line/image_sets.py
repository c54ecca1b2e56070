"""Concepts without labels beside units of permuted weights, where a figure or a page shows such concepts."""

from collections.abc import Callable, Sequence

from utils.command_line.commands import validation_store_command
from utils.command_line.settings import ResultSettings
from utils.concept_sources.source_registry import SOURCES
from utils.stages.concept_names import CandidateNames
from utils.stages.image_set_nulls import ImageSetNulls
from utils.store.importance_store import ImportanceStore
from utils.store.opened_splits import OpenedSplit
from utils.store.study import Study


def open_nulls(
    settings: ResultSettings,
    opened: Sequence[OpenedSplit],
    store: ImportanceStore | None,
    open_study: Callable[[], Study],
    *,
    measured: bool = True,
) -> ImageSetNulls | None:
    """The nulls of the splits without labels among some splits; None if there are none of them, or no val ``store``.

    The command that makes a missing store is printed, and why names are those of single classes where they are. Unless
    ``measured``, scores are those that are kept.
    """
    comparable = [split for split in opened if SOURCES.get(split.file.source["name"]).finds_from_store]
    if not comparable:
        return None
    if store is None:
        command = validation_store_command(settings)
        print(
            f"concepts without labels are compared with permuted weights on the val store, which this makes: {command}"
        )
        return None
    study = open_study()
    candidates = CandidateNames.of(study.classes)
    if candidates.without_synsets:
        print(f"concepts are named by classes alone, without WordNet: {candidates.without_synsets}")
    return ImageSetNulls(comparable, study, store, candidates=candidates, measured=measured)
