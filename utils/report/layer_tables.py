"""What stage 2 says about a layer: its pairs, and which classes each channel serves, as text and as tables."""

import csv
import io
import sys
from typing import NamedTuple

import numpy as np

from utils.store.files import write_bytes

FEW_IMAGES = 10
PAPER_GAMMA = 0.5


def gamma_from(cos_sim_high):
    """Gamma: the upper bound of the cosine, or the paper's 0.5 where the bound lets all pairs through."""
    return cos_sim_high if cos_sim_high < 1 else PAPER_GAMMA


class ChannelClasses(NamedTuple):
    """A channel, the classes it is relevant for, and their pairs (class1, class2, cosine), lowest cosine first."""

    channel: int
    classes: list
    pairs: list


def classes_of_channels(relevant, pairs):
    """The classes and pairs of every channel of the layer.

    Parameters
    ----------
    relevant : BoolTensor [T, C]
    pairs : list of (channel, class1, class2, cosine)

    Returns
    -------
    list of ChannelClasses, one for each of the C channels
    """
    channels = [ChannelClasses(c, row.nonzero()[0].tolist(), []) for c, row in enumerate(relevant.T.numpy())]
    for channel, *pair in sorted(pairs, key=lambda pair: pair[3]):
        channels[channel].pairs.append(tuple(pair))
    return channels


def polysemantic(channels, gamma):
    """The gamma-polysemantic channels (Theorem 3.1), lowest cosine first."""
    found = [channel for channel in channels if channel.pairs and channel.pairs[0][2] < gamma]
    return sorted(found, key=lambda channel: channel.pairs[0][2])


def print_pairs(pairs, classes):
    """Print the pairs as the published code does, and as a table with class names."""
    columns = ("channel", "class1", "class2", "cosine_similarity")
    print([dict(zip(columns, (*pair[:3], round(pair[3], 4)), strict=True)) for pair in pairs])
    if pairs:
        names = [(classes.name(class1), classes.name(class2)) for _, class1, class2, _ in pairs]
        widths = [max(map(len, column)) for column in zip(*names, strict=True)]
        print(f"\nchannel  cosine  {'class 1':>{widths[0] + 5}}  class 2")
        for (channel, class1, class2, cosine), (name1, name2) in zip(pairs, names, strict=True):
            print(f"{channel:7d}  {cosine:6.3f}  {name1:>{widths[0]}} {class1:4d}  {class2:4d} {name2}")


def print_summary(args, network, layer, channels, pairs, kept):
    """Print how many channels are relevant for how many classes, and how many pairs there are and were kept."""
    counts = np.bincount([min(len(channel.classes), 3) for channel in channels], minlength=4)
    lowest = f" (lowest cosine {pairs[-1][3]:.3f})" if pairs else ""
    of = len({channel for channel, *_ in kept})
    print(f"\n{args.model} with weights {network.weights}, layer {layer.name}:")
    print(f"channels relevant for 0 / 1 / 2 / 3 or more classes: {' / '.join(map(str, counts))}")
    print(f"{counts[2:].sum()} channels are relevant for several classes, {len(pairs)} pairs in all{lowest};")
    print(f"{len(kept)} pairs of {of} channels have {args.cos_sim_low} <= cosine < {args.cos_sim_high}")


def warn(args, pairs, kept, num_images):
    """Say what the reader of a list of pairs should know: what fell away, and what rests on little."""
    dropped = sum(cosine < min(0, args.cos_sim_low) for *_, cosine in pairs)
    if dropped:
        print(
            f"warning: {dropped} pairs have a cosine below 0 and are left out; add --cos_sim_low -1 to keep them",
            file=sys.stderr,
        )
    weak = sum(min(num_images[class1], num_images[class2]) < FEW_IMAGES for _, class1, class2, _ in kept)
    if weak:
        print(
            f"warning: {weak} of these {len(kept)} pairs have a class of fewer than {FEW_IMAGES} images to measure; "
            f"--min_images {FEW_IMAGES} leaves them out",
            file=sys.stderr,
        )


def write_channels(path, channels, gamma, classes):
    """Write a row for every channel: its classes, its lowest cosine (empty without a pair), its pairs under gamma."""
    header = ("Channel", "NumClasses", "Classes", "LowestCosine", "PairsUnderGamma", "Names")
    rows = [
        (
            channel.channel,
            len(channel.classes),
            "; ".join(map(str, channel.classes)),
            f"{channel.pairs[0][2]:.6f}" if channel.pairs else "",
            sum(cosine < gamma for *_, cosine in channel.pairs),
            "; ".join(map(classes.name, channel.classes)),
        )
        for channel in channels
    ]
    _write_table(path, header, rows)


def write_similarities(path, pairs, similarities):
    """Write (channel, class1, class2, cosine) rows with the WordNet path similarity of each."""
    header = ("Channel", "Class1", "Class2", "CosineSimilarity", "PathSimilarity")
    rows = ((*pair[:3], f"{pair[3]:.6f}", f"{value:.6f}") for pair, value in zip(pairs, similarities, strict=True))
    _write_table(path, header, rows)


def _write_table(path, header, rows):
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_bytes(path, buffer.getvalue().encode())


def similarity_summary(pairs, similarities, gamma, correlation):
    """What the WordNet figure shows, in a sentence."""
    cosines, values = np.array([pair[3] for pair in pairs]), np.array(similarities)
    parts = [
        f"{np.median(part):.3f} over {len(part)} pairs {which} gamma = {gamma:g}"
        for part, which in ((values[cosines < gamma], "under"), (values[cosines >= gamma], "at or above"))
        if len(part)
    ]
    ranks = "" if correlation is None else f"; rank correlation with the cosine {correlation:.2f}"
    return f"WordNet path similarity, median: {', '.join(parts)}{ranks}"
