"""The commands to run next after stages 1, 3 and 4, as (purpose, command) pairs; the purpose of the first is next."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from utils.command_line.commands import (
    STAGE2,
    STAGE3,
    STAGE4,
    Command,
    candidate_words,
    next_command,
    only_correct_words,
    validation_store_command,
)
from utils.command_line.earlier_settings import FLAGS, flags_given
from utils.command_line.settings import CandidateSettings, ImportanceSettings, model_dir_of
from utils.command_line.split_opening import OpenedSplits, matching_val_store
from utils.concept_sources.concept_source import ConceptSource
from utils.defaults import MODEL_DIR
from utils.divisions.division_registry import USUAL_OF_LAYERS
from utils.method.disentangling import Candidate
from utils.report.page_commands import tables_of
from utils.store.importance_store import ImportanceStore
from utils.store.splits import SplitWriter, StoredSplits
from utils.store.stage_two_runs import read_stage_two_runs

AGAINST_ALL = "or, against all other validation images"
FOR_VERDICTS = "for verdicts, also"


def after_importances(settings: ImportanceSettings, run: str, store: ImportanceStore) -> list[Command]:
    """After the training images stage 2 and the validation images; after these what the results that are there ask for.

    Stage 2 has the settings with which it last listed a channel.
    """
    runs = read_stage_two_runs(settings.store_dir, run, store.meta)
    known = next((run.settings for run in runs if run.channels), None)
    stage_two = ("next", next_command(STAGE2, settings=settings, known=known))
    if settings.images == "val":
        return [_with_val_store(settings, run) or stage_two]
    if ImportanceStore(settings.store_dir, run, "val").meta_path.is_file():
        return [stage_two]
    return [stage_two, (FOR_VERDICTS, validation_store_command(settings))]


def _with_val_store(settings: ImportanceSettings, run: str) -> Command | None:
    """Stage 4 of the newest splits that are stored, else stage 3 of what stage 2 has found; None without either.

    A manifest, of the splits of a layer, goes before single splits.
    """
    stored = StoredSplits(Path(settings.store_dir) / MODEL_DIR, run)
    if manifests := stored.manifests():
        return "next", next_command(STAGE4, "--splits", manifests[-1], "--get_separation", settings=settings)
    if splits := stored.all():
        newest = max(splits, key=lambda path: path.stat().st_mtime_ns)
        return "next", next_command(STAGE4, "--splits", newest, settings=settings)
    tables = tables_of(settings.output_dir, run)
    if tables:
        words: list[object] = ["--candidates", tables[-1], "--split_by", USUAL_OF_LAYERS]
        return "next", next_command(STAGE3, *words, settings=settings)
    return None


def after_splitting(
    settings: CandidateSettings,
    source: ConceptSource,
    splits: SplitWriter,
    candidates: list[Candidate],
    manifest: Path | None,
) -> list[Command]:
    """Stage 4 of the splits, and before it the val store where it is missing and needed.

    ``manifest`` lists all splits of the run, or is None.
    """
    stage4 = partial(next_command, STAGE4, settings=settings, known=splits.settings)
    has_val_store = matching_val_store(settings, splits.run, splits.context) is not None

    def needing_val_store(purpose: str, command: str) -> list[Command]:
        if has_val_store:
            return [(purpose, command)]
        return [(purpose, validation_store_command(settings)), ("then", command)]

    if not source.labelled:
        paths: Sequence[Path] = [splits.path(candidate) for candidate in candidates] if manifest is None else [manifest]
        first = candidates[0]
        if len(source.not_evaluated(first.own_concepts, first.source["state"])) == len(first.own_concepts):
            return [("next", stage4("--splits", *paths, "--get_map"))]
        return needing_val_store("next", stage4("--splits", *paths))
    selectors = splits.selectors(candidates)
    if not {"--only_correct", "--no-only_correct"} & set(map(str, selectors)):
        selectors += only_correct_words(settings)
    commands = [("next", stage4(*candidate_words(settings, "channel_of_interest"), *selectors))]
    if manifest is not None:
        commands += needing_val_store(AGAINST_ALL, stage4("--splits", manifest, "--get_separation"))
    return commands


def after_results(opened: OpenedSplits) -> list[Command]:
    """The page to browse, of the settings of stage 2 that these splits were made with; else stage 2, which it needs."""
    settings = opened.settings
    model_dir = model_dir_of(settings)
    if model_dir.resolve() != model_dir_of(replace(settings, splits=(), model_dir=None)).resolve():
        settings = replace(settings, model_dir=str(model_dir))
    known = {**opened.splits[0].file.settings, **opened.stage_two, **flags_given(settings)}
    tables = tables_of(settings.output_dir, opened.run)
    if not tables:
        return [("next", next_command(STAGE2, settings=settings, known=known))]
    words: list[object] = []
    if str(settings.candidates).endswith(".json"):
        words = ["--candidates", settings.candidates]
    elif len(tables) > 1:
        runs = read_stage_two_runs(settings.store_dir, opened.run, opened.context)
        stems = [run.table_name(opened.run) for run in runs if all(run.settings[name] == known[name] for name in FLAGS)]
        of_splits = [table for stem in stems for table in tables if table.name == f"{stem}_groups.json"]
        words = ["--candidates", of_splits[0]] if of_splits else []
    return [("next", next_command(STAGE4, "--report", *words, settings=settings))]
