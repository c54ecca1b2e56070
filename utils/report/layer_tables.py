"""What stage 2 says about a layer: its pairs, and which classes each channel serves, as text and as tables."""

import shutil
import sys

import numpy as np

from utils.defaults import GAMMA
from utils.method.polysemanticity import gamma_polysemantic
from utils.report.numbers import formatted
from utils.report.tables import Table

FEW_IMAGES = 10


def gamma_from(cos_sim_high):
    """Gamma: the upper bound of the cosine, or the paper's 0.5 where the bound lets all pairs through."""
    return cos_sim_high if cos_sim_high < 1 else GAMMA


def settings_text(*, tau, p, only_correct, min_images, only_above_mean):
    """What chose the pairs, for the figures."""
    return f"τ = {tau:g}, p = {p:g}" + counted_text(only_correct, min_images, only_above_mean)


def counted_text(only_correct, min_images, only_above_mean):
    """Which images and classes count, to end such a line."""
    text = ", correctly classified images only" if only_correct else ""
    text += f", classes of at least {min_images} images" if min_images > 1 else ""
    return text + (", only classes above the channel's mean" if only_above_mean else "")


class ChannelClasses:
    """The classes that each channel of a layer is relevant for, and their pairs.

    Parameters
    ----------
    relevant : BoolTensor [T, C]
    pairs : ClassPairs
        Of all channels, whatever their cosine.
    groups : dict of channel -> ChannelGroups
        Of every channel that is relevant for a class.
    levels : Levels
    """

    def __init__(self, relevant, pairs, groups, levels):
        self.relevant, self.pairs, self._groups = relevant.numpy(), pairs, groups
        self._below, self._sums = levels.below.numpy(), levels.sums.numpy()
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

    def groups(self, channel):
        """The groups of a channel's classes: lists of outputs."""
        return self._groups[channel].concepts if channel in self._groups else []

    def groups_of(self, channel):
        """The ChannelGroups of a channel that is relevant for a class."""
        return self._groups[channel]

    def several_groups(self):
        """The ChannelGroups of the channels that have two or more, in order of their lowest cosine, highest first."""
        several = [one for one in self._groups.values() if len(one.concepts) > 1]
        return sorted(several, key=lambda one: -one.lowest_cosine())

    def low(self, channel, outputs):
        """The classes, of those given, in which the channel lies below its mean, with the sign of its sum there."""
        signs = {output: np.sign(self._sums[output, channel]) for output in outputs if self._below[output, channel]}
        return ", ".join(f"{output} ({'-' if sign < 0 else '+'})" for output, sign in signs.items())

    def below(self, channel):
        """In which classes a channel lies below its mean: bool [T]."""
        return self._below[:, channel]

    def num_low(self):
        """How many relevant (channel, class) there are in which the channel lies below its mean."""
        return int((self.relevant & self._below).sum())

    def polysemantic(self, gamma):
        """The gamma-polysemantic channels, lowest cosine first."""
        lowest = self.lowest_cosines()
        found = np.flatnonzero(gamma_polysemantic(np.nan_to_num(lowest, nan=np.inf), gamma))
        return found[np.argsort(lowest[found], kind="stable")].tolist()


def print_pairs(pairs, channels, classes, path):
    """Print the pairs as a table with class names, and as the published code does.

    A terminal sees a page of them, those of lowest cosine, and a file all; ``path`` is where all are.
    """
    shown = pairs[max(len(pairs) - _page(), 0) :] if sys.stdout.isatty() else pairs
    if len(shown):
        names = [(classes.name(class1), classes.name(class2)) for _, class1, class2, _ in shown.rows()]
        widths = [max(map(len, column)) for column in zip(*names, strict=True)]
        print(f"\nchannel  cosine  {'class 1':>{widths[0] + 5}}  class 2")
        if len(shown) < len(pairs):
            print(f"... {len(pairs) - len(shown)} more, of higher cosine, in {path}")
        for (channel, class1, class2, cosine), (name1, name2) in zip(shown.rows(), names, strict=True):
            low = channels.low(channel, (class1, class2))
            line = f"{channel:7d}  {cosine:6.3f}  {name1:>{widths[0]}} {class1:4d}  {class2:4d} {name2:{widths[1]}}"
            print(f"{line}  low: {low}" if low else line.rstrip())
    if not len(pairs):
        print("\nno pairs")
    print_list(shown)


