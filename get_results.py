"""Stage 4: how well do the disentangled channels tell the concepts apart on validation images?

--get_quantitative: fractions of the original channel's activation that c'_1, c'_2, ... and the residual carry, in
images for which the channel has a relative attribution of at least tau; how well the channels tell the concepts apart;
rows and summaries of all pairs so far. --get_qualitative: densities of the activation, one plot a concept. Neither this
nor another figure named: both. --get_channel_card: one figure of the split with its most activating patches.
--get_feature_visualization: images made to activate the channel and its parts.

    python get_results.py --data_dir /datasets/imagenet --model_dir /store_dir/models_disentangled/ --model resnet50 \\
        --classes_for_concept1 530 --classes_for_concept2 938 --channel_of_interest 1660 --get_qualitative

    python get_results.py --summary        the table of all pairs evaluated so far, without a network or images
"""

from pathlib import Path

import numpy as np
import torch

from utils import command_line, summary
from utils.card import Card, card_figure
from utils.classes import ClassMap
from utils.data import ImageBatches, batches_of, class_folders, list_images
from utils.disentangling import RHOS, original_and_disentangled
from utils.errors import UserError
from utils.evaluation import density_curves
from utils.measurement import images_of_concepts, measure, measure_peaks, top_patches
from utils.models import check_precision, choose_device
from utils.patches import default_patch_size
from utils.plots import DISENTANGLED, ORIGINAL, density_figure, pictures_figure
from utils.polysemanticity import cosine_similarities
from utils.results import PairResults, plot_path, write_curves, write_figure
from utils.stages import open_network, open_transform
from utils.store import find_splits, read_first_split, read_split, refuse_differences, run_name, split_path
from utils.visualization import maximise_activation


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
    command_line.require(args, "model", "channel_of_interest")
    for flag in ("all_classes", "patch_size"):
        if getattr(args, flag) and not args.get_channel_card:
            raise UserError(f"--{flag} is for --get_channel_card: add it")
    wishes = ("get_qualitative", "get_quantitative", "get_channel_card", "get_feature_visualization")
    if not any(getattr(args, wish) for wish in wishes):
        args.get_qualitative = args.get_quantitative = True


def open_split(args, run):
    """The split asked for, and what it belongs to. Class folders' names are resolved by the splits' own class map."""
    model_dir = Path(args.model_dir or Path(args.store_dir) / "models_disentangled")
    channel, given = args.channel_of_interest, command_line.concepts_from(args)
    present = find_splits(model_dir, run, channel)
    if not present:
        raise UserError(f"there is no split of channel {channel} of {run} in {model_dir}: run disentangle_channel.py")
    _, context = read_first_split(present)
    concepts = ClassMap(context["classes"]).resolve(given, context["num_outputs"])
    path = split_path(model_dir, run, channel, concepts)
    if path not in present:
        names = ", ".join(other.name for other in present)
        raise UserError(f"there is no split {path.name}, only {names}: run disentangle_channel.py for these concepts")
    split, context = read_split(path)
    asked = {"channel": channel, "concepts": concepts}
    refuse_differences(asked, vars(split), asked, path)
    if args.rho is not None and args.rho not in RHOS:
        raise UserError(f"--rho {args.rho} is not one of the stored values {', '.join(map(str, RHOS))}")
    return path, split, context


def print_summary(results):
    """Print the summary of all pairs evaluated so far, and make its files anew."""
    files = results.write_summary()
    print(summary.document(results.read_all()))
    print(f"wrote {' and '.join(map(str, files))}")


def quantitative(results, pair):
    """Store the pair, make rows and summaries anew, and print the table of it and of all pairs so far."""
    files = results.write(pair)
    alike = summary.groups(results.read_all())[summary.group_of(pair)]
    print(f"\n{summary.markdown(alike, shown=[pair])}\n\n{summary.EXPLANATION}")
    return files


def densities(pair):
    """For the images of each concept, samples by label (the original channel and every disentangled one) and curves."""
    for part in pair["images"]:
        samples = {"original channel": np.array(part["original"])}
        for k, name in enumerate(pair["concept_names"]):
            samples[f"c'_{k + 1}, for {name}"] = np.array(part["sums"])[:, k]
        yield samples, density_curves(samples)


def qualitative(output_dir, pair):
    """Draw and store one density plot a concept."""
    pictures = []
    for number, (samples, (grid, curves)) in enumerate(densities(pair), start=1):
        title = f"Images of {pair['concept_names'][number - 1]}: channel {pair['channel']} and its parts"
        count = len(samples["original channel"])
        subtitle = f"{pair['run']}, {pair['layer']}, rho {pair['rho']}, {count} validation images"
        stem = plot_path(output_dir, pair, f"concept{number}_density")
        pictures.append(write_figure(stem, density_figure(samples, grid, curves, title, subtitle)))
        write_curves(stem, grid, curves)
    return pictures


