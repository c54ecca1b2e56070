"""Stage 3: rewrite a channel that serves several concepts into channels that serve one each.

The input channels of the layer are divided among the concepts by their averaged relevance vectors and a factor rho;
rho is chosen on the concepts' training images (Eq. 6). The network's output stays what it was, which is shown on real
images before anything is stored.

    python disentangle_channel.py --data_dir /datasets/imagenet/ --model resnet50 --channel_disentangle 1660 \\
        --classes_for_concept1 530 --classes_for_concept2 938 --store_dir /store_dir/

More concepts: --classes_for_concept3 ... --classes_for_concept8.
"""

from pathlib import Path

import numpy as np
import torch

from utils import command_line
from utils.attribution import forward
from utils.classes import ClassMap
from utils.data import ImageBatches, batches_of, list_images
from utils.disentangling import OBJECTIVES, RHOS, RhoSearch, Split, equality_errors
from utils.errors import UserError
from utils.layers import weight_taps
from utils.models import check_precision, choose_device, network_arithmetic
from utils.polysemanticity import averaged_relevance_vectors, cosine_similarities
from utils.stages import check_channel, open_network, open_transform
from utils.store import (
    SPLIT_CONTEXT,
    ClassStore,
    ImportanceStore,
    refuse_differences,
    run_name,
    split_path,
    write_split,
)

PROOF_IMAGES = 32
LARGEST_ERROR = 1e-4


def get_args_parser():
    parser = command_line.Parser(__doc__)
    command_line.add_data_flag(parser)
    command_line.add_store_flag(parser)
    command_line.add_network_flags(parser)
    command_line.add_channel_count_flag(parser)
    parser.add_argument("--channel_disentangle", type=command_line.count, help="the channel to split")
    command_line.add_concept_flags(parser)
    parser.add_argument(
        "--only_correct",
        action="store_true",
        help="take ARVs and the images that choose rho from correctly classified images only",
    )
    parser.add_argument(
        "--rho_objective",
        choices=OBJECTIVES,
        default="positive",
        help="what rho maximises: positive (default; the published code), absolute (Eq. 6 as printed), contrast",
    )
    command_line.add_image_flags(parser)
    command_line.add_compute_flags(parser)
    return parser


def concept_arvs(class_store, weight, concepts, classes, only_correct):
    """ARV of each concept, the mean of its classes': Tensor [K, C_in]."""
    means = class_store.read_means()
    if means is None:
        raise UserError(f"there is no {class_store.means_path()} for this store: run get_cosine_similarities.py first")
    mean_inputs, num_images = (values[int(only_correct)] for values in means)
    for output in (output for concept in concepts for output in concept):
        if num_images[output] == 0:
            which = "correctly classified image" if only_correct else "readable image"
            raise UserError(f"class {output} ({classes.name(output)}) has no {which} in train/")
    return torch.stack([averaged_relevance_vectors(weight, mean_inputs[concept]).mean(0) for concept in concepts])


def concept_images(store, concepts, only_correct):
    """Training images of each concept, as used in stage 1: a list of LongTensors of indices."""
    indices, targets, predictions = store.read_labels()
    usable = targets == predictions if only_correct else torch.ones_like(targets, dtype=torch.bool)
    return [indices[usable & torch.isin(targets, torch.tensor(concept))] for concept in concepts]


def print_concepts(concepts, classes, members, arvs):
    for k, (concept, indices) in enumerate(zip(concepts, members, strict=True), start=1):
        print(f"concept {k}: {classes.concept_name(concept)} {concept}, {len(indices)} training images")
    cosines = cosine_similarities(arvs)
    pairs = [f"{j + 1}-{k + 1}: {cosines[j, k]:.3f}" for j in range(len(arvs)) for k in range(j + 1, len(arvs))]
    print(f"cosine of the concepts' ARVs {', '.join(pairs)}")


def search_rho(network, layer, arvs, members, load, args):
    """One pass over the concepts' images: every rho's objectives, as a RhoSearch."""
    search = RhoSearch(layer.module, args.channel_disentangle, arvs)
    concept_of = {index: k for k, indices in enumerate(members) for index in indices.tolist()}
    for indices, pixels in load(torch.cat(members), "choosing rho"):
        if len(indices):
            with network_arithmetic(args.precision, pixels.device):
                record = forward(network.module, layer.module, pixels)
            search.add(record.input, torch.tensor([concept_of[index] for index in indices.tolist()]))
    if search.objectives().isnan().any():
        raise UserError("a concept has no readable training image left: rho cannot be chosen")
    return search


