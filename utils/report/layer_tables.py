"""What stage 2 prints and writes of a layer: its pairs, and the classes for which each channel is relevant."""

import shutil
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.defaults import GAMMA
from utils.images.folders import ClassMap
from utils.method.grouping import ChannelGroups
from utils.method.polysemanticity import ClassPairs, Levels, gamma_polysemantic
from utils.report.numbers import formatted
from utils.report.tables import Table

FEW_IMAGES = 10  # of a class; cosines of classes with fewer cause a warning


def gamma_from(cos_sim_high: float) -> float:
    """Gamma: the upper bound of the cosine, or the default if the bound keeps all pairs."""
    return cos_sim_high if cos_sim_high < 1 else GAMMA


def settings_text(*, tau: float, p: float, only_correct: bool, min_images: int, only_above_mean: bool) -> str:
    """The settings that chose the pairs, for figures."""
    return f"τ = {tau:g}, p = {p:g}" + counted_text(only_correct, min_images, only_above_mean)


def counted_text(only_correct: bool, min_images: int, only_above_mean: bool) -> str:
    """Which images and classes count, to end a line of settings."""
    text = ", correctly classified images only" if only_correct else ""
    text += f", classes of at least {min_images} images" if min_images > 1 else ""
    return text + (", only classes above the channel's mean" if only_above_mean else "")


class ChannelClasses:
    """The classes that each channel of a layer is relevant for, and their pairs.

    Parameters
    ----------
    relevant : BoolTensor [T, C]
    pairs
        All pairs of all channels, with any cosine.
    groups
        The groups of the classes of every channel that is relevant for a class.
    levels
        Levels of the channels in the classes.
    """

    def __init__(self, relevant: Tensor, pairs: ClassPairs, groups: dict[int, ChannelGroups], levels: Levels) -> None:
        self.relevant = relevant.numpy()
        self.pairs = pairs
        self.num_classes = self.relevant.sum(0)
        self._groups = groups
        self._below = levels.below.numpy()
        self._sums = levels.sums.numpy()
        channel = pairs.channel.numpy()
        self._order = np.lexsort((pairs.class2.numpy(), pairs.class1.numpy(), pairs.cosine.numpy(), channel))
        self._starts = np.searchsorted(channel[self._order], np.arange(len(self.num_classes) + 1))

    def __len__(self) -> int:
        """Number of channels."""
        return len(self.num_classes)

    def classes(self, channel: int) -> list[int]:
        """The classes of a channel, ascending."""
        return self.relevant[:, channel].nonzero()[0].tolist()

    def pairs_of(self, channel: int) -> ClassPairs:
        """The pairs of a channel, lowest cosine first."""
        order = self._order[self._starts[channel] : self._starts[channel + 1]]
        return self.pairs[torch.from_numpy(order)]

    def lowest_cosines(self) -> np.ndarray:
        """The lowest cosine of each channel [C]; NaN for a channel without pairs."""
        lowest = np.full(len(self), np.nan)
        has_pairs = np.flatnonzero(np.diff(self._starts))
        lowest[has_pairs] = self.pairs.cosine.numpy()[self._order[self._starts[has_pairs]]]
        return lowest

    def groups(self, channel: int) -> list[list[int]]:
        """The groups of a channel's classes, as lists of network outputs."""
        return self._groups[channel].concepts if channel in self._groups else []

    def groups_of(self, channel: int) -> ChannelGroups:
        """The ChannelGroups of a channel, which must be relevant for a class."""
        return self._groups[channel]

    def several_groups(self) -> list[ChannelGroups]:
        """The ChannelGroups of the channels with two or more groups; the lowest cosine descends."""
        several = [groups for groups in self._groups.values() if len(groups.concepts) > 1]
        return sorted(several, key=lambda groups: -groups.lowest_cosine())

    def least_alike(self) -> ChannelGroups:
        """Of the channels with two or more groups, the one whose groups are least alike.

        Channels that are relevant for a class by being low come after all others: a part for such a class is low in its
        images. ValueError if no channel has two groups.
        """
        several = self.several_groups()[::-1]
        return min(several, key=lambda groups: self._below[list(chain(*groups.concepts)), groups.channel].any())

    def listed(self, pairs: ClassPairs) -> set[int]:
        """The channels that stage 2 lists: those of the ``pairs`` that it keeps, and those of two or more groups."""
        return {*pairs.channel.tolist(), *(groups.channel for groups in self.several_groups())}

    def low(self, channel: int, outputs: list[int]) -> str:
        """The classes, of those given, in which the channel lies below its mean, with the sign of its sum, as text."""
        signs = {output: np.sign(self._sums[output, channel]) for output in outputs if self._below[output, channel]}
        return ", ".join(f"{output} ({'-' if sign < 0 else '+'})" for output, sign in signs.items())

    def below(self, channel: int) -> np.ndarray:
        """In which classes a channel lies below its mean, bool [T]."""
        return self._below[:, channel]

    def num_low(self) -> int:
        """The number of relevant (channel, class) in which the channel lies below its mean."""
        return int((self.relevant & self._below).sum())

    def polysemantic(self, gamma: float) -> list[int]:
        """The gamma-polysemantic channels, lowest cosine first."""
        lowest = self.lowest_cosines()
        channels = np.flatnonzero(gamma_polysemantic(np.nan_to_num(lowest, nan=np.inf), gamma))
        return channels[np.argsort(lowest[channels], kind="stable")].tolist()


