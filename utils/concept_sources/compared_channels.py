"""Data classes of a comparison: its channels, the image sets found for a channel, and the units that methods make.

A comparison draws ``DRAWS`` permutations for each null, or as many as a ConceptFinder has ``draws``. Arrays that cover
all of its channels have the axes ``[channel, draw]``. The channel axis has the order of ``Comparison.channels``; draw 0
is the channel itself, and draws 1 to ``DRAWS`` have its weights permuted over the inputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from utils.defaults import BACKGROUND_WEIGHT
from utils.defaults import COMPARISON_DRAWS as DRAWS
from utils.errors import UserError
from utils.plugins import later

if TYPE_CHECKING:
    from torch import Tensor

    from utils.concept_sources.concept_source import ComparedSource
    from utils.concept_sources.image_sets import Clusters
    from utils.method.disentangling import Concept
    from utils.store.importance_store import ImportanceStore, Labels
    from utils.store.study import Study
    from utils.store.tap_sums import StoredTapSums

torch = later("torch")
disentangling = later("utils.method.disentangling")
significance = later("utils.method.significance")

Shared = TypeVar("Shared")

# The nulls of a comparison, as its files name them; "" is the method itself
PERMUTED_WEIGHTS = "weights_permuted"
SAME_SETS = "weights_permuted_same_sets"
REAL_TARGET = "weights_permuted_real_target"
PERMUTED_OWNERS = "owners_permuted"
PARTITIONED_REFERENCES = "references_partitioned"
UNITS_AT_RANDOM = "units_random"


class ValidationSums(Protocol):
    """Evaluates units on all N validation images; implemented by ``utils.stages.separation.ValidationInputs``."""

    input_sums: Tensor  # [N, C_in * taps]
    logits: dict[int, Tensor]  # [N] of each class

    def scores(self, rows: Tensor) -> Tensor:
        """Spatial sums of rows [..., C_in, taps] without bias: [..., N]."""

    def images_of(self, concepts: list[list[int]]) -> Tensor:
        """True where an image belongs to a concept (a list of classes): BoolTensor [K, N]."""


@dataclass(frozen=True)
class ComparedUnits:
    """The k new units that a method makes of a channel.

    Parameters
    ----------
    training : Tensor [k, n]
        Their values in the training images of the channel's concepts, or in those that are sampled.
    validation : Tensor [k, N] or None
        Their values in all validation images; None if they are linear: few of them are needed.
    rows, biases : Tensor [k, C_in, taps], Tensor [k] or None
        Their weights if they are linear in the layer's input; ``biases`` is None without bias.
    clusters : Clusters, optional
        Clusters of the reference images that these units were made of; None without clusters, or if a null uses the
        clusters of the method.
    draw : int
        The draw of the weights that the reference images belong to.
    is_sampled : BoolTensor, optional
        True for the training images of the channel's concepts that ``training`` is of; None if it is of all.
    """

    training: Tensor
    validation: Tensor | None = None
    rows: Tensor | None = None
    biases: Tensor | None = None
    clusters: Clusters | None = None
    draw: int = 0
    is_sampled: Tensor | None = None

    def of_sampled(self, membership: Tensor) -> Tensor:
        """A ``membership`` [K, images of the channel's concepts] in the images that ``training`` is of: [K, n]."""
        return membership if self.is_sampled is None else membership[:, self.is_sampled]


UnitsByNull = dict[str, list[ComparedUnits]]


@dataclass(frozen=True)
class ComparedChannel:
    """A channel of a comparison and its labelled concepts.

    Parameters
    ----------
    index : int
        Index of the channel in ``Comparison.channels``.
    channel : int
        Number of the channel in the layer.
    concepts : list of Concept
        K concepts.
    weights : Tensor [1 + DRAWS, C_in, taps], float64
        Its weights at each draw.
    bias : Tensor [] or None
    images : LongTensor [n]
        Indices of the training images of its concepts.
    training : Tensor [n, C_in * taps]
        Tap sums of these images.
    membership : BoolTensor [K, n]
        True where an image belongs to a concept.
    validation : ValidationSums
    """

    index: int
    channel: int
    concepts: list[Concept]
    weights: Tensor
    bias: Tensor | None
    images: Tensor
    training: Tensor
    membership: Tensor
    validation: ValidationSums

    @property
    def classes(self) -> list[list[int]]:
        return [concept.classes for concept in self.concepts]

    def units(self, rows: Tensor, clusters: Clusters | None = None, biases: Tensor | None = None) -> ComparedUnits:
        """Units that are linear in the layer's input; ``biases`` defaults to the channel's bias for each."""
        if biases is None and self.bias is not None:
            biases = self.bias.expand(len(rows))
        training = rows.flatten(1).float() @ self.training.T
        return ComparedUnits(training, None, rows, biases, clusters)

    def in_validation(self, draws: list[ComparedUnits], chosen: list[Tensor]) -> list[Tensor]:
        """Values [K, N] of K ``chosen`` units of each draw in all validation images; linear ones without bias."""
        given = list(zip(draws, chosen, strict=True))
        rows = [units.rows[numbers] for units, numbers in given if units.rows is not None]
        if not rows:
            return [units.validation[numbers] for units, numbers in given if units.validation is not None]
        return list(self.validation.scores(torch.cat(rows)).split([len(numbers) for numbers in chosen]))


@dataclass(frozen=True)
class ConceptSets:
    """Concepts of a unit, as ConceptInputs. ``groups()`` has one more entry than ``means()``: everything else.

    Parameters
    ----------
    concepts : list of Concept
    mean_inputs : Tensor [K, C_in, taps], float64
        Mean tap sums of each concept.
    tap_sums : StoredTapSums
        Tap sums of the images of the concepts.
    clusters : Clusters, optional
        The clusters, if the concepts are clusters of reference images.
    """

    concepts: list[Concept]
    mean_inputs: Tensor
    tap_sums: StoredTapSums
    clusters: Clusters | None = None

    def means(self) -> Tensor:
        return self.mean_inputs

    def groups(self) -> tuple[list[Tensor], list[float]]:
        """As in ConceptInputs, with everything else as one more concept."""
        return self.tap_sums.of_concepts(self.concepts, BACKGROUND_WEIGHT).groups()

    def second_moments(self) -> tuple[Sequence[Tensor], list[float]]:
        """As in ConceptInputs, of the ``groups``."""
        return self.tap_sums.of_concepts(self.concepts, BACKGROUND_WEIGHT).second_moments()


class Reconstruction(NamedTuple):
    """How well a dictionary of the layer's output reconstructs positions, and what its reconstruction does to the
    network's predictions in the place of the layer's output.

    ``of`` are words for the values that ``dictionary`` describes; ``active_units`` of its ``units`` are active at any
    of the training positions, ``units_at_position`` at one in the mean. ``explained`` is the share of the variance in
    validation images, ``explained_training`` in training positions. In ``images`` validation images the reconstruction
    was inserted: ``changed`` is the share of their predictions that change, ``top1`` and ``top1_inserted`` the share
    that are right before and after; NaN where no reconstruction can be inserted.
    """

    dictionary: str
    of: str
    units: int
    active_units: int
    units_at_position: float
    explained_training: float
    explained: float
    images: int
    changed: float
    top1: float
    top1_inserted: float


class UnitMaker(ABC):
    """Makes the units of one method.

    ``finder`` is its ConceptFinder, or what else it takes its units from; None if it needs no concepts.
    ``is_of_channel`` is False if it has the same units for all channels.
    """

    finder: Any = None
    is_of_channel = True

    def prepare(self) -> Reconstruction | None:
        """Make the passes over images that its units need, after all makers of a comparison are made.

        Returns the Reconstruction of the units if they are a dictionary's.
        """
        return None

    @abstractmethod
    def units_by_null(self, channel: ComparedChannel) -> UnitsByNull:
        """The units of each null, one entry a draw; "" is the method itself. UserError if it has no units.

        Draws that cannot be made, for example because there are fewer distinct images than clusters, are left out.
        """


class Comparison:
    """Channels and their labelled concepts, one ComparedChannel at a time, and what finders of concepts need.

    Parameters
    ----------
    study : Study
        Its usable images may be reference images, and decide which unit is matched with a concept.
    channels : list of (channel, concepts as lists of classes)
        Each channel once.
    mean_inputs : Tensor [T, C_in, taps], float64
        Mean tap sums of classes.
    store : ImportanceStore
        A complete store of validation images.
    validation : ValidationSums
        Inputs and logits of the same images.
    rho : float
        For divisions that have several.
    given : dict
        The given settings of sources: ``number`` of concepts and of ``references``, and ``sae_trainer``.

    ``weights`` [channel, draw, C_in, taps] float64 are those of all channels and draws.
    """

    def __init__(
        self,
        study: Study,
        channels: list[tuple[int, list[list[int]]]],
        mean_inputs: Tensor,
        store: ImportanceStore,
        validation: ValidationSums,
        *,
        rho: float,
        given: dict[str, Any],
    ) -> None:
        self.study = study
        self.channels = channels
        self.mean_inputs = mean_inputs
        self.store = store
        self.validation = validation
        self.rho = rho
        self.given = given
        weight, self._bias = study.weight_and_bias
        self.weights = torch.stack([permuted_weights(weight[channel], channel) for channel, _ in channels])
        self._finders: dict[type[ComparedSource], Any] = {}
        self._shared: dict[Callable[[Comparison], Any], Any] = {}

    def finder(self, source: type[ComparedSource]) -> Any:
        """The ConceptFinder of a source, made once."""
        if source not in self._finders:
            self._finders[source] = source.finder(self)
        return self._finders[source]

    def shared(self, kind: Callable[[Comparison], Shared]) -> Shared:
        """What several finders share, made of the Comparison once."""
        if kind not in self._shared:
            self._shared[kind] = kind(self)
        return self._shared[kind]

    def __len__(self) -> int:
        return len(self.channels)

    def __iter__(self) -> Iterator[ComparedChannel]:
        return map(self.channel, range(len(self)))

    def channel(self, index: int) -> ComparedChannel:
        """The channel at an index of ``channels``."""
        channel, concepts = self.channels[index]
        rows = torch.isin(self.usable.targets, torch.tensor(list(chain.from_iterable(concepts)))).nonzero().flatten()
        images = self.usable.indices[rows]
        targets = self.usable.targets[rows]
        return ComparedChannel(
            index=index,
            channel=channel,
            concepts=[disentangling.Concept("", concept) for concept in concepts],
            weights=self.weights[index],
            bias=None if self._bias is None else self._bias[channel],
            images=images,
            training=self.study.tap_sums.of_images(images).flatten(1),
            membership=torch.stack([torch.isin(targets, torch.tensor(concept)) for concept in concepts]),
            validation=self.validation,
        )

    def step_keys(self) -> list[list[Any]]:
        """What identifies each channel, as plain values: it and its concepts."""
        return [["channel", channel, concepts] for channel, concepts in self.channels]

    @cached_property
    def usable(self) -> Labels:
        """The Labels of the training images that count."""
        return self.study.labels.some(self.study.usable)


def permutations(kind: str, channel: int, size: int, draws: int) -> list[Tensor]:
    """Permutations for a channel, independent of its concepts; ``kind`` seeds them."""
    return [significance.permutation(size, kind, channel, draw) for draw in range(1, 1 + draws)]


def permuted_weights(weight: Tensor, channel: int, draws: int = DRAWS) -> Tensor:
    """A channel's weights [C_in, taps] and permutations of them over its inputs: [1 + draws, C_in, taps] float64.

    They depend only on the channel, not on its concepts.
    """
    orders = permutations("weights", channel, len(weight), draws)
    return torch.stack([weight, *(weight[order] for order in orders)]).double()


def permuted_draws(make_units: Callable[[int], ComparedUnits], draws: int) -> list[ComparedUnits]:
    """The units that ``make_units`` makes for each of the first draws of the permuted weights, but draws that fail."""
    units = []
    for draw in range(1, 1 + draws):
        with suppress(UserError):
            units.append(replace(make_units(draw), draw=draw))
    return units
