"""Tap sums of the layer's input in stored images, for concepts without labels and for ways of dividing inputs."""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch

from utils.defaults import BACKGROUND_SAMPLE
from utils.errors import UserError
from utils.method.disentangling import Concept

CHUNKS = 4  # that stay in memory


class StoredTapSums:
    """Tap sums of the layer's input in training images, read from the chunks of a store as they are asked for.

    Parameters
    ----------
    store : ImportanceStore
        Complete.
    read_labels : function that returns the Labels
        Called where a concept's own images or those of everything else are asked for.
    only_correct : bool
        Whether a concept's images are the correctly classified ones alone; everything else is all images.
    """

    def __init__(self, store, read_labels, only_correct):
        self._store, self._read_labels, self._only_correct = store, read_labels, only_correct
        self._read = lru_cache(CHUNKS)(self._read_chunk)
        self._sample, self._kept = None, (torch.empty(0, dtype=torch.long), None)

    @cached_property
    def _labels(self):
        return self._read_labels()

    @cached_property
    def _usable(self):
        return self._labels.counting(self._only_correct)

    def of(self, concept):
        """Of all images of a Concept: [n, C_in, taps], float32."""
        if concept.kind == "images":
            return self.of_images(torch.tensor(concept.images))
        return self.of_images(self._labels.indices[self._usable & self._are_of([concept], slice(None))])

    def of_others(self, concepts):
        """Of a sample, from all over the store, of the images that are of none of these Concepts."""
        if self._sample is None:
            count = len(self._labels.indices)
            rows = torch.linspace(0, count - 1, min(BACKGROUND_SAMPLE, count), dtype=torch.float64).round().long()
            self._sample = self.of_images(self._labels.indices[rows]), rows
        inputs, rows = self._sample
        return inputs[~self._are_of(concepts, rows)]

    def _are_of(self, concepts, rows):
        """Which of some rows of the labels are images of Concepts."""
        outputs = torch.tensor([output for one in concepts for output in one.classes])
        images = torch.tensor([image for one in concepts for image in one.images or ()])
        return torch.isin(self._labels.targets[rows], outputs) | torch.isin(self._labels.indices[rows], images)

    def of_concepts(self, concepts, background, means=None):
        """The ConceptInputs of some Concepts; ``means``: those of their tap sums where they are known already."""
        return ConceptTapSums(self, concepts, background, means)

    def keep(self, indices):
        """Read images once, in one pass over the store, and keep them beside those that are kept: many sets of few
        images from all over it."""
        there, inputs = self._kept
        new = indices.unique()
        new = new[~torch.isin(new, there)]
        if inputs is None:
            self._kept = new, self.of_images(new)
        elif len(new):
            indices, read = torch.cat([there, new]), self.of_images(new)
            order = indices.argsort()
            self._kept = indices[order], torch.cat([inputs, read])[order]

    def of_images(self, indices):
        """Of images by their indices, ascending: [n, C_in, taps], float32."""
        kept, inputs = self._kept
        if torch.isin(indices, kept).all() and len(indices):
            return inputs[torch.searchsorted(kept, indices)]
        chunks = indices.div(self._store.meta["chunk_size"], rounding_mode="floor")
        parts = []
        for chunk in chunks.unique().tolist():
            present, inputs = self._read(chunk)
            parts.append(inputs[torch.searchsorted(present, indices[chunks == chunk])])
        return torch.cat(parts)

    def _read_chunk(self, chunk):
        found = self._store.read_chunk(chunk, ["input_sums"])
        return found["indices"], found["input_sums"]


@dataclass
class ConceptTapSums:
    """What the stored images tell of concepts: ConceptInputs, as ways of dividing ask for them (``utils.divisions``).

    ``concepts`` have images of their own. ``background`` is the weight of everything else, one more concept; None:
    there is none. ``known_means`` [K, C_in, taps] are those of all of them, or None: then the means over their images.
    """

    tap_sums: StoredTapSums
    concepts: list[Concept]
    background: float | None
    known_means: torch.Tensor | None = None

    def means(self):
        """Mean tap sums of each concept: Tensor [K, C_in, taps], float64."""
        if self.known_means is not None:
            return self.known_means
        return torch.stack([group.double().mean(0) for group in self.groups()[0]])

    def groups(self):
        """Tap sums of the images of each concept, a Tensor [n, C_in, taps] each, and the weight of each: two lists."""
        groups = [self.tap_sums.of(concept) for concept in self.concepts]
        weights = [1.0] * len(groups)
        if self.background is not None:
            groups.append(self.tap_sums.of_others(self.concepts))
            if not len(groups[-1]):
                raise UserError("there is no training image of anything else: give --background 0")
            weights.append(self.background)
        return groups, weights