def print_pairs(
    pairs: ClassPairs, channels: ChannelClasses, classes: ClassMap, path: Path, cosines: Sequence[float]
) -> None:
    """Print the pairs as a table with class names, and in the format of the published code.

    A terminal gets a page of them, those of lowest cosine, and a file all pairs. ``path`` has all pairs, which are
    within the bounds ``cosines``.
    """
    shown = pairs[max(len(pairs) - _page(), 0) :] if sys.stdout.isatty() else pairs
    if len(shown):
        width1 = max(len(classes.name(output)) for output in shown.class1.tolist())
        width2 = max(len(classes.name(output)) for output in shown.class2.tolist())
        print(f"\nchannel  cosine  {'class 1':>{width1 + 5}}  class 2")
        if len(shown) < len(pairs):
            print(f"... {len(pairs) - len(shown)} more, of higher cosine, in {path}")
        for channel, class1, class2, cosine in shown.rows():
            low = channels.low(channel, [class1, class2])
            name1 = f"{classes.name(class1):>{width1}}"
            name2 = f"{classes.name(class2):{width2}}"
            line = f"{channel:7d}  {cosine:6.3f}  {name1} {class1:4d}  {class2:4d} {name2}"
            print(f"{line}  low: {low}" if low else line.rstrip())
    else:
        print("\nno pairs")
    print_below(channels, cosines[0], classes)
    print_list(shown)


def print_below(channels: ChannelClasses, cos_sim_low: float, classes: ClassMap) -> None:
    """Print, below a table of pairs, which are left out of it because their cosine is below 0; nothing if none is.

    The best channel may be among them: its cosine is named.
    """
    pairs = channels.pairs
    below = int((pairs.cosine < min(0, cos_sim_low)).sum())
    if below:
        channel, class1, class2, cosine = next(pairs[len(pairs) - 1 :].rows())
        pair = f"{classes.name(class1)} / {classes.name(class2)}"
        print(
            f"left out: {below} pairs below 0, the lowest {cosine:.3f} of channel {channel} ({pair}); "
            "add --cos_sim_low -1"
        )


def print_list(pairs: ClassPairs) -> None:
    """Print pairs in the format of the published code: one line, to be read by a program; nothing if there are none."""
    if not len(pairs):
        return
    rows = [
        {"channel": channel, "class1": class1, "class2": class2, "cosine_similarity": round(cosine, 4)}
        for channel, class1, class2, cosine in pairs.rows()
    ]
    print(f"\n{rows}")


def print_groups(channels: ChannelClasses, classes: ClassMap, path: Path | None) -> None:
    """Print the channels of several groups of classes by name; a terminal gets a page of them.

    Sorted by the lowest cosine between the ARVs of two concepts, lowest last; a concept's ARV is the mean of those of
    its classes. ``path`` has all groups.
    """
    several = channels.several_groups()
    if not several:
        return
    shown = several[max(len(several) - _page(), 0) :] if sys.stdout.isatty() else several
    lowest = channels.lowest_cosines()
    print(f"\n{'lowest cosine between':>27}\nchannel  {'classes':>8}  {'concepts':>8}  groups of classes")
    if len(shown) < len(several):
        print(f"... {len(several) - len(shown)} more, of higher cosine between concepts, in {path}")
    for groups in shown:
        cosines = f"{lowest[groups.channel]:8.3f}  {groups.lowest_cosine():8.3f}"
        print(f"{groups.channel:7d}  {cosines}  {groups_text(groups, classes)}")


