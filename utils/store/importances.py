"""The store: paths and formats of everything that one stage leaves for the next."""

import os
import time
from pathlib import Path

import numpy as np
import torch

from utils.errors import UserError
from utils.store.files import (
    damage_is_one_line,
    json_digest,
    read_arrays,
    read_json,
    refuse_differences,
    write_arrays,
    write_json,
)

# --------------------------------------------------------------------------------------------------------------------
# Stage 1: importances and input sums


def identity(model, network, layer):
    """What two stages must agree in: a dictionary for ``meta.json`` and for split files."""
    return {
        "model": model,
        "layer": layer.name,
        "weights_sha256": network.fingerprint,
        "num_channels": layer.num_channels,
        "num_outputs": layer.num_outputs,
    }


class ImportanceStore:
    """``RUN_channel_importances/``: ``meta.json``, and a chunk file for every ``chunk_size`` images."""

    def __init__(self, store_dir, run):
        store_dir = Path(store_dir)
        if store_dir.exists() and not store_dir.is_dir():
            raise UserError(f"--store_dir {store_dir} is a file, not a folder")
        self.folder = store_dir / f"{run}_channel_importances"
        self.meta = None

    @property
    def meta_path(self):
        return self.folder / "meta.json"

    def chunk_path(self, chunk):
        return self.folder / f"chunk_{chunk:06d}.npz"

    def load_meta(self):
        """Read ``meta.json``; UserError where stage 1 has not begun."""
        if not self.meta_path.is_file():
            raise UserError(f"there is no {self.meta_path}: run get_importances_for_classes.py first")
        self.meta = read_json(self.meta_path, f"delete {self.folder} and run get_importances_for_classes.py again")
        return self.meta

    def begin(self, meta, process=0):
        """Begin a store described by ``meta``, or go on with one that agrees in everything that changes its content.

        That leaves out where equal weights came from, and versions. Without a chunk there is nothing to go on with.
        Of several processes the first one writes ``meta.json``, and the others wait for it.
        """
        keys = [key for key in meta if key not in ("weights", "versions")]
        chunks = any(self.folder.glob("chunk_*.npz"))
        if chunks and not self.meta_path.is_file():
            raise UserError(f"{self.folder} has chunks but no meta.json that says of what: delete the folder")
        if chunks:
            refuse_differences(meta, self.load_meta(), keys, self.folder)
        elif process > 0:
            self._wait_for(meta, keys)
            if not self.meta_path.is_file():
                raise UserError(f"process 0 has not begun {self.folder}: do all processes see the same --store_dir?")
            refuse_differences(meta, self.load_meta(), keys, self.folder)
        elif not self._agrees(meta, keys):
            write_json(self.meta_path, meta)
            self.meta = meta

    def _agrees(self, meta, keys):
        return self.meta_path.is_file() and all(self.load_meta().get(key) == meta[key] for key in keys)

    def _wait_for(self, meta, keys, seconds=300):
        """Wait until the first process has written ``meta``; what is there may be of an earlier attempt."""
        end = time.monotonic() + seconds
        while not self._agrees(meta, keys) and time.monotonic() < end:
            time.sleep(0.2)

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
        missing = sum(len(self.chunk_range(chunk)) for chunk in self.missing_chunks())
        if missing:
            raise UserError(
                f"stage 1 is not finished: {missing} of {self.meta['num_images']} images are missing in {self.folder}; "
                "run get_importances_for_classes.py again, it goes on where it stopped"
            )

    def _layout(self):
        num_channels, num_inputs, num_taps = (self.meta[key] for key in ("num_channels", "num_inputs", "num_taps"))
        return {
            "relative_importances": (np.float16, (None, num_channels)),
            "positive_sums": (np.float32, (None,)),
            "input_sums": (np.float32, (None, num_inputs, num_taps)),
            "targets": (np.int64, (None,)),
            "predictions": (np.int64, (None,)),
            "indices": (np.int64, (None,)),
        }

    def _origin(self):
        return np.frombuffer(bytes.fromhex(json_digest(self.meta)), dtype=np.uint8)

    def write_chunk(self, chunk, batches):
        """Write a chunk from the tensors of its batches (dictionaries as ``_layout`` has them)."""
        arrays = {}
        for name, (dtype, shape) in self._layout().items():
            parts = [batch[name].cpu().numpy().astype(dtype, copy=False) for batch in batches]
            arrays[name] = np.concatenate([np.empty((0, *shape[1:]), dtype), *parts])
        write_arrays(self.chunk_path(chunk), {**arrays, "origin": self._origin()})

    def read_chunk(self, chunk, names=None):
        """Read a chunk as tensors, by name; ``indices`` are always among them."""
        path, advice = self.chunk_path(chunk), "delete it and run get_importances_for_classes.py again"
        names = {"indices", "origin", *(names or self._layout())}
        layout = {**self._layout(), "origin": (np.uint8, (32,))}
        arrays = read_arrays(path, layout, advice, sorted(names))
        with damage_is_one_line(path, advice):
            indices, expected = arrays["indices"], self.chunk_range(chunk)
            if not self.meta["skip_unreadable"] and len(indices) != len(expected):
                raise ValueError(f"it has {len(indices)} images, not {len(expected)}")
            if np.any(np.diff(indices) <= 0) or np.any(indices < expected[0]) or np.any(indices > expected[-1]):
                raise ValueError("its images are not those of its place")
            if not np.array_equal(arrays.pop("origin"), self._origin()):
                raise ValueError("it is of another store")
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def read_labels(self):
        """Indices, targets and predictions of all images used: three LongTensors [N]."""
        names = ["indices", "targets", "predictions"]
        chunks = [self.read_chunk(chunk, names) for chunk in range(self.num_chunks)]
        return tuple(torch.cat([chunk[name] for chunk in chunks]) for name in names)
