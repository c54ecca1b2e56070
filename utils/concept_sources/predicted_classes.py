"""Concepts that are predicted classes: clusters of a channel's reference images by the network's predictions.

Only for the comparison: it shows what the network's own labels would achieve.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from utils.concept_sources.circuits import Circuits
from utils.concept_sources.concept_source import ComparedSource
from utils.concept_sources.image_sets import Clusters, ImageSetFinder
from utils.concept_sources.stored_image_sets import StoredFinder
from utils.errors import UserError
from utils.plugins import later

if TYPE_CHECKING:
    from torch import Tensor

    from utils.concept_sources.compared_channels import Comparison

torch = later("torch")
ordering = later("utils.method.order")

MOST_CLASSES = 8


class PredictedClasses(ComparedSource):
    """The most frequent predicted classes of the reference images of circuits."""

    name = "predicted_classes"
    words = "predicted classes"
    split_words = "predicted classes"

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        return {"most_classes": MOST_CLASSES}

    @classmethod
    def finder(cls, comparison: Comparison) -> PredictionFinder:
        return PredictionFinder(comparison.finder(Circuits))


class PredictionFinder(ImageSetFinder):
    """The most frequent predicted classes, up to eight, of the reference images of a StoredFinder by circuits."""

    def __init__(self, circuits: StoredFinder) -> None:
        super().__init__(circuits.source, circuits.comparison)
        self._circuits = circuits
        self._labels = circuits.comparison.study.labels

    def features(self, index: int, draw: int) -> Tensor:
        return self._circuits.features(index, draw)

    def find_clusters(self, index: int, draw: int, number: int | None) -> Clusters:
        references = self._circuits.stored.references[index, draw]
        predicted = self._labels.predictions[torch.searchsorted(self._labels.indices, references.contiguous())]
        outputs, counts = predicted.unique(return_counts=True)
        chosen = outputs[ordering.largest_first(counts)][: number or MOST_CLASSES]
        if len(chosen) < (number or 2):
            raise UserError("its images are predicted to be of too few classes")
        labels = torch.full_like(references, -1)
        for k, output in enumerate(chosen):
            labels[predicted == output] = k
        features = self.features(index, draw).double()
        centroids = torch.stack([features[labels == k].mean(0) for k in range(len(chosen))])
        return Clusters(references, labels, centroids)
