"""Stage 2: what there is to go by in the choice of gamma. Held-out halves of the class means, and images one by one."""

import numpy as np
import torch
from tqdm import tqdm

from utils.method.gamma import clean_concepts, cosine_of_modes, cosines_of_halves, held_out_fractions
from utils.method.grouping import concept_means, cut, linkage_of
from utils.method.polysemanticity import averaged_relevance_vectors, cosine_similarities

GAMMAS = tuple(round(0.05 * step, 2) for step in range(2, 20))
NOISE_QUANTILE = 0.01
MODE_QUANTILES = (0.05, 0.5, 0.95)
# What is looked at, of more a sample
MOST_PAIRS, MOST_CHANNELS = 2000, 200
MOST_MODES, MOST_IMAGES, MOST_IMAGES_OF_CLASS = 1000, 100_000, 300


def gamma_guide(store, class_store, found, settings):
    """What there is to go by in the choice of gamma, as ``STEM_gamma.json`` has it.

    Parameters
    ----------
    store : ImportanceStore
    class_store : ClassStore
        Keeps what needs images one by one.
    found : LayerClasses
    settings : dict
        That chose the relevant classes: tau, p, only_correct, min_images, only_above_mean.

    Returns
    -------
    dict, None for what cannot be measured
        ``noise_floor``: the 1 % quantile of the ``cosine`` of the ARVs from two halves of a class's images.
        ``modes``: quantiles of the cosine of the two k-means centroids of a class's images, ``measured`` of so many
        (channel, class) ``of`` all. ``clean``: for each ``gamma``, of ``pairs`` under it and of channels whose
        ``groups`` are cut there, the share of ``splits`` that are clean on held-out halves in all their concepts, the
        share of their ``concepts``, and how many splits were ``measured``, ``of`` all: not those of a class in which
        the channel's mean sum is not positive.
    """
    halves = found.relevant & (found.images[1:] > 0).all(0)[:, None]
    return {
        "noise_floor": _noise_floor(found, halves),
        "modes": _modes(store, class_store, found.relevant, settings),
        "clean": {"gamma": list(GAMMAS), "pairs": _clean_pairs(found), "groups": _clean_groups(found, halves)},
    }


def _noise_floor(found, relevant):
    """The cosine that all but 1 % of the relevant (channel, class) have between the two halves."""
    cosines, images = [], []
    for channel in torch.nonzero(relevant.any(0)).flatten().tolist():
        own = relevant[:, channel]
        cosines.append(cosines_of_halves(found.weight[channel], *found.mean_inputs[1:, own]))
        images.append(found.images[1:, own].flatten())
    if not cosines:
        return {"quantile": NOISE_QUANTILE, "cosine": None, "images_per_half": None, "measured": 0}
    cosines, images = torch.cat(cosines).numpy(), torch.cat(images).numpy()
    return {
        "quantile": NOISE_QUANTILE,
        "cosine": float(np.quantile(cosines, NOISE_QUANTILE)),
        "images_per_half": float(np.median(images)),
        "measured": len(cosines),
    }


# --------------------------------------------------------------------------------------------------------------------
# Modes within a class


def _modes(store, class_store, relevant, settings):
    channels, outputs = _sampled_modes(store.meta, relevant)
    cosines = class_store.read_modes(settings, channels, outputs)
    if cosines is None:
        cosines = _cosines_of_modes(store, channels, outputs, settings["only_correct"])
        class_store.write_modes(settings, channels, outputs, cosines)
    measured = cosines[~np.isnan(cosines)]
    quantiles = np.quantile(measured, MODE_QUANTILES).tolist() if len(measured) else [None] * len(MODE_QUANTILES)
    return {
        "quantiles": list(MODE_QUANTILES),
        "cosines": quantiles,
        "measured": len(measured),
        "of": int(relevant.sum()),
    }


def _sampled_modes(meta, relevant):
    """(channel, class) arrays by class in the order of the folders: all, or those of classes drawn at random.

    The classes are drawn, so that the images of few are read.
    """
    random, num_channels = np.random.default_rng(0), relevant.sum(1).numpy()
    folders = [folder for folder in meta["class_counts"] if num_channels[meta["classes"][folder]]]
    drawn, modes, images = set(), 0, 0
    for folder in random.permutation(folders).tolist():
        drawn.add(folder)
        modes += num_channels[meta["classes"][folder]]
        images += meta["class_counts"][folder]
        if modes >= MOST_MODES or images >= MOST_IMAGES:
            break
    outputs = [meta["classes"][folder] for folder in folders if folder in drawn]
    found = [(channel, output) for output in outputs for channel in torch.nonzero(relevant[output]).flatten().tolist()]
    kept = np.sort(random.permutation(len(found))[:MOST_MODES])
    channels, outputs = np.array(found, dtype=np.int64).reshape(-1, 2)[kept].T
    return channels, outputs


