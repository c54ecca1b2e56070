"""Data classes of a comparison: a channel, the sets of images found for it, and the units made of them.

A method gives Units of a Case under each of its nulls, ``{null: [Units of each draw]}``; "" is the method itself. What
cannot be drawn (images are too similar for as many clusters) is left out.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from utils.defaults import BACKGROUND_WEIGHT
from utils.defaults import COMPARISON_DRAWS as DRAWS
from utils.errors import UserError
from utils.plugins import later

if TYPE_CHECKING:
    from torch import Tensor

    from utils.concept_sources.image_sets import Clusters

torch = later("torch")
nulls = later("utils.method.significance")

WEIGHTS, SAME_SETS = "weights_permuted", "weights_permuted_same_sets"
TARGET = "weights_permuted_real_target"
OWNERS, REFERENCES = "owners_permuted", "references_partitioned"


@dataclass
class Units:
    """k new units: their values in the training images of a case's concepts [k, n], and in all validation images.

    ``rows`` [k, C_in, taps] and ``biases`` [k] or None are theirs where they are linear in the layer's input;
    ``clusters`` are those of reference images that they were made of; None where there are none, or only the method's.
    ``of_weights`` is the number of the case's weights that the references are of.
    """

    training: Tensor
    validation: Tensor
    rows: Tensor | None = None
    biases: Tensor | None = None
    clusters: Clusters | None = None
    of_weights: int = 0


@dataclass
class Case:
    """A channel and its labelled concepts.

    ``place`` is its number among the channels; ``weights`` [1 + DRAWS, C_in, taps] float64 are its own and permuted
    ones, ``bias`` [] or None. ``training`` [n, C_in * taps] are tap sums of training images of the concepts, ``own``
    BoolTensor [K, n] says of which; ``images`` [n] are their indices; ``validation`` are ValidationInputs.
    """

    place: int
    channel: int
    concepts: list
    weights: Tensor
    bias: Tensor | None
    images: Tensor
    training: Tensor
    own: Tensor
    validation: Any

    @property
    def classes(self):
        return [concept.classes for concept in self.concepts]

    def units(self, rows, clusters=None, biases=None):
        """Units that are linear in the layer's input."""
        if biases is None and self.bias is not None:
            biases = self.bias.expand(len(rows))
        training = rows.flatten(1).float() @ self.training.T
        return Units(training, self.validation.scores(rows), rows, biases, clusters)


@dataclass
class Sets:
    """Concepts of a unit, as ConceptInputs. ``groups()`` has one more entry than ``means()``: everything else.

    ``mean_inputs`` [K, C_in, taps] float64 are the mean tap sums of each, ``tap_sums`` StoredTapSums of their images;
    ``clusters`` are the Clusters that they are, or None.
    """

    concepts: list
    mean_inputs: Tensor
    tap_sums: Any
    clusters: Clusters | None = None

    def means(self):
        return self.mean_inputs

    def groups(self):
        """With everything else as one more concept."""
        return self.tap_sums.of_concepts(self.concepts, BACKGROUND_WEIGHT).groups()


def row_of(place, unit):
    """The number of a unit among those of all cases: ``place`` is its case's, ``unit`` 0 the channel itself."""
    return place * (1 + DRAWS) + unit


def units_of(channels):
    """All units of a comparison as (channel, draw), place by place: draw 0 is the channel itself."""
    return [(channel, draw) for channel in channels for draw in range(1 + DRAWS)]


def orders(what, channel, size):
    """DRAWS permutations for a channel, whatever its concepts are."""
    return [nulls.permutation(size, what, channel, draw) for draw in range(1, 1 + DRAWS)]


def permuted_weights(weight, channel):
    """A channel's weights [C_in, taps], and DRAWS times permuted over its inputs: [1 + DRAWS, C_in, taps], float64.

    Equal for equal channels, whatever their concepts.
    """
    return torch.stack([weight, *(weight[order] for order in orders("weights", channel, len(weight)))]).double()


def draws_of(make):
    """The Units that ``make`` gives for each of the permuted weights, by number, but for those where it cannot."""
    found = []
    for unit in range(1, 1 + DRAWS):
        with suppress(UserError):
            found.append(replace(make(unit), of_weights=unit))
    return found
