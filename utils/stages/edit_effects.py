"""Stage 4: what taking a concept out of a channel does to its own images and to others, by several methods.

The network before the layer runs once for each image. What comes after it runs again for each edit, by a Tail.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.concept_sources.image_sets import check_arvs, image_sets_of, require_images
from utils.concept_sources.source_registry import SOURCES
from utils.divisions.division import Rule
from utils.method.disentangling import Concept
from utils.method.selectivity import (
    TARGET_SHARE,
    LogitChanges,
    interval_over_images,
    logit_changes,
    selectivity,
    strengths_for,
)
from utils.method.significance import permutation
from utils.networks.tails import RecordedBatch, Tail, tail_of
from utils.stages.channel_edits import ChannelEdits
from utils.stages.edit_methods import PART, EditFacts, EditMethod
from utils.stages.pure_gates import PureGate
from utils.stages.recorded_images import LabelledImages, RecordedImages
from utils.stages.separation import TrainingUnits
from utils.stages.validation import ImagePass
from utils.store.edit_results import KINDS_OF_IMAGES, SELECTIVITY
from utils.store.files import json_digest
from utils.store.opened_splits import OpenedSplit
from utils.store.study import Study

OTHER_IMAGES = 500  # drawn from all validation images, the same for all channels
TRAINING_IMAGES = 50  # of a concept: they decide how strong an edit is
MOST_EDITS = 64  # that are run together
OTHERS = "others/"  # key of the other images: no folder of a class has this name
OWN, OTHER, REST = KINDS_OF_IMAGES
NO_CONCEPT = -1


def other_images(validation: ImagePass) -> np.ndarray:
    """Indices of OTHER_IMAGES validation images, ascending: the same for all channels."""
    number = len(validation.images)
    return permutation(number, "edit: other images", number)[:OTHER_IMAGES].sort().values.numpy()


class EditTraining:
    """Training images of the concepts of splits, and how the splits' inputs were divided.

    Parameters
    ----------
    study : Study
        Its ``only_correct`` and background do not count: each split has its own.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._units = TrainingUnits(study)
        self._study_of = cache(lambda only_correct: replace(study, only_correct=only_correct))

    @cached_property
    def images(self) -> LabelledImages:
        """All training images of the store."""
        labels = self._study.labels
        targets = torch.full((self._study.meta["num_images"],), -1)
        targets[labels.indices] = labels.targets
        return LabelledImages(self._study.image_source(self._study.training), targets)

    def groups(self, opened: OpenedSplit) -> dict[Hashable, np.ndarray]:
        """The indices of about TRAINING_IMAGES of each concept of a split, of each class as many.

        The keys, in the order of the concepts, are the same for all splits that have a concept.
        """
        only_correct = bool(opened.file.settings["only_correct"])
        study = self._study_of(only_correct)
        groups: dict[Hashable, np.ndarray] = {}
        for concept, keys in zip(opened.file.split.own_concepts, opened.groups, strict=True):
            of_each = -(-TRAINING_IMAGES // len(keys))
            drawn = []
            for key in keys:
                images = study.tap_sums.images_of(concept if concept.kind == "images" else Concept("", [key]))
                drawn.append(images[permutation(len(images), "edit: training images", key)][:of_each])
            groups[only_correct, tuple(keys)] = torch.cat(drawn).sort().values.numpy()
        return groups

    def rule(self, opened: OpenedSplit) -> Rule:
        """The Rule that has divided a split; UserError if it was made from other training images."""
        if SOURCES.get(opened.file.source["name"]).is_named():
            return self._units.rule(opened)
        study = self._study_of(bool(opened.file.settings["only_correct"]))
        split = opened.file.split
        sets = image_sets_of(opened)
        require_images(opened, study, sets)
        check_arvs(opened, study, sets)
        means = [study.tap_sums.of_images(images).double().mean(0) for images in sets]
        means += [study.mean_input] if split.has_background else []
        inputs = study.tap_sums.of_concepts(split.own_concepts, opened.file.background, torch.stack(means))
        return split.division.rule(split.division.settings(), inputs, opened.rho)


class MeasuredImages(NamedTuple):
    """What V edits change in N validation images.

    ``own`` and ``margin`` [V, N] are changes of the logit of the own class, and of its margin; ``gained`` [V, N] is 1
    where an image becomes correctly classified, -1 where it no longer is, else 0; ``concept`` [N] is that of the image,
    from 0, or -1.
    """

    own: Tensor
    margin: Tensor
    gained: Tensor
    concept: Tensor


class OnTrainingImages(NamedTuple):
    """What the training images of a concept say: the ``facts`` of its edits, the ``strengths`` [M] at which each method
    has TARGET_SHARE of the part's effect in full, and the number of ``images``."""

    facts: EditFacts
    strengths: Tensor
    images: int


class EditMeasurer:
    """Measures the edits of splits.

    Parameters
    ----------
    validation : ImagePass
        Of images of all classes.
    training : EditTraining
    methods : list of EditMethod
    gates : {path of a split: PureGate}
        For methods that need PURE's clusters.
    """

    def __init__(
        self,
        validation: ImagePass,
        training: EditTraining,
        methods: Sequence[EditMethod],
        gates: Mapping[Any, PureGate],
    ) -> None:
        self._network = validation.network
        self._validation = validation
        self._training = training
        self._methods = methods
        self._gates = gates
        self._others = other_images(validation)
        images = LabelledImages(validation.image_source, validation.targets)
        self._validation_images = RecordedImages(validation.network, images)
        self._training_images = RecordedImages(validation.network, training.images)
        self._tail: Tail | None = None

    @property
    def images_run(self) -> int:
        """How many images the network has been run on so far."""
        return self._validation_images.images_run + self._training_images.images_run

    def measure(self, opened: OpenedSplit) -> list[dict[str, Any]]:
        """A row for each concept of a split and each method, as plain values; NaN for what cannot be measured."""
        edits = ChannelEdits(self._network.layer, opened, self._methods, cache(lambda: self._training.rule(opened)))
        recorded = self._training_images.of(self._training.groups(opened))
        of_training = [self._on_training_images(opened, edits, k, batches) for k, (_, batches) in enumerate(recorded)]
        measured = self._on_validation_images(opened, edits, of_training)
        rows = []
        for k, concept in enumerate(opened.file.split.own_concepts):
            for number, method in enumerate(self._methods):
                in_full = 2 * (k * len(self._methods) + number)
                strength = of_training[k].strengths[number].item()
                row = {"concept": k + 1, "name": concept.name, "method": method.name, "strength": strength}
                row |= {"training_images": of_training[k].images, **_in_full(measured, k, in_full)}
                rows.append(row | _at_equal_effect(measured, k, in_full + 1, is_reached=not np.isnan(strength)))
        return rows

    def _on_training_images(
        self, opened: OpenedSplit, edits: ChannelEdits, k: int, batches: list[RecordedBatch]
    ) -> OnTrainingImages:
        """What the training images of a concept say."""
        maps = [edits.maps(batch.input()) for batch in batches]
        facts = edits.facts(maps)
        of_batches = [
            edits.edits(k, of_batch, self._gated(opened, k, facts, batch, training=True))
            for batch, of_batch in zip(batches, maps, strict=True)
        ]
        number = sum(len(batch) for batch in batches)
        nothing = torch.full((len(self._methods),), torch.nan, dtype=torch.float64)
        if not number:
            return OnTrainingImages(facts, nothing, 0)

        def effects_at(strengths: Tensor) -> Tensor:
            total = torch.zeros(strengths.numel(), dtype=torch.float64)
            for batch, of_batch in zip(batches, of_batches, strict=True):
                total += self._own_changes(opened, batch, of_batch.original, of_batch.at(strengths)).double().sum(1)
            return total.view(strengths.shape) / number

        in_full = effects_at(torch.ones(len(self._methods), 1, dtype=torch.float64))[:, 0]
        part = [method.name for method in self._methods].index(PART)
        target = (TARGET_SHARE * in_full[part]).expand(len(self._methods))
        return OnTrainingImages(facts, strengths_for(effects_at, target), number)

    def _on_validation_images(
        self, opened: OpenedSplit, edits: ChannelEdits, of_training: Sequence[OnTrainingImages]
    ) -> MeasuredImages:
        """All validation images of the concepts, and the other images that are of none of them.

        Edits are in the order of concepts and methods, each in full and then at its strength.
        """
        validation = self._validation
        groups: dict[Hashable, np.ndarray] = {key: validation.indices(key) for key in opened.keys}
        concept_of = torch.from_numpy(validation.concepts_of(opened))
        batch_size = validation.image_source.batch_size
        starts = range(0, len(self._others), batch_size)
        others: dict[Hashable, np.ndarray] = {  # in batches, because a group is never cut
            (OTHERS, start): self._others[start : start + batch_size] for start in starts
        }
        parts = [self._nothing(len(of_training))]
        for key, batches in self._validation_images.of({**groups, **others}):
            for batch in batches:
                concept = concept_of[batch.indices]
                counts = concept == NO_CONCEPT if key in others else concept != NO_CONCEPT
                changes = self._on_batch(opened, edits, of_training, batch)
                gained = changes.correct.int() - (batch.logits.argmax(1).cpu() == batch.targets).int()
                own, margin = changes.own[:, counts], changes.margin[:, counts]
                parts.append(MeasuredImages(own, margin, gained[:, counts], concept[counts]))
        return MeasuredImages(*(torch.cat(values, -1) for values in zip(*parts, strict=True)))

    def _nothing(self, num_concepts: int) -> MeasuredImages:
        """The MeasuredImages of no image."""
        nothing = torch.empty(2 * num_concepts * len(self._methods), 0)
        return MeasuredImages(nothing, nothing, nothing.int(), torch.empty(0, dtype=torch.long))

    def _on_batch(
        self, opened: OpenedSplit, edits: ChannelEdits, of_training: Sequence[OnTrainingImages], batch: RecordedBatch
    ) -> LogitChanges:
        maps = edits.maps(batch.input())
        edited = []
        for k, (facts, strengths, _) in enumerate(of_training):
            of_batch = edits.edits(k, maps, self._gated(opened, k, facts, batch, training=False))
            edited.append(of_batch.at(torch.stack([torch.ones_like(strengths), strengths.nan_to_num(0)], 1)))
        targets = batch.targets.to(maps.device)
        changes = []
        for some in torch.cat(edited).split(MOST_EDITS):
            differences = self._tail_for(batch).differences(batch, opened.file.split.channel, maps[0], some)
            changes.append(logit_changes(batch.logits, differences, targets))
        return LogitChanges(*(torch.cat(values).cpu() for values in zip(*changes, strict=True)))

    def _own_changes(self, opened: OpenedSplit, batch: RecordedBatch, original: Tensor, edited: Tensor) -> Tensor:
        """How edited maps [V, B, ...] change the logit of each image's own class: [V, B], on the CPU."""
        tail = self._tail_for(batch)
        channel = opened.file.split.channel
        changes = [tail.own_differences(batch, channel, original, some) for some in edited.split(MOST_EDITS)]
        return torch.cat(changes).cpu()

    def _tail_for(self, batch: RecordedBatch) -> Tail:
        """The Tail of the network, found with the first batch."""
        if self._tail is None:
            self._tail = tail_of(self._network, batch)
        return self._tail

    def _gated(
        self, opened: OpenedSplit, k: int, facts: EditFacts, batch: RecordedBatch, *, training: bool
    ) -> EditFacts:
        """The facts of a concept with what PURE says of the images of a batch, where it is known."""
        gate = self._gates.get(opened.path)
        if gate is None:
            return facts
        of_list = gate.training if training else gate.validation
        return replace(facts, is_gated=of_list[k, batch.indices])


def _in_full(measured: MeasuredImages, k: int, edit: int) -> dict[str, Any]:
    """What an edit of concept ``k`` does, applied in full: changes, signed and as magnitudes, and selectivities."""
    values: dict[str, Any] = {}
    for which, images in _kinds_of_images(measured, k).items():
        own = measured.own[edit, images].double()
        values[f"images_{which}"] = int(images.sum())
        values[f"change_{which}"] = _mean(own)
        values[f"margin_{which}"] = _mean(measured.margin[edit, images])
        values[f"top1_{which}"] = _mean(measured.gained[edit, images])
        if which != OWN:
            harm = interval_over_images(own.abs())
            values[f"harm_{which}"] = harm.mean
            ratio = selectivity(values[f"change_{OWN}"], harm)
            values[SELECTIVITY[which]] = ratio.value
            values[f"{SELECTIVITY[which]}_is_least"] = ratio.is_least
    return values


def _at_equal_effect(measured: MeasuredImages, k: int, edit: int, *, is_reached: bool) -> dict[str, float]:
    """What an edit of concept ``k`` does at the strength of equal effect; NaN where that is not reached."""
    kinds = _kinds_of_images(measured, k)
    means = {which: _mean(measured.own[edit, images].abs()) for which, images in kinds.items() if which != OWN}
    means[OWN] = _mean(measured.own[edit, kinds[OWN]])
    names = {
        OWN: "change_at_equal_effect",
        OTHER: "harm_at_equal_effect",
        REST: "harm_rest_at_equal_effect",
    }
    return {name: means[which] if is_reached else np.nan for which, name in names.items()}


def _kinds_of_images(measured: MeasuredImages, k: int) -> dict[str, Tensor]:
    """True for the images of concept ``k``, of the channel's other concepts, and of none of them: BoolTensors [N]."""
    is_own = measured.concept == k
    is_rest = measured.concept == NO_CONCEPT
    return {OWN: is_own, OTHER: ~is_own & ~is_rest, REST: is_rest}


def _mean(values: Tensor) -> float:
    """The mean; NaN without values."""
    return values.double().mean().item()


# --------------------------------------------------------------------------------------------------------------------
# Edits as they are stored


def describe_edits(
    opened: OpenedSplit, run: str, validation: ImagePass, training: dict[str, Any], *, methods: Sequence[EditMethod]
) -> dict[str, Any]:
    """All fields of a split's edits that are known before they are measured.

    ``training`` is the ``meta`` of the training store.
    """
    file = opened.file
    split = file.split
    others = other_images(validation)
    return {
        **validation.describe(opened, run),
        "channel": split.channel,
        "classes": split.classes,
        "background": file.background,
        "split_by": split.division.name,
        "rho": opened.rho,
        "concepts_from": file.source["name"],
        "found_by": file.found_by(),
        "assignment": SOURCES.get(file.source["name"]).assignment(file.source["state"]),
        "numbers": {"others": len(others), "training": TRAINING_IMAGES},
        "training_sha256": json_digest(training),
        "validation": {
            **{validation.name(key): validation.files_digest([key]) for key in opened.keys},
            OTHERS: validation.digest_of(others),
        },
        "methods": [method.name for method in methods],
    }
