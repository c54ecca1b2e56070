"""Concepts that are predicted classes: a channel's reference images, by what the network takes them for.

In the comparison alone: what labels of the network's own making would do.
"""

from utils.concept_sources.circuits import Circuits
from utils.concept_sources.concept_source import ComparedSource
from utils.concept_sources.image_sets import Clusters, ImageSetFinder
from utils.errors import UserError
from utils.plugins import later

torch = later("torch")
cases = later("utils.concept_sources.cases")

MOST_CLASSES = 8


class PredictedClasses(ComparedSource):
    """The most frequent predicted classes of the reference images that circuits have."""

    name = "predicted_classes"
    words = split_words = "predicted classes"

    @classmethod
    def defaults(cls):
        return {"most_classes": MOST_CLASSES}

    @classmethod
    def finder(cls, comparison):
        return PredictionFinder(comparison.finder(Circuits))


class PredictionFinder(ImageSetFinder):
    """The most frequent predicted classes, up to eight, of the references of a StoredFinder by circuits."""

    def __init__(self, circuits):
        super().__init__(circuits.source, circuits.comparison)
        self._circuits, self._labels = circuits, circuits.comparison.study.labels

    def features(self, place, unit):
        return self._circuits.features(place, unit)

    def clusters(self, place, unit, number=None):
        indices = self._circuits.found.indices[cases.row_of(place, unit)]
        predicted = self._labels.predictions[torch.searchsorted(self._labels.indices, indices)]
        outputs, counts = predicted.unique(return_counts=True)
        chosen = outputs[counts.argsort(descending=True, stable=True)][: number or MOST_CLASSES]
        if len(chosen) < (number or 2):
            raise UserError("its images are predicted to be of too few classes")
        labels = torch.full_like(indices, -1)
        for k, output in enumerate(chosen):
            labels[predicted == output] = k
        features = self.features(place, unit).double()
        centroids = torch.stack([features[labels == k].mean(0) for k in range(len(chosen))])
        return Clusters(indices, labels, centroids)
