"""Tap sums of the layer's input in stored images, for concepts without labels and for ways of dividing inputs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from typing import Any

import torch

from utils.defaults import BACKGROUND_SAMPLE
from utils.errors import UserError
from utils.method.disentangling import Concept
from utils.method.probes import ProbedConcept, Standardisation
from utils.method.shares import summed_outer_products
from utils.processes import progress
from utils.store.importance_store import ImportanceStore, Labels
from utils.store.kept_rows import KeptRows

CHUNKS = 4  # that stay in memory
MOMENT_BYTES = 2**29  # of a channel's second moments that stay in memory
BLOCK_VALUES = 2**24  # tap sums that are read at once for second moments
NO_OTHERS = "there is no training image of anything else: give --background 0"


class StoredTapSums:
    """Tap sums of the layer's input in training images, read from the chunks of a store when they are needed.

    Parameters
    ----------
    store : ImportanceStore
        A complete store.
    read_labels : function that returns the Labels
        Called when the images of a concept or of the background are needed.
    only_correct : bool
        Whether only the correctly classified images of a concept are used; the background is all images.
    """

    def __init__(self, store: ImportanceStore, read_labels: Callable[[], Labels], only_correct: bool) -> None:
        self._store = store
        self._read_labels = read_labels
        self._only_correct = only_correct
        self._read = lru_cache(CHUNKS)(self._read_chunk)
        self._moments_of_class = lru_cache(max(1, MOMENT_BYTES // (8 * self.num_values**2)))(
            lambda output: self._moments_of_images(self._images_of_classes[output])
        )
        self._kept: list[KeptRows] = []

    @cached_property
    def _labels(self) -> Labels:
        return self._read_labels()

    @cached_property
    def _images_of_classes(self) -> tuple[torch.Tensor, ...]:
        """Indices of the images of each class that are used, ascending."""
        usable = self._labels.counting(self._only_correct)
        targets = self._labels.targets[usable]
        counts = targets.bincount(minlength=self._store.meta["num_outputs"])
        return self._labels.indices[usable][targets.argsort(stable=True)].split(counts.tolist())

    @cached_property
    def _sample(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Tap sums of images that are evenly spread over the store, and their rows in the labels."""
        rows = evenly_spread(len(self._labels.indices), BACKGROUND_SAMPLE)
        return self.of_images(self._labels.indices[rows]), rows

    @cached_property
    def _standardised_sample(self) -> tuple[Standardisation, torch.Tensor]:
        """The Standardisation of the sample, and its standardised tap sums [n, C_in * taps]."""
        inputs = self._sample[0].flatten(1)
        standardisation = Standardisation.of(inputs)
        return standardisation, standardisation.apply(inputs)

    @cached_property
    def _outer_products_of_sample(self) -> torch.Tensor:
        """Summed outer products of the sample, which the backgrounds of all channels share."""
        return summed_outer_products([self._sample[0]], self.num_values)

    @property
    def _shape(self) -> tuple[int, int]:
        """C_in and taps."""
        return self._store.meta["num_inputs"], self._store.meta["num_taps"]

    @property
    def num_values(self) -> int:
        """C_in * taps."""
        return prod(self._shape)

    def images_of(self, concept: Concept) -> torch.Tensor:
        """Indices of all images of a Concept that are used, ascending."""
        if concept.kind == "images":
            return torch.tensor(concept.images)
        return torch.cat([self._images_of_classes[output] for output in concept.classes]).sort().values

    def of(self, concept: Concept) -> torch.Tensor:
        """Tap sums of all images of a Concept: [n, C_in, taps], float32."""
        return self.of_images(self.images_of(concept))

    def of_others(self, concepts: Sequence[Concept]) -> torch.Tensor:
        """Tap sums of a sample of the images that belong to none of these Concepts: [n, C_in, taps], float32."""
        inputs, rows = self._sample
        return inputs[~self._are_of(concepts, rows)]

    def probed(self, concept: Concept) -> ProbedConcept:
        """The images of a Concept and the sample of all others, standardised by the sample of all images.

        Of more than BACKGROUND_SAMPLE images of the concept a sample is used, too. UserError if there are no others.
        """
        standardisation, sample = self._standardised_sample
        images = self.images_of(concept)
        sampled = images[evenly_spread(len(images), BACKGROUND_SAMPLE)]
        own = standardisation.apply(self.of_images(sampled).flatten(1))
        others = sample[~self._are_of([concept], self._sample[1])]
        if not len(others):
            raise UserError(NO_OTHERS)
        num_others = len(self._labels.indices) - int(self._are_of([concept], slice(None)).sum())
        weights = torch.cat(
            [own.new_full((len(own),), len(images) / len(own)), own.new_full((len(others),), num_others / len(others))]
        )
        is_own = torch.arange(len(weights)) < len(own)
        return ProbedConcept(torch.cat([own, others]), is_own, weights)

    def as_rows(self, weights: torch.Tensor) -> torch.Tensor:
        """Weights [C_in * taps] of standardised tap sums as those of tap sums, [C_in, taps]; without their bias."""
        return (weights / self._standardised_sample[0].deviation).view(self._shape)

    def second_moments(self, concept: Concept) -> torch.Tensor:
        """The mean outer product of the tap sums of all images of a Concept: [C_in * taps, C_in * taps], float64.

        Those of classes are kept as far as they fit, for other concepts of the same classes.
        """
        if concept.kind == "images":
            return self._moments_of_images(self.images_of(concept))
        numbers = torch.tensor([len(self._images_of_classes[output]) for output in concept.classes])
        shares = (numbers.double() / numbers.sum()).tolist()
        total = torch.zeros(self.num_values, self.num_values, dtype=torch.float64)
        for output, share in zip(concept.classes, shares, strict=True):
            if share:
                total.add_(self._moments_of_class(output), alpha=share)
        return total

    def _moments_of_images(self, images: torch.Tensor) -> torch.Tensor:
        """The mean outer product of the tap sums of images, by their ascending indices."""
        blocks = images.split(max(1, BLOCK_VALUES // self.num_values))
        return summed_outer_products(map(self.of_images, blocks), self.num_values) / len(images)

    def second_moments_of_others(self, concepts: Sequence[Concept]) -> torch.Tensor:
        """``second_moments`` of the images of ``of_others``; UserError if there is none."""
        inputs, rows = self._sample
        is_own = self._are_of(concepts, rows)
        num_own = int(is_own.sum())
        num_others = len(rows) - num_own
        if not num_others:
            raise UserError(NO_OTHERS)
        if num_own < num_others:
            others = self._outer_products_of_sample - summed_outer_products([inputs[is_own]], self.num_values)
        else:
            others = summed_outer_products([inputs[~is_own]], self.num_values)
        return others / num_others

    def _are_of(self, concepts: Sequence[Concept], rows: torch.Tensor | slice) -> torch.Tensor:
        """True for the rows of the labels that are images of Concepts."""
        outputs = torch.tensor([output for concept in concepts for output in concept.classes])
        images = torch.tensor([image for concept in concepts for image in concept.images or ()])
        return torch.isin(self._labels.targets[rows], outputs) | torch.isin(self._labels.indices[rows], images)

    def of_concepts(
        self, concepts: list[Concept], background: float | None, means: torch.Tensor | None = None
    ) -> "ConceptTapSums":
        """The ConceptInputs of some Concepts; ``means`` of their tap sums if they have been computed already."""
        return ConceptTapSums(self, concepts, background, means)

    def keep(self, indices: torch.Tensor) -> None:
        """Read images in one pass over the store and keep their tap sums, besides those kept before.

        This is for many small sets of images that are spread over the store. What does not fit into memory is in a
        scratch file.
        """
        new = indices.unique()
        for kept in self._kept:
            new = new[~kept.positions(new)[0]]
        if len(new):
            rows = KeptRows(new, self._shape, self._store.folder)
            for positions, inputs in self._of_chunks(new):
                rows.write(int(positions[0]), inputs)
            self._kept.append(rows)

    def of_images(self, indices: torch.Tensor) -> torch.Tensor:
        """Tap sums of images by their ascending indices: [n, C_in, taps], float32."""
        inputs = torch.empty(len(indices), *self._shape)
        missing = torch.ones(len(indices), dtype=torch.bool)
        for kept in self._kept:
            is_kept, positions = kept.positions(indices)
            inputs[is_kept] = kept.read(positions)
            missing &= ~is_kept
        missing_positions = missing.nonzero().flatten()
        for positions, of_chunk in self._of_chunks(indices[missing_positions]):
            inputs[missing_positions[positions]] = of_chunk
        return inputs

    def _of_chunks(self, indices: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """For each chunk that has some of the ascending indices: their positions among these, and their tap sums."""
        if not len(indices):
            return
        chunks = indices.div(self._store.meta["chunk_size"], rounding_mode="floor")
        numbers, counts = chunks.unique_consecutive(return_counts=True)
        positions = torch.arange(len(indices)).split(counts.tolist())
        bar = progress(numbers.tolist(), "reading the layer's inputs", unit=" chunks", delay=2, images=len(indices))
        for chunk, of_chunk in zip(bar, positions, strict=True):
            present, inputs = self._read(chunk)
            yield of_chunk, inputs[torch.searchsorted(present, indices[of_chunk])]

    def _read_chunk(self, chunk: int) -> tuple[torch.Tensor, torch.Tensor]:
        arrays = self._store.read_chunk(chunk, ["input_sums"])
        return arrays["indices"], arrays["input_sums"]


def evenly_spread(count: int, most: int) -> torch.Tensor:
    """Rows that are evenly spread over ``count`` ones, ascending: all of them, or ``most``."""
    return torch.linspace(0, count - 1, min(most, count), dtype=torch.float64).round().long()


@dataclass
class ConceptTapSums:
    """Tap sums of the stored images of concepts: the ConceptInputs of ways of dividing inputs (``utils.divisions``).

    ``concepts`` have images of their own. ``background`` is the weight of the background, one more concept, or None if
    there is none. ``known_means`` [K, C_in, taps] are the means of all of them if they have been computed already.
    """

    tap_sums: StoredTapSums
    concepts: list[Concept]
    background: float | None
    known_means: torch.Tensor | None = None

    def means(self) -> torch.Tensor:
        """Mean tap sums of each concept: Tensor [K, C_in, taps], float64."""
        if self.known_means is not None:
            return self.known_means
        return torch.stack([group.double().mean(0) for group in self.groups()[0]])

    def groups(self) -> tuple[list[torch.Tensor], list[float]]:
        """The tap sums of the images of each concept, Tensors [n, C_in, taps], and the weight of each concept."""
        groups = [self.tap_sums.of(concept) for concept in self.concepts]
        if self.background is not None:
            groups.append(self.tap_sums.of_others(self.concepts))
            if not len(groups[-1]):
                raise UserError(NO_OTHERS)
        return groups, self._weights()

    def second_moments(self) -> tuple[Sequence[torch.Tensor], list[float]]:
        """The mean outer product of each concept's tap sums, [C_in * taps, C_in * taps] float64, and its weight.

        Those of large kernels are computed when they are used, and not kept.
        """
        moments: Sequence[torch.Tensor] = _MomentsInTurn(self)
        fit = 8 * len(moments) * self.tap_sums.num_values**2 <= MOMENT_BYTES
        return list(moments) if fit else moments, self._weights()

    def _weights(self) -> list[float]:
        return [1.0] * len(self.concepts) + ([] if self.background is None else [self.background])


class _MomentsInTurn(Sequence[torch.Tensor]):
    """The second moments of each of some concepts, computed each time they are asked for; a background's last."""

    def __init__(self, inputs: ConceptTapSums) -> None:
        self._inputs = inputs

    def __len__(self) -> int:
        return len(self._inputs.concepts) + (self._inputs.background is not None)

    def __getitem__(self, number: Any) -> Any:
        concepts = self._inputs.concepts
        if number < len(concepts):
            return self._inputs.tap_sums.second_moments(concepts[number])
        if number == len(concepts) < len(self):
            return self._inputs.tap_sums.second_moments_of_others(concepts)
        raise IndexError(number)
