"""Stage 4's comparison: PURE of channels and of their permuted weights, from as few passes over images as can be."""

from contextlib import suppress

import torch

from utils.errors import UserError
from utils.networks.circuits import UnitCircuits
from utils.stages.comparison_methods import (
    DRAWS,
    REFERENCES,
    WEIGHTS,
    FromImages,
    Units,
    draws_of,
)
from utils.stages.references import find_references
from utils.stages.unlabelled import VALIDATION_IMAGES, Clusters
from utils.stages.virtual_neurons import stored_virtual_neurons
from utils.store.importances import Labels
from utils.store.references import References


class PurePasses:
    """What PURE needs of images, for the channels of a comparison and their permuted weights.

    Parameters
    ----------
    run : str
    channels : list of int
    weights : list of Tensor [1 + DRAWS, C_in, taps]
        Of each channel, its own and permuted ones.
    network : nn.Module
        Frozen, on its device.
    layer : Layer
    load : function of (images, batches, description) that returns ImageBatches
        ``images`` is "train" or "val".
    batch_size : int
    how : dict
        ``precision`` and ``decoding``.
    """

    def __init__(self, run, channels, weights, network, layer, load, batch_size, how):
        self.run, self.channels, self.weights, self.network, self.layer = run, channels, weights, network, layer
        self.load, self.batch_size, self.how = load, batch_size, how

    def units(self, wanted):
        """UnitCircuits of (place, unit) pairs."""
        rows = torch.stack([self.weights[place][unit] for place, unit in wanted]).to(self.layer.weight)
        channels = [self.channels[place] for place, _ in wanted]
        biases = None if self.layer.bias is None else self.layer.bias[channels]
        return UnitCircuits(self.network, self.layer, rows, biases, precision=self.how["precision"])

    def references(self, stores, usable):
        """References of all channels, for each of 1 + DRAWS ReferenceStores; one search finds all that are missing."""
        missing = [store.missing(self.channels) for store in stores]
        wanted = [(self.channels.index(one), unit) for unit, channels in enumerate(missing) for one in channels]
        if wanted:
            number = stores[0].settings["number"]
            found = find_references(
                self.units(wanted), lambda *what: self.load("train", *what), usable, number, self.batch_size
            )
            first = 0
            for store, channels in zip(stores, missing, strict=True):
                own = slice(first, first := first + len(channels))
                if channels:
                    store.write(channels, References(*(value[own] for value in vars(found).values())))
        return [store.read(self.channels) for store in stores]

    def neurons(self, store, labels, centroids):
        """The VirtualNeurons of all units, place by place, in images of a store."""
        every = [(place, unit) for place in range(len(self.channels)) for unit in range(1 + DRAWS)]
        load = lambda *what: self.load(store.meta["images"], *what)  # noqa: E731
        how = self.batch_size, self.how["decoding"]
        return stored_virtual_neurons(store, self.run, labels, self.units(every), centroids, load, *how)


class FromPure(FromImages):
    """PURE's clusters; ``references`` are the channels' References for each of 1 + DRAWS weights.

    ``measure_neurons`` adds their VirtualNeurons on ``training`` and on ``validation`` images.
    """

    def __init__(self, method, inputs, references):
        super().__init__(inputs)
        self.method, self.references, self.training, self.validation = method, references, None, None
        inputs.keep(torch.cat([one.indices.flatten() for one in references]))

    def features(self, place, unit):
        return self.references[unit].features[place]

    def clusters(self, place, unit, number=None):
        return Clusters(self.references[unit].indices[place], *self.method.clusters(self.features(place, unit)))

    def measure_neurons(self, passes, training, validation):
        """Measure VirtualNeurons; ``training`` and ``validation`` are (ImportanceStore, Labels of its images)."""
        centroids = self.centroids(passes.channels)
        self.training, self.validation = (passes.neurons(*one, centroids) for one in (training, validation))

    def centroids(self, channels):
        """Of all units, place by place: [1 + DRAWS, K, F] each, of a channel itself with its null partitions.

        All zero where a unit has no clusters.
        """
        found = []
        for place, channel in enumerate(channels):
            for unit in range(1 + DRAWS):
                shape = 1 + DRAWS, self.method.number, self.features(place, unit).shape[1]
                of_unit = torch.zeros(shape, dtype=torch.float64)
                with suppress(UserError):
                    of_unit[:] = self.clusters(place, unit).centroids
                    if unit == 0:
                        of_unit[1:] = torch.stack([one.centroids for one in self.partitioned(place, channel)])
                found.append(of_unit)
        return found

    def assign(self, case, unit, clusters, of_set=0):
        return self.validation.strongest(case.place * (1 + DRAWS) + unit, VALIDATION_IMAGES, of_set)


class Neurons:
    """PURE's virtual neurons, of a FromPure with VirtualNeurons."""

    def __init__(self, found_by):
        self.found_by = found_by

    def of(self, case):
        real, place = self.found_by.clusters(case.place, 0), case.place

        def of_permuted_weights(unit):
            return self._units(case, unit, 0, self.found_by.clusters(place, unit))

        others = enumerate(self.found_by.partitioned(place, case.channel), start=1)
        return {
            "": [self._units(case, 0, 0, real)],
            WEIGHTS: draws_of(of_permuted_weights, range(1, 1 + DRAWS)),
            REFERENCES: [self._units(case, 0, of_set, clusters) for of_set, clusters in others],
        }

    def _units(self, case, unit, of_set, clusters):
        row, number = case.place * (1 + DRAWS) + unit, len(clusters.centroids)
        training, validation = self.found_by.training, self.found_by.validation
        values = training.values(row, number, of_set)[:, torch.searchsorted(training.indices, case.images)]
        return Units(values, validation.values(row, number, of_set), clusters=clusters)


def some_of(labels, indices):
    """The Labels of some images, ascending."""
    rows = torch.searchsorted(labels.indices, indices)
    return Labels(labels.indices[rows], labels.targets[rows], labels.predictions[rows], labels.contents[rows.numpy()])
