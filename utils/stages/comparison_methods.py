"""Stage 4's comparison: what finds concepts of a unit, and makes k new units of it; each beside its own nulls.

A method gives for a ``Case``, one channel, Units under each of its nulls: ``{null: [Units of each draw]}``, where ""
is the method itself. A draw that cannot be made (images that are too alike for as many clusters) is left out.
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache

import torch

from utils.errors import UserError
from utils.method.clustering import k_means, nearest
from utils.method.concept_vectors import concept_vectors, projection_rows
from utils.method.disentangling import Concept, disentangled_rows
from utils.method.references import permutation, shares_by_arv, shares_by_least_squares
from utils.stages.unlabelled import VALIDATION_IMAGES, Clusters, ClustersByStore

DRAWS = 3
WEIGHTS, SAME_SETS = "weights_permuted", "weights_permuted_same_sets"
TARGET = "weights_permuted_real_target"
OWNERS, REFERENCES = "owners_permuted", "references_partitioned"
MOST_PREDICTED = 8
BACKGROUND = 1.0  # weight of everything else in least squares


@dataclass
class Units:
    """k new units: their values in the training images of a case's concepts [k, n], and in all validation images.

    ``rows`` [k, C_in, taps] and ``biases`` [k] or None are theirs where they are linear in the layer's input;
    ``clusters`` are those of reference images that they were made of; None where there are none, or only the method's.
    ``of_weights`` is the number of the case's weights that the references are of.
    """

    training: torch.Tensor
    validation: torch.Tensor
    rows: torch.Tensor | None = None
    biases: torch.Tensor | None = None
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
    weights: torch.Tensor
    bias: torch.Tensor | None
    images: torch.Tensor
    training: torch.Tensor
    own: torch.Tensor
    validation: object

    @property
    def classes(self):
        return [concept.classes for concept in self.concepts]

    def units(self, rows, clusters=None, biases=None):
        """Units that are linear in the layer's input."""
        if biases is None and self.bias is not None:
            biases = self.bias.expand(len(rows))
        training = rows.flatten(1).float() @ self.training.T
        return Units(training, self.validation.scores(rows), rows, biases, clusters)


def orders(what, channel, size):
    """DRAWS permutations for a channel, whatever its concepts are."""
    return [permutation(size, what, channel, draw) for draw in range(1, 1 + DRAWS)]


def permuted_weights(weight, channel):
    """A channel's weights [C_in, taps], and DRAWS times permuted over its inputs: [1 + DRAWS, C_in, taps], float64.

    Equal for equal channels, whatever their concepts: those whose references ``unit_references`` keeps.
    """
    return torch.stack([weight, *(weight[order] for order in orders("weights", channel, len(weight)))]).double()


def units_of(channels):
    """All units of a comparison as (channel, draw), place by place: draw 0 is the channel itself."""
    return [(channel, draw) for channel in channels for draw in range(1 + DRAWS)]


def draws_of(make):
    """The Units that ``make`` gives for each of the permuted weights, by number, but for those where it cannot."""
    found = []
    for unit in range(1, 1 + DRAWS):
        with suppress(UserError):
            found.append(replace(make(unit), of_weights=unit))
    return found


# --------------------------------------------------------------------------------------------------------------------
# What finds concepts: sets of images


@dataclass
class Sets:
    """Concepts, the mean tap sums of each [K, C_in, taps] float64, and the Clusters that they are, or None."""

    concepts: list
    mean_inputs: torch.Tensor
    clusters: Clusters | None = None


class FromClasses:
    """The labelled concepts themselves; ARVs are means of class means, as in stage 3."""

    def __init__(self, mean_inputs):
        self._mean_inputs = mean_inputs  # [T, C_in, taps] of classes

    def sets(self, case, unit=0, number=None):
        """The Sets of a unit of a case: 0 the channel, then those of permuted weights."""
        return Sets(case.concepts, torch.stack([self._mean_inputs[one].mean(0) for one in case.classes]))


