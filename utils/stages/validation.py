"""Stage 4's validation images: measured by one pass of the network over val/, or read from a val store."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from utils.errors import UserError, printable
from utils.images.batches import ImageBatch, ImageSource, PlannedBatch, batches_by_group
from utils.images.folders import ClassMap, ImageList, class_folders, has_images, list_images
from utils.method.disentangling import GroupKey, HasKeys, in_order
from utils.method.importance import attribution_shares
from utils.networks.layers import Layer
from utils.networks.opened_network import OpenedNetwork
from utils.networks.recording import Record
from utils.processes import progress
from utils.stages.concept_images import order_of_reading
from utils.store.importance_store import ImportanceStore
from utils.store.opened_splits import OpenedSplit

STORED_CHUNKS = 8  # in memory at once: the images of an image set are spread over the store


class MeasuredBatch(NamedTuple):
    """B images of one group, with everything that the evaluation of any split needs.

    ``indices`` LongTensor [B] in the ImageList, ``contents`` uint64 array [B], ``targets`` and ``predictions``
    LongTensor [B]; ``tap_sums`` [B, C_in, taps] float64, ``shares`` [B, C] float16, both on the CPU; ``input`` is the
    layer's input, or None if the images come from a store.
    """

    indices: torch.Tensor
    contents: np.ndarray
    targets: torch.Tensor
    predictions: torch.Tensor
    tap_sums: torch.Tensor
    shares: torch.Tensor
    input: torch.Tensor | None


def list_validation(root: Path, classes: ClassMap, outputs: Iterable[int]) -> ImageList:
    """Images in ``val/`` of classes, given as network outputs."""
    return list_images(root, [classes.folder(output) for output in outputs])


def list_all_validation(root: Path, classes: ClassMap) -> ImageList:
    """Images in ``val/`` of all classes of stage 1; UserError if there are none."""
    folders = [name for name in class_folders(root) if name in classes.outputs and has_images(root / name)]
    if not folders:
        raise UserError(f"{root} has no images of the classes of stage 1")
    return list_images(root, folders)


def classes_without_images(root: Path, classes: ClassMap, outputs: Iterable[int]) -> dict[int, str]:
    """The classes, given as network outputs, that have no image in ``val/``: {output: why}."""
    present = class_folders(root)
    missing = {}
    for output in outputs:
        folder = classes.folder(output)
        if folder not in present:
            missing[output] = f"{root} has no class folder {printable(folder)}"
        elif not has_images(root / folder):
            missing[output] = f"class folder {printable(str(root / folder))} has no images"
    return missing


def classes_without_measured_images(
    store: ImportanceStore, images: ImageList, classes: ClassMap, outputs: Iterable[int]
) -> dict[int, str]:
    """The classes, given as network outputs, without an image among the ``images`` of a val store: {output: why}."""
    missing = [output for output in outputs if classes.folder(output) not in images.folders]
    return {output: f"{store.folder} has no images of {printable(classes.folder(output))}" for output in missing}


def contents_digest(images: ImageList, indices: np.ndarray, contents: np.ndarray) -> str:
    """SHA-256 of the relative paths and contents of images, for example of one class folder."""
    names = b"\0".join(images.paths[indices].tolist())
    return hashlib.sha256(names + np.asarray(contents).tobytes()).hexdigest()


class ValidationImages(ABC):
    """The validation images, in groups: a class, or an image set of a split without labels.

    ``images`` is an ImageList, ``classes`` a ClassMap; ``sets`` has the indices of image sets, {key: array}, ascending.
    ``precision`` and ``decoding`` are those of the pass that measures the images. ``network`` and its ``layer`` are
    None if the images have been measured already.
    """

    network: OpenedNetwork | None
    layer: Layer | None
    precision: str
    decoding: str

    def __init__(self, images: ImageList, classes: ClassMap, sets: dict[GroupKey, np.ndarray]) -> None:
        self.images = images
        self.classes = classes
        self.sets = sets

    @abstractmethod
    def batches(self, keys: Iterable[GroupKey]) -> Iterator[tuple[GroupKey, MeasuredBatch | None]]:
        """Yield (key, MeasuredBatch), or (key, None) if no image of a batch could be read."""

    def indices(self, key: GroupKey) -> np.ndarray:
        """Indices of the images of a group, ascending."""
        if isinstance(key, tuple):
            return self.sets[key]
        return np.flatnonzero(self.images.folder_of == self.images.folders.index(self.classes.folder(key)))

    def name(self, key: GroupKey) -> str:
        """The name of a group where results are compared: its folder, or its split and number."""
        if isinstance(key, tuple):
            return " ".join(map(str, key))
        return self.classes.folder(key)

    def with_images(self, splits: Sequence[HasKeys]) -> tuple[list[GroupKey], list[GroupKey]]:
        """The groups of the splits that have images, in reading order, and the last of these groups for each split."""
        groups = in_order(chain.from_iterable(split.keys for split in splits))
        sizes = {key: size for key in groups if (size := len(self.indices(key)))}
        keys = self.reading_order(splits, sizes)
        return keys, [[key for key in keys if key in split.keys][-1] for split in splits]

    def reading_order(self, splits: Sequence[HasKeys], sizes: dict[GroupKey, int]) -> list[GroupKey]:
        """The groups of ``sizes``, their numbers of images, in the order in which they are read."""
        return list(sizes)

    def concepts_of(self, opened: OpenedSplit) -> np.ndarray:
        """The concept (from 0) of a split to which each image belongs, or -1."""
        concepts = np.full(len(self.images), -1)
        for k, keys in enumerate(opened.groups):
            for key in keys:
                concepts[self.indices(key)] = k
        return concepts

    def files_digest(self, keys: Iterable[GroupKey]) -> str:
        """SHA-256 of the relative paths and sizes of the images of some groups."""
        return self.digest_of(chain.from_iterable(map(self.indices, keys)))

    def digest_of(self, indices: Iterable[int]) -> str:
        """SHA-256 of the relative paths and sizes of some images."""
        digest = hashlib.sha256()
        for index in indices:
            digest.update(b"%s\0%d\n" % (self.images.paths[index], self.images.sizes[index]))
        return digest.hexdigest()

    def describe(self, opened: OpenedSplit, run: str) -> dict[str, Any]:
        """The first fields of every result of a split: which split it is, and how these images were measured."""
        context = opened.file.context
        return {
            "run": run,
            "split": opened.path.stem,
            "split_sha256": opened.file.sha256,
            **{key: context[key] for key in ("weights_sha256", "layer", "transform")},
            "precision": self.precision,
            "decoding": self.decoding,
        }


class ImagePass(ValidationImages):
    """Validation images that are read, and measured by one pass of the network, group by group.

    Parameters
    ----------
    network : OpenedNetwork
    source : ImageSource
        Source of the validation images.
    classes, sets
        As in ValidationImages.
    """

    network: OpenedNetwork
    layer: Layer

    def __init__(
        self, network: OpenedNetwork, source: ImageSource, classes: ClassMap, sets: dict[GroupKey, np.ndarray]
    ) -> None:
        super().__init__(source.images, classes, sets)
        self.network = network
        self.layer = network.layer
        self.image_source = source
        self.precision = network.precision
        self.decoding = source.loading.decoding
        outputs = np.array([classes.outputs.get(folder, -1) for folder in self.images.folders], dtype=np.int64)
        self.targets = torch.from_numpy(outputs[self.images.folder_of])

    def __str__(self) -> str:
        return f"images of {self.images.root}"

    def reading_order(self, splits: Sequence[HasKeys], sizes: dict[GroupKey, int]) -> list[GroupKey]:
        """The order in which many splits are measured early: a stop loses little."""
        return order_of_reading(splits, sizes)

    def plan(self, keys: Iterable[GroupKey]) -> list[PlannedBatch[GroupKey]]:
        """The batches of some groups. A batch is of one group, so it does not depend on which splits are evaluated."""
        return batches_by_group({key: self.indices(key) for key in keys}, self.image_source.batch_size)

    def batches(self, keys: Iterable[GroupKey]) -> Iterator[tuple[GroupKey, MeasuredBatch | None]]:
        plan = self.plan(keys)
        loader = self.image_source.batches([planned.indices for planned in plan], "validation images")
        for planned, (batch, record) in zip(plan, self.network.records_in_step(loader, self.targets), strict=True):
            yield planned.group, None if record is None else self._measured(batch, record)

    def _measured(self, batch: ImageBatch, record: Record) -> MeasuredBatch:
        assert record.gradient is not None  # the pass had targets
        return MeasuredBatch(
            indices=batch.indices,
            contents=batch.contents,
            targets=self.targets[batch.indices],
            predictions=record.logits.argmax(1).cpu(),
            tap_sums=self.layer.tap_sums(record.input).double().cpu(),
            shares=attribution_shares(record.activation, record.gradient).half().cpu(),
            input=record.input,
        )


class StoredValidation(ValidationImages):
    """Validation images that stage 1 has measured (``--images val``), without network and images."""

    def __init__(self, store: ImportanceStore, root: Path, classes: ClassMap, sets: dict[GroupKey, np.ndarray]) -> None:
        super().__init__(store.read_images(root), classes, sets)
        self.store = store
        self.network = None
        self.layer = None
        self.precision = store.meta["precision"]
        self.decoding = store.meta["decoding"]

    def __str__(self) -> str:
        return f"measured by {self.store.folder}"

    def batches(self, keys: Iterable[GroupKey]) -> Iterator[tuple[GroupKey, MeasuredBatch | None]]:
        size = self.store.meta["chunk_size"]
        names = ["indices", "targets", "predictions", "input_sums", "shares", "content"]
        read = lru_cache(STORED_CHUNKS)(lambda chunk: self.store.read_chunk(chunk, names))
        for key in progress(list(keys), "validation images", unit=" groups", delay=2):
            indices = self.indices(key)
            for chunk in np.unique(indices // size).tolist():
                measured = read(chunk)
                rows = torch.isin(measured["indices"], torch.from_numpy(indices))
                batch = MeasuredBatch(
                    indices=measured["indices"][rows],
                    contents=measured["content"][rows.numpy()],
                    targets=measured["targets"][rows],
                    predictions=measured["predictions"][rows],
                    tap_sums=measured["input_sums"][rows].double(),
                    shares=measured["shares"][rows],
                    input=None,
                )
                yield key, batch if len(batch.indices) else None
