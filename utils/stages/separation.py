"""Stage 4: how well the new channels separate their concepts from all other validation images, compared with nulls.

All values follow from the stores: spatial sums are products of rows of weights and tap sums of the layer's input. The
bias is left out, as it moves all images by the same amount.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.concept_sources.concept_source import CandidateMaker
from utils.concept_sources.source_registry import SOURCES
from utils.defaults import SEPARATION_DRAWS as DRAWS
from utils.divisions.division import Rule
from utils.divisions.nulls import NULLS, WEIGHTS, Null
from utils.method.disentangling import Concept, GroupKey
from utils.method.grouping import other_groupings
from utils.method.importance import relevant_classes, relevant_in_images
from utils.method.ranking import Score, above_prevalence, rank_images, stack_scores
from utils.method.significance import SequentialTest, p_value, permutation, q_values, sequential_test
from utils.processes import progress
from utils.stages.input_readouts import InputReadouts
from utils.stages.relevance import class_statistics
from utils.store.files import json_digest
from utils.store.importance_store import ImportanceStore
from utils.store.opened_splits import OpenedSplit
from utils.store.scores import (
    AP_DRAWS,
    AUROC_DRAWS,
    IRRELEVANT,
    NEW,
    ORIGINAL,
    OTHER_GROUPINGS,
    OWN_LOGIT,
    READOUTS,
    ScoredUnit,
    score_columns,
    unit_of,
)
from utils.store.separations import MeasuredRows, judged_together
from utils.store.study import Study
from utils.store.tap_sums import StoredTapSums

MOST_SCORES = 2**24  # in memory at once


class Thresholds(NamedTuple):
    """Thresholds of Ineq. 2, which decide which channels are relevant for a split's classes."""

    tau: float
    p: float


@dataclass(frozen=True)
class NumbersDrawn:
    """How much is drawn for each split.

    Parameters
    ----------
    irrelevant : {division: int or None}
        Number of irrelevant channels for splits of each division, by its name; None: all.
    most_draws : int
        Draws of the primary null for a concept that it does not reach, at least DRAWS.
    """

    irrelevant: Mapping[str, int | None]
    most_draws: int


class ValidationInputs:
    """The values of all N images of a val store: ``input_sums`` [N, C_in * taps] float32, ``targets`` [N].

    ``indices`` [N] are the images' in the store, ``logits`` {class: Tensor [N]} those of ``outputs``. ``sets`` has the
    indices of the images of groups that are no classes.
    """

    def __init__(
        self, store: ImportanceStore, outputs: list[int], sets: Mapping[GroupKey, np.ndarray] | None = None
    ) -> None:
        self._sets = sets or {}
        num_images, num_inputs, num_taps = (store.meta[key] for key in ("num_images", "num_inputs", "num_taps"))
        self.input_sums = torch.empty(num_images, num_inputs * num_taps)
        self.targets = torch.empty(num_images, dtype=torch.long)
        self.indices = torch.empty(num_images, dtype=torch.long)
        logits = torch.empty(len(outputs), num_images)
        count = 0
        for chunk in progress(range(store.num_chunks), "reading validation images", unit=" chunks", delay=1):
            images = store.read_chunk(chunk, ["input_sums", "targets", "logits"])
            read = slice(count, count + len(images["targets"]))
            self.targets[read] = images["targets"]
            self.indices[read] = images["indices"]
            self.input_sums[read] = images["input_sums"].flatten(1)
            logits[:, read] = images["logits"][:, outputs].T
            count = read.stop
        self.targets = self.targets[:count]  # fewer where unreadable ones were left out
        self.indices = self.indices[:count]
        self.input_sums = self.input_sums[:count]
        self.logits = dict(zip(outputs, logits[:, :count], strict=True))

    def images_of(self, concepts: list[list[int]]) -> Tensor:
        """True where an image belongs to a concept (a list of outputs): BoolTensor [K, N]."""
        return torch.stack([torch.isin(self.targets, torch.tensor(concept)) for concept in concepts])

    def images_of_groups(self, groups: list[list[GroupKey]]) -> Tensor:
        """True where an image belongs to a concept (a list of groups of images): BoolTensor [K, N]."""
        return torch.stack([torch.stack([self._is_of(key) for key in keys]).any(0) for keys in groups])

    def _is_of(self, key: GroupKey) -> Tensor:
        if isinstance(key, tuple):
            return torch.isin(self.indices, torch.from_numpy(self._sets[key]))
        return self.targets == key

    def scores(self, rows: Tensor, images: Tensor | slice = slice(None)) -> Tensor:
        """Spatial sums of channels without bias in all or some ``images``, [..., C_in, taps] -> [..., N] float32."""
        inputs = self.input_sums[images].numpy()
        sums = rows.float().reshape(-1, inputs.shape[1]).numpy() @ inputs.T  # 1.4 times as fast as torch's on AMD
        return torch.from_numpy(sums).unflatten(0, rows.shape[:-2])


