"""Relevant channels, averaged relevance vectors and gamma-polysemantic pairs (Ineq. 2, Definition and Theorem 3.1)."""

from dataclasses import dataclass

import numpy as np
import torch

from utils.method.disentangling import spatial_sums
from utils.method.importance import relevant_in_images


class ClassMeans:
    """Class means of the tap sums, from running sums: their size never depends on the number of images.

    Over [all images, correctly classified ones] x [even, odd index]: two halves tell how much a mean can be trusted.
    """

    def __init__(self, num_classes, num_inputs, num_taps):
        self._images = torch.zeros(2, 2, num_classes, dtype=torch.int64)
        self._sums = torch.zeros(2, 2, num_classes, num_inputs, num_taps, dtype=torch.float64)

    def add(self, input_sums, targets, predictions, indices):
        """Add images: ``input_sums`` [n, C_in, taps]; ``targets``, ``predictions`` and ``indices`` [n]."""
        classes, own = _images_of_classes(targets, predictions)
        odd = indices % 2 == 1
        rows = torch.stack([own & ~odd, own & odd], dim=1)  # [2, 2, present classes, n]
        # sums over the images of classes as one product, which is many times as fast
        sums = rows.flatten(0, 2).double() @ input_sums.double().flatten(1)
        self._images[:, :, classes] += rows.sum(-1)
        self._sums[:, :, classes] += sums.view(*rows.shape[:3], *input_sums.shape[1:])

    def numbers(self):
        """Numbers of images of [all, even, odd] indices: [2, 3, T]."""
        return _with_all(self._images)

    def means(self):
        """Means over images of [all, even, odd] indices, [2, 3, T, C_in, taps] float64; NaN where there is none."""
        return _with_all(self._sums) / self.numbers()[..., None, None]


class RelevantCounts:
    """In how many images of each class every channel is relevant, ``counts`` [2, T, C], as in ``ClassMeans``."""

    def __init__(self, tau, num_classes, num_channels):
        self.tau, self.counts = tau, torch.zeros(2, num_classes, num_channels, dtype=torch.int64)

    def add(self, relative, positive_sums, targets, predictions):
        """Add images: ``relative`` [n, C] float16; ``positive_sums``, ``targets`` and ``predictions`` [n]."""
        classes, own = _images_of_classes(targets, predictions)
        relevant = relevant_in_images(relative, positive_sums, self.tau).float()
        counts = own.flatten(0, 1).float() @ relevant  # exact below 2 ** 24
        self.counts[:, classes] += counts.long().view(2, len(classes), relevant.shape[1])


def _images_of_classes(targets, predictions):
    """The classes that are present, and which images are of each: all, and correctly classified ones [2, P, n]."""
    classes = targets.unique()
    own = targets == classes[:, None]
    return classes, torch.stack([own, own & (predictions == targets)])


def _with_all(halves):
    return torch.cat([halves.sum(1, keepdim=True), halves], dim=1)


@dataclass
class Levels:
    """How high the channels lie: class means of their spatial sums, ``sums`` [T, C], and ``mean`` [C] over all images.

    Importance is input x gradient, which counts a channel that is lower than usual for a class like one that is high.
    """

    sums: torch.Tensor
    mean: torch.Tensor

    @property
    def below(self):
        """Where a class lies below the mean over all images: BoolTensor [T, C], False for classes without images."""
        return self.sums < self.mean


def channel_levels(weight, bias, positions, mean_inputs, all_mean_inputs, all_images):
    """Levels of a layer: ``sum_hw a_c`` in the mean over a class is ``W . mean S + b * positions``.

    Parameters
    ----------
    weight : Tensor [C, C_in, taps]
    bias : Tensor [C] or None
    positions : int
    mean_inputs : Tensor [T, C_in, taps]
        Class means of the tap sums over the images that count.
    all_mean_inputs, all_images : Tensor [T, C_in, taps], Tensor [T]
        The same over all images, and their numbers: the mean over the data set weights every image alike.

    Returns
    -------
    Levels, float64
    """
    present = all_images > 0
    total = (all_mean_inputs[present] * all_images[present, None, None]).sum(0) / all_images.sum()
    sums = spatial_sums(weight.double(), bias, torch.cat([mean_inputs, total[None]]), positions)
    return Levels(sums[:-1], sums[-1])


def averaged_relevance_vectors(weight, mean_inputs):
    """The ARVs of one channel: what the previous layer's channels contribute to it, per class.

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


def cosine_similarities(arvs):
    """Cosine of every pair of ARVs, [T, C_in] -> [T, T]; 0 where an ARV is zero."""
    unit = torch.nn.functional.normalize(arvs, dim=1)
    return (unit @ unit.T).clamp(-1, 1)


def gamma_polysemantic(cosines, gamma):
    """Theorem 3.1: two classes that share a relevant channel make it gamma-polysemantic if their cosine is below gamma.

    ``cosines`` of the ARVs of classes that the channel is relevant for: a number, array or Tensor; so is what returns.
    """
    return cosines < gamma


@dataclass
class ClassPairs:
    """Pairs of classes that share a relevant channel: ``channel``, ``class1`` < ``class2`` (LongTensor [N]), and the
    ``cosine`` of their ARVs (Tensor [N]).

    Tensors, as a low tau makes millions of them. Sorted by cosine, highest first, equal ones by channel and classes.
    """

    channel: torch.Tensor
    class1: torch.Tensor
    class2: torch.Tensor
    cosine: torch.Tensor

    def __len__(self):
        return len(self.channel)

    def __getitem__(self, chosen):
        """The pairs of a slice, a mask or a list of places."""
        return ClassPairs(*(values[chosen] for values in vars(self).values()))

    def rows(self):
        """(channel, class1, class2, cosine) of each pair, as Python numbers."""
        return zip(*(values.tolist() for values in vars(self).values()), strict=True)


def class_pairs(weight, mean_inputs, relevant):
    """All pairs of classes that share a relevant channel, with the cosine of their ARVs.

    Parameters
    ----------
    weight : Tensor [C, C_in, taps]
    mean_inputs : Tensor [T, C_in, taps]
    relevant : BoolTensor [T, C]

    Returns
    -------
    ClassPairs
    """
    columns = [(torch.empty(0, dtype=torch.long),) * 3 + (torch.empty(0, dtype=torch.float64),)]
    for channel in torch.nonzero(relevant.sum(0) >= 2).flatten().tolist():
        classes = torch.nonzero(relevant[:, channel]).flatten()
        cosines = cosine_similarities(averaged_relevance_vectors(weight[channel], mean_inputs[classes]))
        first, second = torch.triu_indices(len(classes), len(classes), offset=1)
        shared = torch.full((len(first),), channel), classes[first], classes[second], cosines[first, second]
        columns.append(shared)
    channel, class1, class2, cosine = map(torch.cat, zip(*columns, strict=True))
    order = np.lexsort((class2.numpy(), class1.numpy(), channel.numpy(), -cosine.numpy()))
    return ClassPairs(channel, class1, class2, cosine)[torch.from_numpy(order)]
