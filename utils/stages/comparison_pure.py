"""Stage 4's comparison: PURE of channels and of their permuted weights."""

from contextlib import suppress

import torch

from utils.errors import UserError
from utils.stages.comparison_methods import (
    DRAWS,
    REFERENCES,
    WEIGHTS,
    FromImages,
    Units,
    draws_of,
)
from utils.stages.unlabelled import VALIDATION_IMAGES, Clusters
from utils.store.importances import Labels


class FromPure(FromImages):
    """PURE's clusters; ``references`` are the References of all units, place by place.

    ``training`` and ``validation`` are their VirtualNeurons on images, with the ``centroids`` found here.
    """

    def __init__(self, method, inputs, references):
        super().__init__(inputs)
        self.method, self.references, self.training, self.validation = method, references, None, None
        inputs.keep(references.indices.flatten())

    def features(self, place, unit):
        return self.references.features[place * (1 + DRAWS) + unit]

    def clusters(self, place, unit, number=None):
        indices = self.references.indices[place * (1 + DRAWS) + unit]
        return Clusters(indices, *self.method.clusters(self.features(place, unit)))

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
            WEIGHTS: draws_of(of_permuted_weights),
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
