"""Concepts without labels: how the images in which a unit is largest are divided into sets."""

from dataclasses import dataclass

import torch

from utils.method import concept_vectors
from utils.method.circuits import circuits, per_norm
from utils.method.clustering import RESTARTS, k_means


@dataclass
class ByCircuits:
    """k-means on circuits of single images, from what a store has of the layer's input.

    Their class mean is the ARV: sets of images of alike circuits are what classes of alike ARVs are with labels.
    """

    number: int = 12
    references: int = 600

    name, word, largest, restarts = "circuits", "circuit", "spatial sum", RESTARTS

    def features(self, weight, tap_sums):
        """Of images, for a unit [C_in, taps]: what is clustered, and what a new image is assigned by, [n, F]."""
        return per_norm(circuits(weight, tap_sums))

    def clusters(self, features):
        """Labels [n], -1 for images that are left out, and centroids [K, F]."""
        return k_means(features, self.number)

    def settings(self):
        """What makes others, as plain values."""
        return {"nr_concepts": self.number, "nr_reference_images": self.references}


@dataclass
class ByPure:
    """PURE (Dreyer et al., CVPR workshops 2024): k-means on circuits that start from ``max(a, 0)`` at every position.

    They are not linear in the tap sums: a pass over the images makes them (``stages.references``).
    """

    number: int = 2
    references: int = 100
    circuit_layer: str | None = None

    name, word, largest, restarts = "pure", "circuit", "maximum over space", RESTARTS

    def clusters(self, features):
        """Labels [n] and centroids [K, F]."""
        return k_means(features, self.number)

    def settings(self):
        """What makes others, as plain values."""
        own = {"nr_concepts": self.number, "nr_reference_images": self.references}
        return {**own, "circuit_layer": self.circuit_layer}


@dataclass
class ByConceptVectors:
    """Clusters by the spatial means of all channels of the layer (``concept_clusters``), whose linear maps these are.

    ``weight`` [C, C_in, taps], ``bias`` [C] or None and ``positions`` are the layer's; ``scale`` is the spread of the
    training images, which clusters need and features do not.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    positions: int
    number: int | None = None
    references: int = 100
    threshold: float | None = None
    scale: float | None = None

    name, word, largest, restarts = "concept_vectors", "vector", "spatial sum", concept_vectors.RESTARTS

    def features(self, _, tap_sums):
        """Of images, [n, C], whatever the unit."""
        return concept_vectors.spatial_means(self.weight, self.bias, self.positions, tap_sums)

    def clusters(self, features):
        """Labels [n], -1 for images that are left out, and centroids [K, C]."""
        return concept_vectors.concept_clusters(features, self.scale, self.number, self.threshold)

    def settings(self):
        """What makes others, as plain values."""
        own = {"nr_concepts": self.number, "nr_reference_images": self.references}
        return {**own, "distance_threshold": self.threshold}


def usual_references(kind, num_images):
    """How many reference images there are where nobody says: a kind's own number, of few images a quarter."""
    return min(kind.references, max(1, num_images // 4))
