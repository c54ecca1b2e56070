"""Stage 2: which channels are relevant for which classes, and which of them are gamma-polysemantic?

Reads the chunks of stage 1, one at a time, once for each --proportion_attribution_required; other values of --p and of
the cosine bounds take seconds. A channel is relevant for a class if it carries at least tau of the positive importance
in at least a fraction p of the class's images; a pair of classes that share a channel is gamma-polysemantic if the
cosine of their averaged relevance vectors is below gamma (--cos_sim_high).

    python get_cosine_similarities.py --model resnet50 --nr_channels_in_layer_of_interest 2048 \\
        --proportion_attribution_required 0.03 --p 0.75 --cos_sim_high 0.5

Several values of tau, p or gamma: one table and figure of how much the thresholds matter, and no candidates.

Groups the classes of each channel by their vectors, and says what there is to go by in the choice of gamma.
Draws an overview of the layer, and with --plot_wordnet how the cosines relate to the classes' distance in WordNet.
"""

import argparse
from pathlib import Path

from utils import defaults
from utils.command_line import flags, threshold_flags
from utils.command_line.run import run
from utils.command_line.settings import SimilaritySettings
from utils.errors import UserError


def get_args_parser() -> flags.Parser:
    parser = flags.Parser(__doc__)
    flags.add_store_flag(parser)
    flags.add_output_flag(parser)
    flags.add_data_flag(parser, "where the images are: for the line that says what to run next; none is read")
    flags.add_network_flags(parser)
    flags.add_channel_count_flag(parser)
    threshold_flags.add_threshold_flags(parser)
    parser.add_argument(
        "--cos_sim_low", type=flags.cosine, default=defaults.COS_SIM_LOW, help="keep low <= cosine (%(default)s)"
    )
    flags.add_figure_flag(parser)
    threshold_flags.add_counting_flags(parser)
    threshold_flags.add_shown_flags(parser)
    parser.add_argument(
        "--plot_wordnet",
        action="store_true",
        help="also draw the classes' WordNet path similarity over the cosine, for all pairs and whatever the bounds; "
        "class folders must be WordNet ids (n02124075)",
    )
    return parser


def settings_from(args: argparse.Namespace, _: argparse.ArgumentParser) -> SimilaritySettings:
    flags.require(args, "model")
    settings = flags.settings_of(SimilaritySettings, args, **threshold_flags.thresholds_from(args))
    several = threshold_flags.several_thresholds(settings)
    if not several and not settings.cos_sim_low < settings.cos_sim_high:
        raise UserError(f"--cos_sim_low {settings.cos_sim_low} is not below --cos_sim_high {settings.cos_sim_high}")
    return settings


def main(settings: SimilaritySettings) -> None:
    from utils.command_line import opening
    from utils.command_line.measuring_sensitivity import measure_sensitivity
    from utils.command_line.run import print_end
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
    from utils.report.wordnet import class_synsets
    from utils.report.wordnet_figure import plot_wordnet
    from utils.stages.gamma_diagnostics import gamma_guide
    from utils.stages.relevance import find_classes
    from utils.store.candidates import pairs_path, write_groups, write_pairs
    from utils.store.class_statistics import ClassStore
    from utils.store.files import run_name
    from utils.store.importance_store import ImportanceStore
    from utils.store.stage_two_runs import write_stage_two_run

    run = run_name(settings.model, settings.layer_of_interest)
    store = ImportanceStore(settings.store_dir, run)
    meta = store.load_meta()
    store.require_complete()
    synsets = class_synsets(meta["classes"]) if settings.plot_wordnet else None
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
        return
    print(
        f"{settings.model_name}, layer {meta['layer']}: {meta['num_images']} images of {len(meta['classes'])} classes",
        flush=True,
    )
    # The relevant classes of each channel, and the pairs of them that are gamma-polysemantic
    criteria = {name: getattr(settings, name) for name in ("tau", "p", "only_correct", "min_images", "only_above_mean")}
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
    record = write_stage_two_run(settings.store_dir, run, stage_two, channels.listed(kept))
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


if __name__ == "__main__":
    interrupted = "what was written is whole, the same command begins again"
    run(main, get_args_parser(), settings=settings_from, interrupted=interrupted)
