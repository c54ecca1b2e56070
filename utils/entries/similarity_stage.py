"""Stage 2: relevant classes, pairs and groups of classes of every channel."""

from dataclasses import dataclass
from pathlib import Path

from utils.command_line import opening, threshold_flags
from utils.command_line.measuring_sensitivity import measure_sensitivity
from utils.command_line.run import print_end
from utils.command_line.settings import SimilaritySettings
from utils.command_line.showing_layer import LayerFiles, LayerScreen
from utils.divisions.division_registry import WHICH
from utils.images.folders import ClassMap
from utils.method.polysemanticity import gamma_polysemantic
from utils.report import gamma_guide as gamma_report
from utils.report import layer_tables
from utils.report.channel_text import LayerFindings
from utils.report.figure_files import write_figure
from utils.report.overview_figure import overview_figure
from utils.report.sheets import Titles
from utils.report.wordnet_figure import plot_wordnet
from utils.stages.gamma_diagnostics import gamma_guide
from utils.stages.relevance import find_classes
from utils.store.candidates import CRITERIA, pairs_path, write_groups, write_pairs
from utils.store.class_statistics import ClassStore
from utils.store.files import run_name
from utils.store.importance_store import ImportanceStore
from utils.store.stage_two_runs import write_stage_two_run
from utils.store.synsets import class_synsets


@dataclass(frozen=True)
class FoundLayer:
    """What stage 2 has found in a layer, and the files that it has written."""

    findings: LayerFindings
    files: LayerFiles


def find_polysemantic(settings: SimilaritySettings) -> FoundLayer | None:
    """Find the classes that each channel is relevant for, their pairs below gamma, and their groups.

    Returns
    -------
    FoundLayer or None
        None if a threshold has several values: then a table and a figure of what they change are written.

    Raises
    ------
    UserError
        There is no complete store of this network and layer.
    """
    run = run_name(settings.model, settings.layer_of_interest)
    store = ImportanceStore(settings.store_dir, run)
    meta = store.load_meta()
    store.require_complete()
    synsets = None
    if settings.plot_wordnet:
        synsets = class_synsets(meta["classes"], needed_by="--plot_wordnet", may_download=True)
    opening.check_requested_network(settings, meta, store.folder)
    opening.check_channel_count(settings, meta)
    if settings.channel is not None:
        opening.check_channel(settings.channel, "channel", meta)
    if settings.weights is not None:
        opening.require_stored_network(settings, meta, store.folder)
    class_store = ClassStore(settings.store_dir, run, meta)
    classes = ClassMap(meta["classes"])

    if threshold_flags.several_thresholds(settings):
        measure_sensitivity(settings, run, store, class_store)
        return None
    print(
        f"{settings.model_name}, layer {meta['layer']}: {meta['num_images']} images of {len(meta['classes'])} classes",
        flush=True,
    )
    # The relevant classes of each channel, and the pairs of them that are gamma-polysemantic
    criteria = {name: getattr(settings, name) for name in CRITERIA}
    gamma = layer_tables.gamma_from(settings.cos_sim_high)
    layer_classes = find_classes(store, class_store, gamma, **criteria)
    cosines = layer_classes.pairs.cosine
    kept = layer_classes.pairs[(cosines >= settings.cos_sim_low) & gamma_polysemantic(cosines, settings.cos_sim_high)]
    channels = layer_tables.ChannelClasses(
        layer_classes.relevant, layer_classes.pairs, layer_classes.groups, layer_classes.levels
    )
    guide = gamma_guide(store, class_store, layer_classes, criteria)

    # Tables and figures
    bounds = (settings.cos_sim_low, settings.cos_sim_high)
    path = pairs_path(settings.output_dir, run, cosines=bounds, **criteria)
    origin = {key: meta[key] for key in ("model", "layer", "weights_sha256")}
    stage_two = {**origin, **criteria, "gamma": gamma, "cosines": list(bounds)}
    candidates = write_pairs(path, kept, classes.name, stage_two)
    groups = write_groups(path, channels.several_groups(), classes.concept_name, stage_two)
    listed = channels.listed(kept)
    record = write_stage_two_run(settings.store_dir, run, stage_two, listed, training=meta)
    table = layer_tables.write_channels(path, channels, gamma, classes)
    written = [path, candidates, groups, table, gamma_report.write_gamma(path, guide, stage_two), record]
    titles = Titles(f"{settings.model_name}, layer {meta['layer']}", layer_tables.settings_text(**criteria))
    figure = overview_figure(channels, gamma, guide, name=classes.name, titles=titles, sheet=settings.figure_width)
    overview = Path(settings.output_dir) / "plots" / f"{path.stem}_overview"
    written += [write_figure(overview, figure, settings.figure_width), class_store.folder]

    counts = class_store.require_relevant(settings.tau)[int(settings.only_correct)]
    files = LayerFiles(path, candidates, groups)
    findings = LayerFindings(stage_two, layer_classes, channels, kept, counts, classes)
    screen = LayerScreen(settings, store, class_store, findings, files)
    screen.show(guide)
    if synsets is not None:
        written += plot_wordnet(
            layer_classes.pairs,
            synsets,
            gamma,
            name=classes.name,
            titles=titles,
            table=path,
            output_dir=settings.output_dir,
            sheet=settings.figure_width,
        )
    print(f"\n{WHICH}")
    print_end([path for path in written if path], screen.commands(), is_empty=screen.is_empty)
    return FoundLayer(findings, files)
