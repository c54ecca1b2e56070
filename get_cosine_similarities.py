"""Stage 2: which channels are relevant for which classes, and which of them are gamma-polysemantic?

Reads the chunks of stage 1, one at a time, once for each --proportion_attribution_required; other values of --p and of
the cosine bounds take seconds. A channel is relevant for a class if it carries at least tau of the positive importance
in at least a fraction p of the class's images; a pair of classes that share a channel is gamma-polysemantic if the
cosine of their averaged relevance vectors is below gamma (--cos_sim_high).

    python get_cosine_similarities.py --model resnet50 --nr_channels_in_layer_of_interest 2048 \\
        --proportion_attribution_required 0.03 --p 0.75 --cos_sim_high 0.5

Draws an overview of the layer, and with --plot_wordnet how the cosines relate to the classes' distance in WordNet.
"""

from pathlib import Path

from tqdm import tqdm

from utils.command_line import flags as command_line
from utils.command_line.opening import open_network
from utils.command_line.run import run
from utils.errors import UserError
from utils.images.classes import ClassMap
from utils.method.importance import relevant_classes
from utils.method.polysemanticity import ClassStatistics, class_pairs
from utils.networks.kinds import weight_taps
from utils.report.files import write_figure
from utils.report.layer_figures import overview_figure, wordnet_figure
from utils.report.layer_tables import (
    classes_of_channels,
    gamma_from,
    print_pairs,
    print_summary,
    similarity_summary,
    warn,
    write_channels,
    write_similarities,
)
from utils.report.wordnet import class_synsets, path_similarities, rank_correlation
from utils.store.candidates import pairs_path, write_pairs
from utils.store.class_statistics import ClassStore
from utils.store.importances import ImportanceStore
from utils.store.names import run_name


def get_args_parser():
    parser = command_line.Parser(__doc__)
    command_line.add_store_flag(parser)
    command_line.add_output_flag(parser)
    command_line.add_network_flags(parser)
    command_line.add_channel_count_flag(parser)
    parser.add_argument(
        "--proportion_attribution_required",
        type=command_line.fraction,
        default=0.03,
        help="tau: share of an image's positive importance that makes a channel relevant for it (0.03)",
    )
    parser.add_argument(
        "--p", type=command_line.fraction, default=0.75, help="share of a class's images that must agree (0.75)"
    )
    parser.add_argument("--cos_sim_low", type=command_line.cosine, default=0.0, help="keep low <= cosine (0.0)")
    parser.add_argument(
        "--cos_sim_high", type=command_line.cosine, default=1.0, help="keep cosine < high: gamma (1.0; the paper 0.5)"
    )
    parser.add_argument(
        "--only_correct", action="store_true", help="count and average correctly classified images only"
    )
    parser.add_argument(
        "--min_images",
        type=command_line.positive_int,
        default=1,
        help="leave out classes with fewer images (with --only_correct: correctly classified ones) (1)",
    )
    parser.add_argument(
        "--plot_wordnet",
        action="store_true",
        help="also draw the classes' WordNet path similarity over the cosine, for all pairs and whatever the bounds; "
        "class folders must be WordNet ids (n02124075)",
    )
    return parser


def class_statistics(store, class_store, tau):
    """Class means of the input sums and counts of relevant images, from the store or from one pass over the chunks."""
    means, relevant = class_store.read_means(), class_store.read_relevant(tau)
    if means is None or relevant is None:
        statistics = ClassStatistics.zeros(
            *(store.meta[key] for key in ("num_outputs", "num_channels", "num_inputs", "num_taps"))
        )
        for chunk in tqdm(range(store.num_chunks), "reading chunks", unit=" chunks", delay=2):
            images = store.read_chunk(chunk)
            statistics.add(
                images["relative_importances"],
                images["positive_sums"],
                images["input_sums"],
                images["targets"],
                images["predictions"],
                tau,
            )
        class_store.write(statistics, tau)
        means, relevant = class_store.read_means(), class_store.read_relevant(tau)
    return *means, relevant


