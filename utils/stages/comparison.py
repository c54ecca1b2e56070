"""Stage 4's comparison: methods that find a channel's concepts, side by side on the same channels and images.

Each labelled concept is matched with that of a method's k units that ranks its training images best above those of the
channel's other concepts. The unit is evaluated on validation images alone. All nulls are matched in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from utils.concept_sources.compared_channels import ComparedChannel, ComparedUnits, Comparison, UnitMaker
from utils.concept_sources.image_sets import Clusters
from utils.errors import UserError
from utils.method.clustering import adjusted_rand_index
from utils.method.matching import Judgement, judge, match
from utils.method.significance import permutation
from utils.processes import progress
from utils.stages.comparison_embedding import ChannelScores, EmbeddedImages, LinearUnits
from utils.stages.separation import measured_digest
from utils.store.files import json_digest
from utils.store.importance_store import ImportanceStore, Labels
from utils.store.scores import NEW
from utils.store.unfinished import Unfinished

if TYPE_CHECKING:
    from tqdm import tqdm


def require_comparable(channel: int, concepts: list[list[int]], compared: Sequence[int]) -> None:
    """Refuse a channel whose units could not be matched, or that is one of the ``compared`` channels."""
    if channel in compared:
        raise UserError("it occurs twice: give groups of its classes (stage 2's _groups.json), not pairs")
    if len(concepts) < 2:
        raise UserError("it has only one concept, so there is nothing to compare it with")
    outputs = [output for concept in concepts for output in concept]
    if len(set(outputs)) < len(outputs):
        raise UserError("its concepts share a class")


def draw_channels(channels: list[tuple[int, list[list[int]]]], number: int) -> list[tuple[int, list[list[int]]]]:
    """A sample of at most ``number`` channels, in the given order, on which the sample does not depend."""
    ascending = sorted(channel for channel, _ in channels)
    order = permutation(len(ascending), "compared channels")[:number].tolist()
    drawn = {ascending[rank] for rank in order}
    return [(channel, concepts) for channel, concepts in channels if channel in drawn]


class ComparisonRows(NamedTuple):
    """What ``compare`` has measured, as plain values.

    ``concepts`` has a row for each method, null, channel and concept, with the means over draws; ``channels`` a row for
    each method, null and channel, with ``k``, ``draws``, ``ari`` and the scores. ``problems`` are the reasons why a
    method could not be measured on a channel.
    """

    concepts: list[dict[str, Any]]
    channels: list[dict[str, Any]]
    problems: list[str]

    @classmethod
    def joined(cls, parts: list[ComparisonRows]) -> ComparisonRows:
        """The rows of several channels."""
        return cls(*(list(chain.from_iterable(rows)) for rows in zip(*parts, strict=True)))


class MeasuredChannel(NamedTuple):
    """The ``rows`` of a channel, and its ``linear`` units, whose scores need a pass; None if none is asked for."""

    rows: ComparisonRows
    linear: LinearUnits | None

    def keep(self, kept: Unfinished, key: Any) -> None:
        if self.linear is not None:
            self.linear.keep(kept, key)
        kept.keep(key, self.rows._asdict())

    @classmethod
    def find(cls, kept: Unfinished, key: Any, linear_shape: tuple[int, ...] | None) -> MeasuredChannel | None:
        """A channel that was kept; ``linear_shape`` is that of a linear unit, None where these are not needed."""
        rows = kept.find(key)
        linear = None if linear_shape is None else LinearUnits.find(kept, key, linear_shape)
        if rows is None or (linear is None and linear_shape is not None):
            return None
        return cls(ComparisonRows(**rows), linear)


def compare(
    comparison: Comparison, methods: dict[str, UnitMaker], kept: Unfinished, embedded: EmbeddedImages | None = None
) -> ComparisonRows:
    """Measure methods on all channels; each channel is kept when it is finished.

    Parameters
    ----------
    comparison
    methods
        The UnitMaker of each method, by the method's name.
    kept
        Where finished channels are kept, and found again.
    embedded
        Validation images with embeddings, by which units are scored, too.
    """
    shape = None if embedded is None else tuple(comparison.weights.shape[-2:])
    kept_channels = [MeasuredChannel.find(kept, key, shape) for key in comparison.step_keys()]
    steps = len(methods) + (embedded is not None)
    channels = []
    with progress(
        total=steps * len(comparison),
        initial=steps * sum(channel is not None for channel in kept_channels),
        desc="comparison",
        unit=" methods of channels",
        images=len(comparison.validation.input_sums),
    ) as bar:
        for index, (key, of_channel) in enumerate(zip(comparison.step_keys(), kept_channels, strict=True)):
            if of_channel is None:
                of_channel = _measure_channel(
                    comparison.channel(index), methods, comparison.study.labels, embedded, bar
                )
                of_channel.keep(kept, key)
            channels.append(of_channel)
    if embedded is not None:
        units = [(channel.rows.channels, channel.linear) for channel in channels if channel.linear is not None]
        embedded.add_monosemanticity(units, kept)
    return ComparisonRows.joined([channel.rows for channel in channels])


def _measure_channel(
    channel: ComparedChannel,
    methods: dict[str, UnitMaker],
    labels: Labels,
    embedded: EmbeddedImages | None,
    bar: tqdm,
) -> MeasuredChannel:
    """Measure methods on a channel; ``bar`` counts the methods, and the scores by embeddings as one more."""
    measured = ComparisonRows([], [], [])
    membership = channel.validation.images_of(channel.classes)
    scores = None if embedded is None else ChannelScores(embedded, channel)
    for name, method in methods.items():
        try:
            units_by_null = method.units_by_null(channel)
        except UserError as error:
            measured.problems.append(f"{name}, channel {channel.channel}: {error}")
            bar.update()
            continue
        rows = {}
        judgements = iter(_judgements(channel, list(chain.from_iterable(units_by_null.values())), membership))
        for null, draws in units_by_null.items():
            keys = {"method": name, "null": null, "channel": channel.channel}
            if draws:
                of_draws = list(islice(judgements, len(draws)))
                measured.concepts.extend({**keys, **row} for row in _concept_rows(of_draws))
                rows[null] = {**keys, **_channel_row(channel, draws, labels)}
        if scores is not None:
            scores.collect(method, units_by_null, rows, first=len(measured.channels))
        measured.channels.extend(rows.values())
        bar.update()
    linear = None
    if scores is not None:
        linear = scores.finish()
        bar.update()
    return MeasuredChannel(measured, linear)


def _judgements(channel: ComparedChannel, draws: list[ComparedUnits], membership: torch.Tensor) -> list[Judgement]:
    """The Judgement of each draw; ``membership`` [K, N] tells the validation images of each concept."""
    matched = [match(units.training, units.of_sampled(channel.membership)) for units in draws]
    return [judge(values, membership) for values in channel.in_validation(draws, matched)]


def _concept_rows(judgements: list[Judgement]) -> list[dict[str, Any]]:
    """A row for each concept: means over draws."""
    values = {
        NEW.ap: [judgement.score.ap for judgement in judgements],
        NEW.pearson: [judgement.score.pearson for judgement in judgements],
        NEW.auroc: [judgement.score.auroc for judgement in judgements],
        NEW.auroc_others: [judgement.auroc_others for judgement in judgements],
    }
    means = {name: torch.stack(of_draws).nanmean(0).tolist() for name, of_draws in values.items()}
    num_concepts = len(means[NEW.ap])
    return [{"concept": k + 1, **{name: means[name][k] for name in means}} for k in range(num_concepts)]


def _channel_row(channel: ComparedChannel, draws: list[ComparedUnits], labels: Labels) -> dict[str, Any]:
    """The values of a channel as a whole."""
    agreements = [agreement(units.clusters, channel.classes, labels) for units in draws]
    agreements = [value for value in agreements if not np.isnan(value)]
    return {
        "k": max(len(units.training) for units in draws),
        "draws": len(draws),
        "ari": float(np.mean(agreements)) if agreements else np.nan,
    }


def agreement(clusters: Clusters | None, concepts: list[list[int]], labels: Labels) -> float:
    """Adjusted Rand index between clusters of reference images and groups of classes, among images that are in both.

    NaN without clusters, or where fewer than two reference images are in a group.
    """
    if clusters is None:
        return np.nan
    targets = labels.targets[torch.searchsorted(labels.indices, clusters.indices.contiguous())]
    group = torch.full_like(targets, -1)
    for k, concept in enumerate(concepts):
        group[torch.isin(targets, torch.tensor(concept))] = k
    both = (group >= 0) & (clusters.labels >= 0)
    return adjusted_rand_index(group[both], clusters.labels[both]) if both.sum() > 1 else np.nan


def describe_comparison(
    name: str,
    run: str,
    channels: list[tuple[int, list[list[int]]]],
    *,
    available: int,
    settings: dict[str, Any],
    methods: dict[str, dict[str, Any]],
    store: ImportanceStore,
    training: ImportanceStore,
) -> dict[str, Any]:
    """The fields that identify a comparison before it is measured; a stored one with equal fields is not made again.

    Parameters
    ----------
    name
        Name of its file.
    run
        RUN of the stores.
    channels
        Each channel and its concepts, as lists of classes.
    available
        The number of channels that they were drawn from.
    settings
        Plain values that the methods depend on.
    methods
        The stored fields of each method, by its name.
    store, training
        Stores of validation and of training images.
    """
    return {
        "name": name,
        "run": run,
        **{key: store.meta[key] for key in ("layer", "weights_sha256", "transform", "precision", "decoding")},
        "validation_sha256": measured_digest(store),
        "training_sha256": json_digest(training.meta),
        "asked": [[channel, concepts] for channel, concepts in channels],
        "available_channels": available,
        "settings": settings,
        "methods": methods,
    }
