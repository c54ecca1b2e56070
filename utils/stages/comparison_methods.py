"""Stage 4's comparison: its methods, what each needs, and the k units that it makes of a channel and of its nulls.

There is a method for each source of concepts with each way of dividing inputs, and for further units of a source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from utils.concept_sources.compared_channels import (
    PARTITIONED_REFERENCES,
    PERMUTED_OWNERS,
    PERMUTED_WEIGHTS,
    REAL_TARGET,
    SAME_SETS,
    ComparedChannel,
    ComparedUnits,
    Comparison,
    ConceptSets,
    UnitMaker,
    UnitsByNull,
    permutations,
)
from utils.concept_sources.concept_source import ComparedSource
from utils.concept_sources.source_registry import SOURCES
from utils.divisions.division import Division, Rule
from utils.divisions.division_registry import DIVISIONS
from utils.divisions.nulls import FITTED
from utils.errors import UserError
from utils.method.disentangling import disentangled_rows
from utils.stages.input_readouts import InputReadouts
from utils.store.scores import MEAN_DIFFERENCE, PROBE, ScoredUnit


class Original(UnitMaker):
    """The channel as it is."""

    def units_by_null(self, channel: ComparedChannel) -> UnitsByNull:
        original, *permuted = [channel.units(weight[None]) for weight in channel.weights]
        return {"": [original], PERMUTED_WEIGHTS: permuted}


class Logits(UnitMaker):
    """The network's own logits, of a concept the largest of its classes: labels have matched them."""

    def units_by_null(self, channel: ComparedChannel) -> UnitsByNull:
        logits = channel.validation.logits
        largest = [torch.stack([logits[output] for output in concept]).amax(0) for concept in channel.classes]
        return {"": [ComparedUnits(channel.membership.float(), torch.stack(largest))]}


class Readouts(UnitMaker):
    """A linear readout of the layer's input for each concept: labels have matched them.

    Parameters
    ----------
    unit
        One of READOUTS.
    readouts
    """

    def __init__(self, unit: ScoredUnit, readouts: InputReadouts) -> None:
        self.unit = unit
        self.readouts = readouts

    def units_by_null(self, channel: ComparedChannel) -> UnitsByNull:
        rows = torch.stack([self.readouts.of(self.unit, concept) for concept in channel.concepts])
        return {"": [ComparedUnits(channel.membership.float(), rows=rows)]}


class DividedWeights(NamedTuple):
    """Shares [K + 1, C_in]: of the ``real`` channel, of its ``permuted`` weights, and of these ``fitted`` to the
    real channel, which divisions without targets do not have."""

    real: Tensor
    permuted: list[Tensor]
    fitted: list[Tensor]


class Splits(UnitMaker):
    """A channel's inputs divided among concepts.

    Parameters
    ----------
    finder : ConceptFinder
        Finds the concepts.
    division
        How inputs are divided, with its default settings.
    rho
        For divisions that have several.
    """

    def __init__(self, finder: Any, division: type[Division], rho: float) -> None:
        self.finder = finder
        self.division = division
        self.rho = rho

    def units_by_null(self, channel: ComparedChannel) -> UnitsByNull:
        weight, *permuted_weights = channel.weights[: 1 + self.finder.draws]
        sets = self.finder.sets(channel)
        same_sets = replace(sets, clusters=None)  # a null with these sets has no clusters of its own
        divided = self._divided_together(channel, sets)
        units = {"": [self._units(channel, weight, divided.real, sets)]}
        of_permuted = [
            self._units(channel, of_draw, shares, same_sets)
            for of_draw, shares in zip(permuted_weights, divided.permuted, strict=True)
        ]
        if sets.clusters is None:  # labelled sets are the same for all weights
            units[PERMUTED_WEIGHTS] = [
                replace(units_of_draw, draw=draw) for draw, units_of_draw in enumerate(of_permuted, start=1)
            ]
        else:
            units[PERMUTED_WEIGHTS] = self._of_permuted_weights(channel, len(sets.concepts))
            units[SAME_SETS] = of_permuted
        if FITTED in self.division.nulls:
            units[REAL_TARGET] = [
                self._units(channel, of_draw, shares, same_sets)
                for of_draw, shares in zip(permuted_weights, divided.fitted, strict=True)
            ]
        orders = permutations("owners", channel.channel, len(weight), self.finder.draws)
        units[PERMUTED_OWNERS] = [self._units(channel, weight, divided.real[:, order], same_sets) for order in orders]
        if sets.clusters is not None:
            partitions = map(self.finder.sets_of, self.finder.partitioned(channel.index))
            units[PARTITIONED_REFERENCES] = self._divided(channel, [(weight, partition) for partition in partitions])
        return units

    def _divided_together(self, channel: ComparedChannel, sets: ConceptSets) -> DividedWeights:
        """The DividedWeights of a channel, whose weights are all divided among its own sets at once."""
        draws = self.finder.draws
        weights = channel.weights[: 1 + draws]
        targets = None
        if FITTED in self.division.nulls:
            targets = torch.cat([weights, weights[:1].expand_as(weights[1:])])
            weights = torch.cat([weights, weights[1:]])
        real, *permuted = self._rule(sets).shares(weights, targets).unbind(1)
        return DividedWeights(real, permuted[:draws], permuted[draws:])

    def _of_permuted_weights(self, channel: ComparedChannel, number: int) -> list[ComparedUnits]:
        """Units of each draw of the permuted weights, divided among exactly ``number`` concepts of its own."""
        sets: dict[int, ConceptSets] = {}
        for draw in range(1, 1 + self.finder.draws):
            with suppress(UserError):  # a draw without so many concepts is left out
                sets[draw] = self.finder.sets(channel, draw, number)
        units = self._divided(channel, [(channel.weights[draw], of_draw) for draw, of_draw in sets.items()])
        return [replace(of_draw, draw=draw) for draw, of_draw in zip(sets, units, strict=True)]

    def _divided(self, channel: ComparedChannel, given: list[tuple[Tensor, ConceptSets]]) -> list[ComparedUnits]:
        """Units of some weights [C_in, taps], each divided among sets of its own, of which all have as many."""
        if not given:
            return []
        first, *following = (sets for _, sets in given)
        rules = map(self._rule, following)  # one by one: second moments of wide layers take much memory
        shares = self._rule(first).shares_of_each(rules, torch.stack([weight for weight, _ in given]))
        return [
            self._units(channel, weight, of_weight, sets)
            for (weight, sets), of_weight in zip(given, shares.unbind(1), strict=True)
        ]

    def _rule(self, sets: ConceptSets) -> Rule:
        return self.division.rule(self.division.settings_from({}), sets, self.rho)

    def _units(self, channel: ComparedChannel, weight: Tensor, shares: Tensor, sets: ConceptSets) -> ComparedUnits:
        return channel.units(disentangled_rows(weight, shares)[: len(sets.concepts)], sets.clusters)


