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

from pathlib import Path

import numpy as np
import torch

from utils.command_line import flags as command_line
from utils.command_line.opening import open_network, open_splits, open_transform
from utils.command_line.run import run
from utils.errors import UserError
from utils.images.batches import ImageBatches, batches_of
from utils.images.classes import ClassMap
from utils.images.listing import class_folders, has_images, list_images
from utils.method.patches import default_patch_size
from utils.method.polysemanticity import cosine_similarities
from utils.networks.arithmetic import check_precision, choose_device
from utils.networks.feature_visualization import maximise_activation
from utils.networks.splitting import original_and_disentangled
from utils.report import summary
from utils.report.split_figures import channel_card, qualitative, visualization
from utils.stages.evaluation import images_of_concepts, measure, measure_peaks, top_patches
from utils.store.names import run_name
from utils.store.results import PairResults


def get_args_parser():
    parser = command_line.Parser(__doc__)
    command_line.add_data_flag(parser)
    command_line.add_store_flag(parser)
    parser.add_argument("--model_dir", help="folder of the split files (default: models_disentangled in the store)")
    command_line.add_output_flag(parser)
    command_line.add_network_flags(parser)
    command_line.add_channel_count_flag(parser)
    parser.add_argument("--channel_of_interest", type=command_line.count, help="the channel that was split")
    command_line.add_concept_flags(parser)
    command_line.add_candidates_flag(parser)
    parser.add_argument(
        "--rho",
        type=command_line.fraction,
        help="one of the stored values 0.05, 0.10 ... 1.00 (default: the chosen one)",
    )
    parser.add_argument(
        "--proportion_attribution_required",
        type=command_line.fraction,
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
        type=command_line.positive_int,
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
    command_line.add_image_flags(parser)
    command_line.add_compute_flags(parser)
    return parser


def check_flags(args):
    """Refuse flags that would be ignored; without a wish, wish for the two kinds of results of the paper."""
    command_line.require(args, "model", *(["channel_of_interest"] if args.candidates is None else []))
    for flag in ("all_classes", "patch_size"):
        if getattr(args, flag) and not args.get_channel_card:
            raise UserError(f"--{flag} is for --get_channel_card: add it")
    wishes = ("get_qualitative", "get_quantitative", "get_channel_card", "get_feature_visualization")
    if not any(getattr(args, wish) for wish in wishes):
        args.get_qualitative = args.get_quantitative = True


def refuse_ignored_flags(args):
    """--summary alone reads what is there: no other flag means anything."""
    parser = get_args_parser()
    for name, value in vars(args).items():
        if name not in ("summary", "output_dir") and value != parser.get_default(name):
            raise UserError(
                f"--{name} means nothing to --summary alone: name a channel or --candidates, or leave it out"
            )


def print_summary(results):
    """Print the summary of all pairs evaluated so far, and make its files anew."""
    files = results.write_summary()
    print(summary.document(results.read_all()))
    print(f"wrote {' and '.join(map(str, files))}")


def quantitative(results, pairs):
    """Store the pairs, make rows and summaries anew, and print the tables of them and of all pairs so far."""
    files = results.write(pairs)
    alike = summary.groups(results.read_all())
    for group, shown in summary.groups(pairs).items():
        print(f"\n{summary.markdown(alike[group], shown)}")
    print(f"\n{summary.EXPLANATION}")
    return files


def list_validation(args, classes, splits):
    """Images of the classes of all splits, and of all other classes if asked for."""
    root = Path(args.data_dir) / "val"
    outputs = sorted({output for split in splits for concept in split.concepts for output in concept})
    own = [classes.folder(output) for output in outputs]
    if not args.all_classes:
        return list_images(root, own), outputs
    others = [name for name in class_folders(root) if name not in own and has_images(root / name)]
    return list_images(root, [*own, *others]), outputs


def concepts_of_images(split, classes, images):
    """Which concept of a split each image is of: 0 .. K-1, or -1."""
    concept_of = {classes.folder(output): k for k, concept in enumerate(split.concepts) for output in concept}
    return np.array([concept_of.get(name, -1) for name in images.folders])[images.folder_of]


def check_patch_size(args, transform, layer):
    """The side of a patch, in pixels."""
    size = args.patch_size or default_patch_size(transform.crop_size, min(layer.map_size))
    if size > transform.crop_size:
        raise UserError(f"--patch_size {size} is larger than the image, {transform.crop_size} pixels")
    return size


def describe(opened, run, tau, measured, images, classes):
    """A pair as it is stored."""
    split = opened.split
    return {
        "run": run,
        **{key: opened.context[key] for key in ("weights_sha256", "layer", "only_correct")},
        "channel": split.channel,
        "concepts": split.concepts,
        "concept_names": [classes.concept_name(concept) for concept in split.concepts],
        "cosines": cosine_similarities(split.arvs).tolist(),
        "rho": opened.rho,
        "rho_objective": split.objective,
        "tau": tau,
        "images": images_of_concepts(measured, images, split.concepts, tau),
    }


def main(args):
    results = PairResults(args.output_dir)
    if args.summary and args.channel_of_interest is None and args.candidates is None:
        refuse_ignored_flags(args)
        return print_summary(results)
    check_flags(args)
    device = choose_device(args.device)
    check_precision(args.precision, device)
    loading = command_line.loading(args, device)
    run = run_name(args.model, args.layer_of_interest)
    opened = open_splits(args, run)
    first = opened[0]
    classes, transform = ClassMap(first.context["classes"]), open_transform(args, first.context, first.path)
    images, outputs = list_validation(args, classes, [one.split for one in opened])
    network, layer = open_network(args, first.context, first.path)
    patch_size = check_patch_size(args, transform, layer)
    results.check(run, network.fingerprint)

    def load(batches, description):
        return ImageBatches(images, transform, batches, description, **loading)

    print(f"{args.model} with weights {network.weights}, layer {layer.name}")
    for one in opened:
        print(f"{one.path.name}, rho {one.rho}{' (the chosen one)' if one.rho == one.split.rho else ''}")
    network.module.to(device, memory_format=torch.channels_last)
    splits = [(one.split, one.rho) for one in opened]
    folders = [images.folders.index(classes.folder(output)) for output in outputs]
    plan = [
        (output, batch)
        for output, folder in zip(outputs, folders, strict=True)
        for batch in batches_of(np.flatnonzero(images.folder_of == folder), args.batch_size)
    ]
    targets, batches = zip(*plan, strict=True)
    loader = load(list(batches), "validation images")
    measured = measure(loader, targets, network.module, layer.name, splits, args.precision)
    tau = args.proportion_attribution_required
    pairs = [describe(one, run, tau, arrays, images, classes) for one, arrays in zip(opened, measured, strict=True)]
    written = quantitative(results, pairs) if args.get_quantitative else []
    if args.all_classes:
        loader = load(batches_of(range(len(images)), args.batch_size), "images of all classes")
        measured = measure_peaks(loader, network.module, layer.name, splits, args.precision)
    for (split, rho), pair, arrays in zip(splits, pairs, measured, strict=True):
        written += qualitative(args.output_dir, pair) if args.get_qualitative else []
        visualizations = None
        if args.get_feature_visualization:
            channels = original_and_disentangled(layer.module, split, rho)
            visualizations = maximise_activation(network.module, layer.module, channels, transform, device=device)
            written += visualization(args.output_dir, pair, visualizations.numpy())
        if args.get_channel_card:
            patches = top_patches(images, transform, arrays, concepts_of_images(split, classes, images), patch_size)
            written += channel_card(args.output_dir, pair, patches, visualizations)
    if args.summary:
        print_summary(results)
    print("\nwrote " + "\n      ".join(map(str, written)))
    print(command_line.next_command("disentangle_channel.py", args) + " ... for another channel or other concepts")


if __name__ == "__main__":
    run(main, get_args_parser())
