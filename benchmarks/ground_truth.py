"""Does the method work? Splits of channels whose concepts are known, for every way of choosing rho.

    python -m benchmarks.ground_truth
    python -m benchmarks.ground_truth --network vit     a small vision transformer, split in a linear layer over tokens

On the pictures of the demonstration each class is one known concept, so there is a right answer. For networks trained
from several seeds, every gamma-polysemantic pair (tau 0.03, p 0.75, gamma 0.5, negative cosines too) is split in both
orders of its concepts, and evaluated on validation pictures. A split is clean if c'_1 keeps at least 80 % of the
original channel on concept 1 and at most 20 % on concept 2, and c'_2 the reverse. A pair is
measured if the original channel is positive in some included picture of each concept. Prints Markdown tables: mean
over pairs, with the standard deviation over seeds. Five minutes on 2 cores, ten with --network vit.
"""

import argparse
import itertools
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.small_vit import SmallViT
from examples.demo.network import TRANSFORM, DemoNetwork
from examples.demo.pictures import SIZE, write_pictures
from examples.demo.training import EPOCHS, read_pictures, train
from utils.defaults import GAMMA, TAU, P
from utils.divisions.arv import OBJECTIVES, Arv
from utils.method.disentangling import Concept, Split, merge, spatial_sums
from utils.method.evaluation import auroc, summarise
from utils.method.importance import attribution_shares, channel_importances, relative_importances, relevant_classes
from utils.method.polysemanticity import (
    ClassMeans,
    RelevantCounts,
    averaged_relevance_vectors,
    class_pairs,
    gamma_polysemantic,
)
from utils.method.rho import RhoSearch
from utils.networks.layers import find_layer
from utils.networks.recording import Recorder

BANDS = ((-1.0, 0.1), (0.1, 0.3), (0.3, 0.5))
WAYS = (*OBJECTIVES, "rho = 1")
NETWORKS = {"cnn": (DemoNetwork, EPOCHS), "vit": (SmallViT, 60)}  # and how many epochs each is trained for
FIGURES = ("measured", "clean of all", "clean of measured", "AUROC", "AUROC original", "own", "other")


def record_layer(network, layer, pictures):
    """Everything the method needs of a set of pictures, which here fits into memory."""
    pixels, targets = pictures
    pieces = defaultdict(list)
    for batch, own in zip(pixels.split(256), targets.split(256), strict=True):
        images = TRANSFORM.normalise(batch, torch.device("cpu"))
        with Recorder(network, layer) as recorder:
            record = recorder.forward_with_gradient(images, own)
        relative, positive_sums = relative_importances(channel_importances(record.activation, record.gradient))
        for name, values in {
            "input": record.input,
            "input_sums": layer.tap_sums(record.input),
            "relative": relative,
            "positive_sums": positive_sums,
            "predictions": record.logits.argmax(1),
            "shares": attribution_shares(record.activation, record.gradient),
        }.items():
            pieces[name].append(values)
    return {name: torch.cat(values) for name, values in pieces.items()} | {"targets": targets}


def find_pairs(layer, training):
    """All gamma-polysemantic pairs, and the class means of the input sums."""
    weight = layer.weight
    num_classes, labels = len(training["targets"].unique()), (training["targets"], training["predictions"])
    counts, statistics = RelevantCounts(TAU, num_classes, len(weight)), ClassMeans(num_classes, *weight.shape[1:])
    counts.add(training["relative"], training["positive_sums"], *labels)
    statistics.add(training["input_sums"], *labels, torch.arange(len(training["targets"])))
    means, images = statistics.means()[0, 0], statistics.numbers()[0, 0]
    pairs = class_pairs(weight, means, relevant_classes(counts.counts[0], images, P))
    return list(pairs[gamma_polysemantic(pairs.cosine, GAMMA)].rows()), means


def split_every_way(layer, training, channel, concepts, means):
    """A Split of the channel for each of WAYS."""
    weight = layer.weight[channel]
    arvs = averaged_relevance_vectors(weight, means[list(concepts)])
    search = RhoSearch(weight, None, arvs)
    maps = layer.maps(search.rows, None)
    for k, concept in enumerate(concepts):
        own = training["input"][training["targets"] == concept]
        search.add(maps(own), torch.full((len(own),), k))
    for way in WAYS:
        rho = 1.0 if way == "rho = 1" else search.best()[OBJECTIVES.index(way)]
        division = Arv(search.owners, search.objectives(), way, rho, len(concepts))
        named = [Concept(str(concept), [concept]) for concept in concepts]
        yield way, Split(channel, named, weight, None, 1, arvs, arvs.mean(0), division)


