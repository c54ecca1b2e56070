"""Concepts by circuits: clusters of what the layer's inputs contribute to the channel in single images.

The ARV of a class is the mean of its images' circuits. Clusters of similar circuits therefore correspond, without
labels, to groups of classes with similar ARVs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from utils.concept_sources.image_sets import circuit_features, number_flag, references_flag
from utils.concept_sources.stored_image_sets import StoredImageSets
from utils.plugins import later

if TYPE_CHECKING:
    from torch import Tensor

    from utils.store.importance_store import ImportanceStore
    from utils.store.study import Study

clustering = later("utils.method.clustering")

NUMBER = 12
REFERENCES = 600


@dataclass(frozen=True)
class Circuits(StoredImageSets):
    """k-means on circuits of single images, from the tap sums in the store."""

    number: int = NUMBER
    references: int = REFERENCES

    name = "circuits"
    words = "circuits"
    split_words = "circuits"
    summary = "circuits (clusters of reference images by what each input contributes; from the store alone)"
    flags = (number_flag(str(NUMBER)), references_flag(str(REFERENCES)))
    word = "circuit"
    usual_references = REFERENCES
    map_words = "training images of largest spatial sum, by their circuits"

    @classmethod
    def from_given(cls, given: dict[str, Any], study: Study) -> Circuits:
        return cls(given.get("number") or NUMBER, cls.references_from(given, study))

    @classmethod
    def of_layer(cls, store: ImportanceStore) -> Circuits:
        return cls()

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        return {"number": NUMBER, "references": REFERENCES, "k_means": clustering.ALGORITHM}

    def features(self, weight: Tensor, tap_sums: Tensor) -> Tensor:
        return circuit_features(weight, tap_sums)

    def clusters(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return clustering.k_means(features, self.number)
