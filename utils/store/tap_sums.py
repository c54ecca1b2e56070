"""Tap sums of the layer's input in stored images, for concepts without labels and for ways of dividing inputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch

from utils.defaults import BACKGROUND_SAMPLE
from utils.errors import UserError
from utils.method.disentangling import Concept
from utils.store.importance_store import ImportanceStore, Labels

CHUNKS = 4  # that stay in memory


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
        self._kept_indices = torch.empty(0, dtype=torch.long)
        self._kept_inputs: torch.Tensor | None = None

    @cached_property
    def _labels(self) -> Labels:
        return self._read_labels()

    @cached_property
    def _usable(self) -> torch.Tensor:
        return self._labels.counting(self._only_correct)

    @cached_property
    def _sample(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Tap sums of images that are evenly spread over the store, and their rows in the labels."""
        count = len(self._labels.indices)
        rows = torch.linspace(0, count - 1, min(BACKGROUND_SAMPLE, count), dtype=torch.float64).round().long()
        return self.of_images(self._labels.indices[rows]), rows

    def of(self, concept: Concept) -> torch.Tensor:
        """Tap sums of all images of a Concept: [n, C_in, taps], float32."""
        if concept.kind == "images":
            return self.of_images(torch.tensor(concept.images))
        return self.of_images(self._labels.indices[self._usable & self._are_of([concept], slice(None))])

    def of_others(self, concepts: Sequence[Concept]) -> torch.Tensor:
        """Tap sums of a sample of the images that belong to none of these Concepts: [n, C_in, taps], float32."""
        inputs, rows = self._sample
        return inputs[~self._are_of(concepts, rows)]

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
        """Read images in one pass over the store and keep their tap sums in memory, besides those kept before.

        This is for many small sets of images that are spread over the store.
        """
        new = indices.unique()
        new = new[~torch.isin(new, self._kept_indices)]
        if self._kept_inputs is None:
            self._kept_inputs = self.of_images(new)
            self._kept_indices = new
        elif len(new):
            all_inputs = torch.cat([self._kept_inputs, self.of_images(new)])
            all_indices = torch.cat([self._kept_indices, new])
            order = all_indices.argsort()
            self._kept_inputs = all_inputs[order]
            self._kept_indices = all_indices[order]

    def of_images(self, indices: torch.Tensor) -> torch.Tensor:
        """Tap sums of images by their ascending indices: [n, C_in, taps], float32."""
        if self._kept_inputs is not None and len(indices) and torch.isin(indices, self._kept_indices).all():
            return self._kept_inputs[torch.searchsorted(self._kept_indices, indices)]
        chunks = indices.div(self._store.meta["chunk_size"], rounding_mode="floor")
        parts = []
        for chunk in chunks.unique().tolist():
            present, inputs = self._read(chunk)
            parts.append(inputs[torch.searchsorted(present, indices[chunks == chunk])])
        return torch.cat(parts)

    def _read_chunk(self, chunk: int) -> tuple[torch.Tensor, torch.Tensor]:
        arrays = self._store.read_chunk(chunk, ["input_sums"])
        return arrays["indices"], arrays["input_sums"]


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
        weights = [1.0] * len(groups)
        if self.background is not None:
            groups.append(self.tap_sums.of_others(self.concepts))
            if not len(groups[-1]):
                raise UserError("there is no training image of anything else: give --background 0")
            weights.append(self.background)
        return groups, weights
