"""Concepts that are a user's own images: text files list them, and classes may stand beside them.

Every concept is a set of training images: those of a list, or those of classes that no list has. The ARV of a list is
the mean over its images, from the tap sums in the store; that of classes is the mean of the classes' means, as it is
without lists. Listed images count as they are, whether they are correctly classified or not. Validation images are
listed, too, and stay in the split file: a concept without such a list is not evaluated.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

from utils.concept_sources.concept_source import CandidateMaker, ConceptFinder, ConceptSource
from utils.defaults import BACKGROUND_NAME, MAX_CONCEPTS
from utils.errors import UserError
from utils.plugins import Flag, later

if TYPE_CHECKING:
    from torch import Tensor

    from utils.concept_sources.compared_channels import Comparison
    from utils.concept_sources.image_sets import MapImages
    from utils.method.disentangling import Candidate, Concept
    from utils.store.image_lists import ListedImages
    from utils.store.importance_store import ImportanceStore, Labels
    from utils.store.opened_splits import OpenedSplit
    from utils.store.study import Study

np = later("numpy")
torch = later("torch")
circuits = later("utils.method.contributions")
disentangling = later("utils.method.disentangling")
files = later("utils.store.files")
image_lists = later("utils.store.image_lists")
image_sets = later("utils.concept_sources.image_sets")
importance_store = later("utils.store.importance_store")
ordering = later("utils.method.order")
polysemanticity = later("utils.method.polysemanticity")

TRAINING, VALIDATION = "images_for_concept", "validation_images_for_concept"
LEAST_IMAGES = {TRAINING: 5, VALIDATION: 1}  # the mean of fewer is mostly what is peculiar to each of them
MOST_ON_MAP = 300  # images in all, the same number for each concept
LONGEST_STEMS = 60
BLOCK = 4096  # images whose tap sums are in memory at once

_HELP = {
    TRAINING: "text file with your own training images of each concept, in place of its classes",
    VALIDATION: "text file with the validation images of each concept, for stage 4",
}
_DETAILS = {
    TRAINING: "It has one path below train/ per line; lines that begin with # are comments. The images are left out of "
    "concepts that are classes. They count whether they are correctly classified or not.",
    VALIDATION: "It has one path below val/ per line, and is stored in the split file. Stage 4 does not evaluate a "
    "concept without validation images.",
}


def _flag(start: str, number: int) -> Flag:
    name = f"{start}{number}"
    if number > 1:
        return Flag(name, argparse.SUPPRESS, name, metavar="FILE")
    return Flag(name, _HELP[start], name, metavar="FILE", details=_DETAILS[start], last=MAX_CONCEPTS)


@dataclass(frozen=True)
class UserImages(ConceptSource):
    """Lists of images, ``training`` and ``validation``, by the number of their concept (from 1)."""

    training: dict[int, ListedImages] = field(default_factory=dict)
    validation: dict[int, ListedImages] = field(default_factory=dict)

    name = "user_images"
    words = split_words = "user images"
    summary = "user_images (your own lists of images; --images_for_concept1 implies it)"
    flags = tuple(_flag(start, number) for start in (TRAINING, VALIDATION) for number in range(1, MAX_CONCEPTS + 1))
    concept_flag = TRAINING
    compared = False
    map_words = "training images of its concepts, by their circuits"
    map_note = "of each concept the images in which the channel's spatial sum is largest"

    @classmethod
    def from_given(cls, given: dict[str, Any], study: Study) -> UserImages:
        """Reads the lists; UserError if one cannot be used, or if an image is in two of them."""
        training, validation = (_read_lists(given, start, least) for start, least in LEAST_IMAGES.items())
        for number, listed in validation.items():
            if number not in training:
                raise UserError(f"{listed.flag} is for a concept that is a list: give --{TRAINING}{number}")
            _require_validation_images(listed, study)
        return cls(training, validation)

    def maker(self, study: Study, channels: Sequence[int]) -> UserImageCandidates:
        return UserImageCandidates(study, self)

    def manifest_stem(
        self, candidates: str | None, channels: Sequence[int], concepts: Sequence[list[int]] = ()
    ) -> str | None:
        """As in ConceptSource; several channels have a manifest even without a candidates file."""
        if candidates is None and len(channels) > 1:
            words = ["channels", "-".join(map(str, channels)), self.file_name(list(concepts))]
            return files.manifest_stem(self.name, words)
        return super().manifest_stem(candidates, channels, concepts)

    def file_name(self, concepts: list[list[int]]) -> str:
        """The name of these concepts in names of files; ``concepts`` are the classes of those that are classes."""
        stems = "_".join(listed.stem for listed in self.training.values())
        return files.image_sets_name(f"{self.name}_{stems[:LONGEST_STEMS]}", self.digests(), concepts)

    def digests(self) -> list[list[Any]]:
        """Digests of all lists, each with the number of its concept."""
        lists = (self.training, self.validation)
        return [[number, listed.digest()] for of_kind in lists for number, listed in of_kind.items()]

    def state(self) -> dict[str, Any]:
        """The lists as plain values, and the paths of the validation images, as bytes that ``\\0`` separates."""
        state: dict[str, Any] = {flag.name: None for flag in self.flags}
        for start, lists in ((TRAINING, self.training), (VALIDATION, self.validation)):
            state |= {f"{start}{number}": listed.file for number, listed in lists.items()}
        state = {name: value for name, value in state.items() if value is not None}
        state["lists_sha256"] = files.json_digest(self.digests())
        for number, listed in self.validation.items():
            joined = np.frombuffer(b"\0".join(listed.paths.tolist()), np.uint8)
            state[f"validation_paths{number}"] = torch.from_numpy(joined.copy())
        return state

    # ------------------------------------------------------------------------------------------------------- stage 4

    @classmethod
    def assigned(cls, opened: list[OpenedSplit], store: ImportanceStore, study: Study) -> dict[Any, Tensor]:
        """The listed validation images; of classes those that are not listed; none where there is no list."""
        labels = store.read_labels()
        assigned: dict[Any, Tensor] = {}
        for split in opened:
            nothing = labels.indices[:0]
            lists = _validation_lists(split.file.source["state"])
            of_list = {number: listed.indices_in(store, labels) for number, listed in lists.items()}
            listed = torch.cat([*of_list.values(), nothing])
            for concept, (key,) in zip(split.file.split.own_concepts, split.groups, strict=True):
                of_classes = _images_of_classes(labels, concept.classes, listed)
                assigned[key] = of_classes if concept.classes else of_list.get(key[1], nothing)
        return assigned

    @classmethod
    def not_evaluated(cls, concepts: list[Concept], state: dict[str, Any]) -> list[str]:
        lists = _validation_lists(state)
        numbered = enumerate(concepts, start=1)
        return [concept.name for number, concept in numbered if not concept.classes and number not in lists]

    @classmethod
    def map_images(cls, opened: list[OpenedSplit], study: Study) -> Callable[[OpenedSplit], MapImages]:
        maker = UserImageCandidates(study, cls())
        return lambda split: _map_images(split, study, maker)

    @classmethod
    def assignment(cls, state: dict[str, Any]) -> str:
        return "the validation images that were listed, and of classes those that were not"

    @classmethod
    def finder(cls, comparison: Comparison) -> ConceptFinder:
        """UserError: a comparison is of labelled concepts, which a user's lists have no part in."""
        raise UserError(f"concepts from {cls.words} are not part of a comparison")


