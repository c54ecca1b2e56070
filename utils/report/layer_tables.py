"""What stage 2 says about a layer: its pairs, and which classes each channel serves, as text and as tables."""

import csv
import io
import sys
from typing import NamedTuple

import numpy as np

from utils.method.polysemanticity import gamma_polysemantic
from utils.store.files import write_bytes

FEW_IMAGES = 10
PAPER_GAMMA = 0.5


def gamma_from(cos_sim_high):
    """Gamma: the upper bound of the cosine, or the paper's 0.5 where the bound lets all pairs through."""
    return cos_sim_high if cos_sim_high < 1 else PAPER_GAMMA


class ChannelClasses(NamedTuple):
    """A channel, the classes it is relevant for, and their ClassPairs, lowest cosine first."""

    channel: int
    classes: list
    pairs: list


def classes_of_channels(relevant, pairs):
    """The classes and pairs of every channel of the layer.

    Parameters
    ----------
    relevant : BoolTensor [T, C]
    pairs : list of ClassPair

    Returns
    -------
    list of ChannelClasses, one for each of the C channels
    """
    channels = [ChannelClasses(c, row.nonzero()[0].tolist(), []) for c, row in enumerate(relevant.T.numpy())]
    for pair in sorted(pairs, key=lambda pair: pair.cosine):
        channels[pair.channel].pairs.append(pair)
    return channels


def polysemantic(channels, gamma):
    """The gamma-polysemantic channels, lowest cosine first."""
    found = [channel for channel in channels if channel.pairs and gamma_polysemantic(channel.pairs[0].cosine, gamma)]
    return sorted(found, key=lambda channel: channel.pairs[0].cosine)


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


def print_layer(model, network, layer, channels, pairs, kept, cosines):
    """Print how many channels are relevant for how many classes, and how many pairs there are and were kept."""
    counts = np.bincount([min(len(channel.classes), 3) for channel in channels], minlength=4)
    lowest = f" (lowest cosine {pairs[-1][3]:.3f})" if pairs else ""
    of = len({channel for channel, *_ in kept})
    print(f"\n{model} with weights {network.weights}, layer {layer.name}:")
    print(f"channels relevant for 0 / 1 / 2 / 3 or more classes: {' / '.join(map(str, counts))}")
    print(f"{counts[2:].sum()} channels are relevant for several classes, {len(pairs)} pairs in all{lowest};")
    print(f"{len(kept)} pairs of {of} channels have {cosines[0]} <= cosine < {cosines[1]}")


def warn(cos_sim_low, pairs, kept, num_images):
    """Say what the reader of a list of pairs should know: what fell away, and what rests on little."""
    dropped = sum(cosine < min(0, cos_sim_low) for *_, cosine in pairs)
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
            f"{channel.pairs[0].cosine:.6f}" if channel.pairs else "",
            sum(gamma_polysemantic(pair.cosine, gamma) for pair in channel.pairs),
            "; ".join(map(classes.name, channel.classes)),
        )
        for channel in channels
    ]
    write_table(path, header, rows)


def write_table(path, header, rows):
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_bytes(path, buffer.getvalue().encode())
