"""Batches of images on a device, for every way of decoding."""

import math
import signal
import sys
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate
from tqdm import tqdm

from utils.errors import WORKER_DIED, UserError, printable
from utils.images.decoding import (
    Batch,
    ContentChanged,
    Crop,
    MachineFailure,
    Picture,
    crop_with_pil,
    crop_with_torchvision,
    read_picture,
    require_decoder,
)
from utils.images.device_decoding import DeviceBatches
from utils.images.folders import ImageList
from utils.images.transform import Transform
from utils.processes import progress

Group = TypeVar("Group", bound=Hashable)
MOST_PREFETCHED = 4  # batches a worker process
PREFETCHED_BYTES = 2**30  # of all worker processes


class ImageBatch(NamedTuple):
    """The readable images of a batch, B of them; B can be 0.

    ``indices`` LongTensor [B] in the ImageList; ``pixels`` float32 [B, 3, H, W], normalised, on the device;
    ``contents`` array of uint64 [B], the first 8 bytes of the SHA-256 of the files that were decoded; ``crops`` uint8
    [B, H, W, 3], from which ``transform.normalise`` makes the pixels, on the device that decoded.
    """

    indices: torch.Tensor
    pixels: torch.Tensor
    contents: np.ndarray
    crops: torch.Tensor


class ImageFiles(Dataset):
    """Pictures of an ImageList: their crops, or the reason why there is none."""

    def __init__(self, images: ImageList, transform: Transform, crop: Crop = crop_with_pil) -> None:
        self.images = images
        self.transform = transform
        self.crop = crop

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Picture:
        picture = read_picture(self.images, index)
        if picture.reason is None:
            picture.decode(self.crop, self.transform)
        return picture


def _collate(pictures: Sequence[Picture]) -> Batch:
    crops = [picture.crop for picture in pictures if picture.reason is None]
    # in a worker process default_collate stacks in memory that is shared with the main one
    return Batch.of(pictures, default_collate(crops) if crops else torch.empty(0, 1, 1, 3, dtype=torch.uint8))


