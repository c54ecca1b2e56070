"""Relevant channels, averaged relevance vectors and gamma-polysemantic pairs (Ineq. 2, Definition and Theorem 3.1)."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from utils.method.disentangling import spatial_sums
from utils.method.importance import relevant_in_images

Cosines = TypeVar("Cosines", float, np.ndarray, Tensor)


class ClassMeans:
    """Class means of the tap sums, from running sums, whose size does not depend on the number of images.

    Over [all images, correctly classified ones] x [even, odd index]: the difference of two halves shows how reliable a
    mean is. ``images`` [2, 2, T] and ``sums`` [2, 2, T, C_in, taps] are those of the images so far.
    """

    def __init__(self, num_classes: int, num_inputs: int, num_taps: int) -> None:
        self.images = torch.zeros(2, 2, num_classes, dtype=torch.int64)
        self.sums = torch.zeros(2, 2, num_classes, num_inputs, num_taps, dtype=torch.float64)

    def add(self, input_sums: Tensor, targets: Tensor, predictions: Tensor, indices: Tensor) -> None:
        """Add images: ``input_sums`` [n, C_in, taps]; ``targets``, ``predictions`` and ``indices`` [n]."""
        classes, of_classes = _images_of_classes(targets, predictions)
        odd = indices % 2 == 1
        rows = torch.stack([of_classes & ~odd, of_classes & odd], dim=1)  # [2, 2, present classes, n]
        # sums over the images of classes as one product, which is many times as fast
        sums = rows.flatten(0, 2).double() @ input_sums.double().flatten(1)
        self.images[:, :, classes] += rows.sum(-1)
        self.sums[:, :, classes] += sums.view(*rows.shape[:3], *input_sums.shape[1:])

    def numbers(self) -> Tensor:
        """Numbers of images of [all, even, odd] indices: [2, 3, T]."""
        return _with_all(self.images)

    def means(self) -> Tensor:
        """Means over images of [all, even, odd] indices, [2, 3, T, C_in, taps] float64; NaN where there is none."""
        return _with_all(self.sums) / self.numbers()[..., None, None]


class RelevantCounts:
    """Ineq. 2: in how many images of each class every channel is relevant, ``counts`` [2, T, C]: of all images, and of
    correctly classified ones."""

    def __init__(self, tau: float, num_classes: int, num_channels: int) -> None:
        self.tau = tau
        self.counts = torch.zeros(2, num_classes, num_channels, dtype=torch.int64)

    def add(self, relative: Tensor, positive_sums: Tensor, targets: Tensor, predictions: Tensor) -> None:
        """Add images: ``relative`` [n, C] float16; ``positive_sums``, ``targets`` and ``predictions`` [n]."""
        classes, of_classes = _images_of_classes(targets, predictions)
        relevant = relevant_in_images(relative, positive_sums, self.tau).float()
        counts = of_classes.flatten(0, 1).float() @ relevant  # exact below 2 ** 24
        self.counts[:, classes] += counts.long().view(2, len(classes), relevant.shape[1])


def _images_of_classes(targets: Tensor, predictions: Tensor) -> tuple[Tensor, Tensor]:
    """The classes that are present, and which images are of each: all, and correctly classified ones [2, P, n]."""
    classes = targets.unique()
    of_classes = targets == classes[:, None]
    return classes, torch.stack([of_classes, of_classes & (predictions == targets)])


def _with_all(halves: Tensor) -> Tensor:
    """Sums over [even, odd] indices, with their own sum in front: [2, 2, ...] -> [2, 3, ...]."""
    return torch.cat([halves.sum(1, keepdim=True), halves], dim=1)


@dataclass
class Levels:
    """Levels of the channels: class means of their spatial sums, ``sums`` [T, C], and ``mean`` [C] over all images.

    Importance is input x gradient, so a channel can be relevant for a class because it is lower than usual.
    """

    sums: Tensor
    mean: Tensor

    @property
    def below(self) -> Tensor:
        """Where a class lies below the mean over all images: BoolTensor [T, C], False for classes without images."""
        return self.sums < self.mean


def overall_mean(mean_inputs: Tensor, images: Tensor) -> Tensor:
    """Mean of the tap sums over the data set, each image with the same weight, from the means and numbers of classes.

    ``mean_inputs`` [T, C_in, taps] and ``images`` [T] -> [C_in, taps].
    """
    present = images > 0
    return (mean_inputs[present] * images[present, None, None]).sum(0) / images.sum()


def channel_levels(
    weight: Tensor, bias: Tensor | None, positions: int, mean_inputs: Tensor, mean_input: Tensor
) -> Levels:
    """Levels of a layer: ``sum_hw a_c`` in the mean over a class is ``W . mean S + b * positions``.

    Parameters
    ----------
    weight : Tensor [C, C_in, taps]
    bias : Tensor [C] or None
    positions : int
    mean_inputs : Tensor [T, C_in, taps]
        Class means of the tap sums over the images that count.
    mean_input : Tensor [C_in, taps]
        Mean over the data set, ``overall_mean``.

    Returns
    -------
    Levels, float64
    """
    sums = spatial_sums(weight.double(), bias, torch.cat([mean_inputs, mean_input[None]]), positions)
    return Levels(sums[:-1], sums[-1])


def averaged_relevance_vectors(weight: Tensor, mean_inputs: Tensor) -> Tensor:
    """The ARVs of one channel: the contributions of the previous layer's channels to it, per class.

    Input x gradient towards ``sum_hw a_c`` at the layer's input, summed over space, is linear in the tap sums
    ``S``: ``ARV[c, t, i] = sum_uv W[c, i, u, v] * mean_{x in t} S[i, u, v](x)``. Signed, not normalised.

    Parameters
    ----------
    weight : Tensor [C_in, taps]
        The channel's row of the layer's weight.
    mean_inputs : Tensor [T, C_in, taps]
        Class means of the tap sums.

    Returns
    -------
    Tensor [T, C_in], float64
    """
    return (weight.double() * mean_inputs.double()).sum(-1)


def cosine_similarities(arvs: Tensor) -> Tensor:
    """Cosine of every pair of ARVs, [T, C_in] -> [T, T]; 0 where an ARV is zero."""
    unit = torch.nn.functional.normalize(arvs, dim=1)
    return (unit @ unit.T).clamp(-1, 1)


def gamma_polysemantic(cosines: Cosines, gamma: float) -> Cosines:
    """Theorem 3.1: two classes that share a relevant channel make it gamma-polysemantic if their cosine is below gamma.

    ``cosines`` are those of the ARVs of classes for which the channel is relevant. Returns bool, of their type.
    """
    return cosines < gamma


@dataclass
class ClassPairs:
    """Pairs of classes that share a relevant channel: ``channel``, ``class1`` < ``class2`` (LongTensor [N]), and the
    ``cosine`` of their ARVs (Tensor [N]).

    Tensors, as a low tau makes millions of them. Sorted by cosine, highest first, equal ones by channel and classes.
    """

    channel: Tensor
    class1: Tensor
    class2: Tensor
    cosine: Tensor

    def __len__(self) -> int:
        return len(self.channel)

    def __getitem__(self, chosen: slice | Tensor | list[int]) -> "ClassPairs":
        """The pairs of a slice, a mask or a list of numbers."""
        return ClassPairs(self.channel[chosen], self.class1[chosen], self.class2[chosen], self.cosine[chosen])

    def rows(self) -> Iterator[tuple[int, int, int, float]]:
        """(channel, class1, class2, cosine) of each pair, as Python numbers."""
        columns = (self.channel, self.class1, self.class2, self.cosine)
        return zip(*(values.tolist() for values in columns), strict=True)


def class_pairs(
    weight: Tensor, mean_inputs: Tensor, relevant: Tensor, shown: Callable[[list[int]], Iterable[int]] = iter
) -> ClassPairs:
    """All pairs of classes that share a relevant channel, with the cosine of their ARVs.

    Parameters
    ----------
    weight : Tensor [C, C_in, taps]
    mean_inputs : Tensor [T, C_in, taps]
    relevant : BoolTensor [T, C]
    shown : function
        Goes through the channels: a progress bar.
    """
    nothing = torch.empty(0, dtype=torch.long)
    columns = [(nothing, nothing, nothing, torch.empty(0, dtype=torch.float64))]
    for number in shown(torch.nonzero(relevant.sum(0) >= 2).flatten().tolist()):
        classes = torch.nonzero(relevant[:, number]).flatten()
        cosines = cosine_similarities(averaged_relevance_vectors(weight[number], mean_inputs[classes]))
        first, second = torch.triu_indices(len(classes), len(classes), offset=1)
        channels = torch.full((len(first),), number)
        columns.append((channels, classes[first], classes[second], cosines[first, second]))
    channel, class1, class2, cosine = map(torch.cat, zip(*columns, strict=True))
    order = np.lexsort((class2.numpy(), class1.numpy(), channel.numpy(), -cosine.numpy()))
    return ClassPairs(channel, class1, class2, cosine)[torch.from_numpy(order)]
