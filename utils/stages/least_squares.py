"""Stage 3 by least squares: shares of inputs, from what the store has of the training images alone."""

from functools import lru_cache

import torch

from utils.errors import UserError
from utils.method.disentangling import Split
from utils.method.least_squares import RIDGE, least_squares_shares
from utils.stages.disentangling import proof_images

SAMPLE = 5_000  # images that everything else is judged by
CHUNKS = 4  # that stay in memory


class TrainingInputs:
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
        self._sample = None

    def of_classes(self, outputs):
        """Of all images of some classes: [n, C_in, taps], float32."""
        own = self._usable & torch.isin(self._labels.targets, torch.tensor(outputs))
        return self._of_images(self._labels.indices[own])

    def of_others(self, outputs):
        """Of a sample, from all over the store, of the images that are of none of these classes."""
        if self._sample is None:
            count = len(self._labels.indices)
            rows = torch.linspace(0, count - 1, min(SAMPLE, count), dtype=torch.float64).round().long()
            self._sample = self._of_images(self._labels.indices[rows]), self._labels.targets[rows]
        inputs, targets = self._sample
        return inputs[~torch.isin(targets, torch.tensor(outputs))]

    def _of_images(self, indices):
        """Of images by their indices, ascending."""
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
    inputs : TrainingInputs
    background : float or None
        Weight of everything else; None: it is not asked for.
    """

    split_by, objective, description = "least_squares", None, "images to show equality on"

    def __init__(self, inputs, background):
        self.inputs, self.background = inputs, background
        self.source = {"from": "classes", "ridge": RIDGE, "sample": SAMPLE}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def wanted(self, indices):
        """Which of the images of a class are to be seen."""
        return proof_images(indices)

    def see(self, candidates, output, pixels):
        """Images say nothing that the store does not."""

    def split(self, candidate):
        """The Split of a candidate."""
        fitted = least_squares_shares(candidate.weight[None].double(), *self.groups(candidate))[0]
        return Split(**candidate.content(), fitted=fitted / fitted.sum(0))

    def groups(self, candidate):
        """The tap sums of the images of each concept, and what each group of them counts."""
        groups = [self.inputs.of_classes(classes) for classes in candidate.classes]
        importance = [1.0] * len(groups)
        if self.background is not None:
            groups.append(self.inputs.of_others(candidate.outputs))
            if not len(groups[-1]):
                raise UserError("there is no training image of another class: give --background 0")
            importance.append(self.background)
        return groups, importance
