"""Stage 2: diagnostics for choosing gamma, from held-out halves of the class means and from single images."""

from typing import Any

import numpy as np
import torch

from utils.method.gamma import clean_concepts, cosine_of_modes, cosines_of_halves, held_out_fractions
from utils.method.grouping import concept_means, cut_linkage, linkage_of
from utils.method.polysemanticity import averaged_relevance_vectors, cosine_similarities
from utils.processes import progress
from utils.stages.relevance import LayerClasses
from utils.store.class_statistics import ClassStore
from utils.store.importance_store import ImportanceStore

GAMMAS = tuple(round(0.05 * step, 2) for step in range(2, 20))
NOISE_QUANTILE = 0.01
MODE_QUANTILES = (0.05, 0.5, 0.95)
# If there are more pairs, channels, (channel, class) or images, a sample of them is measured
MOST_PAIRS = 2000
MOST_CHANNELS = 200
MOST_MODES = 1000
MOST_IMAGES = 100_000
MOST_IMAGES_OF_CLASS = 300


def gamma_guide(
    store: ImportanceStore, class_store: ClassStore, layer_classes: LayerClasses, criteria: dict[str, Any]
) -> dict[str, Any]:
    """Diagnostics for choosing gamma, as ``STEM_gamma.json`` has them.

    Parameters
    ----------
    store : ImportanceStore
    class_store : ClassStore
        Keeps what is computed from single images.
    layer_classes : LayerClasses
    criteria : dict
        Criteria that chose the relevant classes: tau, p, only_correct, min_images, only_above_mean.

    Returns
    -------
    dict, None for what cannot be measured
        ``noise_floor``: the 1 % quantile of the ``cosine`` of the ARVs from two halves of a class's images.
        ``modes``: quantiles of the cosine of the two k-means centroids of a class's images, and the number of
        (channel, class) that were ``measured``, ``of`` all. ``clean``: for each ``gamma``, of ``pairs`` under it and of
        channels whose ``groups`` are cut there, the share of ``splits`` that are clean on held-out halves in all their
        concepts, the share of their ``concepts``, and the number of splits that were ``measured``, ``of`` all: not
        those of a class in which the channel's mean sum is not positive.
    """
    with_halves = layer_classes.relevant & (layer_classes.images[1:] > 0).all(0)[:, None]
    return {
        "noise_floor": _noise_floor(layer_classes, with_halves),
        "modes": _modes(store, class_store, layer_classes.relevant, criteria),
        "clean": {
            "gamma": list(GAMMAS),
            "pairs": _clean_pairs(layer_classes),
            "groups": _clean_groups(layer_classes, with_halves),
        },
    }


def _noise_floor(layer_classes: LayerClasses, relevant: torch.Tensor) -> dict[str, Any]:
    """The cosine that all but 1 % of the relevant (channel, class) have between the two halves."""
    cosines = []
    images = []
    for channel in torch.nonzero(relevant.any(0)).flatten().tolist():
        classes = relevant[:, channel]
        even, odd = layer_classes.mean_inputs[1:, classes]
        cosines.append(cosines_of_halves(layer_classes.weight[channel], even, odd))
        images.append(layer_classes.images[1:, classes].flatten())
    if not cosines:
        return {"quantile": NOISE_QUANTILE, "cosine": None, "images_per_half": None, "measured": 0}
    all_cosines = torch.cat(cosines).numpy()
    return {
        "quantile": NOISE_QUANTILE,
        "cosine": float(np.quantile(all_cosines, NOISE_QUANTILE)),
        "images_per_half": float(np.median(torch.cat(images).numpy())),
        "measured": len(all_cosines),
    }


# --------------------------------------------------------------------------------------------------------------------
# Modes within a class


def _modes(
    store: ImportanceStore, class_store: ClassStore, relevant: torch.Tensor, criteria: dict[str, Any]
) -> dict[str, Any]:
    channels, outputs = _sampled_modes(store.meta, relevant)
    cosines = class_store.read_modes(criteria, channels, outputs)
    if cosines is None:
        cosines = _cosines_of_modes(store, channels, outputs, criteria["only_correct"])
        class_store.write_modes(criteria, channels, outputs, cosines)
    measured = cosines[~np.isnan(cosines)]
    quantiles = np.quantile(measured, MODE_QUANTILES).tolist() if len(measured) else [None] * len(MODE_QUANTILES)
    return {
        "quantiles": list(MODE_QUANTILES),
        "cosines": quantiles,
        "measured": len(measured),
        "of": int(relevant.sum()),
    }


