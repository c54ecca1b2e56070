"""Stage 1's part of the store: the measured values of every image, the layer, and the list of images."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from utils.defaults import CHUNK_SIZE, FEWEST_CHUNKS, SMALLEST_CHUNK
from utils.errors import STORE_FLAG, UserError, listed
from utils.images.folders import ImageList
from utils.networks.model_names import how_to_call, model_name
from utils.processes import progress
from utils.store.files import (
    DIGEST,
    Layout,
    digest_array,
    read_arrays,
    read_json,
    refuse_differences,
    write_arrays,
    write_json,
)

if TYPE_CHECKING:  # stage 2 needs no network, and so not the time to import torchvision
    from utils.networks.layers import Layer
    from utils.networks.loading import LoadedNetwork

STORE_FORMAT = 2
FOLDER = "_channel_importances"  # the end of its name, but for _val
SCRIPT = "get_importances_for_classes.py"
EQUAL_BATCHES = "equal"  # in meta.json: a chunk's batches are of nearly equal size; earlier versions did not say it
AGAIN = f"delete it and run {SCRIPT} again"


def identity(model: str, network: LoadedNetwork, layer: Layer) -> dict[str, Any]:
    """The values in which two stages must agree, for ``meta.json`` and for split files."""
    return {
        "model": model_name(model),
        "layer": layer.name,
        "weights_sha256": network.fingerprint,
        "num_channels": layer.num_channels,
        "num_outputs": layer.num_outputs,
    }


class Labels(NamedTuple):
    """Index, target and prediction (LongTensor [N]) and content (uint64 array [N]) of all images that were used."""

    indices: torch.Tensor
    targets: torch.Tensor
    predictions: torch.Tensor
    contents: np.ndarray

    def counting(self, only_correct: bool) -> torch.Tensor:
        """Which images count, all or only the correctly classified ones: BoolTensor [N]."""
        return self.targets == self.predictions if only_correct else torch.ones_like(self.targets, dtype=torch.bool)

    def some(self, indices: torch.Tensor) -> Labels:
        """The Labels of some images, given by ascending indices."""
        rows = torch.searchsorted(self.indices, indices)
        return Labels(self.indices[rows], self.targets[rows], self.predictions[rows], self.contents[rows.numpy()])


class ImportanceStore:
    """``RUN_channel_importances/``, of training images, or ``..._val/``, of validation images.

    ``meta.json`` describes what the store is made from; ``layer.npz`` has the layer's weight, ``images.npz`` the list
    of images, and each chunk file the measured values of ``chunk_size`` images. ``meta`` is the content of
    ``meta.json`` after ``load_meta`` or ``begin``.
    """

    def __init__(self, store_dir: Path | str, run: str, images: str = "train") -> None:
        store_dir = Path(store_dir)
        if store_dir.exists() and not store_dir.is_dir():
            raise UserError(f"--store_dir {store_dir} is a file, not a folder")
        self.folder = store_dir / f"{run}{FOLDER}{'' if images == 'train' else f'_{images}'}"
        self.command = SCRIPT if images == "train" else f"{SCRIPT} --images {images}"
        self.meta: dict[str, Any] = {}

    @property
    def meta_path(self) -> Path:
        return self.folder / "meta.json"

    @property
    def layer_path(self) -> Path:
        return self.folder / "layer.npz"

    @property
    def images_path(self) -> Path:
        return self.folder / "images.npz"

    def chunk_path(self, chunk: int) -> Path:
        return self.folder / f"chunk_{chunk:06d}.npz"

    # ---------------------------------------------------------------------------------------------------- meta.json

    def load_meta(self) -> dict[str, Any]:
        """Read ``meta.json``; UserError if stage 1 has not begun."""
        if not self.meta_path.is_file():
            raise UserError(f"there is no {self.meta_path}{self._stores_there()}: run {self.command} first")
        advice = f"delete {self.folder} and run {self.command} again"
        meta = read_json(self.meta_path, advice)
        if meta.get("format") != STORE_FORMAT:
            raise UserError(f"{self.folder} was made by another version of this program: {advice}")
        self.meta = meta
        return meta

    def _stores_there(self) -> str:
        """The stores that lie in ``--store_dir``, for the message that the one that is looked for does not."""
        store_dir = self.folder.parent
        if not store_dir.is_dir():
            return f" (there is no folder {store_dir.absolute()}; if elsewhere, {STORE_FLAG})"
        folders = sorted(path.parent.name for path in store_dir.glob(f"*{FOLDER}*/meta.json"))
        if not folders:
            return f" ({store_dir.absolute()} has no store of stage 1; if elsewhere, {STORE_FLAG})"
        renamed = [name for name in folders if self._has_other_name(name)]
        if renamed:
            model = read_json(store_dir / renamed[0] / "meta.json", AGAIN)["model"]
            return f" ({store_dir} has {renamed[0]}, of a function of this name: {how_to_call(model)} uses it)"
        stores = [name.replace(FOLDER, "").replace("_val", " (val)") for name in folders]
        return f" ({store_dir} has {listed(stores, most=10)}; select one by --model and --layer_of_interest)"

    def _has_other_name(self, folder: str) -> bool:
        """Whether a folder is that of a factory's store under its other name: its file's stem, or its module's name."""
        return folder.endswith(f".{self.folder.name}") or self.folder.name.endswith(f".{folder}")

    def begin(self, meta: dict[str, Any], layer: Layer, images: ImageList, process: int = 0) -> None:
        """Begin a store described by ``meta``, or resume one that agrees in everything that changes its content.

        The origin of equal weights and the versions of libraries may differ; a store that agrees keeps its rule for
        batches. A store without chunks that does not agree is started again. The first of several processes writes; the
        others wait for ``meta.json``, which is written last.
        """
        keys = [key for key in meta if key not in ("weights", "versions", "batches")]
        chunks = any(self.folder.glob("chunk_*.npz"))
        if chunks and not self.meta_path.is_file():
            raise UserError(f"{self.folder} has chunks but no meta.json that describes them: delete the folder")
        if process > 0 and not chunks:
            self._wait_for(meta, keys)
            if not self.meta_path.is_file():
                raise UserError(f"process 0 has not begun {self.folder}: do all processes see the same --store_dir?")
        if chunks or process > 0:
            by_cause = sorted(keys, key=lambda key: key == "positions")  # the transform decides how many there are
            refuse_differences(meta, self.load_meta(), by_cause, self.folder)
        if process == 0:
            agrees = self._agrees(meta, keys)
            self.meta = self.meta if agrees else meta
            if not (agrees and self.layer_path.is_file() and self.images_path.is_file()):
                self._write_layer(layer)
                self._write_images(images)
            if not agrees:
                write_json(self.meta_path, meta)

    def _agrees(self, meta: dict[str, Any], keys: list[str]) -> bool:
        """Whether the store has a ``meta.json`` of this version with these values."""
        try:
            return self.meta_path.is_file() and all(self.load_meta().get(key) == meta[key] for key in keys)
        except UserError:
            return False

    def _wait_for(self, meta: dict[str, Any], keys: list[str], seconds: float = 300) -> None:
        """Wait until the first process has written ``meta``; the file may still be one of an earlier run."""
        end = time.monotonic() + seconds
        while not self._agrees(meta, keys) and time.monotonic() < end:
            time.sleep(0.2)

    def _write(self, path: Path, arrays: dict[str, np.ndarray]) -> None:
        write_arrays(path, {**arrays, "origin": digest_array(self.meta)})

    def _read(self, path: Path, layout: Layout, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """Read arrays that were written for this store; UserError if they belong to another one."""
        names = None if names is None else sorted({*names, "origin"})
        arrays = read_arrays(path, {**layout, "origin": DIGEST}, AGAIN, names)
        if not np.array_equal(arrays.pop("origin"), digest_array(self.meta)):
            raise UserError(f"{path} is of another store: {AGAIN}")
        return arrays

    # ------------------------------------------------------------------------------------------- layer.npz, images.npz

    def _write_layer(self, layer: Layer) -> None:
        bias = np.empty((0,), np.float32) if layer.bias is None else layer.bias.float().cpu().numpy()
        self._write(self.layer_path, {"weight": layer.weight.float().cpu().contiguous().numpy(), "bias": bias})

    def read_layer(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The layer's weight [C, C_in, taps] and bias [C] or None, float32; no network is needed."""
        shape = tuple(self.meta[key] for key in ("num_channels", "num_inputs", "num_taps"))
        arrays = self._read(self.layer_path, {"weight": (np.float32, shape), "bias": (np.float32, (None,))})
        bias = torch.from_numpy(arrays["bias"]) if len(arrays["bias"]) else None
        return torch.from_numpy(arrays["weight"]), bias

    def _write_images(self, images: ImageList) -> None:
        paths = b"\0".join(images.paths.tolist())  # no path contains \0
        arrays = {"paths": np.frombuffer(paths, np.uint8), "sizes": images.sizes, "folder_of": images.folder_of}
        self._write(self.images_path, arrays)

    def read_images(self, root: Path | str) -> ImageList:
        """The list of images that stage 1 found, as an ImageList below ``root``; no folder is read."""
        count = (self.meta["num_images"],)
        layout = {"paths": (np.uint8, (None,)), "sizes": (np.int64, count), "folder_of": (np.int64, count)}
        arrays = self._read(self.images_path, layout)
        paths = np.array(arrays["paths"].tobytes().split(b"\0"))
        return ImageList(Path(root), list(self.meta["class_counts"]), paths, arrays["sizes"], arrays["folder_of"])

    # ------------------------------------------------------------------------------------------------------- chunks

    def chunk_size_for(self, num_images: int) -> int:
        """Images a chunk: those of a store that is there; of a new one a tenth of the images, within bounds.

        A small data set has several chunks, too, so that a run that is stopped has something to resume from.
        """
        try:
            return int(self.load_meta()["chunk_size"])
        except UserError:  # there is none, or ``begin`` says what is wrong with it
            return min(CHUNK_SIZE, max(SMALLEST_CHUNK, -(-num_images // FEWEST_CHUNKS)))

    @property
    def num_chunks(self) -> int:
        return -(-self.meta["num_images"] // self.meta["chunk_size"])

    def chunk_range(self, chunk: int) -> range:
        """Indices of the images of a chunk."""
        size = self.meta["chunk_size"]
        return range(chunk * size, min((chunk + 1) * size, self.meta["num_images"]))

    def missing_chunks(self) -> list[int]:
        present = set(os.listdir(self.folder))
        return [chunk for chunk in range(self.num_chunks) if self.chunk_path(chunk).name not in present]

    def require_complete(self) -> None:
        """Raise a UserError if stage 1 is not finished."""
        if not self.images_path.is_file():
            raise UserError(f"{self.images_path} is missing or damaged: run {self.command} again")
        missing = sum(len(self.chunk_range(chunk)) for chunk in self.missing_chunks())
        if missing:
            raise UserError(
                f"stage 1 is not finished: {missing} of {self.meta['num_images']} images are missing in {self.folder}; "
                f"run {self.command} again, which resumes where it stopped"
            )

    def layout(self) -> Layout:
        """Types and shapes of the arrays of a chunk: {name: (dtype, shape)}, None for the number of images."""
        num_channels, num_inputs, num_taps = (self.meta[key] for key in ("num_channels", "num_inputs", "num_taps"))
        layout: Layout = {
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

    def write_chunk(self, chunk: int, batches: list[dict[str, Any]]) -> None:
        """Write a chunk from its batches, each a dictionary of tensors or arrays with the names of ``layout``."""
        arrays: dict[str, np.ndarray] = {}
        for name, (dtype, shape) in self.layout().items():
            empty = np.empty((0, *shape[1:]), dtype)
            arrays[name] = np.concatenate([empty, *(_as_array(batch[name]) for batch in batches)]).astype(
                dtype, copy=False
            )
        self._write(self.chunk_path(chunk), arrays)

    def read_chunk(self, chunk: int, names: Iterable[str] | None = None) -> dict[str, Any]:
        """Read a chunk as tensors by name (``content`` is an array); ``indices`` are always among them."""
        arrays = self._read(self.chunk_path(chunk), self.layout(), None if names is None else {*names, "indices"})
        return {name: array if name == "content" else torch.from_numpy(array) for name, array in arrays.items()}

    def read_labels(self) -> Labels:
        """The Labels of all images that were used."""
        names = ["indices", "targets", "predictions", "content"]
        bar = progress(range(self.num_chunks), "reading labels", unit=" chunks", delay=2, leave=False)
        chunks = [self.read_chunk(chunk, names) for chunk in bar]
        indices, targets, predictions = (torch.cat([chunk[name] for chunk in chunks]) for name in names[:3])
        return Labels(indices, targets, predictions, np.concatenate([chunk["content"] for chunk in chunks]))

    def measured_images(self, root: Path | str, labels: Labels | None = None) -> tuple[ImageList, torch.Tensor]:
        """The images that were used: an ImageList of ``root`` with their contents, and their indices.

        ``labels`` are the store's Labels if they have been read already.
        """
        labels = self.read_labels() if labels is None else labels
        return self.read_images(root).with_contents(labels.indices.numpy(), labels.contents), labels.indices


def _as_array(values: torch.Tensor | np.ndarray) -> np.ndarray:
    return values.cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
