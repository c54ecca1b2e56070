"""Images of which the network before the layer is computed once, group by group, within a bound of memory."""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from utils.images.batches import ImageSource, batches_by_group
from utils.networks.arithmetic import return_freed_memory
from utils.networks.opened_network import OpenedNetwork
from utils.networks.recording import require_finite_values
from utils.networks.tails import RecordedBatch

MOST_BYTES = 3 * 2**27  # of recorded images
LOT_IMAGES = 512  # that are recorded together
LOT_BYTES = 2**28

Indices: TypeAlias = Sequence[int] | np.ndarray


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
        self._bytes_of_image = 0
        self._groups: dict[Hashable, list[RecordedBatch]] = {}  # the one used last at the end

    def of(self, groups: Mapping[Hashable, Indices]) -> Iterator[tuple[Hashable, list[RecordedBatch]]]:
        """The batches of some groups, one group after the other, from {key: indices}.

        The same key always has the same indices. A group has no batch where none of its images could be read. However
        many groups there are, only those of a lot are in memory beside MOST_BYTES.
        """
        keys = list(groups)
        for number, key in enumerate(keys):
            if key not in self._groups:
                later = keys[number:]
                self._record(self._first_lot({key: groups[key] for key in later if key not in self._groups}))
                waiting = [key for key in later if key in self._groups]
                self._use(waiting)  # they stay until it is their turn
                self._forget(keep=len(waiting))
                return_freed_memory()
            self._use([key])
            yield key, self._groups[key]

    def _use(self, keys: Iterable[Hashable]) -> None:
        for key in keys:
            self._groups[key] = self._groups.pop(key)

    def _first_lot(self, groups: Mapping[Hashable, Indices]) -> dict[Hashable, Indices]:
        """The first group, and the next ones as long as all together have few images, and take at most LOT_BYTES."""
        most = min(LOT_IMAGES, LOT_BYTES // self._bytes_of_image) if self._bytes_of_image else 1
        lot: dict[Hashable, Indices] = {}
        number = 0
        for key, indices in groups.items():
            number += len(indices)
            if lot and number > most:
                break
            lot[key] = indices
        return lot

    def _record(self, groups: Mapping[Hashable, Indices]) -> None:
        source = self._images.source
        plan = batches_by_group(groups, source.batch_size)
        loader = source.batches([planned.indices for planned in plan], None)
        recorded_groups: dict[Hashable, list[RecordedBatch]] = {key: [] for key in groups}
        for planned, batch in zip(plan, loader, strict=True):
            if len(batch.indices):
                targets = self._images.targets[batch.indices]
                recorded = RecordedBatch(self._network, batch.pixels, batch.indices, targets)
                require_finite_values([recorded.logits], batch.indices, source.images)
                recorded_groups[planned.group].append(recorded)
                self._bytes_of_image = max(self._bytes_of_image, recorded.num_bytes // len(recorded))
                self.images_run += len(recorded)
        self._groups |= recorded_groups  # only now: a group that an image has ended must not stand as a whole one

    def _forget(self, keep: int) -> None:
        """Remove the groups that were used first, but the last ``keep`` ones, until all fit."""
        sizes = {key: sum(batch.num_bytes for batch in batches) for key, batches in self._groups.items()}
        total = sum(sizes.values())
        for key in list(sizes)[: len(sizes) - keep]:
            if total <= MOST_BYTES:
                break
            total -= sizes[key]
            del self._groups[key]
