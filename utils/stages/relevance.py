"""Stage 2: class means of the layer's input and counts of relevant images, from one pass over the chunks."""

from tqdm import tqdm

from utils.method.importance import relevant_classes
from utils.method.polysemanticity import ClassMeans, RelevantCounts, class_pairs, gamma_polysemantic

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


def pairs_at_taus(store, mean_inputs, num_images, *, p, cosines, only_correct, min_images):
    """How many pairs there would be for other values of tau, where the one asked for finds none: {tau: number}.

    One pass over the chunks; nothing is stored.

    Parameters
    ----------
    store : ImportanceStore
        Complete.
    mean_inputs : Tensor [T, C_in, taps]
    num_images : LongTensor [T]
    p : float
    cosines : (low, high)
    only_correct : bool
    min_images : int
    """
    counts = [RelevantCounts(tau, store.meta["num_outputs"], store.meta["num_channels"]) for tau in HELPFUL_TAUS]
    names = ["targets", "predictions", "relative_importances", "positive_sums"]
    for chunk in tqdm(range(store.num_chunks), "looking for a tau that finds pairs", unit=" chunks", delay=2):
        images = store.read_chunk(chunk, names)
        for one in counts:
            one.add(*(images[name] for name in ("relative_importances", "positive_sums", "targets", "predictions")))
    (weight, _), (low, high), found = store.read_layer(), cosines, {}
    for one in counts:
        relevant = relevant_classes(one.counts[int(only_correct)], num_images, p, min_images)
        cosine = class_pairs(weight, mean_inputs, relevant).cosine
        found[one.tau] = int(((cosine >= low) & gamma_polysemantic(cosine, high)).sum())
        if found[one.tau] >= ENOUGH:
            break
    return found