def groups_text(groups: ChannelGroups, classes: ClassMap) -> str:
    """The groups of a channel by the names of their classes."""
    return ", ".join(f"{{{', '.join(map(classes.name, concept))}}}" for concept in groups.concepts)


def _page() -> int:
    """How many lines fit on a terminal with the text around them."""
    return max(shutil.get_terminal_size().lines - 12, 10)


def print_layer(
    meta: dict[str, Any], channels: ChannelClasses, kept: ClassPairs, cosines: Sequence[float], gamma: float
) -> None:
    """Print how many channels are relevant for how many classes, and the numbers of pairs and groups.

    ``meta`` is that of the store, ``kept`` are the pairs within the bounds ``cosines``.
    """
    pairs = channels.pairs
    counts = np.bincount(np.minimum(channels.num_classes, 3), minlength=4)
    lowest = f" (lowest cosine between classes {pairs.cosine[-1]:.3f})" if len(pairs) else ""
    print(f"\n{meta['model']} with weights {meta['weights']}, layer {meta['layer']}:")
    print(f"channels relevant for 0 / 1 / 2 / 3 or more classes: {' / '.join(map(str, counts))}")
    print(f"{counts[2:].sum()} channels are relevant for several classes, {len(pairs)} pairs in all{lowest};")
    channels_kept = set(kept.channel.tolist())
    print(f"{len(kept)} pairs of {len(channels_kept)} channels have {cosines[0]} <= cosine < {cosines[1]}")
    several = {groups.channel for groups in channels.several_groups()}
    without_pair = len(several - channels_kept)
    note = f" ({without_pair} of them without such a pair: cosines below {cosines[0]})" if without_pair else ""
    one_group = sum(len(channels.groups(channel)) == 1 for channel in channels.polysemantic(gamma))
    print(
        f"at gamma {gamma:g}, {len(several)} channels have two or more groups{note}; {one_group} are polysemantic "
        "but have a single group"
    )
    if channels.num_low():
        print(
            f"{channels.num_low()} of {channels.relevant.sum()} (channel, class) pairs are relevant because the "
            'channel is low: its sum lies below its mean over all training images ("low" in the tables, with the sign '
            "of the sum); --only_above_mean leaves them out"
        )


def warn(cos_sim_low: float, pairs: ClassPairs, kept: ClassPairs, num_images: Tensor) -> None:
    """Warn of ``pairs`` that are left out, and of ``kept`` ones with classes of few images.

    ``num_images`` [T] are the images of each class.
    """
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


CHANNEL_COLUMNS = (
    "Channel",
    "NumClasses",
    "Classes",
    "LowestClassCosine",
    "PairsUnderGamma",
    "Names",
    "Groups",
    "LowestConceptCosine",
    "Low",
)


def write_channels(pairs_path: Path, channels: ChannelClasses, gamma: float, classes: ClassMap) -> Path:
    """Write a table with a row for every channel, next to the table of pairs and named like it; return its path.

    A row has the channel's classes, the lowest cosine between two of them, the number of its pairs below gamma, the
    groups of its classes, the lowest cosine between two of these concepts, and the classes in which it is low, with the
    sign of its sum. Cosines are empty if there is no pair.
    """
    under_gamma = channels.pairs.channel[gamma_polysemantic(channels.pairs.cosine, gamma)].numpy()
    pairs_under_gamma = np.bincount(under_gamma, minlength=len(channels))
    rows = []
    for channel, lowest in enumerate(channels.lowest_cosines()):
        own_classes = channels.classes(channel)
        groups = channels.groups(channel)
        rows.append(
            [
                channel,
                channels.num_classes[channel],
                "; ".join(map(str, own_classes)),
                formatted(lowest, ".6f", missing=""),
                pairs_under_gamma[channel],
                "; ".join(map(classes.name, own_classes)),
                "; ".join("+".join(map(str, group)) for group in groups),
                f"{channels.groups_of(channel).lowest_cosine():.6f}" if len(groups) > 1 else "",
                channels.low(channel, own_classes).replace(",", ";"),
            ]
        )
    path = pairs_path.with_name(f"{pairs_path.stem}_channels.csv")
    Table(CHANNEL_COLUMNS, rows).write_csv(path)
    return path
