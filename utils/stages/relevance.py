"""Stage 2: class means of the layer's input and counts of relevant images, from one pass over the chunks."""

from dataclasses import dataclass

import torch
from tqdm import tqdm

from utils.method.grouping import class_groups
from utils.method.importance import relevant_classes
from utils.method.polysemanticity import (
    ClassMeans,
    ClassPairs,
    Levels,
    RelevantCounts,
    channel_levels,
    class_pairs,
    gamma_polysemantic,
    overall_mean,
)

ENOUGH = 100  # pairs, to look no further
HELPFUL_TAUS = (0.1, 0.05, 0.03, 0.02, 0.01, 0.005, 0.003, 0.002, 0.001)


def class_statistics(store, class_store, taus):
    """Class means, numbers of images, and counts of relevant images for each of ``taus``.

    From the store where they are there; what is missing is made in one pass over the chunks, and stored.

    Parameters
    ----------
    store : ImportanceStore
        Complete.
    class_store : ClassStore
    taus : list of float

    Returns
    -------
    mean_inputs : Tensor [2, 3, T, C_in, taps], float64
        Over [all, correctly classified] images of [all, even, odd] indices.
    images : LongTensor [2, 3, T]
    relevant : list of LongTensor [2, T, C]
    """
    found = class_store.read_means()
    missing = [tau for tau in taus if class_store.read_relevant(tau) is None]
    if found is None or missing:
        sizes = [store.meta[key] for key in ("num_outputs", "num_channels", "num_inputs", "num_taps")]
        means = ClassMeans(sizes[0], *sizes[2:]) if found is None else None
        counts = [RelevantCounts(tau, *sizes[:2]) for tau in missing]
        names = ["targets", "predictions"]
        names += ["input_sums"] if means else []
        names += ["relative_importances", "positive_sums"] if counts else []
        for chunk in tqdm(range(store.num_chunks), "reading chunks", unit=" chunks", delay=2):
            images = store.read_chunk(chunk, names)
            labels = images["targets"], images["predictions"]
            if means:
                means.add(images["input_sums"], *labels, images["indices"])
            for one in counts:
                one.add(images["relative_importances"], images["positive_sums"], *labels)
        if means:
            class_store.write_means(means.means(), means.numbers())
        for one in counts:
            class_store.write_relevant(one.tau, one.counts)
        found = class_store.read_means()
    return *found, [class_store.read_relevant(tau) for tau in taus]


@dataclass
class LayerClasses:
    """What stage 2 finds of a layer.

    ``mean_inputs`` [3, T, C_in, taps] and ``images`` [3, T] are of the images that count, of [all, even, odd] indices;
    ``relevant`` [T, C] says which channels are relevant for which classes, ``levels`` how high they lie there;
    ``pairs`` has all pairs of a channel's classes whatever their cosine, ``groups`` the ChannelGroups of each channel.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    positions: int
    mean_inputs: torch.Tensor
    images: torch.Tensor
    levels: Levels
    relevant: torch.Tensor
    pairs: ClassPairs
    groups: dict


def find_classes(store, class_store, gamma, *, tau, p, only_correct, min_images, only_above_mean):
    """What there is in a layer, as LayerClasses; see ``class_statistics`` for what is read."""
    mean_inputs, images, (counts,) = class_statistics(store, class_store, [tau])
    (weight, bias), positions, which = store.read_layer(), store.meta["positions"], int(only_correct)
    mean_input = overall_mean(mean_inputs[0, 0], images[0, 0])
    levels = channel_levels(weight, bias, positions, mean_inputs[which, 0], mean_input)
    mean_inputs, images = mean_inputs[which], images[which]
    relevant = _relevant(counts[which], images[0], levels, p, min_images, only_above_mean)
    pairs = class_pairs(weight, mean_inputs[0], relevant)
    groups = class_groups(weight, mean_inputs[0], relevant, gamma)
    return LayerClasses(weight, bias, positions, mean_inputs, images, levels, relevant, pairs, groups)


def _relevant(counts, images, levels, p, min_images, only_above_mean):
    relevant = relevant_classes(counts, images, p, min_images)
    return relevant & ~levels.below if only_above_mean else relevant


def pairs_at_taus(store, found, cosines, *, p, only_correct, min_images, only_above_mean):
    """How many pairs there would be for other values of tau, where the one asked for finds none: {tau: number}.

    One pass over the chunks; nothing is stored.

    Parameters
    ----------
    store : ImportanceStore
        Complete.
    found : LayerClasses
    cosines : (low, high)
    p, only_correct, min_images, only_above_mean
        As in ``find_classes``.
    """
    counts = [RelevantCounts(tau, store.meta["num_outputs"], store.meta["num_channels"]) for tau in HELPFUL_TAUS]
    names = ["targets", "predictions", "relative_importances", "positive_sums"]
    for chunk in tqdm(range(store.num_chunks), "looking for a tau that finds pairs", unit=" chunks", delay=2):
        images = store.read_chunk(chunk, names)
        for one in counts:
            one.add(*(images[name] for name in ("relative_importances", "positive_sums", "targets", "predictions")))
    (low, high), numbers = cosines, {}
    for one in counts:
        of_images = one.counts[int(only_correct)], found.images[0]
        relevant = _relevant(*of_images, found.levels, p, min_images, only_above_mean)
        cosine = class_pairs(found.weight, found.mean_inputs[0], relevant).cosine
        numbers[one.tau] = int(((cosine >= low) & gamma_polysemantic(cosine, high)).sum())
        if numbers[one.tau] >= ENOUGH:
            break
    return numbers
