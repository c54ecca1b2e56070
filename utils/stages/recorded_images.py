"""Images of which the network before the layer is computed once, group by group, within a bound of memory."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from utils.images.batches import ImageSource, batches_by_group
from utils.networks.opened_network import OpenedNetwork
from utils.networks.recording import require_finite_values
from utils.networks.tails import RecordedBatch

MOST_BYTES = 3 * 2**29  # of recorded images


@dataclass(frozen=True)
class LabelledImages:
    """Images that can be read, and the output that is the own class of each: ``targets`` LongTensor [N]."""

    source: ImageSource
    targets: torch.Tensor


class RecordedImages:
    """Groups of images as RecordedBatches, recorded when they are first needed.

    Those that were not needed for the longest time go when all together are larger than MOST_BYTES.

    Parameters
    ----------
    network : OpenedNetwork
    images : LabelledImages

    Attributes
    ----------
    images_run : int
        How many images have been recorded so far, some of them again.
    """

    def __init__(self, network: OpenedNetwork, images: LabelledImages) -> None:
        self._network = network
        self._images = images
        self.images_run = 0
        self._groups: dict[Hashable, list[RecordedBatch]] = {}  # the one used last at the end

    def of(self, groups: Mapping[Hashable, Sequence[int] | np.ndarray]) -> dict[Hashable, list[RecordedBatch]]:
        """The batches of some groups, {key: indices}; the same key always has the same indices.

        A group has no batch where none of its images could be read.
        """
        missing = {key: indices for key, indices in groups.items() if key not in self._groups}
        if missing:
            self._record(missing)
        found = {key: self._groups.pop(key) for key in groups}
        self._groups |= found
        self._forget(keep=len(found))
        return found

    def _record(self, groups: Mapping[Hashable, Sequence[int] | np.ndarray]) -> None:
        source = self._images.source
        self._groups |= {key: [] for key in groups}
        plan = batches_by_group(groups, source.batch_size)
        loader = source.batches([planned.indices for planned in plan], None)
        for planned, batch in zip(plan, loader, strict=True):
            if len(batch.indices):
                targets = self._images.targets[batch.indices]
                recorded = RecordedBatch(self._network, batch.pixels, batch.indices, targets)
                require_finite_values([recorded.logits], batch.indices, source.images)
                self._groups[planned.group].append(recorded)
                self.images_run += len(recorded)

    def _forget(self, keep: int) -> None:
        """Remove the groups that were used first, but the last ``keep`` ones, until the others fit."""
        sizes = {key: sum(batch.num_bytes for batch in batches) for key, batches in self._groups.items()}
        total = sum(sizes.values())
        for key in list(sizes)[: len(sizes) - keep]:
            if total <= MOST_BYTES:
                break
            total -= sizes[key]
            del self._groups[key]
