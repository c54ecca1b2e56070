"""Stage 4: what the new channel of each concept without labels stands out in, beside units of permuted weights.

Validation images are assigned to such a concept by the channel itself, so they cannot judge it. Labels that had no part
in it can: the new channel should rank the validation images of the classes that are frequent among the concept's
*training* images above all others. Units of permuted weights do so, too, with reference images and clusters of their
own; a concept is compared with the sets that have its rank by size. A name is searched for beside the same units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.concept_sources.compared_channels import permuted_weights
from utils.concept_sources.concept_source import UnitClusters
from utils.concept_sources.image_sets import SHOWN_FOLDERS, check_arvs, frequent_classes, image_sets_of, require_images
from utils.concept_sources.source_registry import SOURCES
from utils.defaults import IMAGE_SET_DRAWS as DRAWS
from utils.divisions.division import Rule
from utils.errors import UserError
from utils.method.disentangling import Concept
from utils.method.ranking import above_prevalence, rank_images
from utils.processes import progress
from utils.stages.concept_names import CandidateNames, NameSearch, SearchedNames, search_names, searched_names
from utils.stages.separation import ValidationInputs, measured_digest
from utils.store.derived_arrays import DerivedArrays
from utils.store.files import Layout, json_digest
from utils.store.importance_store import ImportanceStore
from utils.store.opened_splits import OpenedSplit
from utils.store.study import Study
from utils.store.tap_sums import ConceptTapSums

VERSION = 2  # another one where scores that are kept would differ from those of this program
NO_CLASS = -1
MOST_SPLITS = 16  # whose units' reference images are looked for in one pass


@dataclass(frozen=True)
class ImageSetScores:
    """How well the concepts of a split without labels stand out in classes, and sets of permuted weights likewise.

    ``classes`` [K] are lists of outputs: those that are frequent among the training images of each concept, the most
    frequent first; an empty list where there are none. ``values`` [K] are the average precisions, normalised by
    prevalence, with which the new channels rank the validation images of these classes; NaN without any. ``nulls``
    [DRAWS, K] are those of units of permuted weights, each for the classes of its own set; NaN likewise, and where a
    unit does not have K sets. ``names`` are those that were found by a search of their own; None if there was none.
    """

    classes: list[list[int]]
    values: Tensor
    nulls: Tensor
    names: SearchedNames | None = None

    def p_values(self) -> Tensor:
        """The p value of each concept alone: ``(1 + number of units that reach it) / (1 + DRAWS)``, Tensor [K].

        A unit reaches a concept with a value at least as high, of its set with the same rank by size; one whose set
        stands out in no class, or that has no such set, reaches none. 1 for a concept that stands out in no class, NaN
        for one whose classes have no validation image.
        """
        lowest = torch.tensor(-torch.inf, dtype=self.values.dtype)
        has_classes = torch.tensor([bool(of_concept) for of_concept in self.classes])
        values = torch.where(has_classes, self.values, lowest)
        nulls = torch.where(self.nulls.isnan(), lowest, self.nulls)
        p = (1 + (nulls >= values).sum(0)) / (1 + len(nulls))
        return torch.where(values.isnan(), torch.nan, p.double())


class ImageSetNulls:
    """The ImageSetScores of splits without labels. They are kept beside the splits, and measured where they are not.

    Parameters
    ----------
    opened
        Splits of one network and layer.
    study
        Has the training images that the splits were made from.
    store
        A complete store of validation images.
    candidates
        Names that their concepts may get.
    measured
        Whether scores that are not kept are measured; without it there are none.
    """

    def __init__(
        self,
        opened: Sequence[OpenedSplit],
        study: Study,
        store: ImportanceStore,
        *,
        candidates: CandidateNames,
        measured: bool = True,
    ) -> None:
        self._study = study
        self._measured = measured
        self._store = store
        self._candidates = candidates
        self._study_of = cache(lambda only_correct: replace(study, only_correct=only_correct))
        self._found = lru_cache(1)(self._find)
        together: dict[str, list[OpenedSplit]] = {}
        for split in opened:
            if _is_comparable(split) and self._file(split).read() is None:
                together.setdefault(json_digest([_settings(split), _only_correct(split)]), []).append(split)
        blocks = [
            tuple(splits[start : start + MOST_SPLITS])
            for splits in together.values()
            for start in range(0, len(splits), MOST_SPLITS)
        ]
        self._block_of = {split.path: block for block in map(_Block, blocks) for split in block.splits}

    def of(self, split: OpenedSplit) -> ImageSetScores | None:
        """The scores of one of the splits; None if labels name its concepts, its source finds none of other units, or
        they are not kept and not to be measured.

        UserError if the split was made from other training images.
        """
        if not _is_comparable(split):
            return None
        file = self._file(split)
        arrays = file.read()
        if arrays is None and not self._measured:
            return None
        if arrays is None:
            block = self._block_of.get(split.path) or _Block((split,))  # alone: its file has gone since
            arrays = self._measure(split, self._found(block), block.splits.index(split))
            if file.is_writable():
                file.write(arrays)
        values = torch.from_numpy(arrays["values"])
        classes = [[output for output in row if output != NO_CLASS] for row in arrays["classes"][0].tolist()]
        names = searched_names(self._candidates, arrays["names"], arrays["name_values"])
        return ImageSetScores(classes, values[0], values[1:], names)

    def _file(self, split: OpenedSplit) -> DerivedArrays:
        number = len(split.file.split.own_concepts)
        made_from = {
            "version": VERSION,
            "split_sha256": split.file.sha256,
            "rho": split.rho,
            "draws": DRAWS,
            "training_sha256": json_digest(self._study.meta),
            "validation_sha256": self._validation_sha256,
            "names_sha256": self._candidates.digest(),
        }
        layout: Layout = {
            "values": (np.float64, (1 + DRAWS, number)),
            "classes": (np.int64, (1 + DRAWS, number, SHOWN_FOLDERS)),
            "names": (np.int64, (number, 2)),
            "name_values": (np.float64, (1 + DRAWS, number)),
        }
        return DerivedArrays(self._study.model_dir, f"{split.path.stem}_permuted_weights", made_from, layout)

    @cached_property
    def _validation_sha256(self) -> str:
        return measured_digest(self._store)

    @cached_property
    def _validation(self) -> ValidationInputs:
        return ValidationInputs(self._store, [])

    @cached_property
    def _name_search(self) -> NameSearch:
        return NameSearch(self._candidates, self._study, self._validation)

    def _find(self, block: _Block) -> UnitClusters:
        """Finds clusters of the units of a block of splits, with the axes [split, draw]."""
        first = block.splits[0]
        weights = [permuted_weights(split.file.split.weight, split.file.split.channel, DRAWS) for split in block.splits]
        source = SOURCES.get(first.file.source["name"])
        study = self._study_of(_only_correct(first))
        return source.clusters_of_units(first.file.source["state"], study, torch.stack(weights)[:, 1:])

    def _measure(self, opened: OpenedSplit, found: UnitClusters, index: int) -> dict[str, np.ndarray]:
        """The arrays of a split's file; it is split ``index`` of its block."""
        split = opened.file.split
        sets = image_sets_of(opened)
        require_images(opened, self._study, sets)
        check_arvs(opened, self._study, sets)
        values = np.full((1 + DRAWS, len(sets)), np.nan)
        classes = np.full((1 + DRAWS, len(sets), SHOWN_FOLDERS), NO_CLASS)
        units = {0: split.rows(opened.rho)[: len(sets)]}
        values[0], classes[0] = self._scores(units[0], sets)
        permuted = permuted_weights(split.weight, split.channel, DRAWS)[1:]
        bar = progress(
            range(DRAWS), f"permuted weights of channel {split.channel}", unit=" units", delay=2, leave=False
        )
        for draw in bar:
            with suppress(UserError):
                clusters = found.of_number(index, draw, len(sets)).sets()
                units[1 + draw] = self.rows_of_unit(opened, permuted[draw], clusters)
                values[1 + draw], classes[1 + draw] = self._scores(units[1 + draw], clusters)
        names, name_values = search_names(self._name_search, units, 1 + DRAWS)
        return {"values": values, "classes": classes, "names": names, "name_values": name_values}

    def rows_of_unit(self, opened: OpenedSplit, weight: Tensor, sets: list[Tensor]) -> Tensor:
        """``c'_1 .. c'_K`` [K, C_in, taps] of a unit [C_in, taps] with K image sets, divided as a split is."""
        division = opened.file.split.division
        return rows_of_sets(
            self._study_of(_only_correct(opened)),
            weight,
            sets,
            background=opened.file.background,
            rule_of=lambda inputs: division.rule(division.settings(), inputs, opened.rho),
        )

    def _scores(self, rows: Tensor, sets: list[Tensor]) -> tuple[np.ndarray, np.ndarray]:
        """The value [K] of each of the new channels [K, C_in, taps], and the classes [K, SHOWN_FOLDERS] of its set."""
        labels = self._study.labels
        values = np.full(len(sets), np.nan)
        classes = np.full((len(sets), SHOWN_FOLDERS), NO_CLASS)
        for k, (scores, images) in enumerate(zip(self._validation.scores(rows), sets, strict=True)):
            outputs = frequent_classes(labels.targets[torch.searchsorted(labels.indices, images)])
            classes[k, : len(outputs)] = outputs
            is_own = torch.isin(self._validation.targets, torch.tensor(outputs, dtype=torch.long))
            precision = rank_images(scores[None], is_own).ap
            values[k] = above_prevalence(precision, is_own.double().mean()).item()
        return values, classes


