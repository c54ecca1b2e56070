"""Stage 4: how well do the disentangled channels tell the concepts apart on validation images?

--get_quantitative: fractions of the original channel's activation that c'_1, c'_2, ... and the residual carry, in
images for which the channel has a relative attribution of at least tau; rows and summaries of all pairs so far.
--get_qualitative: densities of the activation, one plot a concept. Neither named: both.

    python get_results.py --data_dir /datasets/imagenet --model_dir /store_dir/models_disentangled/ --model resnet50 \\
        --classes_for_concept1 530 --classes_for_concept2 938 --channel_of_interest 1660 --get_qualitative
"""

from pathlib import Path

import numpy as np
import torch

from utils import command_line
from utils.attribution import attribution_shares, forward_with_gradient
from utils.classes import ClassMap
from utils.data import ImageBatches, batches_of, list_images
from utils.disentangling import RHOS, merge
from utils.errors import UserError
from utils.evaluation import density_curves, disentangled_sums
from utils.layers import tap_sums
from utils.models import check_precision, choose_device, network_arithmetic
from utils.plots import density_figure
from utils.results import PairResults, density_path, summary_table, write_curves, write_figure
from utils.stages import open_network, open_transform
from utils.store import find_splits, read_first_split, read_split, refuse_differences, run_name, split_path


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
    parser.add_argument("--get_qualitative", action="store_true", help="density plots, into plots/")
    parser.add_argument("--get_quantitative", action="store_true", help="fractions, into results_quantitative/")
    command_line.add_image_flags(parser)
    command_line.add_compute_flags(parser)
    return parser


def open_split(args, model_dir, run):
    """The split asked for, and what it belongs to. Class folders' names are resolved by the splits' own class map."""
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


def measure(loader, network, layer, split, rho, targets, args):
    """One pass over validation images: what is kept of each, as a dictionary of arrays.

    ``original`` [n] and ``sums`` [n, K + 1] are spatial sums of the channel and of ``c'_1 .. c'_K, r``; ``shares`` [n]
    is the channel's relative attribution; ``indices``, ``targets`` and ``predictions`` [n]. All sums follow from
    those of the layer's input, so that they agree in whatever precision the network runs.
    """
    kept = []
    for indices, pixels in loader:
        if len(indices):
            own = targets[indices].to(loader.device)
            with network_arithmetic(args.precision, loader.device):
                record = forward_with_gradient(network.module, layer.module, pixels, own)
            positions = record.activation[0, 0].numel()
            sums = disentangled_sums(split, rho, tap_sums(layer.module, record.input), positions)
            batch = {
                "indices": indices,
                "targets": own,
                "predictions": record.logits.argmax(1),
                "original": merge(sums, dim=1),
                "sums": sums,
                "shares": attribution_shares(record.activation, record.gradient)[:, split.channel],
            }
            kept.append({name: values.cpu() for name, values in batch.items()})
    return {name: torch.cat([batch[name] for batch in kept]).numpy() for name in kept[0]} if kept else {}


def images_of_concepts(measured, images, concepts, tau):
    """What was measured, concept by concept, as lists for a JSON file."""
    parts = []
    for number, concept in enumerate(concepts, start=1):
        own = np.isin(measured.get("targets", []), concept)
        if not own.any():
            raise UserError(f"concept {number} has no readable image in {images.root}")
        part = {name: values[own] for name, values in measured.items()}
        part["included"] = part["shares"] >= tau
        paths = [str(images.path(index).relative_to(images.root)) for index in part.pop("indices")]
        parts.append({"paths": paths, **{name: values.tolist() for name, values in part.items()}})
    return parts


def quantitative(results, pair):
    """Store the pair, make the text files anew, and print mean and median over it and over all pairs so far."""
    files = results.write(pair)
    print("\nfractions of the original channel, mean / median")
    print(summary_table(f"channel {pair['channel']}, rho {pair['rho']}", pair["concept_names"], pair["images"]))
    alike = results.alike(pair)
    together = [
        {name: np.concatenate([part[name] for part in parts]) for name in ("original", "sums", "included")}
        for parts in zip(*(other["images"] for other in alike), strict=True)
    ]
    title = f"all {len(alike)} pairs so far" if len(alike) > 1 else "the only pair so far"
    print(summary_table(title, [f"concept {k}" for k in range(1, len(together) + 1)], together))
    return files


def qualitative(output_dir, pair):
    """Draw and store one density plot a concept: the original channel and every disentangled one."""
    pictures = []
    for number, (name, part) in enumerate(zip(pair["concept_names"], pair["images"], strict=True), start=1):
        samples = {"original channel": np.array(part["original"])}
        for k, other in enumerate(pair["concept_names"]):
            samples[f"c'_{k + 1}, for {other}"] = np.array(part["sums"])[:, k]
        grid, curves = density_curves(samples)
        title = f"Images of {name}: channel {pair['channel']} and its parts"
        subtitle = f"{pair['run']}, {pair['layer']}, rho {pair['rho']}, {len(part['paths'])} validation images"
        stem = density_path(output_dir, pair, number)
        pictures.append(write_figure(stem, density_figure(samples, grid, curves, title, subtitle)))
        write_curves(stem, grid, curves)
    return pictures


def main(args):
    command_line.require(args, "model", "channel_of_interest")
    device = choose_device(args.device)
    check_precision(args.precision, device)
    run = run_name(args.model, args.layer_of_interest)
    path, split, context = open_split(args, Path(args.model_dir or Path(args.store_dir) / "models_disentangled"), run)
    rho, classes = args.rho or split.rho, ClassMap(context["classes"])
    transform = open_transform(args, context, path)
    outputs = [output for concept in split.concepts for output in concept]
    images = list_images(Path(args.data_dir) / "val", [classes.folder(output) for output in outputs])
    network, layer = open_network(args, context, path)
    results = PairResults(args.output_dir)
    results.check(run, network.fingerprint)

    print(f"{args.model} with weights {network.weights}, layer {layer.name}")
    print(f"{path.name}, rho {rho}{' (the chosen one)' if rho == split.rho else ''}")
    network.module.to(device, memory_format=torch.channels_last)
    loader = ImageBatches(
        images,
        transform,
        batches_of(range(len(images)), args.batch_size),
        "validation images",
        **command_line.loading(args, device),
    )
    targets = torch.tensor(outputs)[torch.from_numpy(images.folder_of)]
    measured = measure(loader, network, layer, split, rho, targets, args)
    pair = {
        "run": run,
        **{key: context[key] for key in ("weights_sha256", "layer", "only_correct")},
        "channel": split.channel,
        "concepts": split.concepts,
        "concept_names": [classes.concept_name(concept) for concept in split.concepts],
        "rho": rho,
        "rho_objective": split.objective,
        "tau": args.proportion_attribution_required,
        "images": images_of_concepts(measured, images, split.concepts, args.proportion_attribution_required),
    }
    both = args.get_quantitative == args.get_qualitative
    written = quantitative(results, pair) if both or args.get_quantitative else []
    written += qualitative(args.output_dir, pair) if both or args.get_qualitative else []
    print("\nwrote " + "\n      ".join(map(str, written)))
    print(command_line.next_command("disentangle_channel.py", args) + " ... for another channel or other concepts")


if __name__ == "__main__":
    command_line.run(main, get_args_parser())