class IrrelevantChannels(NamedTuple):
    """Channels that are relevant for no class of a split: ``weights`` [B, C_in, taps] of those that are used, and the
    number of all that there are."""

    weights: Tensor
    available: int


class TrainingUnits:
    """The other units of the layer, and how a split's inputs would be divided for them.

    Parameters
    ----------
    study : Study
        Its background and ``only_correct`` do not count: each split has its own.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._tap_sums = cache(self._make_tap_sums)
        self._maker = cache(self._make_maker)
        self._relevant = cache(self._make_relevant)
        self._readouts = cache(lambda only_correct: InputReadouts(self._tap_sums(only_correct)))

    def rule(self, opened: OpenedSplit) -> Rule:
        """The Rule that has divided a split, at its rho, for any units."""
        return self._rule(opened, opened.file.split.own_concepts, self._maker_of(opened).means_of(opened))

    def rule_of_groups(self, opened: OpenedSplit, groups: list[list[int]]) -> Rule:
        """The Rule of a split with other groups of its classes for its own concepts."""
        concepts = [Concept("", group) for group in groups]
        means = self._maker_of(opened).mean_inputs_of(concepts)
        if opened.file.split.has_background:
            means = torch.cat([means, self._study.mean_input[None]])
        return self._rule(opened, concepts, means)

    def readouts(self, opened: OpenedSplit) -> dict[ScoredUnit, Tensor]:
        """The mean difference and the linear probe of each of a split's own concepts, [K, 1, C_in, taps] each."""
        readouts = self._readouts(bool(opened.file.settings["only_correct"]))
        concepts = opened.file.split.own_concepts
        return {unit: torch.stack([readouts.of(unit, concept) for concept in concepts])[:, None] for unit in READOUTS}

    def irrelevant(self, opened: OpenedSplit, thresholds: Thresholds, number: int | None) -> IrrelevantChannels:
        """The channels that are relevant for no class of a split, nor for a list of images.

        ``number`` of them, drawn; all where there are no more, or where it is None. With 0 they are not looked for.
        """
        if number == 0:
            return IrrelevantChannels(self._study.weight_and_bias[0][:0], 0)
        split = opened.file.split
        relevant = self._relevant(thresholds, bool(opened.file.settings["only_correct"]))[opened.outputs].any(0)
        for concept in split.own_concepts:
            if not concept.classes:
                relevant |= relevant_in_share(self._study.training, torch.tensor(concept.images), thresholds)
        relevant[split.channel] = True
        channels = torch.nonzero(~relevant).flatten()
        available = len(channels)
        if number is not None:
            drawn = permutation(available, "irrelevant", split.channel, split.classes)[:number]
            channels = channels[drawn.sort().values]
        return IrrelevantChannels(self._study.weight_and_bias[0][channels], available)

    def _rule(self, opened: OpenedSplit, concepts: list[Concept], means: Tensor) -> Rule:
        division = opened.file.split.division
        tap_sums = self._tap_sums(bool(opened.file.settings["only_correct"]))
        inputs = tap_sums.of_concepts(concepts, opened.file.background, means)
        return division.rule(division.settings(), inputs, opened.rho)

    def _maker_of(self, opened: OpenedSplit) -> CandidateMaker:
        only_correct = bool(opened.file.settings["only_correct"])
        return self._maker(opened.file.source["name"], only_correct, opened.file.background)

    def _make_tap_sums(self, only_correct: bool) -> StoredTapSums:
        return replace(self._study, only_correct=only_correct).tap_sums

    def _make_maker(self, source: str, only_correct: bool, background: float | None) -> CandidateMaker:
        study = replace(self._study, only_correct=only_correct, background=background)
        return SOURCES.get(source).from_given({}, study).maker(study, [])

    def _make_relevant(self, thresholds: Thresholds, only_correct: bool) -> Tensor:
        """Which channels are relevant for which classes, BoolTensor [T, C]."""
        _, images, (counts,) = class_statistics(self._study.training, self._study.class_store, [thresholds.tau])
        return relevant_classes(counts[int(only_correct)], images[int(only_correct), 0], thresholds.p)