def settings(args):
    """What chose the pairs, for the figures."""
    text = f"τ = {args.proportion_attribution_required:g}, p = {args.p:g}"
    text += ", correctly classified images only" if args.only_correct else ""
    return text + (f", classes of at least {args.min_images} images" if args.min_images > 1 else "")


def plot_wordnet(args, path, title, pairs, synsets, classes):
    """Draw, write and sum up the WordNet path similarity of all pairs."""
    if not pairs:
        print("no two classes share a relevant channel: there is no WordNet figure")
        return
    gamma, similarities = gamma_from(args.cos_sim_high), path_similarities(pairs, synsets)
    correlation = rank_correlation([pair[3] for pair in pairs], similarities)
    ranks = "" if correlation is None else f"; Spearman's rank correlation {correlation:.2f}"
    subtitle = f"{settings(args)}; {len(pairs)} pairs of classes that share a channel{ranks}"
    values = path.with_name(f"{path.stem}_wordnet.csv")
    write_similarities(values, pairs, similarities)
    figure = wordnet_figure(pairs, similarities, gamma, classes.name, title, subtitle)
    drawn = write_figure(Path(args.output_dir) / "plots" / values.stem, figure)
    print(similarity_summary(pairs, similarities, gamma, correlation))
    print(f"wrote {values} and {drawn}")


def main(args):
    command_line.require(args, "model")
    if not args.cos_sim_low < args.cos_sim_high:
        raise UserError(f"--cos_sim_low {args.cos_sim_low} is not below --cos_sim_high {args.cos_sim_high}")
    tau, run = args.proportion_attribution_required, run_name(args.model, args.layer_of_interest)
    store = ImportanceStore(args.store_dir, run)
    meta = store.load_meta()
    store.require_complete()
    synsets = class_synsets(meta["classes"]) if args.plot_wordnet else None
    network, layer = open_network(args, meta, store.folder)
    class_store, classes = ClassStore(args.store_dir, run, meta), ClassMap(meta["classes"])

    means, images, relevant_images = class_statistics(store, class_store, tau)
    mean_inputs, num_images, counts = (values[int(args.only_correct)] for values in (means, images, relevant_images))
    relevant = relevant_classes(counts, num_images, args.p, args.min_images)
    pairs = class_pairs(weight_taps(layer.module), mean_inputs, relevant)
    kept = [pair for pair in pairs if args.cos_sim_low <= pair[3] < args.cos_sim_high]
    channels, gamma = classes_of_channels(relevant, pairs), gamma_from(args.cos_sim_high)

    path = pairs_path(args, run)
    write_pairs(path, kept)
    write_channels(class_store.channels_path(path), channels, gamma, classes)
    title = f"{args.model}, layer {layer.name}"
    figure = overview_figure(channels, gamma, classes.name, title, settings(args))
    overview = write_figure(Path(args.output_dir) / "plots" / f"{path.stem}_overview", figure)

    print_pairs(kept, classes)
    print_summary(args, network, layer, channels, pairs, kept)
    warn(args, pairs, kept, num_images)
    if args.plot_wordnet:
        plot_wordnet(args, path, title, pairs, synsets, classes)
    print(f"wrote {path} and {class_store.means_path().parent}")
    print(f"wrote {overview}")
    if kept:
        channel, class1, class2, _ = kept[-1]
        flags = ["--classes_for_concept1", class1, "--classes_for_concept2", class2]
        flags += ["--only_correct"] if args.only_correct else []
        print(command_line.next_command("disentangle_channel.py", args, "--channel_disentangle", channel, *flags))
    else:
        print("next: a higher --cos_sim_high, or a lower --proportion_attribution_required or --p, finds more pairs")


if __name__ == "__main__":
    run(main, get_args_parser())
