"""A fourth source of concepts, for the tests: all of it is in this file, as ``utils.concept_sources`` asks for.

A channel's reference images are divided by how strong it is in them: the stronger half, and the others.
"""

from dataclasses import dataclass

from utils.concept_sources.image_sets import number_flag, references_flag
from utils.concept_sources.stored_image_sets import StoredImageSets
from utils.plugins import later

torch = later("torch")
circuits = later("utils.method.contributions")

NUMBER, REFERENCES = 2, 10


@dataclass
class Halves(StoredImageSets):
    number: int = NUMBER
    references: int = REFERENCES

    name = "halves"
    words = split_words = "strong and weak images"
    summary = "halves (strong and weak images)"
    flags = (number_flag(str(NUMBER)), references_flag(str(REFERENCES)))
    word, usual_references = "half", REFERENCES
    map_words = "training images of largest spatial sum, by that sum"

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
        return circuits.circuits(weight, tap_sums).sum(1, keepdim=True)

    def clusters(self, features):
        ranks = features[:, 0].argsort(descending=True).argsort()
        labels = ranks * self.number // len(features)
        return labels, torch.stack([features[labels == k].double().mean(0) for k in range(self.number)])
