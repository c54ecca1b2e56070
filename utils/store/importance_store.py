"""Stage 1's part of the store: what is kept of every image, of the layer, and of the list of images."""

import os
import time
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from utils.errors import UserError
from utils.images.folders import ImageList
from utils.images.transform import Transform
from utils.store.files import (
    damage_is_one_line,
    json_digest,
    read_arrays,
    read_json,
    refuse_differences,
    write_arrays,
    write_json,
)

STORE_FORMAT = 2
IMAGES = ("train", "val")
SCRIPT = "get_importances_for_classes.py"
AGAIN = f"delete it and run {SCRIPT} again"
LARGEST, MOST_OUTPUTS = 2**40, 2**20
LEAST_BYTES = 13  # that images.npz takes for an image: a name, its size, its folder


def identity(model, network, layer):
    """What two stages must agree in: a dictionary for ``meta.json`` and for split files."""
    return {
        "model": model,
        "layer": layer.name,
        "weights_sha256": network.fingerprint,
        "num_channels": layer.num_channels,
        "num_outputs": layer.num_outputs,
    }


class Labels(NamedTuple):
    """Of all images that were used: index, target, prediction (LongTensor [N]) and content (uint64 array [N])."""

    indices: torch.Tensor
    targets: torch.Tensor
    predictions: torch.Tensor
    contents: np.ndarray

    def counting(self, only_correct):
        """Which images count: all, or the correctly classified ones: BoolTensor [N]."""
        return self.targets == self.predictions if only_correct else torch.ones_like(self.targets, dtype=torch.bool)

    def some(self, indices):
        """The Labels of some images, ascending."""
        rows = torch.searchsorted(self.indices, indices)
        return Labels(self.indices[rows], self.targets[rows], self.predictions[rows], self.contents[rows.numpy()])


