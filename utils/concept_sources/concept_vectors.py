"""Concept vectors (O'Mahony et al., CVPR workshops 2023): references clustered by the spatial means of all channels.

How clusters are found and what their vectors are stands in ``utils.method.concept_directions``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from utils.concept_sources.image_sets import StoredImageSets, number_flag, references_flag, strongest_images
from utils.plugins import Flag, later, positive

if TYPE_CHECKING:
    from torch import Tensor

torch = later("torch")
cases = later("utils.concept_sources.cases")
concept_vectors = later("utils.method.concept_directions")

REFERENCES = 100
THRESHOLD = (
    "concept_vectors: distance at which Ward's clusters are cut, and squared distance from a centroid at which images "
    "are dropped (15 as published, for InceptionV3; default, whatever the network's scale: 3.5 R and R squared, the "
    "mean squared distance of the training images from their mean)"
)


@dataclass
class ConceptVectors(StoredImageSets):
    """Clusters by the spatial means of all channels of the layer (``concept_clusters``), whose linear maps these are.

    ``weight`` [C, C_in, taps], ``bias`` [C] or None and ``positions`` are the layer's; ``scale`` is the spread of the
    training images, which clusters need and features do not.
    """

    weight: Tensor
    bias: Tensor | None
    positions: int
    number: int | None = None
    references: int = REFERENCES
    threshold: float | None = None
    scale: float | None = None

    name, words = "concept_vectors", "concept vectors"
    split_words = "concept vectors' clusters"
    summary = "concept_vectors (O'Mahony et al. 2023)"
    flags = (
        number_flag("as Ward's clustering says"),
        references_flag(str(REFERENCES)),
        Flag("distance_threshold", THRESHOLD, "threshold", positive),
    )
    word, usual_references = "vector", REFERENCES
    map_words = "training images of largest spatial sum, by the spatial means of all channels of the layer"

    @classmethod
    def from_given(cls, given, study):
        source = cls.of_layer(study.training)
        means = source.features(None, study.tap_sums.of_others([]))
        source.scale, source.references = concept_vectors.spread(means), cls.references_from(given, study)
        source.number, source.threshold = given.get("number"), given.get("threshold")
        return source

    @classmethod
    def of_layer(cls, store):
        return cls(*store.read_layer(), store.meta["positions"])

    @classmethod
    def defaults(cls):
        return {"references": REFERENCES, "cut": concept_vectors.CUT}

    @property
    def restarts(self):
        return concept_vectors.RESTARTS

    def features(self, weight, tap_sums):
        """Of images, [n, C], whatever the unit."""
        return concept_vectors.spatial_means(self.weight, self.bias, self.positions, tap_sums)

    def clusters(self, features):
        return concept_vectors.concept_clusters(features, self.scale, self.number, self.threshold)

    @classmethod
    def dropped(cls, opened, study):
        """As many as there were; of near ties another image may be the last reference."""
        asked, found = {}, {}
        for one in opened:
            how = one.file.source["state"]["nr_reference_images"], one.file.settings["only_correct"]
            asked.setdefault(how, []).append(one)
        for how, splits in asked.items():
            rows = study.weight_and_bias[0][[one.file.split.channel for one in splits]]
            for one, references in zip(splits, strongest_images(study.training, rows, *how), strict=True):
                kept = torch.tensor([image for concept in one.file.split.own_concepts for image in concept.images])
                found[one.path] = references[~torch.isin(references, kept)][: len(references) - len(kept)]
        return found

    @classmethod
    def own_units(cls):
        return {"directions": ("concept vectors themselves", Directions)}


class Directions:
    """Concept vectors themselves: units that are directions of the layer's channels, clustered by ``finder``."""

    def __init__(self, finder):
        self.finder, source = finder, finder.source
        self._layer = source.weight.double(), source.bias, source.positions

    def of(self, case):
        """Units of a case, for each null."""
        real = self.finder.clusters(case.place, 0)

        def of_permuted_weights(unit):
            return self._units(case, self.finder.clusters(case.place, unit, len(real.centroids)))

        partitions = self.finder.partitioned(case.place, case.channel)
        return {
            "": [self._units(case, real)],
            cases.WEIGHTS: cases.draws_of(of_permuted_weights),
            cases.REFERENCES: [self._units(case, partition) for partition in partitions],
        }

    def _units(self, case, clusters):
        vectors = concept_vectors.concept_vectors(clusters.centroids)
        rows, constants = concept_vectors.projection_rows(vectors, *self._layer)
        return case.units(rows, clusters, constants / self.finder.source.positions)
