"""What stage 2 says about a layer: its pairs, and which classes each channel serves, as text and as tables."""

import csv
import io
import shutil
import sys

import numpy as np

from utils.method.polysemanticity import gamma_polysemantic
from utils.store.files import write_bytes

FEW_IMAGES = 10
PAPER_GAMMA = 0.5


def gamma_from(cos_sim_high):
    """Gamma: the upper bound of the cosine, or the paper's 0.5 where the bound lets all pairs through."""
    return cos_sim_high if cos_sim_high < 1 else PAPER_GAMMA


class ChannelClasses:
    """The classes that each channel of a layer is relevant for, and their pairs.

    Parameters
    ----------
    relevant : BoolTensor [T, C]
    pairs : ClassPairs
        Of all channels, whatever their cosine.
    """

    def __init__(self, relevant, pairs):
        self.relevant, self.pairs = relevant.numpy(), pairs
        self.num_classes = self.relevant.sum(0)
        channel, class1, class2, cosine = (values.numpy() for values in vars(pairs).values())
        self._order = np.lexsort((class2, class1, cosine, channel))
        self._starts = np.searchsorted(channel[self._order], np.arange(len(self.num_classes) + 1))

    def __len__(self):
        return len(self.num_classes)

    def classes(self, channel):
        """The classes of a channel, ascending."""
        return self.relevant[:, channel].nonzero()[0].tolist()

    def pairs_of(self, channel):
        """The ClassPairs of a channel, lowest cosine first."""
        return self.pairs[self._order[self._starts[channel] : self._starts[channel + 1]]]

    def lowest_cosines(self):
        """The lowest cosine of each channel [C], NaN where it has no pair."""
        lowest = np.full(len(self), np.nan)
        has_pairs = np.flatnonzero(np.diff(self._starts))
        lowest[has_pairs] = self.pairs.cosine.numpy()[self._order[self._starts[has_pairs]]]
        return lowest

    def polysemantic(self, gamma):
        """The gamma-polysemantic channels, lowest cosine first."""
        lowest = self.lowest_cosines()
        found = np.flatnonzero(gamma_polysemantic(np.nan_to_num(lowest, nan=np.inf), gamma))
        return found[np.argsort(lowest[found], kind="stable")].tolist()


def print_pairs(pairs, classes, path):
    """Print the pairs as the published code does, and as a table with class names.

    A terminal sees a page of them, those of lowest cosine, and a file all; ``path`` is where all are.
    """
    columns = ("channel", "class1", "class2", "cosine_similarity")
    shown = pairs
    if sys.stdout.isatty():
        shown = pairs[max(len(pairs) - max(shutil.get_terminal_size().lines - 12, 10), 0) :]
    print([dict(zip(columns, (*pair[:3], round(pair[3], 4)), strict=True)) for pair in shown.rows()])
    if len(shown):
        names = [(classes.name(class1), classes.name(class2)) for _, class1, class2, _ in shown.rows()]
        widths = [max(map(len, column)) for column in zip(*names, strict=True)]
        print(f"\nchannel  cosine  {'class 1':>{widths[0] + 5}}  class 2")
        if len(shown) < len(pairs):
            print(f"... {len(pairs) - len(shown)} more, of higher cosine, in {path}")
        for (channel, class1, class2, cosine), (name1, name2) in zip(shown.rows(), names, strict=True):
            print(f"{channel:7d}  {cosine:6.3f}  {name1:>{widths[0]}} {class1:4d}  {class2:4d} {name2}")


def print_layer(meta, channels, kept, cosines):
    """Print how many channels are relevant for how many classes, and how many pairs there are and were kept."""
    counts, pairs = np.bincount(np.minimum(channels.num_classes, 3), minlength=4), channels.pairs
    lowest = f" (lowest cosine {pairs.cosine[-1]:.3f})" if len(pairs) else ""
    print(f"\n{meta['model']} with weights {meta['weights']}, layer {meta['layer']}:")
    print(f"channels relevant for 0 / 1 / 2 / 3 or more classes: {' / '.join(map(str, counts))}")
    print(f"{counts[2:].sum()} channels are relevant for several classes, {len(pairs)} pairs in all{lowest};")
    of = len(kept.channel.unique())
    print(f"{len(kept)} pairs of {of} channels have {cosines[0]} <= cosine < {cosines[1]}")


def warn(cos_sim_low, pairs, kept, num_images):
    """Say what the reader of a list of pairs should know: what fell away, and what rests on little."""
    dropped = int((pairs.cosine < min(0, cos_sim_low)).sum())
    if dropped:
        print(
            f"warning: {dropped} pairs have a cosine below 0 and are left out; add --cos_sim_low -1 to keep them",
            file=sys.stderr,
        )
    weak = int(((num_images[kept.class1] < FEW_IMAGES) | (num_images[kept.class2] < FEW_IMAGES)).sum())
    if weak:
        print(
            f"warning: {weak} of these {len(kept)} pairs have a class of fewer than {FEW_IMAGES} images to measure; "
            f"--min_images {FEW_IMAGES} leaves them out",
            file=sys.stderr,
        )


def print_helpful_taus(pairs_at):
    """Where tau finds nothing: print for which tau there would be 1, 10, 100 pairs, of {tau: number of pairs}."""
    for wanted in (1, 10, 100):
        enough = [tau for tau, number in pairs_at.items() if number >= wanted]
        if enough:
            tau = max(enough)
            print(f"there would be {pairs_at[tau]} pairs with --proportion_attribution_required {tau}")
    if not any(pairs_at.values()):
        print(f"no tau down to {min(pairs_at)} finds a pair: try a higher --cos_sim_high or a lower --p")


def write_channels(pairs_path, channels, gamma, classes):
    """Write a row for every channel: its classes, its lowest cosine (empty without a pair), its pairs under gamma.

    Beside the table of pairs, and named like it; returns the path.
    """
    header = ("Channel", "NumClasses", "Classes", "LowestCosine", "PairsUnderGamma", "Names")
    under = channels.pairs.channel[gamma_polysemantic(channels.pairs.cosine, gamma)].numpy()
    under = np.bincount(under, minlength=len(channels))
    rows = [
        (
            channel,
            channels.num_classes[channel],
            "; ".join(map(str, channels.classes(channel))),
            "" if np.isnan(lowest) else f"{lowest:.6f}",
            under[channel],
            "; ".join(map(classes.name, channels.classes(channel))),
        )
        for channel, lowest in enumerate(channels.lowest_cosines())
    ]
    path = pairs_path.with_name(f"{pairs_path.stem}_channels.csv")
    write_table(path, header, rows)
    return path


def write_table(path, header, rows):
    """Write a table as comma-separated text."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_bytes(path, buffer.getvalue().encode())