class ImportanceStore:
    """``RUN_channel_importances/``, of training images, or ``..._val/``, of validation images.

    ``meta.json`` says what it is made of; ``layer.npz`` has the layer's weight, ``images.npz`` the list of images, and
    a chunk file what was measured of every ``chunk_size`` images.
    """

    def __init__(self, store_dir, run, images="train"):
        store_dir = Path(store_dir)
        if store_dir.exists() and not store_dir.is_dir():
            raise UserError(f"--store_dir {store_dir} is a file, not a folder")
        self.folder = store_dir / f"{run}_channel_importances{'' if images == 'train' else f'_{images}'}"
        self.command = SCRIPT if images == "train" else f"{SCRIPT} --images {images}"
        self.meta = None

    @property
    def meta_path(self):
        return self.folder / "meta.json"

    @property
    def layer_path(self):
        return self.folder / "layer.npz"

    @property
    def images_path(self):
        return self.folder / "images.npz"

    def chunk_path(self, chunk):
        return self.folder / f"chunk_{chunk:06d}.npz"

    # ---------------------------------------------------------------------------------------------------- meta.json

    def load_meta(self):
        """Read ``meta.json``; UserError where stage 1 has not begun."""
        if not self.meta_path.is_file():
            raise UserError(f"there is no {self.meta_path}: run {self.command} first")
        advice = f"delete {self.folder} and run {self.command} again"
        meta = read_json(self.meta_path, advice)
        if meta.get("format") != STORE_FORMAT:
            raise UserError(f"{self.folder} was made by another version of this program: {advice}")
        with damage_is_one_line(self.meta_path, advice):
            _check_meta(meta)
        self.meta = meta
        return meta

    def begin(self, meta, layer, images, process=0):
        """Begin a store described by ``meta``, or go on with one that agrees in everything that changes its content.

        That leaves out where equal weights came from, and versions. Without a chunk there is nothing to go on with.
        Of several processes the first one writes, and the others wait for ``meta.json``, which is written last.

        Parameters
        ----------
        meta : dict
        layer : Layer
        images : ImageList
        process : int
        """
        keys = [key for key in meta if key not in ("weights", "versions")]
        chunks = any(self.folder.glob("chunk_*.npz"))
        if chunks and not self.meta_path.is_file():
            raise UserError(f"{self.folder} has chunks but no meta.json that says of what: delete the folder")
        if process > 0 and not chunks:
            self._wait_for(meta, keys)
            if not self.meta_path.is_file():
                raise UserError(f"process 0 has not begun {self.folder}: do all processes see the same --store_dir?")
        if chunks or process > 0:
            refuse_differences(meta, self.load_meta(), keys, self.folder)
        if process == 0:
            agrees = self._agrees(meta, keys)
            self.meta = self.meta if agrees else meta
            if not (agrees and self.layer_path.is_file() and self.images_path.is_file()):
                self._write_layer(layer)
                self._write_images(images)
            if not agrees:
                write_json(self.meta_path, meta)

    def _agrees(self, meta, keys):
        """Whether the store's ``meta.json`` is there and describes the same; one of another version does not."""
        try:
            return self.meta_path.is_file() and all(self.load_meta().get(key) == meta[key] for key in keys)
        except UserError:
            return False

    def _wait_for(self, meta, keys, seconds=300):
        """Wait until the first process has written ``meta``; what is there may be of an earlier attempt."""
        end = time.monotonic() + seconds
        while not self._agrees(meta, keys) and time.monotonic() < end:
            time.sleep(0.2)

    def _origin(self):
        return np.frombuffer(bytes.fromhex(json_digest(self.meta)), dtype=np.uint8)

    def _write(self, path, arrays):
        write_arrays(path, {**arrays, "origin": self._origin()})

    def _read(self, path, layout, names=None):
        """Read arrays that were written for this store; UserError where they are of another one."""
        names = None if names is None else sorted({*names, "origin"})
        arrays = read_arrays(path, {**layout, "origin": (np.uint8, (32,))}, AGAIN, names)
        if not np.array_equal(arrays.pop("origin"), self._origin()):
            raise UserError(f"{path} is of another store: {AGAIN}")
        return arrays

    # ------------------------------------------------------------------------------------------- layer.npz, images.npz

    def _write_layer(self, layer):
        bias = np.empty((0,), np.float32) if layer.bias is None else layer.bias.float().cpu().numpy()
        self._write(self.layer_path, {"weight": layer.weight.float().cpu().contiguous().numpy(), "bias": bias})

    def read_layer(self):
        """The layer's weight [C, C_in, taps] and bias [C] or None, float32, so that no network is needed."""
        shape = tuple(self.meta[key] for key in ("num_channels", "num_inputs", "num_taps"))
        arrays = self._read(self.layer_path, {"weight": (np.float32, shape), "bias": (np.float32, (None,))})
        with damage_is_one_line(self.layer_path, AGAIN):
            _require(len(arrays["bias"]) in (0, shape[0]), "its bias is not the layer's")
            _require(all(np.isfinite(values).all() for values in arrays.values()), "its weights are not finite")
        return torch.from_numpy(arrays["weight"]), torch.from_numpy(arrays["bias"]) if len(arrays["bias"]) else None

    def _write_images(self, images):
        paths = b"\0".join(images.paths.tolist())  # which no path contains
        arrays = {"paths": np.frombuffer(paths, np.uint8), "sizes": images.sizes, "folder_of": images.folder_of}
        self._write(self.images_path, arrays)

    def read_images(self, root):
        """The list of images as stage 1 found it, as an ImageList below ``root``; no folder is looked at."""
        count = (self.meta["num_images"],)
        layout = {"paths": (np.uint8, (None,)), "sizes": (np.int64, count), "folder_of": (np.int64, count)}
        arrays = self._read(self.images_path, layout)
        folders = list(self.meta["class_counts"])
        with damage_is_one_line(self.images_path, AGAIN):
            paths = np.array(arrays["paths"].tobytes().split(b"\0"))
            folder_of = arrays["folder_of"]
            _require(folder_of.min() >= 0 and folder_of.max() < len(folders), "a folder is not there")
            images = ImageList(Path(root), folders, paths, arrays["sizes"], folder_of)
            _require(images.digest() == self.meta["data_sha256"], "its images are not those of meta.json")
        return images

    # ------------------------------------------------------------------------------------------------------- chunks

    @property
    def num_chunks(self):
        return -(-self.meta["num_images"] // self.meta["chunk_size"])

    def chunk_range(self, chunk):
        """Indices of the images of a chunk."""
        size = self.meta["chunk_size"]
        return range(chunk * size, min((chunk + 1) * size, self.meta["num_images"]))

    def missing_chunks(self):
        present = set(os.listdir(self.folder))
        return [chunk for chunk in range(self.num_chunks) if self.chunk_path(chunk).name not in present]

    def require_complete(self):
        if not self.images_path.is_file() or self.images_path.stat().st_size < LEAST_BYTES * self.meta["num_images"]:
            raise UserError(f"{self.images_path} is missing or damaged: run {self.command} again")
        missing = sum(len(self.chunk_range(chunk)) for chunk in self.missing_chunks())
        if missing:
            raise UserError(
                f"stage 1 is not finished: {missing} of {self.meta['num_images']} images are missing in {self.folder}; "
                f"run {self.command} again, it goes on where it stopped"
            )

    def layout(self):
        """Types and shapes of what is kept of images: {name: (dtype, shape)}, None for their number."""
        num_channels, num_inputs, num_taps = (self.meta[key] for key in ("num_channels", "num_inputs", "num_taps"))
        layout = {
            "relative_importances": (np.float16, (None, num_channels)),
            "positive_sums": (np.float32, (None,)),
            "input_sums": (np.float32, (None, num_inputs, num_taps)),
            "targets": (np.int64, (None,)),
            "predictions": (np.int64, (None,)),
            "indices": (np.int64, (None,)),
            "content": (np.uint64, (None,)),
        }
        if self.meta["images"] == "val":
            layout["shares"] = (np.float16, (None, num_channels))
            layout["logits"] = (np.float16, (None, self.meta["num_outputs"]))
        return layout

    def write_chunk(self, chunk, batches):
        """Write a chunk from the tensors or arrays of its batches (dictionaries as ``layout`` has them)."""
        arrays = {}
        for name, (dtype, shape) in self.layout().items():
            parts = [np.asarray(batch[name].cpu() if isinstance(batch[name], torch.Tensor) else batch[name])
                     for batch in batches]  # fmt: skip
            arrays[name] = np.concatenate([np.empty((0, *shape[1:]), dtype), *parts]).astype(dtype, copy=False)
        self._write(self.chunk_path(chunk), arrays)

    def read_chunk(self, chunk, names=None):
        """Read a chunk as tensors, by name (``content``: an array); ``indices`` are always among them."""
        path = self.chunk_path(chunk)
        arrays = self._read(path, self.layout(), None if names is None else {*names, "indices"})
        with damage_is_one_line(path, AGAIN):
            indices, expected = arrays["indices"], self.chunk_range(chunk)
            if not self.meta["skip_unreadable"]:
                _require(len(indices) == len(expected), f"it has {len(indices)} images, not {len(expected)}")
            in_order = not len(indices) or (indices[0] >= expected[0] and indices[-1] <= expected[-1])
            _require(in_order and (np.diff(indices) > 0).all(), "its images are not those of its place")
            for name, values in arrays.items():
                _require(_is_possible(name, values, self.meta["num_outputs"]), f"its {name} are impossible")
        return {name: array if name == "content" else torch.from_numpy(array) for name, array in arrays.items()}

    def read_labels(self):
        """The Labels of all images that were used."""
        names = ["indices", "targets", "predictions", "content"]
        chunks = [self.read_chunk(chunk, names) for chunk in range(self.num_chunks)]
        *labels, content = ([chunk[name] for chunk in chunks] for name in names)
        return Labels(*map(torch.cat, labels), np.concatenate(content))

    def measured_images(self, root, labels=None):
        """The images that were used: an ImageList of ``root`` with their contents, and their indices.

        ``labels`` are the store's Labels where they have been read.
        """
        labels = self.read_labels() if labels is None else labels
        return self.read_images(root).with_contents(labels.indices, labels.contents), labels.indices


def _is_possible(name, values, num_outputs):
    """Whether values of a chunk can have been measured."""
    if name in ("targets", "predictions"):
        return not len(values) or (values.min() >= 0 and values.max() < num_outputs)
    if name == "positive_sums":
        return bool((values >= 0).all() and np.isfinite(values).all())
    if values.dtype == np.float16:  # as bits, which is many times as fast: all ones in the exponent are no number
        return not values.size or int((values.view(np.int16) & 0x7FFF).max()) < 0x7C00
    return values.dtype != np.float32 or bool(np.isfinite(values).all())


def _check_meta(meta):
    """Raise where a ``meta.json`` cannot be one, whatever its checksum says."""
    sizes = ("num_channels", "num_inputs", "num_taps", "positions", "num_outputs", "num_images", "chunk_size")
    _require(all(type(meta[key]) is int and 1 <= meta[key] < LARGEST for key in sizes), "an impossible size")
    _require(meta["num_outputs"] < MOST_OUTPUTS, "an impossible number of classes")
    transform = meta["transform"]
    _require(set(transform) == {field.name for field in fields(Transform)}, "no transform")
    _require(
        all(type(transform[name]) is int and transform[name] > 0 for name in ("resize_size", "crop_size")), "no sizes"
    )
    _require(
        all(len(transform[name]) == 3 and all(map(_is_number, transform[name])) for name in ("mean", "std")), "no mean"
    )
    counts = meta["class_counts"].values()
    _require(all(type(count) is int and count > 0 for count in counts), "impossible counts")
    _require(meta["images"] in IMAGES and isinstance(meta["skip_unreadable"], bool), "impossible settings")
    outputs = list(meta["classes"].values())
    _require(all(isinstance(output, int) and 0 <= output < meta["num_outputs"] for output in outputs), "a class is not")
    _require(len(set(outputs)) == len(outputs) and set(meta["class_counts"]) <= set(meta["classes"]), "no class map")
    _require(sum(meta["class_counts"].values()) == meta["num_images"], "its counts are not those of its images")


def _is_number(value):
    return isinstance(value, int | float) and np.isfinite(value)


def _require(condition, problem):
    if not condition:
        raise ValueError(problem)