class UserImageCandidates(CandidateMaker):
    """Makes Candidates whose concepts are lists of training images, or the images of classes that are in no list.

    UserError if the store lacks a listed image, or if two concepts have one name.
    """

    def __init__(self, study: Study, source: UserImages) -> None:
        super().__init__(study)
        self.source = source
        self._listed = {
            number: listed.indices_in(study.training, study.labels) for number, listed in source.training.items()
        }
        self._means: dict[tuple[tuple[int, ...], tuple[int, ...]], Tensor] = {}

    def make(self, channel: int, concepts: list[list[int]]) -> Candidate:
        """The Candidate of a channel; ``concepts`` have the classes of each concept, none where it is a list."""
        number = max(len(concepts), *self.source.training, 1)
        named = [self._concept(k, concepts[k - 1] if k <= len(concepts) else []) for k in range(1, number + 1)]
        if len(named) < 2 and self.background is None:
            raise UserError("a single concept has nothing to be separated from: name another one, or add --background")
        for first, second in combinations(named, 2):
            if first.name == second.name:
                raise UserError(f"two concepts are called {first.name!r}: rename a list, whose name is the concept's")
        if BACKGROUND_NAME in [concept.name for concept in named]:
            raise UserError(f"a list is called {BACKGROUND_NAME!r}, which is the name of the background: rename it")
        arvs = polysemanticity.averaged_relevance_vectors(self.weight[channel], self.mean_inputs_of(named))
        named_by = self.source.file_name([concept.classes for concept in named])
        source = {"name": self.source.name, "state": self.source.state()}
        return self.candidate(channel, named, arvs, named_by=named_by, source=source)

    def _concept(self, number: int, classes: list[int]) -> Concept:
        flags = f"--{TRAINING}{number} or --classes_for_concept{number}"
        if (number in self._listed) == bool(classes):
            raise UserError(f"{flags}: give {'only one of them' if classes else 'one of them'}")
        if not classes:
            name = self.source.training[number].name
            return disentangling.Concept(name, [], self._listed[number].tolist(), "images")
        study = self.study
        usable = study.labels.some(study.usable)
        listed = torch.cat([*self._listed.values(), study.usable[:0]])
        for output in classes:
            if not len(_images_of_classes(usable, [output], listed)):
                raise UserError(f"class {output} ({study.classes.name(output)}) has no image outside the lists")
        images = _images_of_classes(usable, classes, listed)
        return disentangling.Concept(study.classes.concept_name(classes), classes, images.tolist(), "images")

    def means_of(self, opened: OpenedSplit) -> Tensor:
        image_sets.require_images(opened, self.study, image_sets.image_sets_of(opened))
        return super().means_of(opened)

    def mean_inputs_of(self, concepts: list[Concept]) -> Tensor:
        return torch.stack([self._mean_input_of(concept) for concept in concepts])

    def _mean_input_of(self, concept: Concept) -> Tensor:
        """The mean over the images of a list, or of the means of classes: [C_in, taps], float64."""
        key = tuple(concept.classes), tuple(concept.images or ())
        if key not in self._means:
            images = torch.tensor(concept.images)
            sets = [images]
            if concept.classes:
                targets = self.study.labels.some(images).targets
                sets = [images[targets == output] for output in concept.classes]
            self._means[key] = torch.stack([self._mean_of(of_set) for of_set in sets]).mean(0)
        return self._means[key]

    def _mean_of(self, images: Tensor) -> Tensor:
        blocks = [self.study.tap_sums.of_images(block).double().sum(0) for block in images.split(BLOCK)]
        return torch.stack(blocks).sum(0) / len(images)

    def closeness(self, candidate: Candidate) -> float:
        """The highest cosine between the ARVs of two concepts; -1 with a single concept."""
        cosines = polysemanticity.cosine_similarities(candidate.arvs[: len(candidate.own_concepts)])
        above = cosines[torch.triu(torch.ones_like(cosines), 1).bool()]
        return float(above.max()) if len(above) else -1.0


