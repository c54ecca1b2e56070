"""Concepts that are classes: labels determine their images. A concept's ARV is the mean of its classes' ARVs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from utils.concept_sources.concept_source import CandidateMaker, ConceptFinder, ConceptSource
from utils.errors import UserError
from utils.plugins import later

if TYPE_CHECKING:
    from torch import Tensor

    from utils.concept_sources.compared_channels import ComparedChannel, Comparison, ConceptSets
    from utils.concept_sources.image_sets import MapImages
    from utils.method.disentangling import Candidate
    from utils.store.opened_splits import OpenedSplit
    from utils.store.study import Study

torch = later("torch")
circuits = later("utils.method.contributions")
compared_channels = later("utils.concept_sources.compared_channels")
disentangling = later("utils.method.disentangling")
image_sets = later("utils.concept_sources.image_sets")
ordering = later("utils.method.order")
polysemanticity = later("utils.method.polysemanticity")

MOST_ON_MAP = 300  # images in all, the same number for each concept


class Classes(ConceptSource):
    """The classes that flags, a candidates file or stage 2 name."""

    name = "classes"
    words = "classes"
    split_words = "classes"
    summary = "classes (--classes_for_concept1 ... or --candidates)"
    labelled = True
    map_words = "training images of its concepts, by their circuits"
    map_note = "of each concept the images in which the channel's spatial sum is largest"

    @classmethod
    def from_given(cls, given: dict[str, Any], study: Study) -> Classes:
        return cls()

    def maker(self, study: Study, channels: Sequence[int]) -> ClassCandidates:
        return ClassCandidates(study)

    @classmethod
    def map_images(cls, opened: list[OpenedSplit], study: Study) -> Callable[[OpenedSplit], MapImages]:
        return lambda split: _map_images(split, study)

    @classmethod
    def finder(cls, comparison: Comparison) -> ClassFinder:
        return ClassFinder(comparison)


class ClassCandidates(CandidateMaker):
    """Makes Candidates of a layer from stage 2's class means."""

    def make(self, channel: int, concepts: list[list[int]]) -> Candidate:
        """The Candidate of a channel and its concepts (lists of classes); UserError if a class has no image."""
        classes = self.study.classes
        if len(concepts) < 2 and self.background is None:
            raise UserError("a single concept has nothing to be separated from: name another one, or add --background")
        for output in (output for concept in concepts for output in concept):
            if self.images[output] == 0:
                which = "correctly classified image" if self.study.only_correct else "readable image"
                raise UserError(f"class {output} ({classes.name(output)}) has no {which} in train/")
        named = [disentangling.Concept(classes.concept_name(concept), concept) for concept in concepts]
        arvs = torch.stack([self._arvs(channel, concept).mean(0) for concept in concepts])
        return self.candidate(channel, named, arvs, named_by=concepts, source={"name": Classes.name, "state": {}})

    def _arvs(self, channel: int, classes: list[int]) -> Tensor:
        """The ARVs of classes: [T, C_in]."""
        return polysemanticity.averaged_relevance_vectors(self.weight[channel], self.mean_inputs[classes])

    def closeness(self, candidate: Candidate) -> float:
        """The mean cosine between the ARVs of the classes of the two closest concepts; -1 with a single concept."""
        cosines = []
        for first, second in combinations([concept.classes for concept in candidate.own_concepts], 2):
            between = polysemanticity.cosine_similarities(self._arvs(candidate.channel, first + second))
            cosines.append(float(between[: len(first), len(first) :].mean()))
        return max(cosines, default=-1.0)


class ClassFinder(ConceptFinder):
    """The labelled concepts themselves; ARVs are means of class means, as in stage 3."""

    def __init__(self, comparison: Comparison) -> None:
        self._mean_inputs = comparison.mean_inputs
        self._tap_sums = comparison.study.tap_sums

    def sets(self, channel: ComparedChannel, draw: int = 0, number: int | None = None) -> ConceptSets:
        """The labelled concepts, the same at every draw."""
        means = torch.stack([self._mean_inputs[concept].mean(0) for concept in channel.classes])
        return compared_channels.ConceptSets(channel.concepts, means, self._tap_sums)


def _map_images(opened: OpenedSplit, study: Study) -> MapImages:
    """The images of each concept with the largest spatial sums."""
    split = opened.file.split
    labels = study.labels
    usable = labels.counting(opened.file.settings["only_correct"])
    sets = []
    for concept in split.own_concepts:
        images = labels.indices[usable & torch.isin(labels.targets, torch.tensor(concept.classes))]
        sums = circuits.circuits(split.weight, study.tap_sums.of_images(images)).sum(1)
        largest = ordering.largest_first(sums, MOST_ON_MAP // len(split.own_concepts))
        sets.append(images[largest].sort().values)
    return image_sets.map_images(opened, study, sets, features=image_sets.circuit_features)
