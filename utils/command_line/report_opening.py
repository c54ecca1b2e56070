"""What a report begins with: what is known of the layer, and what has been measured of its splits."""

import re
import sys

from utils.command_line.opening import check_asked_network, check_channel_count
from utils.command_line.split_opening import model_dir_of
from utils.errors import UserError
from utils.images.folders import ClassMap
from utils.method.polysemanticity import gamma_polysemantic
from utils.report.page_commands import COUNTED, ORIGIN
from utils.report.page_data import ReportedLayer
from utils.report.page_splits import MeasuredSplits, in_order, kind_of
from utils.stages.relevance import find_classes
from utils.store.class_statistics import ClassStore
from utils.store.effects import Effects
from utils.store.files import refuse_differences
from utils.store.importance_store import ImportanceStore
from utils.store.results import Results
from utils.store.separations import Separations
from utils.store.splits import read_split


def open_layer(settings, run, stage_two):
    """Everything that is there of a layer: a ReportedLayer and the Measured results of its splits."""
    store, of_stage_two = ImportanceStore(settings.store_dir, run), stage_two.settings
    meta = store.load_meta()
    check_asked_network(settings, meta, store.folder)
    check_channel_count(settings, meta)
    refuse_differences(meta, of_stage_two, ORIGIN, stage_two.groups)
    store.require_complete()
    class_store = ClassStore(settings.store_dir, run, meta)
    counted = {name: of_stage_two[name] for name in COUNTED}
    found = find_classes(store, class_store, of_stage_two["gamma"], **counted)
    counts = class_store.read_relevant(of_stage_two["tau"])[int(of_stage_two["only_correct"])]
    where = settings.output_dir, model_dir_of(settings)
    measurements = Results(*where), Separations(*where), Effects(*where)
    for one in measurements:
        one.check(run, meta["weights_sha256"])
    measured = MeasuredSplits(*measurements, of_stage_two["tau"])
    known = ReportedLayer(meta, of_stage_two, ClassMap(meta["classes"]), found, counts, stage_two.guide(), {})
    for channel, splits in _splits(settings, run, meta).items():
        groups, pairs = known.channels.groups(channel), known.channels.pairs_of(channel)
        under = pairs[gamma_polysemantic(pairs.cosine, of_stage_two["gamma"])]
        under = {(class1, class2) for _, class1, class2, _ in under.rows()}
        own = [measured.of_split(path, file, kind_of(file, groups, under)) for path, file in splits]
        known.splits[channel] = in_order(own, of_stage_two["only_correct"], settings.split_by)
    return known, measured


def _splits(settings, run, meta):
    """The split files of a network and layer, as {channel: [(path, SplitFile)]}; others are named and left out."""
    found, left_out = {}, []
    for path in sorted(model_dir_of(settings).glob(f"{run}_channel*.pt")):
        if not re.match(r"_channel\d+_", path.name.removeprefix(run)):
            continue
        try:
            file = read_split(path)
            refuse_differences(meta, file.context, ("layer", "weights_sha256", "transform", "classes"), path)
        except UserError as error:
            left_out.append(str(error))
            continue
        found.setdefault(file.split.channel, []).append((path, file))
    for reason in left_out[:5]:
        print(f"warning: left out: {reason}", file=sys.stderr)
    if len(left_out) > 5:
        print(f"warning: {len(left_out) - 5} more splits are left out", file=sys.stderr)
    return found
