"""Stage 4: names of concepts without labels, chosen on training images and tested on validation images.

Candidates are the classes of the data set and the WordNet synsets above them. The units that are compared are the new
channel of a concept and those of permuted weights with the same rank by size: the k-th largest set of each unit. Sets
of other ranks have other sizes and would not be exchangeable with it.

Under the hypothesis that is tested, the order of the channel's weights is itself a random one. Everything that leads to
the k-th new channel (reference images, clusters, division, choice and score of its name) is then done to the channel
and to each of its permutations alike, so that they are exchangeable: see ``utils.method.naming``. The exceptions are
chosen for the channel itself: a rho, where inputs are divided by a rule that has one, and the number of its sets, where
the clustering determines it and no setting does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from utils.defaults import NAMING_IMAGES
from utils.errors import UserError, printable
from utils.images.folders import ClassMap
from utils.method.naming import (
    LARGEST_PREVALENCE,
    NOTHING,
    choose_names,
    class_precisions,
    judged_values,
    rank_p_values,
)
from utils.processes import progress
from utils.stages.separation import ValidationInputs
from utils.store.files import json_digest
from utils.store.study import Study
from utils.store.synsets import NamedClasses, class_synsets, classes_below
from utils.store.tap_sums import evenly_spread

LEVEL = 0.05  # of the test that a name has to pass
BETWEEN = " or "  # two names that are one
LISTED = 3  # the most classes that are listed after a name which several sets of classes have


@dataclass(frozen=True)
class CandidateNames:
    """Names that concepts may get: ``words`` [M] of sets of classes, ``classes`` BoolTensor [M, T] of these.

    ``outputs`` [T] are the outputs of the classes, ascending; ``without_synsets`` says why they are names of single
    classes alone, or is empty.
    """

    outputs: list[int]
    words: list[str]
    classes: Tensor
    without_synsets: str

    @classmethod
    def of(cls, classes: ClassMap) -> CandidateNames:
        """The names of classes, and, where their folders are WordNet ids, those of the synsets above them."""
        outputs = sorted(classes.outputs.values())
        named = [NamedClasses(classes.name(output), frozenset([output])) for output in outputs]
        reason = ""
        try:
            named += classes_below(class_synsets(classes.outputs, needed_by="names", may_download=False))
        except UserError as error:
            reason = str(error)
        are_in = [[output in name.outputs for output in outputs] for name in named]
        return cls(outputs, _told_apart(named, classes), torch.tensor(are_in), reason)

    def digest(self) -> str:
        """The same for equal words of equal classes."""
        return json_digest([self.outputs, self.words, [row.nonzero()[0].tolist() for row in self.classes.numpy()]])

    def positions(self, targets: Tensor) -> Tensor:
        """The position of each target among the ``outputs``, negative where it is none of them."""
        outputs = torch.tensor(self.outputs)
        positions = torch.searchsorted(outputs, targets).clamp(max=len(outputs) - 1)
        return positions.where(outputs[positions] == targets, NOTHING)

    def text(self, first: int, second: int) -> str:
        """One name, or two that are one: ``swimwear or seashore``; empty for no name."""
        return BETWEEN.join(self.words[index] for index in (first, second) if index != NOTHING)


def _told_apart(named: Sequence[NamedClasses], classes: ClassMap) -> list[str]:
    """The name of each, with what it means where several have one name: ``crane (n02012849)``, ``car (10 classes)``."""
    numbers = Counter(of_classes.name for of_classes in named)
    words = []
    for name, outputs in named:
        meaning = f"{len(outputs)} classes"
        if len(outputs) == 1:
            meaning = ", ".join(map(printable, map(classes.folder, outputs)))
        elif len(outputs) <= LISTED:
            meaning = ", ".join(map(classes.name, sorted(outputs)))
        words.append(f"{name} ({meaning})" if numbers[name] > 1 else name)
    return words


@dataclass(frozen=True)
class SearchedNames:
    """The names that the search has found for K concepts, and for the sets of units of permuted weights.

    ``words`` [K] are those of the concepts, whether they pass or not. ``values`` [1 + DRAWS, K] are the scores on
    validation images, less the mean of the other units: of the concepts, then of the units; NaN where a unit has no
    such set, or where there was no name to choose.
    """

    words: list[str]
    values: Tensor

    def p_values(self) -> Tensor:
        """The p value of each concept, and of each unit in its place: [1 + DRAWS, K]; NaN where values are."""
        p = torch.full_like(self.values, torch.nan)
        for k, of_units in enumerate(self.values.T):
            measured = ~of_units.isnan()
            p[measured, k] = rank_p_values(of_units[measured])
        return p

    def are_named(self) -> Tensor:
        """Whose names pass: BoolTensor [1 + DRAWS, K]."""
        return self.p_values() <= LEVEL

    def names(self) -> list[str | None]:
        """The name of each concept, None where it does not pass."""
        return [word if passes else None for word, passes in zip(self.words, self.are_named()[0], strict=True)]


class NameSearch:
    """Finds the names of units, from training and validation images of all classes, classified correctly or not."""

    def __init__(self, candidates: CandidateNames, study: Study, validation: ValidationInputs) -> None:
        self._candidates = candidates
        self._study = study
        self._validation = validation

    def of_units(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The chosen names, indices LongTensor [U, 2] with ``NOTHING`` for no (second) name, and the values [U].

        ``rows`` [U, C_in, taps] are those of the channels, at least two; values are as in SearchedNames.
        """
        offered = self._offered
        chosen = torch.full((len(rows), 2), NOTHING)
        if not len(offered):
            return chosen, torch.full((len(rows),), torch.nan, dtype=torch.float64)
        inputs, positions = self._training
        names = self._candidates.classes[offered]
        precisions = class_precisions(_sums(rows, inputs), positions, names.shape[1])
        choice = choose_names(precisions, names, _numbers(positions, names.shape[1]))
        chosen[:, 0] = offered[choice.first]
        chosen[:, 1] = offered[choice.second].where(choice.second != NOTHING, NOTHING)
        return chosen, self._judged(rows, choice.classes(names))

    def _judged(self, rows: Tensor, chosen: Tensor) -> Tensor:
        """The values [U] of channels on validation images for names of the classes ``chosen`` [U, T]."""
        needed = chosen.any(0)
        places = (needed.cumsum(0) - 1).where(needed, NOTHING)
        positions = self._candidates.positions(self._validation.targets)
        positions = places[positions].where(positions != NOTHING, NOTHING)
        number = int(needed.sum())
        precisions = class_precisions(self._validation.scores(rows), positions, number)
        values = judged_values(precisions, chosen[:, needed], _numbers(positions, number))
        return values.nan_to_num(nan=-torch.inf)  # no validation image of its classes: it does not pass

    @cached_property
    def _training(self) -> tuple[Tensor, Tensor]:
        """Tap sums [N, C_in * taps] and classes [N] (positions among the outputs) of at most NAMING_IMAGES images."""
        indices = self._study.labels.indices
        images = indices[evenly_spread(len(indices), NAMING_IMAGES)]
        labels = self._study.labels.some(images)
        return self._study.tap_sums.of_images(images).flatten(1), self._candidates.positions(labels.targets)

    @cached_property
    def _offered(self) -> Tensor:
        """The candidates with images, and of a prevalence of at most LARGEST_PREVALENCE: indices [M]."""
        positions = self._training[1]
        classes = self._candidates.classes
        numbers = classes.long() @ _numbers(positions, classes.shape[1])[:-1]
        return ((numbers > 0) & (numbers <= LARGEST_PREVALENCE * len(positions))).nonzero().flatten()