# --------------------------------------------------------------------------------------------------------------------
# The table of methods


@dataclass(frozen=True)
class Method:
    """A method in tables.

    Parameters
    ----------
    words
        Its name in tables.
    source
        The name of its source of concepts; None: it has none.
    labels
        Whether it needs labels.
    images
        Whether it needs a pass of the network over images; all else is in the stores.
    changes_weights
        Whether it changes the weights of the network.
    same_output
        Whether the network computes the same with the units in the channel's place.
    make
        Makes its UnitMaker for a Comparison.
    """

    words: str
    source: str | None
    labels: bool
    images: bool
    changes_weights: bool
    same_output: bool
    make: Callable[[Comparison], UnitMaker]

    def needs(self) -> dict[str, Any]:
        """The words and what it needs, as plain values."""
        return {name: value for name, value in vars(self).items() if name not in ("make", "source")}


def comparison_methods() -> dict[str, Method]:
    """All methods by name, in the order of the table."""
    methods = {
        "original": _without_source("original channel", lambda comparison: Original(), labels=False),
        "logit": _without_source("the class's own logit", lambda comparison: Logits(), labels=True),
        "mean_difference": _readout("mean difference of the layer's input", MEAN_DIFFERENCE),
        "probe": _readout("linear probe of the layer's input", PROBE),
    }
    sources = [source for source in SOURCES.all() if source.compared]
    for source in sources:
        if source.splits_channels:
            methods |= {f"{source.name}{suffix}": method for suffix, method in _splits_by(source)}
    for source in sources:
        methods |= _further_units_of(source)
    return methods


def _without_source(
    words: str, make: Callable[[Comparison], UnitMaker], *, labels: bool, same_output: bool = True
) -> Method:
    """The Method of units that need no source of concepts: the network's own, or readouts of the layer's input."""
    return Method(
        words=words,
        source=None,
        labels=labels,
        images=False,
        changes_weights=False,
        same_output=same_output,
        make=make,
    )


def _readout(words: str, unit: ScoredUnit) -> Method:
    """The Method of a linear readout."""
    return _without_source(
        words,
        lambda comparison: Readouts(unit, InputReadouts(comparison.study.tap_sums)),
        labels=True,
        same_output=False,
    )


def _splits_by(source: type[ComparedSource]) -> Iterator[tuple[str, Method]]:
    """The methods that split by a source, one for each way of dividing: (suffix of the name, Method)."""
    for division in DIVISIONS.all():
        suffix = division.usual_suffix()
        yield (
            suffix,
            Method(
                words=f"split by {source.split_words}" + (f", {division.words}" if suffix else ""),
                source=source.name,
                labels=source.labelled,
                images=source.needs_images,
                changes_weights=True,
                same_output=True,
                make=partial(_make_splits, source, division),
            ),
        )


def _make_splits(source: type[ComparedSource], division: type[Division], comparison: Comparison) -> Splits:
    return Splits(comparison.finder(source), division, comparison.rho)


def _further_units_of(source: type[ComparedSource]) -> dict[str, Method]:
    """The methods of the units that a source has besides those of a split."""
    return {
        name: Method(
            words=words,
            source=source.name,
            labels=source.labelled,
            images=source.needs_images,
            changes_weights=False,
            same_output=False,
            make=partial(_make_further_units, source, maker),
        )
        for name, (words, maker) in source.own_units().items()
    }


def _make_further_units(
    source: type[ComparedSource], maker: Callable[[Any], UnitMaker], comparison: Comparison
) -> UnitMaker:
    return maker(comparison.finder(source))
