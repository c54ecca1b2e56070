"""Concept vectors (O'Mahony et al., CVPR workshops 2023): reference images clustered by spatial means.

The clustering and the vectors themselves are in ``utils.method.concept_directions``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from utils.concept_sources.compared_channels import (
    PARTITIONED_REFERENCES,
    PERMUTED_WEIGHTS,
    ComparedChannel,
    ComparedUnits,
    UnitMaker,
    UnitsByNull,
    permuted_draws,
)
from utils.concept_sources.image_sets import Clusters, image_sets_of, number_flag, references_flag
from utils.concept_sources.stored_image_sets import StoredFinder, StoredImageSets, strongest_images
from utils.plugins import Flag, later, positive

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from utils.store.importance_store import ImportanceStore
    from utils.store.opened_splits import OpenedSplit
    from utils.store.study import Study

torch = later("torch")
clustering = later("utils.method.clustering")
directions = later("utils.method.concept_directions")

REFERENCES = 100
THRESHOLD = (
    "An image is left out if its squared distance from the centroid of its cluster exceeds DISTANCE (default: R "
    "squared, the mean squared distance of the training images from their mean, so that the network's scale does not "
    "matter). The published value is 15, for InceptionV3."
)


@dataclass(frozen=True)
class ConceptVectors(StoredImageSets):
    """Clusters of reference images by the spatial means of all channels of the layer (``concept_clusters``).

    Parameters
    ----------
    weight : Tensor [C, C_in, taps]
        Weight of the layer: spatial means are linear maps of the tap sums.
    bias : Tensor [C] or None
        Bias of the layer.
    positions : int
        Number of positions of the layer's output.
    number : int, optional
        Number of clusters; default: determined by Ward's clustering.
    references : int
        Number of reference images.
    threshold : float, optional
        Threshold of the published rule for distances; default: limits relative to ``scale``, see ``concept_clusters``.
    scale : float, optional
        ``spread`` of the training images; only ``clusters`` needs it.
    """

    weight: Tensor
    bias: Tensor | None
    positions: int
    number: int | None = None
    references: int = REFERENCES
    threshold: float | None = None
    scale: float | None = None

    name = "concept_vectors"
    words = "concept vectors"
    split_words = "concept vectors' clusters"
    summary = "concept_vectors (clusters of reference images by all channels of the layer, O'Mahony et al. 2023)"
    flags = (
        number_flag("chosen by Ward's clustering"),
        references_flag(str(REFERENCES)),
        Flag(
            "distance_threshold",
            "concept_vectors: distance at which Ward's clustering is cut",
            "threshold",
            positive,
            metavar="DISTANCE",
            usual="3.5 R",
            details=THRESHOLD,
        ),
    )
    word = "vector"
    usual_references = REFERENCES
    map_words = "training images of largest spatial sum, by the spatial means of all channels of the layer"

    @classmethod
    def from_given(cls, given: dict[str, Any], study: Study) -> ConceptVectors:
        of_layer = cls.of_layer(study.training)
        return replace(
            of_layer,
            number=given.get("number"),
            references=cls.references_from(given, study),
            threshold=given.get("threshold"),
            scale=directions.spread(of_layer._spatial_means(study.tap_sums.of_others([]))),
        )

    @classmethod
    def of_layer(cls, store: ImportanceStore) -> ConceptVectors:
        weight, bias = store.read_layer()
        return cls(weight, bias, positions=store.meta["positions"])

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        return {"references": REFERENCES, "cut": directions.CUT, "k_means": clustering.ALGORITHM}

    @property
    def restarts(self) -> int:
        return directions.RESTARTS

    def features(self, weight: Tensor, tap_sums: Tensor) -> Tensor:
        """Spatial means of images, [n, C]: the same for every unit."""
        return self._spatial_means(tap_sums)

    def _spatial_means(self, tap_sums: Tensor) -> Tensor:
        return directions.spatial_means(self.weight, self.bias, self.positions, tap_sums)

    def clusters(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return directions.concept_clusters(features, self.scale, self.number, self.threshold)

    @classmethod
    def dropped(cls, opened: list[OpenedSplit], study: Study) -> dict[Path, Tensor]:
        """The reference images that clustering dropped: {path of the split: indices}.

        The reference images are determined again from the store. Where values are almost equal, the last one may differ
        from that of stage 3, so the result is cut to the number of images that were dropped.
        """
        by_settings: dict[tuple[int, bool], list[OpenedSplit]] = {}
        for split in opened:
            settings = (split.file.source["state"]["nr_reference_images"], split.file.settings["only_correct"])
            by_settings.setdefault(settings, []).append(split)
        dropped = {}
        for (number, only_correct), splits in by_settings.items():
            weights = study.weight_and_bias[0][[split.file.split.channel for split in splits]]
            strongest = strongest_images(study.training, weights, number, only_correct)
            for split, references in zip(splits, strongest, strict=True):
                kept = torch.cat(image_sets_of(split))
                dropped[split.path] = references[~torch.isin(references, kept)][: len(references) - len(kept)]
        return dropped

    @classmethod
    def own_units(cls) -> dict[str, tuple[str, Callable[[StoredFinder], UnitMaker]]]:
        return {"directions": ("concept vectors themselves", Directions)}


class Directions(UnitMaker):
    """Concept vectors themselves as units: directions of the layer's channels; ``finder`` has the clusters."""

    def __init__(self, finder: StoredFinder) -> None:
        self.finder = finder

    def units_by_null(self, channel: ComparedChannel) -> UnitsByNull:
        clusters = self.finder.clusters(channel.index, 0)

        def units_of_draw(draw: int) -> ComparedUnits:
            return self._units(channel, self.finder.clusters(channel.index, draw, number=len(clusters.centroids)))

        partitions = self.finder.partitioned(channel.index)
        return {
            "": [self._units(channel, clusters)],
            PERMUTED_WEIGHTS: permuted_draws(units_of_draw, self.finder.draws),
            PARTITIONED_REFERENCES: [self._units(channel, partition) for partition in partitions],
        }

    def _units(self, channel: ComparedChannel, clusters: Clusters) -> ComparedUnits:
        source = self.finder.source
        vectors = directions.concept_vectors(clusters.centroids)
        rows, constants = directions.projection_rows(vectors, source.weight.double(), source.bias, source.positions)
        return channel.units(rows, clusters, constants / source.positions)
