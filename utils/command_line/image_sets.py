"""Concepts without labels beside units of permuted weights, where a figure or a page shows such concepts."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from utils.command_line.commands import validation_store_command
from utils.command_line.settings import ResultSettings
from utils.concept_sources.source_registry import SOURCES
from utils.report.image_set_text import ScoredSplit, count_in_words, print_count
from utils.report.name_text import write_names
from utils.stages.concept_names import CandidateNames
from utils.stages.image_set_nulls import ImageSetNulls, ImageSetScores
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
        print(f"to compare concepts without labels with permuted weights, first make the val store: {command}")
        return None
    study = open_study()
    candidates = CandidateNames.of(study.classes)
    if candidates.without_synsets:
        print(f"concepts are named after classes only, without WordNet: {candidates.without_synsets}")
    return ImageSetNulls(comparable, study, store, candidates=candidates, measured=measured)


def show_names(
    settings: ResultSettings, opened: Iterable[OpenedSplit], scores: Mapping[Path, ImageSetScores | None]
) -> list[Path]:
    """Print how many concepts of splits stand above permuted weights and how many have a name; write the names.

    Returns the paths of the files, one for each split with ``scores``.
    """
    splits = list(opened)
    print_count(count_in_words(ScoredSplit.of(split.file, scores.get(split.path)) for split in splits))
    written = []
    for split in splits:
        of_split = scores.get(split.path)
        if of_split is not None and of_split.names is not None and any(of_split.names.words):
            path = Path(settings.output_dir) / "results_quantitative" / f"{split.path.stem}_names.csv"
            own_concepts = split.file.split.own_concepts
            sizes = [len(concept.images or ()) for concept in own_concepts]
            stored = [concept.name for concept in own_concepts]
            written.append(write_names(path, split.file.split.channel, stored, sizes, of_split.names))
    return written