def visualization(output_dir, pair, pictures):
    """Draw and store images that were made to activate each channel, [K + 1, seeds, H, W, 3]."""
    labels = ["original channel", *(f"c'_{k}, for {name}" for k, name in enumerate(pair["concept_names"], start=1))]
    colours = [colour for colour, _ in (ORIGINAL, *DISENTANGLED)]
    rows = {label: [(one, colours[k]) for one in pictures[k]] for k, label in enumerate(labels)}
    title = f"Channel {pair['channel']} and its parts: images made to activate them"
    subtitle = f"{pair['run']}, layer {pair['layer']}, rho {pair['rho']}"
    return [write_figure(plot_path(output_dir, pair, "visualization"), pictures_figure(rows, title, subtitle))]


def channel_card(output_dir, pair, patches, visualizations):
    """Draw and store the channel card."""
    samples, curves = zip(*densities(pair), strict=True)
    above_diagonal = np.array(pair["cosines"])[np.triu_indices(len(pair["cosines"]), 1)]
    cosines = " to ".join(dict.fromkeys(f"{value:.2f}" for value in (above_diagonal.min(), above_diagonal.max())))
    card = Card(
        channel=pair["channel"],
        subtitle=f"{pair['run']}, layer {pair['layer']};  cosine of the ARVs {cosines},  ρ = {pair['rho']:.2f};  "
        f"{sum(len(part['paths']) for part in pair['images'])} validation images, fractions at τ = {pair['tau']}",
        names=pair["concept_names"],
        patches=patches,
        visualizations=visualizations,
        samples=samples,
        curves=curves,
        summaries=[row.summary for row in summary.pair_rows(pair)],
    )
    return [write_figure(plot_path(output_dir, pair, "card"), card_figure(card))]


def validation_images(args, classes, concepts):
    """Images of the concepts (and of all classes, if asked for), and which concept each is of: 0 .. K-1, or -1."""
    root = Path(args.data_dir) / "val"
    concept_of = {classes.folder(output): k for k, concept in enumerate(concepts) for output in concept}
    others = [name for name in class_folders(root) if name not in concept_of] if args.all_classes else []
    images = list_images(root, [*concept_of, *others])
    return images, np.array([concept_of.get(name, -1) for name in images.folders])[images.folder_of]


def check_patch_size(args, transform, layer):
    """The side of a patch, in pixels."""
    size = args.patch_size or default_patch_size(transform.crop_size, min(layer.map_size))
    if size > transform.crop_size:
        raise UserError(f"--patch_size {size} is larger than the image, {transform.crop_size} pixels")
    return size


def main(args):
    results = PairResults(args.output_dir)
    if args.summary and args.channel_of_interest is None:
        return print_summary(results)
    check_flags(args)
    device = choose_device(args.device)
    check_precision(args.precision, device)
    run = run_name(args.model, args.layer_of_interest)
    path, split, context = open_split(args, run)
    rho, tau, classes = args.rho or split.rho, args.proportion_attribution_required, ClassMap(context["classes"])
    transform = open_transform(args, context, path)
    images, concepts = validation_images(args, classes, split.concepts)
    network, layer = open_network(args, context, path)
    patch_size = check_patch_size(args, transform, layer)
    results.check(run, network.fingerprint)

    def load(indices, description):
        batches = batches_of(indices, args.batch_size)
        return ImageBatches(images, transform, batches, description, **command_line.loading(args, device))

    print(f"{args.model} with weights {network.weights}, layer {layer.name}")
    print(f"{path.name}, rho {rho}{' (the chosen one)' if rho == split.rho else ''}")
    network.module.to(device, memory_format=torch.channels_last)
    subject = network.module, layer.name, split, rho
    outputs = torch.tensor([classes.outputs.get(folder, -1) for folder in images.folders])
    targets = outputs[torch.from_numpy(images.folder_of)]
    measured = measure(load(np.flatnonzero(concepts >= 0), "validation images"), *subject, targets, args.precision)
    pair = {
        "run": run,
        **{key: context[key] for key in ("weights_sha256", "layer", "only_correct")},
        "channel": split.channel,
        "concepts": split.concepts,
        "concept_names": [classes.concept_name(concept) for concept in split.concepts],
        "cosines": cosine_similarities(split.arvs).tolist(),
        "rho": rho,
        "rho_objective": split.objective,
        "tau": tau,
        "images": images_of_concepts(measured, images, split.concepts, tau),
    }
    written = quantitative(results, pair) if args.get_quantitative else []
    written += qualitative(args.output_dir, pair) if args.get_qualitative else []
    visualizations = None
    if args.get_feature_visualization:
        channels = original_and_disentangled(layer.module, split, rho)
        visualizations = maximise_activation(network.module, layer.module, channels, transform, device=device).numpy()
        written += visualization(args.output_dir, pair, visualizations)
    if args.get_channel_card:
        if args.all_classes:
            elsewhere = measure_peaks(load(np.flatnonzero(concepts < 0), "other classes"), *subject, args.precision)
            measured = {name: np.concatenate([measured[name], values]) for name, values in elsewhere.items()}
        patches = top_patches(images, transform, measured, concepts, patch_size)
        written += channel_card(args.output_dir, pair, patches, visualizations)
    if args.summary:
        print_summary(results)
    print("\nwrote " + "\n      ".join(map(str, written)))
    print(command_line.next_command("disentangle_channel.py", args) + " ... for another channel or other concepts")


if __name__ == "__main__":
    command_line.run(main, get_args_parser())