def relevant_in_share(store: ImportanceStore, images: Tensor, thresholds: Thresholds) -> Tensor:
    """Ineq. 2 for any training images, by their indices: whether each channel is relevant for them, BoolTensor [C]."""
    counts = torch.zeros(1, store.meta["num_channels"], dtype=torch.long)
    names = ["relative_importances", "positive_sums"]
    for chunk in images.div(store.meta["chunk_size"], rounding_mode="floor").unique().tolist():
        of_chunk = store.read_chunk(chunk, names)
        rows = torch.isin(of_chunk["indices"], images)
        relative, positive_sums = (of_chunk[name][rows] for name in names)
        counts += relevant_in_images(relative, positive_sums, thresholds.tau).sum(0)
    return relevant_classes(counts, torch.tensor([len(images)]), thresholds.p)[0]


def measured_digest(store: ImportanceStore) -> str:
    """SHA-256 of what a val store was made of: its settings, and the contents of all its images."""
    contents = hashlib.sha256(json_digest(store.meta).encode())
    for chunk in range(store.num_chunks):
        contents.update(store.read_chunk(chunk, ["content"])["content"].tobytes())
    return contents.hexdigest()


def describe_separation(
    name: str,
    run: str,
    opened: list[OpenedSplit],
    thresholds: list[Thresholds],
    *,
    validation: ImportanceStore,
    training: ImportanceStore,
    numbers: NumbersDrawn,
) -> dict[str, Any]:
    """All fields of a separation that are known before it is measured; an equal one need not be measured again.

    Parameters
    ----------
    name
        Name of its file.
    run
    opened
    thresholds
        One for each split.
    validation, training
        Stores of validation and of training images.
    numbers
    """
    return {
        "name": name,
        "run": run,
        **{key: validation.meta[key] for key in ("layer", "weights_sha256", "transform", "precision", "decoding")},
        "validation_sha256": measured_digest(validation),
        "training_sha256": json_digest(training.meta),
        "draws": numbers.most_draws,
        "irrelevant": dict(numbers.irrelevant),
        "splits": {
            split.path.stem: [split.file.sha256, split.rho, *of_split]
            for split, of_split in zip(opened, thresholds, strict=True)
        },
    }


def separate(
    opened: list[OpenedSplit],
    thresholds: list[Thresholds],
    validation: ValidationInputs,
    units: TrainingUnits,
    *,
    numbers: NumbersDrawn,
    measured: MeasuredRows,
) -> list[dict[str, Any]]:
    """Measure splits against all validation images: a row for each concept that has images there, as plain values.

    Parameters
    ----------
    opened
    thresholds
        One for each split.
    validation
    units
    numbers
        There are q values for irrelevant channels if all were used for every split.
    measured
        The rows of splits that have been measured already; those of the others are kept there.

    Returns
    -------
    list of dict
        The columns of ``separation.csv`` for a concept, NaN where a value cannot be measured; the means over irrelevant
        channels, the number of those that were used and of all; and the scores of the first DRAWS draws of permuted
        weights, as lists (``utils.store.scores``). All means over draws are over these. Of the primary null there are
        the test (``p_null``, ``null_reached`` of ``null_draws``, ``most_draws``) and ``q_null``.
    """
    missing = [
        (split, of_split)
        for split, of_split in zip(opened, thresholds, strict=True)
        if measured.find(split.path.stem) is None
    ]
    bar = progress(
        missing,
        "separation",
        unit=" splits",
        total=len(opened),
        initial=len(opened) - len(missing),
        images=len(validation.targets),
    )
    for split, of_split in bar:
        irrelevant = units.irrelevant(split, of_split, numbers.irrelevant[split.file.split.division.name])
        rows = _separate_one(split, units, irrelevant, validation, most_draws=numbers.most_draws)
        measured.keep(split.path.stem, rows)
    return _with_q_values([row for split in opened for row in measured.require(split.path.stem)])