def _numbers(positions: Tensor, num_classes: int) -> Tensor:
    """The number of images of each class, and, last, of all others: LongTensor [T + 1]."""
    return positions.where(positions != NOTHING, num_classes).bincount(minlength=num_classes + 1)


def _sums(rows: Tensor, inputs: Tensor) -> Tensor:
    """Spatial sums of channels [U, C_in, taps] without bias in images, by their tap sums [N, C_in * taps]: [U, N]."""
    return torch.from_numpy(rows.float().flatten(1).numpy() @ inputs.numpy().T)


def searched_names(candidates: CandidateNames, chosen: np.ndarray, values: np.ndarray) -> SearchedNames:
    """The SearchedNames of chosen indices [K, 2] of the concepts, and values [1 + DRAWS, K]."""
    return SearchedNames([candidates.text(*pair) for pair in chosen.tolist()], torch.from_numpy(values))


def search_names(search: NameSearch, units: dict[int, Tensor], number: int) -> tuple[np.ndarray, np.ndarray]:
    """The names of the new channels of a split and of units of permuted weights.

    Parameters
    ----------
    search
    units
        ``c'_1 .. c'_K`` [K, C_in, taps] of each unit that has K sets, by its number; 0 is the split.
    number
        The number of units.

    Returns
    -------
    chosen : array [K, 2]
        The candidates that name each concept of the split.
    values : array [number, K]
        As in SearchedNames.
    """
    num_concepts = len(units[0])
    chosen = np.full((num_concepts, 2), NOTHING)
    values = np.full((number, num_concepts), np.nan)
    if len(units) > 1:
        rows = torch.stack([of_unit.float() for of_unit in units.values()])
        for k in progress(range(num_concepts), "names", unit=" concepts", delay=2, leave=False):
            of_units, judged = search.of_units(rows[:, k])
            chosen[k] = of_units[0].numpy()
            values[list(units), k] = judged.numpy()
    return chosen, values