def evaluate(split, validation):
    """FIGURES of a split on validation pictures of its two concepts.

    Where the original channel is positive in no included picture of a concept there are no fractions: the split is not
    measured, and ``clean of measured``, ``own`` and ``other`` are NaN.
    """
    parts = []
    for (concept,) in split.classes:
        own = validation["targets"] == concept
        sums = spatial_sums(split.rows(), None, validation["input_sums"][own].double(), positions=0)
        included = validation["shares"][own, split.channel] >= TAU
        parts.append((merge(sums, dim=1).numpy(), sums.numpy(), included.numpy()))
    means = [summarise(*part).mean for part in parts]
    own, other = ([means[k][k] for k in (0, 1)], [means[1 - k][k] for k in (0, 1)])
    measured = bool(np.isfinite(means).all())
    clean = min(own) >= 0.8 and max(other) <= 0.2
    (original1, sums1, _), (original2, sums2, _) = parts
    original = auroc(original1, original2)
    return (
        measured,
        measured and clean,
        clean if measured else np.nan,
        (auroc(sums1[:, 0], sums2[:, 0]) + auroc(sums2[:, 1], sums1[:, 1])) / 2,
        max(original, 1 - original),
        np.mean(own) if measured else np.nan,
        np.mean(other) if measured else np.nan,
    )


def run_seed(seed, pictures, sparsity, network):
    """FIGURES of every pair: {(band, order, way): array [pairs, 7]}, and the chosen rho of each way."""
    make, epochs = NETWORKS[network]
    network = train(pictures, seed, sparsity, make, epochs).requires_grad_(False)
    layer = find_layer(network, "last", SIZE)
    training, validation = (record_layer(network, layer, read_pictures(pictures / part)) for part in ("train", "val"))
    pairs, means = find_pairs(layer, training)
    correct = (validation["predictions"] == validation["targets"]).float().mean().item()
    print(f"seed {seed}: {correct:.1%} of the validation pictures correct, {len(pairs)} pairs", flush=True)
    figures, rhos = defaultdict(list), defaultdict(list)
    for channel, class1, class2, cosine in tqdm(pairs, f"splitting, seed {seed}", unit=" pairs"):
        band = next(band for band in BANDS if band[0] <= cosine < band[1])
        for order, concepts in enumerate(((class1, class2), (class2, class1))):
            for way, split in split_every_way(layer, training, channel, concepts, means):
                figures[band, order, way].append(evaluate(split, validation))
                rhos[way].append(split.rho)
    return {key: np.array(values) for key, values in figures.items()}, rhos


def spread(seeds, keys, column):
    """Mean over the pairs under ``keys``, as mean and standard deviation over the seeds that have any."""
    found = [[figures[key][:, column] for key in keys if key in figures] for figures in seeds]
    means = [np.nanmean(np.concatenate(values)) for values in found if values]
    if not means:
        return "–"
    return f"{np.mean(means):.3f}" + (f" ± {np.std(means, ddof=1):.3f}" if len(means) > 1 else "")


def print_table(seeds, rows):
    """A Markdown table: ``rows`` has (label, keys) for each line."""
    print(f"\n| | splits a seed | {' | '.join(FIGURES)} |\n|{' --- |' * (len(FIGURES) + 2)}")
    for label, keys in rows:
        count = np.mean([sum(len(figures.get(key, ())) for key in keys) for figures in seeds])
        cells = [spread(seeds, keys, column) for column in range(len(FIGURES))]
        print(f"| {label} | {count:.0f} | {' | '.join(cells)} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, default=Path("demo_output/pictures"), help="drawn if missing")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--network", choices=NETWORKS, default="cnn", help="whose layer is split (cnn)")
    parser.add_argument("--sparsity", type=float, default=0.05, help="weight of the activation penalty in training")
    args = parser.parse_args()
    write_pictures(args.pictures)
    results = [run_seed(seed, args.pictures, args.sparsity, args.network) for seed in args.seeds]
    seeds = [figures for figures, _ in results]
    print_table(seeds, [(way, list(itertools.product(BANDS, (0, 1), [way]))) for way in WAYS])
    for way in WAYS:
        rows = [
            (f"{way}, cosine {low} to {high}", [((low, high), order, way) for order in (0, 1)]) for low, high in BANDS
        ]
        print_table(seeds, rows)
    rows = [
        (f"{way}, {name}", [(band, order, way) for band in BANDS])
        for way in WAYS
        for order, name in enumerate(("folder order", "concepts swapped"))
    ]
    print_table(seeds, rows)
    for way in WAYS:
        print(f"\n{way}: median rho {np.median(np.concatenate([rhos[way] for _, rhos in results])):.2f}")


if __name__ == "__main__":
    main()