def print_list(pairs):
    """Print ClassPairs as the published code does: on a line of its own, to be read by a program."""
    columns = ("channel", "class1", "class2", "cosine_similarity")
    print(f"\n{[dict(zip(columns, (*pair[:3], round(pair[3], 4)), strict=True)) for pair in pairs.rows()]}")


def print_groups(channels, classes, path):
    """Print the channels of several groups of classes by name, lowest cosine last; a terminal sees a page of them.

    Sorted by the lowest cosine between the ARVs of two concepts, each the mean of its classes'.
    """
    groups = channels.several_groups()
    if not groups:
        return
    shown = groups[max(len(groups) - _page(), 0) :] if sys.stdout.isatty() else groups
    lowest = channels.lowest_cosines()
    print(f"\n{'lowest cosine between':>27}\nchannel  {'classes':>8}  {'concepts':>8}  groups of classes")
    if len(shown) < len(groups):
        print(f"... {len(groups) - len(shown)} more, of higher cosine between concepts, in {path}")
    for one in shown:
        cosines = f"{lowest[one.channel]:8.3f}  {one.lowest_cosine():8.3f}"
        print(f"{one.channel:7d}  {cosines}  {groups_text(one, classes)}")


def groups_text(groups, classes):
    """ChannelGroups by the names of their classes."""
    return ", ".join(f"{{{', '.join(map(classes.name, concept))}}}" for concept in groups.concepts)


def _page():
    return max(shutil.get_terminal_size().lines - 12, 10)


def print_layer(meta, channels, kept, cosines, gamma):
    """Print how many channels are relevant for how many classes, and how many pairs and groups there are."""
    counts, pairs = np.bincount(np.minimum(channels.num_classes, 3), minlength=4), channels.pairs
    lowest = f" (lowest cosine between classes {pairs.cosine[-1]:.3f})" if len(pairs) else ""
    print(f"\n{meta['model']} with weights {meta['weights']}, layer {meta['layer']}:")
    print(f"channels relevant for 0 / 1 / 2 / 3 or more classes: {' / '.join(map(str, counts))}")
    print(f"{counts[2:].sum()} channels are relevant for several classes, {len(pairs)} pairs in all{lowest};")
    of = len(kept.channel.unique())
    print(f"{len(kept)} pairs of {of} channels have {cosines[0]} <= cosine < {cosines[1]}")
    several, polysemantic = len(channels.several_groups()), channels.polysemantic(gamma)
    one_group = sum(len(channels.groups(channel)) == 1 for channel in polysemantic)
    print(f"at gamma {gamma:g}, {several} channels have two or more groups; {one_group} are polysemantic, one group")
    if channels.num_low():
        print(
            f"{channels.num_low()} of {channels.relevant.sum()} (channel, class) are relevant by being low: the "
            "channel's sum lies below its mean over all training images (its sign is in the tables); "
            "--only_above_mean leaves them out"
        )


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
    """Write a row for every channel: its classes, the lowest cosine between two of them, its pairs under gamma, ...

    ... the groups of its classes, the lowest cosine between two of these concepts, and the classes in which it is low,
    with the sign of its sum. Cosines are empty where there are no two. Beside the table of pairs, and named like it;
    returns the path.
    """
    header = ("Channel", "NumClasses", "Classes", "LowestClassCosine", "PairsUnderGamma", "Names", "Groups")
    header += ("LowestConceptCosine", "Low")
    under = channels.pairs.channel[gamma_polysemantic(channels.pairs.cosine, gamma)].numpy()
    under = np.bincount(under, minlength=len(channels))
    rows = [
        (
            channel,
            channels.num_classes[channel],
            "; ".join(map(str, own)),
            formatted(lowest, ".6f", missing=""),
            under[channel],
            "; ".join(map(classes.name, own)),
            "; ".join("+".join(map(str, group)) for group in channels.groups(channel)),
            f"{channels.groups_of(channel).lowest_cosine():.6f}" if len(channels.groups(channel)) > 1 else "",
            channels.low(channel, own).replace(",", ";"),
        )
        for channel, lowest in enumerate(channels.lowest_cosines())
        for own in [channels.classes(channel)]
    ]
    path = pairs_path.with_name(f"{pairs_path.stem}_channels.csv")
    Table(header, rows).write_csv(path)
    return path