def rows_of_sets(
    study: Study,
    weight: Tensor,
    sets: list[Tensor],
    *,
    background: float | None,
    rule_of: Callable[[ConceptTapSums], Rule],
) -> Tensor:
    """``c'_1 .. c'_K`` [K, C_in, taps] of a unit [C_in, taps] whose concepts are K sets of training images.

    ``background`` is the weight of everything else, or None; ``rule_of`` returns the Rule that divides the inputs.
    """
    concepts = [Concept("", [], images.tolist(), "images") for images in sets]
    means = [study.tap_sums.of_images(images).double().mean(0) for images in sets]
    means += [study.mean_input] if background is not None else []
    inputs = study.tap_sums.of_concepts(concepts, background, torch.stack(means))
    return rule_of(inputs).rows(weight[None].double())[: len(sets), 0]


@dataclass(frozen=True, eq=False)
class _Block:
    """Splits by one source with equal settings: the reference images of their units are looked for in one pass."""

    splits: tuple[OpenedSplit, ...]


def _is_comparable(split: OpenedSplit) -> bool:
    return SOURCES.get(split.file.source["name"]).finds_from_store


def _only_correct(split: OpenedSplit) -> bool:
    return bool(split.file.settings["only_correct"])


def _settings(split: OpenedSplit) -> dict[str, Any]:
    """The source of a split, and its settings, as plain values."""
    source = split.file.source
    return {
        "name": source["name"],
        **{flag.name: source["state"][flag.name] for flag in SOURCES.get(source["name"]).flags},
    }
