"""Concepts by circuits: clusters of what the layer's inputs contribute to the channel in single images.

The class mean of circuits is the ARV: sets of images of similar circuits are, without labels, what classes of similar
ARVs are with them.
"""

from dataclasses import dataclass

from utils.concept_sources.image_sets import StoredImageSets, circuit_features, number_flag, references_flag
from utils.plugins import later

clustering = later("utils.method.clustering")

NUMBER, REFERENCES = 12, 600


@dataclass
class Circuits(StoredImageSets):
    """k-means on circuits of single images, from what a store has of the layer's input."""

    number: int = NUMBER
    references: int = REFERENCES

    name = words = split_words = "circuits"
    summary = "circuits (clusters of what the inputs contribute in single images, from the store alone)"
    flags = (number_flag(str(NUMBER)), references_flag(str(REFERENCES)))
    word, usual_references = "circuit", REFERENCES
    map_words = "training images of largest spatial sum, by their circuits"

    @classmethod
    def from_given(cls, given, study):
        return cls(given.get("number") or NUMBER, cls.references_from(given, study))

    @classmethod
    def of_layer(cls, store):
        return cls()

    @classmethod
    def defaults(cls):
        return {"number": NUMBER, "references": REFERENCES}

    def features(self, weight, tap_sums):
        return circuit_features(weight, tap_sums)

    def clusters(self, features):
        return clustering.k_means(features, self.number)
