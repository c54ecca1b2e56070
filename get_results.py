"""Stage 4: how well do the disentangled channels tell the concepts apart on validation images?

--get_quantitative: fractions of the original channel's activation that c'_1, c'_2, ... and the residual carry, in
images for which the channel has a relative attribution of at least tau; how well the channels tell the concepts apart;
rows and summaries of all pairs so far. --get_qualitative: densities of the activation, one plot a concept. Neither this
nor another figure named: both. --get_channel_card: one figure of the split with its most activating patches.
--get_feature_visualization: images made to activate the channel and its parts.

    python get_results.py --data_dir /datasets/imagenet --model_dir /store_dir/models_disentangled/ --model resnet50 \\
        --classes_for_concept1 530 --classes_for_concept2 938 --channel_of_interest 1660 --get_qualitative

    python get_results.py --model resnet50 --candidates paper_pairs.txt     many pairs, each class's images read once

    python get_results.py --summary        the table of all pairs evaluated so far, without a network or images
"""

if __name__ == "__main__":
    import utils.command_line.interrupts  # noqa: F401  (first: from here on, Ctrl-C is one line)

from pathlib import Path

from utils.command_line import flags
from utils.command_line.run import run


def get_args_parser():
    parser = flags.Parser(__doc__)
    flags.add_data_flag(parser)
    flags.add_store_flag(parser)
    parser.add_argument("--model_dir", help="folder of the split files (default: models_disentangled in the store)")
    flags.add_output_flag(parser)
    flags.add_network_flags(parser)
    flags.add_channel_count_flag(parser)
    parser.add_argument("--channel_of_interest", type=flags.count, help="the channel that was split")
    flags.add_concept_flags(parser)
    flags.add_candidates_flag(parser)
    parser.add_argument(
        "--rho",
        type=flags.fraction,
        help="one of the stored values 0.05, 0.10 ... 1.00 (default: the chosen one)",
    )
    parser.add_argument(
        "--proportion_attribution_required",
        type=flags.fraction,
        default=0.03,
        help="tau: share of an image's positive attribution that includes it in the fractions (0.03)",
    )
    wanted = parser.add_argument_group("what to make", "default: --get_qualitative and --get_quantitative")
    wanted.add_argument("--get_qualitative", action="store_true", help="density plots, into plots/")
    wanted.add_argument("--get_quantitative", action="store_true", help="fractions, into results_quantitative/")
    wanted.add_argument(
        "--get_channel_card", action="store_true", help="one figure: patches, densities and fractions, into plots/"
    )
    wanted.add_argument("--all_classes", action="store_true", help="card: patches from all of val/, not the concepts'")
    wanted.add_argument(
        "--patch_size",
        type=flags.positive_int,
        help="card: side of a patch in pixels (default: three strides of the layer, 96 for ResNet-50)",
    )
    wanted.add_argument(
        "--get_feature_visualization",
        action="store_true",
        help="images made to activate the channel and its parts, into plots/ and on the card",
    )
    wanted.add_argument(
        "--summary",
        action="store_true",
        help="print the table of all pairs so far; alone, nothing else is done",
    )
    flags.add_image_flags(parser)
    flags.add_compute_flags(parser)
    return parser


def main(args):
    import torch

    from utils.command_line.opening import check_patch_size, open_network, open_splits, open_transform
    from utils.images.batches import ImageBatches, batches_of
    from utils.images.classes import ClassMap
    from utils.networks.arithmetic import check_precision, choose_device
    from utils.report.result_tables import print_results, print_summary, write_tables
    from utils.report.split_figures import channel_card, densities_figures, visualization_figure
    from utils.stages.evaluation import (
        concepts_of_images,
        list_validation,
        measure_peaks,
        measure_splits,
        plan_batches,
        result_of,
        top_patches,
        visualize,
    )
    from utils.store.names import run_name
    from utils.store.results import Results

    results = Results(args.output_dir)
    if args.summary and args.channel_of_interest is None and args.candidates is None:
        flags.refuse_ignored(args, get_args_parser(), "summary", "output_dir")
        return print_summary(results)
    flags.check_wishes(args)
    device = choose_device(args.device)
    check_precision(args.precision, device)
    loading = flags.loading(args, device)
    run = run_name(args.model, args.layer_of_interest)
    opened = open_splits(args, run)
    first = opened[0]
    classes, transform = ClassMap(first.context["classes"]), open_transform(args, first.context, first.path)
    splits = [(one.split, one.rho) for one in opened]
    images, outputs = list_validation(Path(args.data_dir) / "val", classes, splits, args.all_classes)
    network, layer = open_network(args, first.context, first.path)
    patch_size = check_patch_size(args, transform, layer)
    results.check(run, network.fingerprint)

    def load(batches, description):
        return ImageBatches(images, transform, batches, description, **loading)

    print(f"{args.model} with weights {network.weights}, layer {layer.name}")
    for one in opened:
        print(f"{one.path.name}, rho {one.rho}{' (the chosen one)' if one.rho == one.split.rho else ''}")
    network.module.to(device, memory_format=torch.channels_last)
    targets, batches = plan_batches(images, classes, outputs, args.batch_size)
    loader = load(batches, "validation images")
    measured = measure_splits(loader, targets, network.module, layer, splits, args.precision)
    tau = args.proportion_attribution_required
    found = [result_of(one, run, tau, arrays, images, classes) for one, arrays in zip(opened, measured, strict=True)]
    written = []
    if args.get_quantitative:
        results.write(found)
        written = write_tables(results)
        print_results(results, found)
    if args.all_classes:
        loader = load(batches_of(range(len(images)), args.batch_size), "images of all classes")
        measured = measure_peaks(loader, network.module, layer, splits, args.precision)
    for (split, rho), result, arrays in zip(splits, found, measured, strict=True):
        written += densities_figures(args.output_dir, result) if args.get_qualitative else []
        pictures = None
        if args.get_feature_visualization:
            pictures = visualize(network.module, layer, split, rho, transform, device)
            written += visualization_figure(args.output_dir, result, pictures)
        if args.get_channel_card:
            patches = top_patches(images, transform, arrays, concepts_of_images(split, classes, images), patch_size)
            written += channel_card(args.output_dir, result, patches, pictures)
    if args.summary:
        print_summary(results)
    print("\nwrote " + "\n      ".join(map(str, written)))
    print(flags.next_command("disentangle_channel.py", args) + " ... for another channel or other concepts")


if __name__ == "__main__":
    run(main, get_args_parser(), "torch", "torchvision", "scipy.stats", "matplotlib.figure")