class FromImages:
    """Concepts that are clusters of reference images; ``inputs`` are StoredInputs that keep these."""

    def __init__(self, inputs):
        self.inputs = inputs
        self.clusters = cache(self.clusters)

    def clusters(self, place, unit, number=None):
        """Clusters of a unit; exactly ``number`` of them where it is given."""
        raise NotImplementedError

    def features(self, place, unit):
        """What the references were clustered by, [n, F]."""
        raise NotImplementedError

    def assign(self, case, unit, clusters, of_set=0):
        """The validation images (0 ... N-1) in which a unit is largest, and the nearest of Clusters' centroids to each.

        ``of_set`` is 0 for the unit's own clusters, else the number of a partition.
        """
        weight = case.weights[unit].float()
        strongest = case.validation.scores(weight[None])[0].argsort(descending=True, stable=True)[:VALIDATION_IMAGES]
        inputs = case.validation.input_sums[strongest].view(-1, *weight.shape)
        return strongest, nearest(self.method.features(weight, inputs), clusters.centroids)

    def sets(self, case, unit=0, number=None):
        """The Sets of a unit of a case: 0 the channel, then those of permuted weights."""
        return self.sets_of(self.clusters(case.place, unit, number))

    def sets_of(self, clusters):
        """The Sets that Clusters are."""
        images = clusters.sets()
        means = torch.stack([self.inputs.of_images(one).double().mean(0) for one in images])
        return Sets([Concept("", [], one.tolist(), "images") for one in images], means, clusters)

    def partitioned(self, place, channel):
        """The channel's references divided at random into clusters of the same sizes, for each draw."""
        real = self.clusters(place, 0)
        features = self.features(place, 0)
        for order in orders("references", channel, len(real.labels)):
            labels = real.labels[order]
            centroids = [features[labels == k].double().mean(0) for k in range(len(real.centroids))]
            yield Clusters(real.indices, labels, torch.stack(centroids))


class FromStore(FromImages):
    """Clusters by circuits or for concept vectors, of the images of largest spatial sum.

    ``weights`` [R, C_in, taps] are those of all units of all channels, place by place.
    """

    def __init__(self, method, store, inputs, weights, only_correct):
        super().__init__(inputs)
        self.method = method
        self.found = ClustersByStore(method, store, inputs, weights.float(), only_correct)

    def features(self, place, unit):
        return self.found.features(place * (1 + DRAWS) + unit)

    def clusters(self, place, unit, number=None):
        row = place * (1 + DRAWS) + unit
        if number is None:
            return self.found.of(row)
        features = self.found.features(row)
        return Clusters(self.found.indices[row], *clusters_of_number(self.method, features, number))


def clusters_of_number(method, features, number):
    """Labels and centroids of as many clusters; none are dropped where a method would leave fewer."""
    with suppress(UserError):
        labels, centroids = replace(method, number=number).clusters(features)
        if len(centroids) == number:
            return labels, centroids
    return k_means(features, number)


class FromPredictions(FromImages):
    """The most frequent predicted classes of the references of ``circuits`` (a FromStore), up to eight.

    ``labels`` are those of the training store.
    """

    def __init__(self, circuits, labels):
        super().__init__(circuits.inputs)
        self.method, self._circuits, self._labels = circuits.method, circuits, labels

    def features(self, place, unit):
        return self._circuits.features(place, unit)

    def clusters(self, place, unit, number=None):
        indices = self._circuits.found.indices[place * (1 + DRAWS) + unit]
        predicted = self._labels.predictions[torch.searchsorted(self._labels.indices, indices)]
        outputs, counts = predicted.unique(return_counts=True)
        chosen = outputs[counts.argsort(descending=True, stable=True)][: number or MOST_PREDICTED]
        if len(chosen) < (number or 2):
            raise UserError("its images are predicted to be of too few classes")
        labels = torch.full_like(indices, -1)
        for k, output in enumerate(chosen):
            labels[predicted == output] = k
        features = self.features(place, unit).double()
        centroids = torch.stack([features[labels == k].mean(0) for k in range(len(chosen))])
        return Clusters(indices, labels, centroids)


# --------------------------------------------------------------------------------------------------------------------
# What divides a unit's inputs among them