def _cosines_of_modes(store, channels, outputs, only_correct):
    """Cosine of the two modes of each (channel, class), arrays [n]; NaN where there are none."""
    (weight, _), cosines = store.read_layer(), np.full(len(channels), np.nan)
    counts = store.meta["class_counts"]
    starts = dict(zip(counts, np.cumsum([0, *counts.values()]).tolist(), strict=False))
    folders = {output: folder for folder, output in store.meta["classes"].items()}
    read = _Chunks(store)
    for output in tqdm(dict.fromkeys(outputs.tolist()), "modes within classes", unit=" classes", delay=2):
        folder = folders[output]
        inputs = read.inputs(starts[folder], starts[folder] + counts[folder], only_correct)
        for i in np.flatnonzero(outputs == output) if len(inputs) > 1 else ():
            circuits = averaged_relevance_vectors(weight[channels[i]], inputs)
            cosines[i] = cosine_of_modes(circuits.numpy(), np.random.default_rng([channels[i], output]))
    return cosines


class _Chunks:
    """Tap sums of ranges of images, asked for in ascending order: each chunk is read once."""

    def __init__(self, store):
        self._store, self._chunk, self._images = store, None, None

    def inputs(self, start, stop, only_correct):
        """Tap sums [n, C_in, taps] of the images of a class; of very many, evenly spread ones."""
        size, step = self._store.meta["chunk_size"], -(-(stop - start) // MOST_IMAGES_OF_CLASS)
        parts = []
        for chunk in range(start // size, (stop - 1) // size + 1):
            if chunk != self._chunk:
                self._chunk = chunk
                self._images = self._store.read_chunk(chunk, ["input_sums", "targets", "predictions"])
            places = self._images["indices"] - start
            own = (places >= 0) & (places < stop - start) & (places % step == 0)
            if only_correct:
                own &= self._images["predictions"] == self._images["targets"]
            parts.append(self._images["input_sums"][own])
        return torch.cat(parts)


# --------------------------------------------------------------------------------------------------------------------
# Clean splits on held-out halves


def clean_split(found, channel, concepts):
    """Of each of a channel's concepts, lists of classes, whether it is clean on the odd half, divided on the even one.

    None where the channel's mean sum is not positive for one of them.
    """
    even, odd = (concept_means(half, concepts) for half in found.mean_inputs[1:])
    bias = None if found.bias is None else found.bias[channel]
    fractions = held_out_fractions(found.weight[channel], bias, found.positions, even, odd)
    return clean_concepts(fractions) if np.isfinite(fractions).all() else None


class _Tally:
    """Splits and concepts that are clean, all that were measured, and all splits that there are, for each gamma."""

    def __init__(self):
        self._splits, self._concepts = np.zeros((2, 2, len(GAMMAS)))  # [clean, measured] x gamma
        self._of = np.zeros(len(GAMMAS))

    def add(self, place, clean, weight=1.0):
        """Count a split, ``clean`` as ``clean_split`` returns it; it stands for ``weight`` many."""
        self._of[place] += weight
        if clean is not None:
            self._splits[:, place] += weight * np.array([clean.all(), 1])
            self._concepts[:, place] += weight * np.array([clean.sum(), len(clean)])

    def shares(self, cumulative=False):
        """Shares by gamma, None without any that was measured; ``cumulative``: of all up to a gamma."""
        tallies = [self._splits, self._concepts, self._of]
        splits, concepts, of = (one.cumsum(-1) for one in tallies) if cumulative else tallies
        shares = [[float(a / b) if b else None for a, b in zip(*one, strict=True)] for one in (splits, concepts)]
        numbers = [np.rint(one).astype(int).tolist() for one in (splits[1], of)]
        return dict(zip(("splits", "concepts", "measured", "of"), [*shares, *numbers], strict=True))


def _clean_pairs(found):
    """Of the pairs under each gamma, how many are clean; of many, as many are looked at in each range of cosines."""
    with_halves = (found.images[1:] > 0).all(0)
    pairs = found.pairs[with_halves[found.pairs.class1] & with_halves[found.pairs.class2]]
    ranges, random, tally = (
        np.searchsorted(GAMMAS, pairs.cosine.numpy(), side="right"),
        np.random.default_rng(0),
        _Tally(),
    )
    for place in range(len(GAMMAS)):
        own = np.flatnonzero(ranges == place)
        sample = np.sort(random.permutation(own)[: MOST_PAIRS // len(GAMMAS)])
        for channel, one, other, _ in pairs[torch.from_numpy(sample)].rows():
            tally.add(place, clean_split(found, channel, [[one], [other]]), len(own) / len(sample))
    return tally.shares(cumulative=True)


def _clean_groups(found, relevant):
    """Of the channels of several groups at each gamma, how many are clean, and of their concepts."""
    channels, tally = torch.nonzero(relevant.sum(0) > 1).flatten().numpy(), _Tally()
    channels = np.sort(np.random.default_rng(0).permutation(channels)[:MOST_CHANNELS]).tolist()
    for channel in tqdm(channels, "splits of groups", unit=" channels", delay=2):
        classes, known = torch.nonzero(relevant[:, channel]).flatten(), {}
        arvs = averaged_relevance_vectors(found.weight[channel], found.mean_inputs[0, classes])
        merges = linkage_of(cosine_similarities(arvs))
        for place, gamma in enumerate(GAMMAS):
            merged = int((merges[:, 2] <= 1 - gamma).sum())  # which says what the groups are
            if merged < len(merges):
                if merged not in known:
                    groups = [classes[group].tolist() for group in cut(merges, gamma)]
                    known[merged] = clean_split(found, channel, groups)
                tally.add(place, known[merged])
    return tally.shares()
