"""Concepts that are classes: labels say which images are theirs. A concept's ARV is the mean of its classes' ARVs."""

from utils.concept_sources.concept_source import CandidateMaker, ConceptSource
from utils.errors import UserError
from utils.plugins import later

torch = later("torch")
cases = later("utils.concept_sources.cases")
circuits = later("utils.method.contributions")
disentangling = later("utils.method.disentangling")
image_sets = later("utils.concept_sources.image_sets")
polysemanticity = later("utils.method.polysemanticity")

MOST_ON_MAP = 300  # images, equally many of each concept


class Classes(ConceptSource):
    """The classes that flags, a candidates file or stage 2 name."""

    name = words = split_words = "classes"
    summary = "classes (default)"
    labelled = True
    map_words = "training images of its concepts, by their circuits"
    map_note = "of each concept the images in which the channel's spatial sum is largest"

    @classmethod
    def from_given(cls, given, study):
        return cls()

    def maker(self, study, channels):
        return ClassCandidates(study)

    @classmethod
    def map_images(cls, opened, study):
        return lambda one: _map_images(one, study)

    @classmethod
    def finder(cls, comparison):
        return ClassFinder(comparison)


class ClassCandidates(CandidateMaker):
    """Makes Candidates of a layer from stage 2's class means."""

    def make(self, channel, concepts):
        """The Candidate of a channel and its concepts (lists of outputs); UserError where a class has no image."""
        classes = self.study.classes
        if len(concepts) < 2 and self.background is None:
            raise UserError("one concept alone cannot be told from anything: name another one, or add --background")
        for output in (output for concept in concepts for output in concept):
            if self.images[output] == 0:
                which = "correctly classified image" if self.study.only_correct else "readable image"
                raise UserError(f"class {output} ({classes.name(output)}) has no {which} in train/")
        weight, arvs_of = self.weight[channel], polysemanticity.averaged_relevance_vectors
        arvs = torch.stack([arvs_of(weight, self.mean_inputs[concept]).mean(0) for concept in concepts])
        named = [disentangling.Concept(classes.concept_name(concept), concept) for concept in concepts]
        return self.candidate(channel, named, arvs, concepts, {"name": Classes.name, "state": {}})

    def closeness(self, candidate):
        """The mean cosine between the ARVs of the classes of the two closest concepts; -1 with one concept alone."""
        concepts, cosines = [concept.classes for concept in candidate.own_concepts], []
        for k, concept in enumerate(concepts):
            for later_concept in concepts[k + 1 :]:
                inputs = self.mean_inputs[concept + later_concept]
                arvs = polysemanticity.averaged_relevance_vectors(candidate.weight, inputs)
                between = polysemanticity.cosine_similarities(arvs)[: len(concept), len(concept) :]
                cosines.append(float(between.mean()))
        return max(cosines, default=-1.0)


class ClassFinder:
    """The labelled concepts themselves; ARVs are means of class means, as in stage 3."""

    def __init__(self, comparison):
        self._mean_inputs, self._tap_sums = comparison.mean_inputs, comparison.study.tap_sums

    def sets(self, case, unit=0, number=None):
        """The Sets of a case, whatever the unit."""
        means = torch.stack([self._mean_inputs[concept].mean(0) for concept in case.classes])
        return cases.Sets(case.concepts, means, self._tap_sums)


def _map_images(opened, study):
    """Of each concept the images of largest spatial sum, as MapImages."""
    split, labels = opened.file.split, study.labels
    concepts, sets = split.own_concepts, []
    usable = labels.counting(opened.file.settings["only_correct"])
    for concept in concepts:
        images = labels.indices[usable & torch.isin(labels.targets, torch.tensor(concept.classes))]
        sums = circuits.circuits(split.weight, study.tap_sums.of_images(images)).sum(1)
        largest = sums.argsort(descending=True, stable=True)[: MOST_ON_MAP // len(concepts)]
        sets.append(images[largest].sort().values)
    return image_sets.map_images(opened, study, sets, sets, image_sets.circuit_features)
