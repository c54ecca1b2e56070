"""Relevant channels, averaged relevance vectors and gamma-polysemantic pairs (Ineq. 2, Definition and Theorem 3.1)."""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from utils.method.importance import relevant_in_images


@dataclass
class ClassStatistics:
    """Running sums over images, per class; index 0 is over all images, index 1 over correctly classified ones.

    ``images`` [2, T] and ``relevant`` [2, T, C] are counts (int64), ``input_sums`` [2, T, C_in, taps] float64.
    Their size depends on classes and channels, never on the number of images.
    """

    images: torch.Tensor
    relevant: torch.Tensor
    input_sums: torch.Tensor

    @classmethod
    def zeros(cls, num_classes, num_channels, num_inputs, num_taps):
        return cls(
            torch.zeros(2, num_classes, dtype=torch.int64),
            torch.zeros(2, num_classes, num_channels, dtype=torch.int64),
            torch.zeros(2, num_classes, num_inputs, num_taps, dtype=torch.float64),
        )

    def add(self, relative, positive_sums, input_sums, targets, predictions, tau):
        """Add the images of a chunk.

        Parameters
        ----------
        relative : Tensor [n, C], float16
        positive_sums : Tensor [n]
        input_sums : Tensor [n, C_in, taps]
        targets, predictions : LongTensor [n]
        tau : float
        """
        classes = targets.unique()
        own = targets == classes[:, None]
        rows = torch.cat([own, own & (predictions == targets)])  # [2 * present classes, n]
        # Sums over the images of classes as products, which are many times as fast; counts are exact below 2 ** 24
        relevant = rows.float() @ relevant_in_images(relative, positive_sums, tau).float()
        sums = rows.double() @ input_sums.double().flatten(1)
        self.images[:, classes] += rows.sum(1).unflatten(0, (2, -1))
        self.relevant[:, classes] += relevant.long().unflatten(0, (2, -1))
        self.input_sums[:, classes] += sums.unflatten(0, (2, -1)).unflatten(-1, input_sums.shape[1:])

    def mean_inputs(self):
        """Class means of the tap sums, [2, T, C_in, taps] float64; NaN where a class has no image."""
        return self.input_sums / self.images[..., None, None]


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


class ClassPair(NamedTuple):
    """Two classes that a channel is relevant for, ``class1 < class2``, and the cosine of their ARVs."""

    channel: int
    class1: int
    class2: int
    cosine: float


def class_pairs(weight, mean_inputs, relevant):
    """All pairs of classes that share a relevant channel, with the cosine of their ARVs.

    Parameters
    ----------
    weight : Tensor [C, C_in, taps]
    mean_inputs : Tensor [T, C_in, taps]
    relevant : BoolTensor [T, C]

    Returns
    -------
    list of ClassPair
        Sorted by cosine, highest first, equal ones by channel and classes.
    """
    pairs = []
    for channel in torch.nonzero(relevant.sum(0) >= 2).flatten().tolist():
        classes = torch.nonzero(relevant[:, channel]).flatten()
        cosines = cosine_similarities(averaged_relevance_vectors(weight[channel], mean_inputs[classes]))
        first, second = torch.triu_indices(len(classes), len(classes), offset=1)
        columns = classes[first].tolist(), classes[second].tolist(), cosines[first, second].tolist()
        pairs += [ClassPair(channel, *pair) for pair in zip(*columns, strict=True)]
    return sorted(pairs, key=lambda pair: (-pair.cosine, *pair))