def print_objectives(search, best):
    sizes = [f"|S_{k}|" for k in range(1, search.num_concepts + 1)]
    print(f"\n  rho  {'positive':>10}  {'absolute':>10}  contrast  {'  '.join(f'{size:>6}' for size in sizes)}  shared")
    for rho, values, owners in zip(RHOS, search.objectives().tolist(), search.owners, strict=True):
        counts = owners.bincount(minlength=search.num_concepts + 1).tolist()
        row = "  ".join(f"{number:6d}" for number in [*counts[1:], counts[0]])
        mark = " <- chosen" if rho == best else ""
        print(f" {rho:.2f}  {values[0]:10.4g}  {values[1]:10.4g}  {values[2]:8.4f}  {row}{mark}")


def prove_equality(network, layer, split, members, load):
    """Show in fp32, on real images of all concepts, that the split changes nothing; UserError where it does."""
    each = -(-PROOF_IMAGES // len(members))
    picked = [indices[np.unique(np.linspace(0, len(indices) - 1, each).astype(int))] for indices in members]
    pixels = torch.cat([pixels for indices, pixels in load(torch.cat(picked), "images to check") if len(indices)])
    channel_error, logit_error = equality_errors(network.module, layer.name, split, pixels)
    print(f"\nmerged channel against the original: largest difference {channel_error:.1e} of its largest value")
    print(
        f"logits of the split network against the original's: {logit_error:.1e} of their range ({len(pixels)} images)"
    )
    if not (channel_error < LARGEST_ERROR and logit_error < LARGEST_ERROR):
        raise UserError(
            f"the split network does not equal the original (limit {LARGEST_ERROR:.0e}): nothing was stored"
        )


def main(args):
    command_line.require(args, "model", "channel_disentangle")
    given = command_line.concepts_from(args)
    device = choose_device(args.device)
    check_precision(args.precision, device)
    run = run_name(args.model, args.layer_of_interest)
    store = ImportanceStore(args.store_dir, run)
    meta = store.load_meta()
    store.require_complete()
    classes = ClassMap(meta["classes"])
    concepts = classes.resolve(given, meta["num_outputs"])
    check_channel("channel_disentangle", args.channel_disentangle, meta["num_channels"])
    transform = open_transform(args, meta, store.folder)
    images = list_images(Path(args.data_dir) / "train")
    data = {"num_images": len(images), "data_sha256": images.digest()}
    refuse_differences(data, meta, data, store.folder)
    network, layer = open_network(args, meta, store.folder)

    def load(indices, description):
        batches = batches_of(indices, args.batch_size)
        return ImageBatches(images, transform, batches, description, **command_line.loading(args, device))

    print(f"channel {args.channel_disentangle} of {layer.name} ({args.model}, weights {network.weights})")
    weight = weight_taps(layer.module)[args.channel_disentangle].clone()
    bias = None if layer.module.bias is None else layer.module.bias[args.channel_disentangle].clone()
    arvs = concept_arvs(ClassStore(args.store_dir, run, meta), weight, concepts, classes, args.only_correct)
    members = concept_images(store, concepts, args.only_correct)
    print_concepts(concepts, classes, members, arvs)
    network.module.to(device, memory_format=torch.channels_last)
    search = search_rho(network, layer, arvs, members, load, args)
    best = search.best(args.rho_objective)
    print_objectives(search, best)
    split = Split(
        channel=args.channel_disentangle,
        concepts=concepts,
        weight=weight,
        bias=bias,
        arvs=arvs,
        owners=search.owners.to(torch.uint8),
        objectives=search.objectives(),
        objective=args.rho_objective,
        rho=best,
    )
    prove_equality(network, layer, split, members, load)

    path = split_path(Path(args.store_dir) / "models_disentangled", run, split.channel, concepts)
    write_split(path, split, {**{key: meta[key] for key in SPLIT_CONTEXT}, "only_correct": args.only_correct})
    print(f"\nwrote {path}")
    flags = [word for k, concept in enumerate(concepts, 1) for word in (f"--classes_for_concept{k}", *concept)]
    print(command_line.next_command("get_results.py", args, "--channel_of_interest", split.channel, *flags))


if __name__ == "__main__":
    command_line.run(main, get_args_parser())
