"""Stage 2: which channels are relevant for which classes, and which of them are gamma-polysemantic?

Reads the chunks of stage 1, one at a time, once for each --proportion_attribution_required; other values of --p and of
the cosine bounds take seconds. A channel is relevant for a class if it carries at least tau of the positive importance
in at least a fraction p of the class's images; a pair of classes that share a channel is gamma-polysemantic if the
cosine of their averaged relevance vectors is below gamma (--cos_sim_high).

    python get_cosine_similarities.py --model resnet50 --nr_channels_in_layer_of_interest 2048 \\
        --proportion_attribution_required 0.03 --p 0.75 --cos_sim_high 0.5
"""

import sys

from tqdm import tqdm

from utils import command_line
from utils.classes import ClassMap
from utils.errors import UserError
from utils.layers import weight_taps
from utils.polysemanticity import ClassStatistics, class_pairs, relevant_classes
from utils.results import pairs_path, write_pairs
from utils.stages import open_network
from utils.store import ClassStore, ImportanceStore, run_name

FEW_IMAGES = 10


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


def print_pairs(pairs, classes):
    """Print the pairs as the published code does, and as a table with class names."""
    columns = ("channel", "class1", "class2", "cosine_similarity")
    print([dict(zip(columns, (*pair[:3], round(pair[3], 4)), strict=True)) for pair in pairs])
    if pairs:
        names = [(classes.name(class1), classes.name(class2)) for _, class1, class2, _ in pairs]
        widths = [max(map(len, column)) for column in zip(*names, strict=True)]
        print(f"\nchannel  cosine  {'class 1':>{widths[0] + 5}}  class 2")
        for (channel, class1, class2, cosine), (name1, name2) in zip(pairs, names, strict=True):
            print(f"{channel:7d}  {cosine:6.3f}  {name1:>{widths[0]}} {class1:4d}  {class2:4d} {name2}")


def warn(args, pairs, kept, num_images):
    """Say what the reader of a list of pairs should know: what fell away, and what rests on little."""
    dropped = sum(cosine < min(0, args.cos_sim_low) for *_, cosine in pairs)
    if dropped:
        print(
            f"warning: {dropped} pairs have a cosine below 0 and are left out; add --cos_sim_low -1 to keep them",
            file=sys.stderr,
        )
    weak = sum(min(num_images[class1], num_images[class2]) < FEW_IMAGES for _, class1, class2, _ in kept)
    if weak:
        print(
            f"warning: {weak} of these {len(kept)} pairs have a class of fewer than {FEW_IMAGES} images to measure; "
            f"--min_images {FEW_IMAGES} leaves them out",
            file=sys.stderr,
        )


def main(args):
    command_line.require(args, "model")
    if not args.cos_sim_low < args.cos_sim_high:
        raise UserError(f"--cos_sim_low {args.cos_sim_low} is not below --cos_sim_high {args.cos_sim_high}")
    tau, run = args.proportion_attribution_required, run_name(args.model, args.layer_of_interest)
    store = ImportanceStore(args.store_dir, run)
    meta = store.load_meta()
    store.require_complete()
    network, layer = open_network(args, meta, store.folder)
    class_store = ClassStore(args.store_dir, run, meta)

    means, images, relevant_images = class_statistics(store, class_store, tau)
    mean_inputs, num_images, counts = (values[int(args.only_correct)] for values in (means, images, relevant_images))
    relevant = relevant_classes(counts, num_images, args.p, args.min_images)
    pairs = class_pairs(weight_taps(layer.module), mean_inputs, relevant)
    kept = [pair for pair in pairs if args.cos_sim_low <= pair[3] < args.cos_sim_high]

    print_pairs(kept, ClassMap(meta["classes"]))
    path = pairs_path(args, run)
    write_pairs(path, kept)
    shared, channels = (relevant.sum(0) >= 2).sum().item(), len({channel for channel, *_ in kept})
    lowest = f" (lowest cosine {pairs[-1][3]:.3f})" if pairs else ""
    print(f"\n{args.model} with weights {network.weights}, layer {layer.name}:")
    print(f"{shared} channels are relevant for several classes, {len(pairs)} pairs in all{lowest};")
    print(f"{len(kept)} pairs of {channels} channels have {args.cos_sim_low} <= cosine < {args.cos_sim_high}")
    warn(args, pairs, kept, num_images)
    print(f"wrote {path} and {class_store.means_path().parent}")
    if kept:
        channel, class1, class2, _ = kept[-1]
        flags = ["--classes_for_concept1", class1, "--classes_for_concept2", class2]
        flags += ["--only_correct"] if args.only_correct else []
        print(command_line.next_command("disentangle_channel.py", args, "--channel_disentangle", channel, *flags))
    else:
        print("next: a higher --cos_sim_high, or a lower --proportion_attribution_required or --p, finds more pairs")


if __name__ == "__main__":
    command_line.run(main, get_args_parser())
