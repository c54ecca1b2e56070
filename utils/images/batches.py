"""Images: lists of files, the evaluation transform, and batches of them however they are decoded."""

import signal
import sys

import torch
from torch.utils.data import DataLoader, Dataset, default_collate
from tqdm import tqdm

from utils.errors import UserError
from utils.images.decoding import Batch, MachineFailure, attempt, crop_with_pil, crop_with_torchvision
from utils.images.device_decoding import DeviceBatches
from utils.images.progress import progress


class ImageFiles(Dataset):
    """Decoded crops of an ImageList; an image that cannot be read is returned as the reason why."""

    def __init__(self, images, transform, crop=crop_with_pil):
        self.images, self.transform, self.crop = images, transform, crop

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return index, *attempt(self.crop, self.images.path(index), self.transform)


def _collate(items):
    readable = [(index, crop) for index, crop, reason in items if reason is None]
    unreadable = [(index, reason) for index, _, reason in items if reason is not None]
    # in a worker process default_collate stacks in memory that is shared with the main one
    crops = default_collate([crop for _, crop in readable]) if readable else torch.empty(0, 1, 1, 3, dtype=torch.uint8)
    return Batch(torch.tensor([index for index, _ in readable], dtype=torch.long), crops, unreadable)


def _leave_interrupts_to_the_main_process(_):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # the thread that hands batches over reports through this hook that nobody is there any more to take them
    sys.excepthook = lambda *_: None


def batches_of(indices, batch_size):
    """Cut a sequence of image indices into batches."""
    indices = [int(index) for index in indices]
    return [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]


class ImageBatches:
    """Iterate over ``(indices, pixels)`` of batches, with a progress bar in images per second.

    ``indices`` [B] are those of the readable images of a batch, perhaps none; ``pixels`` [B, 3, H, W] are normalised
    and on the device. Worker processes decode ahead of what is asked for; with ``decode="gpu"``, worker threads read
    ahead and the device decodes. An unreadable image is an error that names it; with ``skip_unreadable`` it is left
    out, named on standard error and counted in ``skipped``. ``loader`` gives each ``Batch`` before it is normalised.
    """

    def __init__(self, images, transform, batches, description, *, num_workers, device, skip_unreadable, decode="pil"):
        self.images, self.transform, self.batches, self.device = images, transform, batches, device
        self.skip_unreadable, self.description, self.skipped = skip_unreadable, description, 0
        if decode == "gpu":
            self.loader = DeviceBatches(images, transform, batches, num_workers, device)
        else:
            self.loader = DataLoader(
                ImageFiles(images, transform, crop_with_torchvision if decode == "fast" else crop_with_pil),
                batch_sampler=batches,
                num_workers=num_workers,
                collate_fn=_collate,
                pin_memory=device.type == "cuda",
                prefetch_factor=4 if num_workers else None,
                worker_init_fn=_leave_interrupts_to_the_main_process,
            )

    def __iter__(self):
        with progress(total=sum(map(len, self.batches)), desc=self.description, unit=" images") as bar:
            for batch in self.loader:
                for index, reason in batch.unreadable:
                    self._report(index, reason)
                yield batch.indices, self.transform.normalise(batch.crops, self.device)
                bar.update(len(batch.indices) + len(batch.unreadable))
        if self.skipped:
            print(f"{self.skipped} unreadable images left out ({self.description})", file=sys.stderr)

    def _report(self, index, reason):
        path = self.images.path(index)
        if isinstance(reason, MachineFailure):
            raise UserError(f"cannot read image {path} ({reason})")
        if not self.skip_unreadable:
            raise UserError(
                f"cannot read image {path} ({reason}): mend it, or leave it out with --skip_unreadable; "
                "either makes another data set, so chunks made so far have to be deleted"
            )
        self.skipped += 1
        tqdm.write(f"left out unreadable image {path} ({reason})", file=sys.stderr)