def _sampled_modes(meta: dict[str, Any], relevant: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(channel, class) arrays by class in the order of the folders: all, or those of classes drawn at random.

    Classes are drawn, not (channel, class), so that the images of few classes are read.
    """
    random = np.random.default_rng(0)
    num_channels = relevant.sum(1).numpy()
    folders = [folder for folder in meta["class_counts"] if num_channels[meta["classes"][folder]]]
    drawn = set()
    modes = 0
    images = 0
    for folder in random.permutation(folders).tolist():
        drawn.add(folder)
        modes += num_channels[meta["classes"][folder]]
        images += meta["class_counts"][folder]
        if modes >= MOST_MODES or images >= MOST_IMAGES:
            break
    outputs = [meta["classes"][folder] for folder in folders if folder in drawn]
    all_modes = [
        (channel, output) for output in outputs for channel in torch.nonzero(relevant[output]).flatten().tolist()
    ]
    sample = np.sort(random.permutation(len(all_modes))[:MOST_MODES])
    of_channels, of_outputs = np.array(all_modes, dtype=np.int64).reshape(-1, 2)[sample].T
    return of_channels, of_outputs


def _cosines_of_modes(
    store: ImportanceStore, channels: np.ndarray, outputs: np.ndarray, only_correct: bool
) -> np.ndarray:
    """Cosine of the two modes of each (channel, class), arrays [n]; NaN where there are none."""
    weight, _ = store.read_layer()
    cosines = np.full(len(channels), np.nan)
    counts = store.meta["class_counts"]
    starts = dict(zip(counts, np.cumsum([0, *counts.values()]).tolist(), strict=False))
    folders = {output: folder for folder, output in store.meta["classes"].items()}
    chunks = _Chunks(store)
    for output in progress(dict.fromkeys(outputs.tolist()), "modes within classes", unit=" classes", delay=2):
        folder = folders[output]
        inputs = chunks.inputs(starts[folder], starts[folder] + counts[folder], only_correct)
        if len(inputs) < 2:
            continue
        for mode in np.flatnonzero(outputs == output):
            circuits = averaged_relevance_vectors(weight[channels[mode]], inputs)
            cosines[mode] = cosine_of_modes(circuits.numpy(), np.random.default_rng([channels[mode], output]))
    return cosines


class _Chunks:
    """Tap sums of ranges of images, in ascending order: each chunk is read once."""

    def __init__(self, store: ImportanceStore) -> None:
        self._store = store
        self._chunk: int | None = None
        self._images: dict[str, torch.Tensor] = {}

    def inputs(self, start: int, stop: int, only_correct: bool) -> torch.Tensor:
        """Tap sums [n, C_in, taps] of the images of a class; of very many images, an evenly spread sample."""
        size = self._store.meta["chunk_size"]
        step = -(-(stop - start) // MOST_IMAGES_OF_CLASS)
        parts = []
        for chunk in range(start // size, (stop - 1) // size + 1):
            if chunk != self._chunk:
                self._chunk = chunk
                self._images = self._store.read_chunk(chunk, ["input_sums", "targets", "predictions"])
            in_class = self._images["indices"] - start
            chosen = (in_class >= 0) & (in_class < stop - start) & (in_class % step == 0)
            if only_correct:
                chosen &= self._images["predictions"] == self._images["targets"]
            parts.append(self._images["input_sums"][chosen])
        return torch.cat(parts)


# --------------------------------------------------------------------------------------------------------------------
# Clean splits on held-out halves


def clean_split(layer_classes: LayerClasses, channel: int, concepts: list[list[int]]) -> np.ndarray | None:
    """For each concept of a channel (a list of classes), whether it is clean on the odd half, divided on the even half.

    None if the channel's mean sum is not positive for one of them.
    """
    even, odd = (concept_means(half, concepts) for half in layer_classes.mean_inputs[1:])
    bias = None if layer_classes.bias is None else layer_classes.bias[channel]
    fractions = held_out_fractions(layer_classes.weight[channel], bias, layer_classes.positions, even, odd)
    return clean_concepts(fractions) if np.isfinite(fractions).all() else None


class _Tally:
    """For each gamma, counts of splits and of concepts that are clean and that were measured, and of all splits."""

    def __init__(self) -> None:
        self._splits = np.zeros((2, len(GAMMAS)))  # [clean, measured]
        self._concepts = np.zeros((2, len(GAMMAS)))  # [clean, measured]
        self._of = np.zeros(len(GAMMAS))

    def add(self, gamma: int, clean: np.ndarray | None, weight: float = 1.0) -> None:
        """Count a split, ``clean`` as ``clean_split`` returns it, at a gamma of this number for ``weight`` splits."""
        self._of[gamma] += weight
        if clean is not None:
            self._splits[:, gamma] += weight * np.array([clean.all(), 1])
            self._concepts[:, gamma] += weight * np.array([clean.sum(), len(clean)])

    def up_to_each_gamma(self) -> "_Tally":
        """The counts of all splits up to each gamma."""
        sums = _Tally()
        sums._splits = self._splits.cumsum(-1)
        sums._concepts = self._concepts.cumsum(-1)
        sums._of = self._of.cumsum(-1)
        return sums

    def shares(self) -> dict[str, list]:
        """Shares and numbers by gamma; a share is None if none was measured."""
        return {
            "splits": _shares(*self._splits),
            "concepts": _shares(*self._concepts),
            "measured": np.rint(self._splits[1]).astype(int).tolist(),
            "of": np.rint(self._of).astype(int).tolist(),
        }


def _shares(clean: np.ndarray, measured: np.ndarray) -> list[float | None]:
    return [float(a / b) if b else None for a, b in zip(clean, measured, strict=True)]


def _clean_pairs(layer_classes: LayerClasses) -> dict[str, list]:
    """The share of clean pairs under each gamma; of many, equally many are measured in each range of cosines."""
    with_halves = (layer_classes.images[1:] > 0).all(0)
    pairs = layer_classes.pairs
    pairs = pairs[with_halves[pairs.class1] & with_halves[pairs.class2]]
    gamma_of = np.searchsorted(GAMMAS, pairs.cosine.numpy(), side="right")
    random = np.random.default_rng(0)
    tally = _Tally()
    for gamma in progress(range(len(GAMMAS)), "splits of pairs", unit=" gammas", delay=2, leave=False):
        in_range = np.flatnonzero(gamma_of == gamma)
        sample = np.sort(random.permutation(in_range)[: MOST_PAIRS // len(GAMMAS)])
        for channel, class1, class2, _ in pairs[torch.from_numpy(sample)].rows():
            tally.add(gamma, clean_split(layer_classes, channel, [[class1], [class2]]), len(in_range) / len(sample))
    return tally.up_to_each_gamma().shares()


def _clean_groups(layer_classes: LayerClasses, relevant: torch.Tensor) -> dict[str, list]:
    """The shares of channels of several groups at each gamma that are clean, and of their concepts."""
    tally = _Tally()
    channels = torch.nonzero(relevant.sum(0) > 1).flatten().numpy()
    sample = np.sort(np.random.default_rng(0).permutation(channels)[:MOST_CHANNELS]).tolist()
    for channel in progress(sample, "splits of groups", unit=" channels", delay=2):
        classes = torch.nonzero(relevant[:, channel]).flatten()
        arvs = averaged_relevance_vectors(layer_classes.weight[channel], layer_classes.mean_inputs[0, classes])
        merges = linkage_of(cosine_similarities(arvs))
        clean_after: dict[int, np.ndarray | None] = {}  # by the number of merges, which determines the groups
        for number, gamma in enumerate(GAMMAS):
            merged = int((merges[:, 2] <= 1 - gamma).sum())
            if merged == len(merges):
                continue
            if merged not in clean_after:
                groups = [classes[group].tolist() for group in cut_linkage(merges, gamma)]
                clean_after[merged] = clean_split(layer_classes, channel, groups)
            tally.add(number, clean_after[merged])
    return tally.shares()
