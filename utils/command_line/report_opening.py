"""Opens what a report shows: the stored results of a layer, and the measured results of its splits."""

import sys
from pathlib import Path
from typing import Any

from utils.command_line.opening import check_channel_count, check_requested_network
from utils.command_line.settings import ResultSettings, model_dir_of
from utils.errors import UserError, listed
from utils.images.folders import ClassMap
from utils.method.polysemanticity import gamma_polysemantic
from utils.processes import progress
from utils.report.page_commands import ORIGIN, StageTwo
from utils.report.page_data import ReportedLayer
from utils.report.page_splits import MeasuredSplits, in_order, kind_of
from utils.stages.relevance import find_classes
from utils.store.candidates import CRITERIA
from utils.store.class_statistics import ClassStore
from utils.store.edit_results import Edits
from utils.store.effects import Effects
from utils.store.files import refuse_differences
from utils.store.importance_store import ImportanceStore
from utils.store.results import Results
from utils.store.separations import Separations
from utils.store.splits import SplitFile, StoredSplits, read_split


def open_layer(settings: ResultSettings, run: str, stage_two: StageTwo) -> tuple[ReportedLayer, MeasuredSplits]:
    """The stored results of a layer, and the measured results of its splits."""
    store = ImportanceStore(settings.store_dir, run)
    meta = store.load_meta()
    check_requested_network(settings, meta, store.folder)
    check_channel_count(settings, meta)
    refuse_differences(meta, stage_two.settings, ORIGIN, stage_two.groups)
    store.require_complete()
    class_store = ClassStore(settings.store_dir, run, meta)
    criteria = {name: stage_two.settings[name] for name in CRITERIA}
    layer_classes = find_classes(store, class_store, stage_two.settings["gamma"], **criteria)
    counts = class_store.require_relevant(criteria["tau"])[int(criteria["only_correct"])]
    all_images, correct = class_store.require_means()[1][:, 0].sum(1).tolist()
    layer = ReportedLayer(
        meta=meta,
        settings=stage_two.settings,
        classes=ClassMap(meta["classes"]),
        layer_classes=layer_classes,
        counts=counts,
        guide=stage_two.guide(),
        splits={},
        accuracy=correct / all_images,
    )
    measured = _open_measured(settings, run, meta, criteria["tau"])
    for channel, splits in _splits(settings, run, meta).items():
        groups = layer.channels.groups(channel)
        pairs = layer.channels.pairs_of(channel)
        under = pairs[gamma_polysemantic(pairs.cosine, stage_two.settings["gamma"])]
        pairs_under: set[tuple[int, ...]] = {(class1, class2) for _, class1, class2, _ in under.rows()}
        reported_splits = [measured.of_split(path, file, kind_of(file, groups, pairs_under)) for path, file in splits]
        layer.splits[channel] = in_order(reported_splits, criteria["only_correct"], settings.split_by)
    return layer, measured


def _open_measured(settings: ResultSettings, run: str, meta: dict[str, Any], tau: float) -> MeasuredSplits:
    model_dir = model_dir_of(settings)
    results = Results(settings.output_dir, model_dir)
    separations = Separations(settings.output_dir, model_dir)
    effects = Effects(settings.output_dir, model_dir)
    edits = Edits(settings.output_dir, model_dir)
    for measurements in (results, separations, effects, edits):
        measurements.check(run, meta["weights_sha256"])
    return MeasuredSplits(results, separations, effects, edits, tau)


def _splits(settings: ResultSettings, run: str, meta: dict[str, Any]) -> dict[int, list[tuple[Path, SplitFile]]]:
    """The split files of each channel of a network and layer; files of others are left out, with a message."""
    of_channels: dict[int, list[tuple[Path, SplitFile]]] = {}
    left_out = []
    paths = StoredSplits(model_dir_of(settings), run).all()
    for path in progress(paths, "reading splits", unit=" splits", delay=2, leave=False):
        try:
            file = read_split(path)
            refuse_differences(meta, file.context, ("layer", "weights_sha256", "transform", "classes"), path)
        except UserError as error:
            left_out.append(f"warning: left out: {error}")
            continue
        of_channels.setdefault(file.split.channel, []).append((path, file))
    if left_out:
        print(listed(left_out, separator="\n", more="\nwarning: {} more splits are left out"), file=sys.stderr)
    return of_channels
