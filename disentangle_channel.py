"""Stage 3: rewrite a channel that serves several concepts into channels that serve one each.

The input channels of the layer are divided among the concepts by their averaged relevance vectors and a factor rho;
rho is chosen on the concepts' training images (Eq. 6). The network's output stays what it was, which is shown on real
images before anything is stored.

    python disentangle_channel.py --data_dir /datasets/imagenet/ --model resnet50 --channel_disentangle 1660 \\
        --classes_for_concept1 530 --classes_for_concept2 938 --store_dir /store_dir/

More concepts: --classes_for_concept3 ... --classes_for_concept8. Many pairs in one process, each class's images read
once: --candidates FILE (stage 2's table, or paper_pairs.txt).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from utils.command_line import flags as command_line
from utils.command_line.opening import check_channel, open_network, open_transform, pairs_from
from utils.command_line.run import run
from utils.errors import UserError
from utils.images.batches import ImageBatches, batches_of
from utils.images.classes import ClassMap
from utils.images.listing import list_images
from utils.method.disentangling import RHOS, Split
from utils.method.equality import EqualityCheck
from utils.method.polysemanticity import averaged_relevance_vectors, cosine_similarities
from utils.method.rho import OBJECTIVES, RhoSearch
from utils.networks.arithmetic import check_precision, choose_device, network_arithmetic
from utils.networks.kinds import weight_taps
from utils.networks.recording import forward
from utils.networks.splitting import channels_split
from utils.store.class_statistics import ClassStore
from utils.store.files import refuse_differences
from utils.store.importances import ImportanceStore
from utils.store.names import run_name
from utils.store.splits import SPLIT_CONTEXT, split_path, write_split

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
    command_line.add_candidates_flag(parser)
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


@dataclass
class Candidate:
    """A channel to split: its ``concepts`` as lists of outputs, their ``arvs`` [K, C_in]."""

    channel: int
    concepts: list
    arvs: torch.Tensor

    def concept_of(self, output):
        """Which concept (from 0) a class is in, or None."""
        return next((k for k, concept in enumerate(self.concepts) if output in concept), None)


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


def images_by_class(store, candidates, only_correct):
    """Training images of each class that a candidate uses, as used in stage 1: {output: LongTensor of indices}."""
    indices, targets, predictions = store.read_labels()
    usable = targets == predictions if only_correct else torch.ones_like(targets, dtype=torch.bool)
    outputs = {output for candidate in candidates for concept in candidate.concepts for output in concept}
    return {output: indices[usable & (targets == output)] for output in sorted(outputs)}


def search_rho(network, layer, candidates, members, load, args):
    """One pass over the images of all classes: every rho's objectives, as a RhoSearch for each candidate.

    A batch is of one class, so that it is the same however many candidates there are.
    """
    searches = [RhoSearch(layer.module, candidate.channel, candidate.arvs) for candidate in candidates]
    plan = [(output, batch) for output in members for batch in batches_of(members[output], args.batch_size)]
    loader = load([batch for _, batch in plan], "choosing rho")
    for (output, _), (indices, pixels) in zip(plan, loader, strict=True):
        if len(indices):
            with network_arithmetic(args.precision, pixels.device):
                record = forward(network.module, layer.module, pixels)
            for candidate, search in zip(candidates, searches, strict=True):
                concept = candidate.concept_of(output)
                if concept is not None:
                    search.add(record.input, torch.full((len(indices),), concept))
    for candidate, search in zip(candidates, searches, strict=True):
        if search.objectives().isfinite().all():
            continue
        what = "is NaN or infinite" if search.has_images() else "has no readable training image of a concept"
        raise UserError(f"rho cannot be chosen: channel {candidate.channel} {what} (classes {candidate.concepts})")
    return searches


def check_equality(network, layer, splits, members, load, batch_size):
    """Compare split networks with the original in fp32, on real images of all concepts: an EqualityCheck each."""
    picked = []
    for split in splits:
        of_concepts = [torch.cat([members[output] for output in concept]) for concept in split.concepts]
        each = -(-PROOF_IMAGES // len(of_concepts))
        places = [np.unique(np.linspace(0, len(indices) - 1, each).astype(int)) for indices in of_concepts]
        picked.append(torch.cat([indices[at] for indices, at in zip(of_concepts, places, strict=True)]))
    checks = [EqualityCheck() for _ in splits]
    for indices, pixels in load(batches_of(torch.cat(picked).unique(), batch_size), "images to check"):
        if len(indices):
            original = forward(network.module, layer.module, pixels)
            for split, own, check in zip(splits, picked, checks, strict=True):
                rows = torch.isin(indices, own).to(pixels.device)
                if rows.any():
                    with channels_split(network.module, layer.name, [split]) as changed:
                        merged = forward(network.module, changed, pixels[rows])
                    maps = original.activation[rows, split.channel], merged.activation[:, split.channel]
                    check.add(*maps, original.logits[rows], merged.logits)
    return checks


def report(candidate, search, best, members, classes, network, layer):
    """Print what a split is made of, and the table from which rho was chosen."""
    print(f"\nchannel {candidate.channel} of {layer.name} (weights {network.weights})")
    for k, concept in enumerate(candidate.concepts, start=1):
        count = sum(len(members[output]) for output in concept)
        print(f"concept {k}: {classes.concept_name(concept)} {concept}, {count} training images")
    cosines, num_concepts = cosine_similarities(candidate.arvs), len(candidate.concepts)
    pairs = [f"{j + 1}-{k + 1}: {cosines[j, k]:.3f}" for j in range(num_concepts) for k in range(j + 1, num_concepts)]
    print(f"cosine of the concepts' ARVs {', '.join(pairs)}")
    sizes = [f"|S_{k}|" for k in range(1, num_concepts + 1)]
    print(f"\n  rho  {'positive':>10}  {'absolute':>10}  contrast  {'  '.join(f'{size:>6}' for size in sizes)}  shared")
    for rho, values, owners in zip(RHOS, search.objectives().tolist(), search.owners, strict=True):
        counts = owners.bincount(minlength=num_concepts + 1).tolist()
        row = "  ".join(f"{number:6d}" for number in [*counts[1:], counts[0]])
        mark = " <- chosen" if rho == best else ""
        print(f" {rho:.2f}  {values[0]:10.4g}  {values[1]:10.4g}  {values[2]:8.4f}  {row}{mark}")


def is_equal(check):
    """Print how far a split network is from the original, and return whether that is near enough."""
    channel_error, logit_error = check.errors()
    print(f"\nmerged channel against the original: largest difference {channel_error:.1e} of its largest value")
    print(
        f"logits of the split network against the original's: {logit_error:.1e} of their range ({check.images} images)"
    )
    return check.images > 0 and channel_error < LARGEST_ERROR and logit_error < LARGEST_ERROR


def main(args):
    command_line.require(args, "model")
    given = pairs_from(args, "channel_disentangle")
    device = choose_device(args.device)
    check_precision(args.precision, device)
    loading = command_line.loading(args, device)
    run = run_name(args.model, args.layer_of_interest)
    store = ImportanceStore(args.store_dir, run)
    meta = store.load_meta()
    store.require_complete()
    classes = ClassMap(meta["classes"])
    pairs = []
    for pair in given:
        with pair.named():
            check_channel("channel_disentangle", pair.channel, meta["num_channels"])
            resolved = pair.channel, classes.resolve(pair.concepts, meta["num_outputs"])
        pairs += [resolved] if resolved not in pairs else []
    transform = open_transform(args, meta, store.folder)
    images = list_images(Path(args.data_dir) / "train")
    data = {"num_images": len(images), "data_sha256": images.digest()}
    refuse_differences(data, meta, data, store.folder)
    network, layer = open_network(args, meta, store.folder)
    class_store, weights = ClassStore(args.store_dir, run, meta), weight_taps(layer.module).clone()
    candidates = [
        Candidate(channel, concepts, concept_arvs(class_store, weights[channel], concepts, classes, args.only_correct))
        for channel, concepts in pairs
    ]
    members = images_by_class(store, candidates, args.only_correct)
    biases = None if layer.module.bias is None else layer.module.bias.clone()

    def load(batches, description):
        return ImageBatches(images, transform, batches, description, **loading)

    network.module.to(device, memory_format=torch.channels_last)
    searches = search_rho(network, layer, candidates, members, load, args)
    splits = [
        Split(
            channel=candidate.channel,
            concepts=candidate.concepts,
            weight=weights[candidate.channel].clone(),
            bias=None if biases is None else biases[candidate.channel].clone(),
            arvs=candidate.arvs,
            owners=search.owners.to(torch.uint8),
            objectives=search.objectives(),
            objective=args.rho_objective,
            rho=search.best(args.rho_objective),
        )
        for candidate, search in zip(candidates, searches, strict=True)
    ]
    checks = check_equality(network, layer, splits, members, load, args.batch_size)
    context = {**{key: meta[key] for key in SPLIT_CONTEXT}, "only_correct": args.only_correct}
    unequal = []
    for candidate, search, split, check in zip(candidates, searches, splits, checks, strict=True):
        report(candidate, search, split.rho, members, classes, network, layer)
        path = split_path(Path(args.store_dir) / "models_disentangled", run, split.channel, split.concepts)
        if is_equal(check):
            write_split(path, split, context)
            print(f"\nwrote {path}")
        else:
            unequal.append(path.name)
    if unequal:
        raise UserError(
            f"the split network does not equal the original (limit {LARGEST_ERROR:.0e}): it was not stored "
            f"({', '.join(unequal)})"
        )
    if args.candidates:
        flags = ["--candidates", args.candidates]
    else:
        concepts = enumerate(split.concepts, start=1)
        flags = [word for k, concept in concepts for word in (f"--classes_for_concept{k}", *concept)]
        flags = ["--channel_of_interest", split.channel, *flags]
    print(command_line.next_command("get_results.py", args, *flags))


if __name__ == "__main__":
    run(main, get_args_parser())
