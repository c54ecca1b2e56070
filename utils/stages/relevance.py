"""Stage 2: class means of the layer's input and counts of relevant images, from one pass over the chunks."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from torch import Tensor

from utils.method.grouping import ChannelGroups, class_groups
from utils.method.importance import relevant_classes
from utils.method.polysemanticity import (
    ClassMeans,
    ClassPairs,
    Levels,
    RelevantCounts,
    channel_levels,
    class_pairs,
    overall_mean,
)
from utils.processes import progress
from utils.store.class_statistics import ClassStore
from utils.store.files import Layout
from utils.store.importance_store import ImportanceStore
from utils.store.unfinished import Unfinished

KEPT_CHUNKS = 64  # of a pass are a step that is kept


class ClassStatistics(NamedTuple):
    """What stage 2 knows of every class.

    ``mean_inputs`` float64 [2, 3, T, C_in, taps] are means over [all, correctly classified] images of [all, even, odd]
    indices, ``images`` LongTensor [2, 3, T] the numbers of these images. ``relevant`` has a LongTensor [2, T, C] for
    each tau: the numbers of images in which a channel is relevant.
    """

    mean_inputs: Tensor
    images: Tensor
    relevant: list[Tensor]


def class_statistics(store: ImportanceStore, class_store: ClassStore, taus: Sequence[float]) -> ClassStatistics:
    """The ClassStatistics for each of ``taus``.

    Stored statistics are read; missing ones are computed in one pass over the chunks, and stored.

    Parameters
    ----------
    store
        A complete store.
    class_store
    taus
    """
    means = class_store.read_means()
    missing = [tau for tau in taus if not class_store.has_relevant(tau)]
    if means is None or missing:
        _store_statistics(store, class_store, means is None, missing)
        means = class_store.require_means()
    mean_inputs, images = means
    return ClassStatistics(mean_inputs, images, [class_store.require_relevant(tau) for tau in taus])


def _store_statistics(
    store: ImportanceStore, class_store: ClassStore, needs_means: bool, missing: Sequence[float]
) -> None:
    """Compute the class means, if they are needed, and the counts for the taus that are ``missing``.

    The sums so far are kept every ``KEPT_CHUNKS`` chunks.
    """
    num_outputs, num_channels, num_inputs, num_taps = (
        store.meta[key] for key in ("num_outputs", "num_channels", "num_inputs", "num_taps")
    )
    means = ClassMeans(num_outputs, num_inputs, num_taps) if needs_means else None
    counts = [RelevantCounts(tau, num_outputs, num_channels) for tau in missing]
    names = ["targets", "predictions"]
    names += ["input_sums"] if means else []
    names += ["relative_importances", "positive_sums"] if counts else []
    so_far = [*([means.images, means.sums] if means else []), *(of_tau.counts for of_tau in counts)]
    sums = {f"sums{number}": tensor.numpy() for number, tensor in enumerate(so_far)}  # share the memory
    unfinished = class_store.unfinished_statistics(needs_means, missing)
    done = _resumed(unfinished, sums)
    total = store.num_chunks
    bar = progress(range(done, total), "reading chunks", unit=" chunks", delay=2, initial=done, total=total)
    for chunk in bar:
        images = store.read_chunk(chunk, names)
        targets = images["targets"]
        predictions = images["predictions"]
        if means:
            means.add(images["input_sums"], targets, predictions, images["indices"])
        for of_tau in counts:
            of_tau.add(images["relative_importances"], images["positive_sums"], targets, predictions)
        if (chunk + 1) % KEPT_CHUNKS == 0 and chunk + 1 < store.num_chunks:
            unfinished.keep_arrays("sums", {**sums, "chunks": np.array(chunk + 1)})
    if means:
        class_store.write_means(means.means(), means.numbers())
    for of_tau in counts:
        class_store.write_relevant(of_tau.tau, of_tau.counts)
    unfinished.remove()


def _resumed(unfinished: Unfinished, sums: dict[str, np.ndarray]) -> int:
    """Set ``sums`` to those of a pass that was stopped; the number of chunks that it had read."""
    layout: Layout = {name: (array.dtype, array.shape) for name, array in sums.items()}
    kept = unfinished.find_arrays("sums", {**layout, "chunks": (np.int64, ())})
    if kept is None:
        return 0
    for name, array in sums.items():
        array[...] = kept[name]
    return int(kept["chunks"])


@dataclass
class LayerClasses:
    """The results of stage 2 for a layer.

    ``mean_inputs`` [3, T, C_in, taps] and ``images`` [3, T] are of the images that count, of [all, even, odd] indices;
    ``relevant`` [T, C] is True where a channel is relevant for a class, ``levels`` are the channels' levels there;
    ``pairs`` has all pairs of a channel's classes with any cosine, ``groups`` the ChannelGroups of each channel.
    """

    weight: Tensor
    bias: Tensor | None
    positions: int
    mean_inputs: Tensor
    images: Tensor
    levels: Levels
    relevant: Tensor
    pairs: ClassPairs
    groups: dict[int, ChannelGroups]


def find_classes(
    store: ImportanceStore,
    class_store: ClassStore,
    gamma: float,
    *,
    tau: float,
    p: float,
    only_correct: bool,
    min_images: int,
    only_above_mean: bool,
) -> LayerClasses:
    """The LayerClasses of a layer; see ``class_statistics`` for what is read."""
    mean_inputs, images, (counts,) = class_statistics(store, class_store, [tau])
    weight, bias = store.read_layer()
    positions = store.meta["positions"]
    which = int(only_correct)
    mean_input = overall_mean(mean_inputs[0, 0], images[0, 0])
    levels = channel_levels(weight, bias, positions, mean_inputs[which, 0], mean_input)
    relevant = relevant_classes(counts[which], images[which, 0], p, min_images)
    if only_above_mean:
        relevant &= ~levels.below
    shown = partial(progress, unit=" channels", delay=2, leave=False)
    return LayerClasses(
        weight=weight,
        bias=bias,
        positions=positions,
        mean_inputs=mean_inputs[which],
        images=images[which],
        levels=levels,
        relevant=relevant,
        pairs=class_pairs(weight, mean_inputs[which, 0], relevant, partial(shown, desc="pairs of classes")),
        groups=class_groups(weight, mean_inputs[which, 0], relevant, gamma, partial(shown, desc="groups of classes")),
    )
