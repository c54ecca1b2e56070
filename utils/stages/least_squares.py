"""Stage 3 by least squares: shares of inputs, from what the store has of the training images alone."""

from functools import lru_cache

import torch

from utils.errors import UserError
from utils.method.disentangling import Split
from utils.method.least_squares import RIDGE, least_squares_shares
from utils.stages.disentangling import proof_images

SAMPLE = 5_000  # images that everything else is judged by
CHUNKS = 4  # that stay in memory


class StoredInputs:
    """Tap sums of the layer's input in training images, read from the chunks of a store as they are asked for.

    Parameters
    ----------
    store : ImportanceStore
        Complete.
    labels : Labels
    only_correct : bool
        Whether a concept's images are the correctly classified ones alone; everything else is all images.
    """

    def __init__(self, store, labels, only_correct):
        self._store, self._labels = store, labels
        self._usable = labels.targets == labels.predictions if only_correct else labels.targets >= 0
        self._read = lru_cache(CHUNKS)(self._read_chunk)
        self._sample, self._kept = None, (torch.empty(0, dtype=torch.long), None)

    def of(self, concept):
        """Of all images of a Concept: [n, C_in, taps], float32."""
        if concept.kind == "images":
            return self.of_images(torch.tensor(concept.images))
        return self.of_images(self._labels.indices[self._usable & self._are_of([concept], slice(None))])

    def of_others(self, concepts):
        """Of a sample, from all over the store, of the images that are of none of these Concepts."""
        if self._sample is None:
            count = len(self._labels.indices)
            rows = torch.linspace(0, count - 1, min(SAMPLE, count), dtype=torch.float64).round().long()
            self._sample = self.of_images(self._labels.indices[rows]), rows
        inputs, rows = self._sample
        return inputs[~self._are_of(concepts, rows)]

    def _are_of(self, concepts, rows):
        """Which of some rows of the labels are images of Concepts."""
        outputs = torch.tensor([output for one in concepts for output in one.classes])
        images = torch.tensor([image for one in concepts for image in one.images or ()])
        return torch.isin(self._labels.targets[rows], outputs) | torch.isin(self._labels.indices[rows], images)

    def groups(self, concepts, background):
        """The tap sums of the images of each Concept, and what each group of them counts.

        ``background`` is the weight of everything else, the last group; None: there is none.
        """
        groups = [self.of(concept) for concept in concepts]
        importance = [1.0] * len(groups)
        if background is not None:
            groups.append(self.of_others(concepts))
            if not len(groups[-1]):
                raise UserError("there is no training image of anything else: give --background 0")
            importance.append(background)
        return groups, importance

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


class ByLeastSquares:
    """Divides candidates by least squares; sees only the images on which equality is shown.

    Parameters
    ----------
    inputs : StoredInputs
    background : float or None
        Weight of everything else; None: it is not asked for.
    """

    split_by, objective, description = "least_squares", None, "images to show equality on"

    def __init__(self, inputs, background):
        self.inputs, self.background = inputs, background
        self.source = {"ridge": RIDGE, "sample": SAMPLE}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def wanted(self, indices):
        """Which of the images of a group are to be seen."""
        return proof_images(indices)

    def see(self, candidates, key, pixels):
        """Images say nothing that the store does not."""

    def split(self, candidate):
        """The Split of a candidate."""
        fitted = least_squares_shares(candidate.weight[None].double(), *self.groups(candidate))[0]
        return Split(**candidate.content(), fitted=fitted / fitted.sum(0))

    def groups(self, candidate):
        """The tap sums of the images of each concept, and what each group of them counts."""
        return self.inputs.groups(candidate.own_concepts, self.background)