# --------------------------------------------------------------------------------------------------------------------
# Lists


def _read_lists(given: dict[str, Any], start: str, least: int) -> dict[int, ListedImages]:
    """The lists of one kind that were given, by the number of their concept.

    UserError if an image is in two of them, or if one has fewer than ``least`` images.
    """
    lists = {}
    for number in range(1, MAX_CONCEPTS + 1):
        flag = f"{start}{number}"
        if given.get(flag) is not None:
            lists[number] = image_lists.read_image_list(given[flag], f"--{flag}", least)
    _require_disjoint(lists)
    return lists


def _require_disjoint(lists: dict[int, ListedImages]) -> None:
    for first, second in combinations(lists.values(), 2):
        both = np.intersect1d(first.paths, second.paths)
        if len(both):
            raise UserError(first.lacking(both, f"that {second.flag} {second.file} lists, too"))


def _require_validation_images(listed: ListedImages, study: Study) -> None:
    """UserError if an image is not in the val store, or, where there is none, not below ``val/``."""
    store = importance_store.ImportanceStore(study.store_dir, study.run, "val")
    if not store.meta_path.is_file():
        listed.require_file_in(study.data_dir / "val")
        return
    store.load_meta()
    images = store.read_images(study.data_dir / "val")
    missing = listed.missing_from(images)
    if len(missing):
        raise UserError(listed.lacking(missing, f"that {store.folder} does not have", images))


def _validation_lists(state: dict[str, Any]) -> dict[int, ListedImages]:
    """The validation lists of a split, by the number of their concept."""
    lists = {}
    for number in range(1, MAX_CONCEPTS + 1):
        joined = state.get(f"validation_paths{number}")
        if joined is not None:
            flag = f"--{VALIDATION}{number}"
            paths = np.array(joined.numpy().tobytes().split(b"\0"))
            lists[number] = image_lists.ListedImages(state[f"{VALIDATION}{number}"], flag, paths)
    return lists


def _images_of_classes(labels: Labels, classes: list[int], listed: Tensor) -> Tensor:
    """Indices of the images of classes that are not ``listed``, ascending."""
    are_of_classes = torch.isin(labels.targets, torch.tensor(classes, dtype=torch.long))
    return labels.indices[are_of_classes & ~torch.isin(labels.indices, listed)]


def _map_images(opened: OpenedSplit, study: Study, maker: UserImageCandidates) -> MapImages:
    """The images of each concept with the largest spatial sums."""
    split = opened.file.split
    maker.means_of(opened)  # raises an error if the split is of other images
    sets = []
    for concept in split.own_concepts:
        images = torch.tensor(concept.images)
        sums = circuits.circuits(split.weight, study.tap_sums.of_images(images)).sum(1)
        largest = ordering.largest_first(sums, MOST_ON_MAP // len(split.own_concepts))
        sets.append(images[largest].sort().values)
    return image_sets.map_images(opened, study, sets, features=image_sets.circuit_features)
