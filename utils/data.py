"""Images: lists of files, the evaluation transform, and batches of them however they are decoded."""

import hashlib
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF
from tqdm import tqdm

from utils.decoding import Batch, MachineFailure, attempt, crop_with_pil, crop_with_torchvision
from utils.device_decoding import DeviceBatches
from utils.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Transform:
    """The evaluation transform: resize the shorter side, crop the centre, normalise.

    Sizes in pixels; ``mean`` and ``std`` for each colour channel, of values in 0..1.
    """

    resize_size: int = 256
    crop_size: int = 224
    interpolation: str = "bilinear"
    mean: tuple = (0.485, 0.456, 0.406)
    std: tuple = (0.229, 0.224, 0.225)

    def crop(self, image):
        """Resize and crop an RGB PIL image: uint8 Tensor [H, W, 3]."""
        image = TF.resize(image, [self.resize_size], InterpolationMode(self.interpolation))
        return torch.from_numpy(np.array(TF.center_crop(image, [self.crop_size])))

    def normalise(self, images, device):
        """Move a batch of crops, uint8 [B, H, W, 3], to ``device``: float32 [B, 3, H, W], channels last in memory."""
        images = images.to(device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)
        mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (self.mean, self.std))
        return images.sub_(mean).div_(std)


@dataclass(frozen=True)
class ImageList:
    """The images of some class folders: ``paths`` relative to ``root``, sorted; ``sizes`` in bytes.

    ``folder_of[i]`` is the index in ``folders`` of image i. Arrays, not lists: a million Python strings would be
    copied into every worker process.
    """

    root: Path
    folders: list
    paths: np.ndarray
    sizes: np.ndarray
    folder_of: np.ndarray

    def __len__(self):
        return len(self.paths)

    def path(self, index):
        return self.root / os.fsdecode(self.paths[index])

    def counts(self):
        """Number of images by folder name."""
        counts = np.bincount(self.folder_of, minlength=len(self.folders)).tolist()
        return dict(zip(self.folders, counts, strict=True))

    def digest(self):
        """SHA-256 of the relative paths and sizes: equal content at another place is equal."""
        digest = hashlib.sha256()
        for path, size in zip(self.paths.tolist(), self.sizes.tolist(), strict=True):
            digest.update(b"%s\0%d\n" % (path, size))
        return digest.hexdigest()


def progress(*args, **kwargs):
    """A progress bar; of several processes (torchrun) only the first one shows its own, as they share a terminal."""
    return tqdm(*args, disable=int(os.environ.get("RANK") or 0) > 0, **kwargs)


def class_folders(root):
    """Names of the class folders of ``train/`` or ``val/``, sorted; UserError where there are none."""
    if not Path(root).is_dir():
        raise UserError(f"there is no folder {root}: --data_dir must hold train/ and val/, one sub-folder a class")
    present = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    if not present:
        flat = any(entry.name.lower().endswith(IMAGE_SUFFIXES) for entry in os.scandir(root))
        what = "images but no class folders: sort them into one sub-folder a class" if flat else "no class folders"
        raise UserError(f"{root} has {what}")
    return present


def list_images(root, folders=None):
    """List the images in the class folders of ``root``, sub-folders included, hidden files and folders ignored.

    Parameters
    ----------
    root : Path
        ``train/`` or ``val/``.
    folders : list of str, optional
        The class folders asked for; default: all.

    Raises
    ------
    UserError
        No such folder, no class folders, or a class without images.
    """
    root, present = Path(root), class_folders(root)
    folders = present if folders is None else folders
    missing = sorted(set(folders) - set(present))
    if missing:
        raise UserError(f"{root} has no class folder {missing[0]}")
    found = [sorted(_scan(root / name, name)) for name in progress(folders, "listing images", delay=2, leave=False)]
    empty = [name for name, files in zip(folders, found, strict=True) if not files]
    if empty:
        raise UserError(f"class folder {root / empty[0]} has no images ({', '.join(IMAGE_SUFFIXES)})")
    files = [file for of_folder in found for file in of_folder]
    return ImageList(
        root,
        folders,
        np.array([os.fsencode(path) for path, _ in files]),
        np.array([size for _, size in files], dtype=np.int64),
        np.repeat(np.arange(len(folders)), [len(of_folder) for of_folder in found]),
    )


def has_images(folder):
    """Whether ``list_images`` would find an image in a class folder."""
    return any(True for _ in _scan(folder, ""))


def _scan(folder, prefix):
    for entry in os.scandir(folder):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _scan(entry.path, f"{prefix}/{entry.name}")
        elif entry.name.lower().endswith(IMAGE_SUFFIXES):
            yield f"{prefix}/{entry.name}", entry.stat().st_size


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
