"""Stage 2: class means of the layer's input and counts of relevant images, from one pass over the chunks."""

from tqdm import tqdm

from utils.method.polysemanticity import ClassStatistics


def class_statistics(store, class_store, tau):
    """Class means [2, T, C_in, taps], numbers of images [2, T], and counts of relevant images [2, T, C].

    Index 0 is over all images, index 1 over correctly classified ones. From the store where they are there; else from
    one pass over the chunks, which stores them.

    Parameters
    ----------
    store : ImportanceStore
        Complete.
    class_store : ClassStore
    tau : float
    """
    means, relevant = class_store.read_means(), class_store.read_relevant(tau)
    if means is None or relevant is None:
        statistics = ClassStatistics.zeros(
            *(store.meta[key] for key in ("num_outputs", "num_channels", "num_inputs", "num_taps"))
        )
        for chunk in tqdm(range(store.num_chunks), "reading chunks", unit=" chunks", delay=2):
            images = store.read_chunk(chunk)
            statistics.add(
                images["relative_importances"],
                images["positive_sums"],
                images["input_sums"],
                images["targets"],
                images["predictions"],
                tau,
            )
        class_store.write(statistics, tau)
        means, relevant = class_store.read_means(), class_store.read_relevant(tau)
    return *means, relevant