def _with_q_values(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of all splits with their q values among these."""
    all_used = all(row["irrelevant"] == row["irrelevant_there"] for row in rows)
    q_irrelevant = q_values([row["p_irrelevant"] if all_used else np.nan for row in rows])
    rows = judged_together(rows)
    return [{**row, "q_irrelevant": float(of_row)} for row, of_row in zip(rows, q_irrelevant, strict=True)]


def _separate_one(
    opened: OpenedSplit,
    units: TrainingUnits,
    irrelevant: IrrelevantChannels,
    validation: ValidationInputs,
    *,
    most_draws: int,
) -> list[dict[str, Any]]:
    """The rows of a split."""
    split = opened.file.split
    rule = units.rule(opened)
    is_own = validation.images_of_groups(opened.groups)
    weight = split.weight.double()
    channels = {NEW: split.rows(opened.rho)[: len(is_own), None], ORIGINAL: weight.expand(len(is_own), 1, -1, -1)}
    scores = {unit_of(null): _no_scores(len(is_own)) for null in NULLS}
    scores[IRRELEVANT] = rank_units(rule.rows, irrelevant.weights.double(), is_own, validation, weight.numel())
    drawn = {unit_of(null): _rows_of_null(opened, rule, null, range(DRAWS)) for null in split.division.nulls}
    scores |= _rank_together({**drawn, **channels, **units.readouts(opened)}, is_own, validation)
    scores[OWN_LOGIT] = _own_logits(split.classes, is_own, validation)
    regrouped = _rank_other_groupings(opened, units, is_own, validation)
    others = {unit: _against_others(rows, is_own, validation) for unit, rows in channels.items()}
    tests = _test_each(opened, rule, scores, is_own, validation, most_draws=most_draws)
    rows = []
    for k, classes in enumerate(split.classes):
        if not classes and not is_own[k].any():  # no validation images were given
            continue
        of_concept = {unit: score.of(k) for unit, score in scores.items()}
        rows.append(
            {
                **_description(opened, k, is_own[k]),
                **score_columns(of_concept),
                OTHER_GROUPINGS.ap: regrouped[k],
                **{unit.auroc_others: areas[k] for unit, areas in others.items()},
                "p_null": tests[k].p,
                "null_reached": tests[k].reached,
                "null_draws": tests[k].draws,
                "most_draws": most_draws,
                "irrelevant": len(irrelevant.weights),
                "irrelevant_there": irrelevant.available,
                "p_irrelevant": p_value(of_concept[NEW].ap.item(), of_concept[IRRELEVANT].ap),
                AUROC_DRAWS: of_concept[unit_of(WEIGHTS)].auroc.tolist(),
                **{column: of_concept[unit_of(null)].ap.tolist() for null, column in AP_DRAWS.items()},
            }
        )
    return rows


def _description(opened: OpenedSplit, k: int, is_own: Tensor) -> dict[str, Any]:
    """The fields that identify a row: the split, the concept (from 0), and its validation images ``is_own`` [N]."""
    split = opened.file.split
    return {
        "split": opened.path.stem,
        "split_by": split.division.name,
        "rho": opened.rho,
        "channel": split.channel,
        "concept": k + 1,
        "classes": split.classes[k],
        "name": split.concepts[k].name,
        "images": int(is_own.sum()),
        "prevalence": is_own.double().mean().item(),
    }


def _rows_of_null(opened: OpenedSplit, rule: Rule, null: Null, draws: range) -> Tensor:
    """``c'_1 .. c'_K`` of some draws of a null, [K, B, C_in, taps]; a draw depends on its number, not on the others."""
    split = opened.file.split
    size = len(split.weight)
    orders = [permutation(size, null.permuted, split.channel, split.classes, draw) for draw in draws]
    rows = null.rows(rule, split.weight.double(), split.shares(opened.rho), torch.stack(orders))
    return rows[: len(split.own_concepts)]


def _test_each(
    opened: OpenedSplit,
    rule: Rule,
    scores: Mapping[ScoredUnit, Score],
    is_own: Tensor,
    validation: ValidationInputs,
    *,
    most_draws: int,
) -> list[SequentialTest]:
    """The test of each concept's average precision against the primary null.

    ``scores`` have the first DRAWS draws. More of them are made, DRAWS at a time, for concepts whose test has not
    stopped.
    """
    null = opened.file.split.division.primary_null
    values = scores[NEW].ap[:, 0]
    draws = list(scores[unit_of(null)].ap)
    tests = [sequential_test(value.item(), of_concept) for value, of_concept in zip(values, draws, strict=True)]
    for first in range(DRAWS, most_draws, DRAWS):
        going_on = [k for k, test in enumerate(tests) if not (test.has_stopped or values[k].isnan())]
        if not going_on:
            break
        rows = _rows_of_null(opened, rule, null, range(first, min(first + DRAWS, most_draws)))[going_on]
        further = _rank_together({unit_of(null): rows}, is_own[going_on], validation)[unit_of(null)]
        for k, precisions in zip(going_on, further.ap, strict=True):
            draws[k] = torch.cat([draws[k], precisions])
            tests[k] = sequential_test(values[k].item(), draws[k])
    return tests


def _no_scores(num_concepts: int) -> Score:
    """The Score of no units: Tensors [K, 0]."""
    nothing = torch.empty(num_concepts, 0, dtype=torch.float64)
    return Score(nothing, nothing, nothing)


def rank_units(
    rows_of: Callable[[Tensor], Tensor], units: Tensor, is_own: Tensor, validation: ValidationInputs, num_values: int
) -> Score:
    """``rank_rows`` of many units, in blocks that fit into memory.

    Parameters
    ----------
    rows_of
        Returns the ``c'_1 .. c'_K`` of some of ``units``, [K, B, C_in, taps].
    units : Tensor [B, ...]
        Weights, or permutations of them.
    is_own : BoolTensor [K, N]
    validation
    num_values
        Number of values of a unit's weight.
    """
    size = max(1, MOST_SCORES // (len(is_own) * max(len(validation.targets), num_values)))
    blocks = [rank_rows(rows_of(block), is_own, validation) for block in units.split(size) if len(block)]
    blocks = [_no_scores(len(is_own)), *blocks]
    return Score(*(torch.cat(values, 1) for values in zip(*blocks, strict=True)))


def rank_rows(rows: Tensor, is_own: Tensor, validation: ValidationInputs) -> Score:
    """The Score [K, B] of the channels [K or more, B, C_in, taps] of K concepts, ``is_own`` [K, N]."""
    scores = validation.scores(rows[: len(is_own)])
    return stack_scores([rank_images(of_concept, is_own[k]) for k, of_concept in enumerate(scores)])


def _rank_together(
    rows: dict[ScoredUnit, Tensor], is_own: Tensor, validation: ValidationInputs
) -> dict[ScoredUnit, Score]:
    """``rank_rows`` of several kinds of units, [K, B, C_in, taps] each: few large products take less time than many."""
    everything = torch.cat(list(rows.values()), 1)
    score = rank_units(lambda numbers: everything[:, numbers], torch.arange(everything.shape[1]), is_own, validation, 1)
    sizes = [of_unit.shape[1] for of_unit in rows.values()]
    parts = zip(*(values.split(sizes, 1) for values in score), strict=True)
    return {unit: Score(*part) for unit, part in zip(rows, parts, strict=True)}


def _against_others(rows: Tensor, is_own: Tensor, validation: ValidationInputs) -> list[float]:
    """Areas [K] of the channels [K, 1, C_in, taps] against the images of the other concepts of the channel alone."""
    shown = is_own.any(0)
    scores = validation.scores(rows, shown)
    return [rank_images(scores[k], is_own[k, shown]).auroc.item() for k in range(len(is_own))]


def _rank_other_groupings(
    opened: OpenedSplit, units: TrainingUnits, is_own: Tensor, validation: ValidationInputs
) -> list[float]:
    """Average precisions [K] of the new channels of other groupings of the same classes, each for its own group.

    The k-th group of each has as many classes as the k-th concept. Groups differ in prevalence: the mean of what is
    above it counts, at the prevalence of the concept. NaN where there is no other grouping, or a concept has no
    classes.
    """
    split = opened.file.split
    groups = split.classes
    if not all(groups):
        return [np.nan] * len(groups)
    weight = split.weight[None].double()
    above = [torch.full((len(groups),), torch.nan)]
    for grouping in other_groupings(groups, DRAWS, split.channel, groups):
        rows = units.rule_of_groups(opened, grouping).rows(weight)
        of_groups = validation.images_of(grouping)
        precisions = rank_rows(rows, of_groups, validation).ap[:, 0]
        above.append(above_prevalence(precisions, of_groups.double().mean(1)))
    prevalence = is_own.double().mean(1)
    return (prevalence + (1 - prevalence) * torch.stack(above).nanmean(0)).tolist()


def _own_logits(concepts: list[list[int]], is_own: Tensor, validation: ValidationInputs) -> Score:
    """The Score [K, 1] of the network's own logits: the largest one of a concept's classes; NaN without classes."""
    unknown = torch.full((1,), torch.nan, dtype=torch.float64)
    scores = []
    for classes, of_concept in zip(concepts, is_own, strict=True):
        if classes:
            largest = torch.stack([validation.logits[output] for output in classes]).amax(0)
            scores.append(rank_images(largest[None], of_concept))
        else:
            scores.append(Score(unknown, unknown, unknown))
    return stack_scores(scores)
