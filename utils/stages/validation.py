"""Stage 4's images: from val/, by one pass of the network, or from a val store, without network and images."""

import hashlib
from collections.abc import Hashable, Iterable, Iterator
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch

from utils.errors import printable
from utils.images.folders import ClassMap, class_folders, has_images, list_images
from utils.images.image_source import ImageSource, PlannedBatch, batches_by_group
from utils.method.disentangling import in_order
from utils.method.importance import attribution_shares
from utils.networks.opened_network import OpenedNetwork

STORED_CHUNKS = 8  # that stay in memory: an image set has images from all over the store


class MeasuredBatch(NamedTuple):
    """Images of one group, B of them: all that the evaluation of any split needs.

    ``indices`` LongTensor [B] in the ImageList, ``contents`` uint64 array [B], ``targets`` and ``predictions``
    LongTensor [B]; ``tap_sums`` [B, C_in, taps] float64, ``shares`` [B, C] float16, both on the CPU; ``input`` is the
    layer's input, or None where it is not at hand.
    """

    indices: torch.Tensor
    contents: np.ndarray
    targets: torch.Tensor
    predictions: torch.Tensor
    tap_sums: torch.Tensor
    shares: torch.Tensor
    input: torch.Tensor | None


def list_validation(root, classes, outputs, all_classes=False):
    """Images of classes, given as network outputs, and of all other classes if asked for: an ImageList of ``val/``."""
    own = [classes.folder(output) for output in outputs]
    if not all_classes:
        return list_images(root, own)
    others = [name for name in class_folders(root) if name not in own and has_images(root / name)]
    return list_images(root, [*own, *others])


def without_images(root, classes, outputs):
    """Which classes, given as network outputs, have no image in ``val/``: {output: why}."""
    present, missing = class_folders(root), {}
    for output in outputs:
        folder = classes.folder(output)
        if folder not in present:
            missing[output] = f"{root} has no class folder {printable(folder)}"
        elif not has_images(root / folder):
            missing[output] = f"class folder {printable(str(root / folder))} has no images"
    return missing


def without_measured_images(store, images, classes, outputs):
    """Which classes have no image among those of a val store, its ImageList: {output: why}."""
    missing = [output for output in outputs if classes.folder(output) not in images.folders]
    return {output: f"{store.folder} has no images of {printable(classes.folder(output))}" for output in missing}


def contents_digest(images, indices, contents):
    """SHA-256 of the relative paths and contents of images, that of one class folder say."""
    names = b"\0".join(images.paths[indices].tolist())
    return hashlib.sha256(names + np.asarray(contents).tobytes()).hexdigest()


class ValidationImages:
    """Which validation images there are, in groups: a class, or an image set of a split without labels.

    ``images`` is an ImageList, ``classes`` a ClassMap; ``sets`` has the indices of image sets, {key: array}, ascending.
    """

    def __init__(self, images, classes, sets):
        self.images, self.classes, self.sets = images, classes, sets

    def indices(self, key):
        """Indices of the images of a group, ascending."""
        if key in self.sets:
            return self.sets[key]
        return np.flatnonzero(self.images.folder_of == self.images.folders.index(self.classes.folder(key)))

    def name(self, key):
        """What a group is called where results are compared: its folder, or its split and number."""
        return " ".join(map(str, key)) if key in self.sets else self.classes.folder(key)

    def with_images(self, opened):
        """The groups of splits that have images, in order, and the last one of each split."""
        keys = [key for key in in_order(chain.from_iterable(one.keys for one in opened)) if len(self.indices(key))]
        return keys, [[key for key in keys if key in one.keys][-1] for one in opened]

    def concepts_of(self, opened):
        """Which concept (from 0) of a split each image is of, or -1."""
        found = np.full(len(self.images), -1)
        for k, keys in enumerate(opened.groups):
            for key in keys:
                found[self.indices(key)] = k
        return found

    def files_digest(self, keys):
        """SHA-256 of the relative paths and sizes of the images of some groups."""
        digest = hashlib.sha256()
        for index in chain.from_iterable(map(self.indices, keys)):
            digest.update(b"%s\0%d\n" % (self.images.paths[index], self.images.sizes[index]))
        return digest.hexdigest()


class ImagePass(ValidationImages):
    """Validation images that are read, and measured by one pass of the network, group by group.

    Parameters
    ----------
    network : OpenedNetwork
    source : ImageSource
        Of the validation images.
    classes, sets
        As in ValidationImages.
    """

    def __init__(
        self, network: OpenedNetwork, source: ImageSource, classes: ClassMap, sets: dict[Hashable, np.ndarray]
    ) -> None:
        super().__init__(source.images, classes, sets)
        self.network = network
        self.layer = network.layer
        self.image_source = source
        self.precision = network.precision
        self.decoding = source.loading.decoding
        outputs = np.array([classes.outputs.get(folder, -1) for folder in self.images.folders])
        self.targets = torch.from_numpy(outputs[self.images.folder_of])

    def __str__(self):
        return f"images of {self.images.root}"

    def plan(self, keys: Iterable[Hashable]) -> list[PlannedBatch]:
        """The batches of some groups: one is of one group, and so the same for whatever splits."""
        return batches_by_group({key: self.indices(key) for key in keys}, self.image_source.batch_size)

    def batches(self, keys: Iterable[Hashable]) -> Iterator[tuple[Hashable, MeasuredBatch | None]]:
        """Yields (key, MeasuredBatch), or None for the latter where no image of a batch could be read."""
        plan = self.plan(keys)
        loader = self.image_source.batches([planned.indices for planned in plan], "validation images")
        for (key, *_), (batch, record) in zip(plan, self.network.records_in_step(loader, self.targets), strict=True):
            if record is None:
                yield key, None
                continue
            shares = attribution_shares(record.activation, record.gradient)
            yield (
                key,
                MeasuredBatch(
                    indices=batch.indices,
                    contents=batch.contents,
                    targets=self.targets[batch.indices],
                    predictions=record.logits.argmax(1).cpu(),
                    tap_sums=self.layer.tap_sums(record.input).double().cpu(),
                    shares=shares.half().cpu(),
                    input=record.input,
                ),
            )


class StoredValidation(ValidationImages):
    """Validation images that stage 1 has measured (``--images val``): no network and no image is needed."""

    network = None
    layer = None

    def __init__(self, store, root, classes, sets):
        super().__init__(store.read_images(root), classes, sets)
        self.store = store
        self.precision = store.meta["precision"]
        self.decoding = store.meta["decoding"]

    def __str__(self):
        return f"measured by {self.store.folder}"

    def batches(self, keys):
        """The same as ``ImagePass.batches``, without the layer's input."""
        size, names = self.store.meta["chunk_size"], ("indices", "targets", "predictions", "input_sums", "shares")
        read = lru_cache(STORED_CHUNKS)(lambda chunk: self.store.read_chunk(chunk, [*names, "content"]))
        for key in keys:
            own = self.indices(key)
            for chunk in np.unique(own // size).tolist():
                found = read(chunk)
                rows = torch.isin(found["indices"], torch.from_numpy(own))
                indices, targets, predictions, tap_sums, shares = (found[name][rows] for name in names)
                contents = found["content"][rows.numpy()]
                batch = MeasuredBatch(indices, contents, targets, predictions, tap_sums.double(), shares, None)
                yield key, batch if len(indices) else None
