"""The commands to run next after stages 1, 3 and 4, as (purpose, command) pairs; the purpose of the first is next."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

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
from utils.concept_sources.source_registry import SOURCES
from utils.defaults import MODEL_DIR
from utils.divisions.division_registry import USUAL, USUAL_OF_LAYERS
from utils.errors import UserError
from utils.method.disentangling import Candidate, Concept
from utils.report.page_commands import tables_of
from utils.store.candidates import read_candidates
from utils.store.importance_store import ImportanceStore
from utils.store.splits import THRESHOLDS, SplitWriter, StoredSplits, read_manifest, read_split
from utils.store.stage_two_runs import read_stage_two_runs

FOR_VERDICTS = "for verdicts, run as well"
FRACTIONS = "or the fractions of the original channel, without a null"
NULL = "and a comparison of this split with permuted weights"
FIGURES_WITH_NULLS = ("--get_channel_card", "--get_map")  # of splits whose concepts are found
MAP_ALONE = ("--get_map",)
MOST_FIGURES = 16  # splits without labels that are proposed to be drawn; of more the first one


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
        first = manifests[-1].with_name(read_manifest(manifests[-1])[0]["file"])
        flags = _flags_of_null(first)
        shown = first if flags == FIGURES_WITH_NULLS else manifests[-1]  # cards of one split: they may be many
        return "next", next_command(STAGE4, "--splits", shown, *flags, settings=settings)
    if splits := stored.all():
        newest = max(splits, key=lambda path: path.stat().st_mtime_ns)
        return "next", next_command(STAGE4, "--splits", newest, *_flags_of_null(newest), settings=settings)
    tables = [table for table in tables_of(settings.output_dir, run) if _has_candidates(table)]
    if tables:
        words: list[object] = ["--candidates", tables[-1], "--split_by", USUAL_OF_LAYERS]
        return "next", next_command(STAGE3, *words, settings=settings)
    return None


def _has_candidates(path: Path) -> bool:
    """Whether a file of stage 2 names any channel; stage 2 also writes one where it finds none."""
    try:
        return bool(read_candidates(path).candidates)
    except UserError:
        return False


def _flags_of_null(path: Path) -> Sequence[str]:
    """The flags with which stage 4 shows a split beside its null; none for a damaged one, which stage 4 names."""
    try:
        file = read_split(path)
        source = SOURCES.get(file.source["name"])
    except UserError:
        return ()
    return _flags_of_source(source, file.split.own_concepts, file.source["state"])


def _flags_of_source(
    source: ConceptSource | type[ConceptSource], concepts: list[Concept], state: dict[str, Any]
) -> Sequence[str]:
    """The same for a split by a source; the map alone where no concept has validation images."""
    if len(source.not_evaluated(concepts, state)) == len(concepts):
        return MAP_ALONE
    return ("--get_separation",) if source.is_named() else FIGURES_WITH_NULLS


def after_splitting(
    settings: CandidateSettings,
    source: ConceptSource,
    splits: SplitWriter,
    candidates: list[Candidate],
    manifest: Path | None,
) -> list[Command]:
    """Stage 4 of the splits beside their nulls, and before it the val store where it is missing.

    These are the separation of labelled splits, and the cards and maps of others. A pair by the paper's rule begins
    with the paper's evaluation. ``manifest`` lists all splits of the run, or is None.
    """
    stage4 = partial(next_command, STAGE4, settings=settings, known=splits.settings)
    has_val_store = matching_val_store(settings, splits.run, splits.context) is not None

    def needing_val_store(purpose: str, command: str) -> list[Command]:
        if has_val_store:
            return [(purpose, command)]
        return [(purpose, validation_store_command(settings)), ("then", command)]

    if not source.labelled:
        paths = [splits.path(candidate) for candidate in candidates]
        first = candidates[0]
        flags = _flags_of_source(source, first.own_concepts, first.source["state"])
        shown = paths if manifest is None else [manifest]
        if flags == FIGURES_WITH_NULLS and len(paths) > MOST_FIGURES:
            shown = paths[:1]
        command = stage4("--splits", *shown, *flags)
        return [("next", command)] if flags == MAP_ALONE else needing_val_store("next", command)
    selectors = splits.selectors(candidates)
    if not {"--only_correct", "--no-only_correct"} & set(map(str, selectors)):
        selectors += only_correct_words(settings)
    words = [*candidate_words(settings, "channel_of_interest"), *selectors]
    if settings.candidates is None and splits.division.name == USUAL:
        return [("next", stage4(*words)), *needing_val_store(NULL, stage4(*words, "--get_separation"))]
    of_all = words if manifest is None else ["--splits", manifest]
    return [*needing_val_store("next", stage4(*of_all, "--get_separation")), (FRACTIONS, stage4(*words))]


def after_results(opened: OpenedSplits) -> list[Command]:
    """The page to browse, of the settings of stage 2 that these splits were made with; else stage 2, which it needs."""
    settings = opened.settings
    model_dir = model_dir_of(settings)
    if model_dir.resolve() != model_dir_of(replace(settings, splits=(), model_dir=None)).resolve():
        settings = replace(settings, model_dir=str(model_dir))
    known = {**opened.splits[0].file.settings, **opened.stage_two, **flags_given(settings)}
    tables = tables_of(settings.output_dir, opened.run)
    if not tables:
        of_stage_two = {**_settings_of_stage_two(opened, known), **known}
        return [("next", next_command(STAGE2, settings=settings, known=of_stage_two))]
    words: list[object] = []
    if str(settings.candidates).endswith(".json"):
        words = ["--candidates", settings.candidates]
    elif len(tables) > 1:
        runs = read_stage_two_runs(settings.store_dir, opened.run, opened.context)
        stems = [run.table_name(opened.run) for run in runs if all(run.settings[name] == known[name] for name in FLAGS)]
        of_splits = [table for stem in stems for table in tables if table.name == f"{stem}_groups.json"]
        words = ["--candidates", of_splits[0]] if of_splits else []
    return [("next", next_command(STAGE4, "--report", *words, settings=settings))]


def _settings_of_stage_two(opened: OpenedSplits, thresholds: dict[str, Any]) -> dict[str, Any]:
    """What splits do not tell of the run of stage 2 that they came from: its cosine bounds, and --only_above_mean.

    They are those of the newest run in the store with these ``thresholds``. Without one, gamma is the bound.
    """
    told = {name: thresholds[name] for name in (*THRESHOLDS, "only_correct") if thresholds.get(name) is not None}
    for run in read_stage_two_runs(opened.settings.store_dir, opened.run, opened.context):
        if all(run.settings[name] == value for name, value in told.items()):
            return run.settings
    return {"cos_sim_high": told["gamma"]} if "gamma" in told else {}