def _leave_interrupts_to_the_main_process(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # the thread that hands batches over would report through this hook that the main process is gone
    sys.excepthook = lambda *_: None


def batches_of(indices: Iterable[int], batch_size: int) -> list[list[int]]:
    """Cut a sequence of image indices into batches."""
    numbers = indices.tolist() if isinstance(indices, torch.Tensor) else [int(index) for index in indices]
    return [numbers[start : start + batch_size] for start in range(0, len(numbers), batch_size)]


def equal_batches_of(indices: Iterable[int], batch_size: int) -> list[list[int]]:
    """Cut a sequence of image indices into as few batches as ``batches_of`` does; sizes differ by one at most."""
    numbers = list(indices)
    count = max(1, math.ceil(len(numbers) / batch_size))
    size, num_larger = divmod(len(numbers), count)
    starts = [number * size + min(number, num_larger) for number in range(count + 1)]
    return [numbers[start:end] for start, end in pairwise(starts) if start < end]


def prefetched(batches: Sequence[Sequence[int]], transform: Transform, num_workers: int) -> int | None:
    """How many batches each worker process decodes ahead, so that all of them together fit a bound of bytes.

    They wait in shared memory: 32 processes with four batches of 254 images each would be 4.9 GB.
    """
    if num_workers == 0:
        return None
    largest = max(map(len, batches), default=1) * 3 * transform.crop_size**2
    return max(1, min(MOST_PREFETCHED, PREFETCHED_BYTES // (largest * num_workers)))


@dataclass(frozen=True)
class Loading:
    """How image files are read, and on which device their batches are.

    ``device`` receives the batches; ``decoding`` is ``pil``, ``fast`` (torchvision on the CPU) or ``gpu``;
    ``num_workers`` processes (or threads, with ``gpu``) read ahead; with ``skip_unreadable`` an image that cannot be
    read is left out instead of ending the run. ``memory_format`` is the layout of the batches in memory.
    """

    device: torch.device
    decoding: str = "pil"
    num_workers: int = 0
    skip_unreadable: bool = False
    memory_format: torch.memory_format = torch.channels_last

    def pixels(self, crops: torch.Tensor, transform: Transform) -> torch.Tensor:
        """Crops, uint8 [B, H, W, 3], as the network takes them: float32 [B, 3, H, W], normalised, on the device."""
        return transform.normalise(crops, self.device).contiguous(memory_format=self.memory_format)


class ImageBatches:
    """Iterate over an ``ImageBatch`` for each of ``batches``, with a progress bar in images per second.

    Worker processes decode ahead; with the decoding ``gpu``, worker threads read ahead and the
    device decodes. Each file is read once. An unreadable image is an error that names it; with ``skip_unreadable`` it
    is left out, named on standard error and counted in ``skipped``. JPEG files that the device's decoder ``refused``
    are counted on standard error at the end of a pass. An image whose content differs from that in the
    ImageList is always an error. With None for ``description`` there is no bar. ``loader`` gives each ``Batch`` before
    it is normalised; ``files`` makes the dataset of PIL's and torchvision's pictures. ``done`` images of the same work
    were read by an earlier run: the bar begins there.
    """

    def __init__(
        self,
        images: ImageList,
        transform: Transform,
        batches: list[list[int]],
        description: str | None,
        loading: Loading,
        *,
        files: Callable[[ImageList, Transform, Crop], ImageFiles] = ImageFiles,
        done: int = 0,
    ) -> None:
        self.images = images
        self.transform = transform
        self.batches = batches
        self.done = done
        self.description = description
        self.loading = loading
        self.skip_unreadable = loading.skip_unreadable
        self.skipped = 0
        self.refused: list[int] = []
        self.loader: Iterable[Batch]
        if loading.decoding == "gpu":
            self.loader = DeviceBatches(images, transform, batches, loading.num_workers, loading.device)
        else:
            if loading.decoding == "fast":
                require_decoder(torch.device("cpu"), loading.decoding)
            self.loader = DataLoader(
                files(images, transform, crop_with_torchvision if loading.decoding == "fast" else crop_with_pil),
                batch_sampler=batches,
                num_workers=loading.num_workers,
                collate_fn=_collate,
                pin_memory=loading.device.type == "cuda",
                prefetch_factor=prefetched(batches, transform, loading.num_workers),
                worker_init_fn=_leave_interrupts_to_the_main_process,
            )

    def __iter__(self) -> Iterator[ImageBatch]:
        total = self.done + sum(map(len, self.batches))
        hidden = self.description is None
        with progress(total=total, initial=self.done, desc=self.description, unit=" images", hidden=hidden) as bar:
            waited = 0.0
            begin = time.perf_counter()
            for batch, seconds in self._loaded():
                waited += seconds
                bar.set_postfix_str(f"waiting for data {waited / (time.perf_counter() - begin):.0%}", refresh=False)
                for index, reason in batch.unreadable:
                    self._report(index, reason)
                self.refused += batch.refused
                pixels = self.loading.pixels(batch.crops, self.transform)
                yield ImageBatch(batch.indices, pixels, batch.contents, batch.crops)
                bar.update(len(batch.indices) + len(batch.unreadable))
        if self.skipped:
            print(f"{self.skipped} unreadable images left out ({self.description})", file=sys.stderr)
        if self.refused:
            path = printable(str(self.images.path(self.refused[0])))
            count = f"{len(self.refused)} JPEG files refused by the decoder of {self.loading.device}"
            print(f"{count} were decoded by PIL, the first of them {path}", file=sys.stderr)

    def readable(self) -> Iterator[ImageBatch]:
        """The batches in which an image could be read."""
        return (batch for batch in self if len(batch.indices))

    def _loaded(self) -> Iterator[tuple[Batch, float]]:
        """The loader's batches, and for how many seconds each was waited for.

        A worker process that was killed shows as an error of the connection to it.
        """
        try:
            begin = time.perf_counter()
            for batch in self.loader:
                yield batch, time.perf_counter() - begin
                begin = time.perf_counter()
        except (ConnectionError, EOFError) as error:
            raise UserError(WORKER_DIED) from error

    def _report(self, index: int, reason: str) -> None:
        path = printable(str(self.images.path(index)))
        if isinstance(reason, ContentChanged):
            raise UserError(f"{path} is not the image that stage 1 measured: {reason}")
        if isinstance(reason, MachineFailure):
            raise UserError(f"cannot read image {path} ({printable(reason)})")
        if not self.skip_unreadable:
            raise UserError(
                f"cannot read image {path} ({printable(reason)}): repair it, or leave it out with --skip_unreadable; "
                "either changes the data set, so the chunks made so far have to be deleted"
            )
        self.skipped += 1
        tqdm.write(f"left out unreadable image {path} ({printable(reason)})", file=sys.stderr)


@dataclass(frozen=True)
class ImageSource:
    """Images, and how a network gets them.

    ``images`` are listed, and read with ``transform`` as ``loading`` specifies, ``batch_size`` at a time if they come
    in order; ``files`` makes the dataset of pictures that PIL or torchvision decode, from the list, the transform and
    the function that decodes.
    """

    images: ImageList
    transform: Transform
    batch_size: int
    loading: Loading
    files: Callable[..., ImageFiles] = ImageFiles

    def batches(self, plan: list[list[int]], description: str | None, done: int = 0) -> ImageBatches:
        """The batches of a plan: the indices of the images of each.

        ``description`` is that of the progress bar, which begins at the ``done`` images of an earlier run.
        """
        return ImageBatches(self.images, self.transform, plan, description, self.loading, files=self.files, done=done)

    def in_order(
        self, indices: Sequence[int] | np.ndarray | torch.Tensor, description: str | None, done: int = 0
    ) -> ImageBatches:
        """The images at some indices, in their order; the first ``done`` of them were read by an earlier run."""
        return self.batches(batches_of(indices[done:], self.batch_size), description, done)


@dataclass(frozen=True)
class PlannedBatch(Generic[Group]):
    """A batch that is to be read: the group that its images are of, their indices, and whether it ends the group."""

    group: Group
    indices: list[int]
    is_last: bool


def batches_by_group(
    groups: Mapping[Group, Iterable[int]],
    batch_size: int,
    cut: Callable[[Iterable[int], int], list[list[int]]] = batches_of,
) -> list[PlannedBatch[Group]]:
    """The batches of some groups of images, each of one group, which ``cut`` cuts; an empty group has none."""
    return [
        PlannedBatch(group, batch, is_last=number == len(batches))
        for group, batches in ((group, cut(indices, batch_size)) for group, indices in groups.items())
        for number, batch in enumerate(batches, start=1)
    ]