class ByRule:
    """Ineq. 5 at a rho."""

    fits_a_target = False

    def __init__(self, rho):
        self.rho = rho

    def shares(self, weights, sets, target=None):
        """Shares of the inputs of units [B, C_in, taps]: [K + 1, B, C_in], the residual last."""
        return shares_by_arv(weights, sets.mean_inputs, self.rho)


class ByShares:
    """Least squares, with everything else as background."""

    fits_a_target = True

    def __init__(self, inputs):
        self.inputs = inputs

    def shares(self, weights, sets, target=None):
        """The same; units give ``target`` [C_in, taps], or themselves."""
        groups, importance = self.inputs.groups(sets.concepts, BACKGROUND)
        targets = None if target is None else target.expand_as(weights)
        return shares_by_least_squares(weights, groups, importance, targets)


# --------------------------------------------------------------------------------------------------------------------
# Methods


class Original:
    """The channel as it is."""

    def of(self, case):
        return {"": [case.units(case.weights[:1])], WEIGHTS: [case.units(one[None]) for one in case.weights[1:]]}


class Logits:
    """The network's own logits, of a concept the largest of its classes: labels have matched them."""

    def of(self, case):
        logits = case.validation.logits
        validation = torch.stack([torch.stack([logits[one] for one in own]).amax(0) for own in case.classes])
        return {"": [Units(case.own.float(), validation)]}


class Splits:
    """A unit's inputs divided among concepts: ``found_by`` finds them, ``divided_by`` divides."""

    def __init__(self, found_by, divided_by):
        self.found_by, self.divided_by = found_by, divided_by

    def of(self, case):
        weight, sets = case.weights[0], self.found_by.sets(case)
        shares, number = self._shares(weight[None], sets)[:, 0], len(sets.concepts)
        found = {"": [self._units(case, weight, shares, sets, sets.clusters)]}

        def of_permuted_weights(unit):
            own, permuted = self.found_by.sets(case, unit, number), case.weights[unit]
            return self._units(case, permuted, self._shares(permuted[None], own)[:, 0], own, own.clusters)

        found[WEIGHTS] = draws_of(of_permuted_weights)
        if sets.clusters is not None:  # labels are the same sets for all weights
            found[SAME_SETS] = self._permuted(case, sets)
        if self.divided_by.fits_a_target:
            found[TARGET] = self._permuted(case, sets, weight)
        among = orders("owners", case.channel, len(weight))
        found[OWNERS] = [self._units(case, weight, shares[:, order], sets, None) for order in among]
        if sets.clusters is not None:
            others = map(self.found_by.sets_of, self.found_by.partitioned(case.place, case.channel))
            found[REFERENCES] = [
                self._units(case, weight, self._shares(weight[None], one)[:, 0], one, one.clusters) for one in others
            ]
        return found

    def _permuted(self, case, sets, target=None):
        """Units of the permuted weights, divided among the channel's own sets."""
        weights = case.weights[1:]
        shares = self._shares(weights, sets, target).unbind(1)
        return [self._units(case, one, own, sets, None) for one, own in zip(weights, shares, strict=True)]

    def _shares(self, weights, sets, target=None):
        return self.divided_by.shares(weights, sets, target)

    def _units(self, case, weight, shares, sets, clusters):
        return case.units(disentangled_rows(weight, shares)[: len(sets.concepts)], clusters)


class Directions:
    """Concept vectors themselves; ``found_by`` clusters the spatial means of all channels of the layer."""

    def __init__(self, found_by):
        self.found_by, method = found_by, found_by.method
        self._layer = method.weight.double(), method.bias, method.positions
        self._positions = method.positions

    def of(self, case):
        real = self.found_by.clusters(case.place, 0)

        def of_permuted_weights(unit):
            return self._units(case, self.found_by.clusters(case.place, unit, len(real.centroids)))

        partitions = self.found_by.partitioned(case.place, case.channel)
        return {
            "": [self._units(case, real)],
            WEIGHTS: draws_of(of_permuted_weights),
            REFERENCES: [self._units(case, one) for one in partitions],
        }

    def _units(self, case, clusters):
        rows, constants = projection_rows(concept_vectors(clusters.centroids), *self._layer)
        return case.units(rows, clusters, constants / self._positions)
