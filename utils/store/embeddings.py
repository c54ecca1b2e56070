"""Embeddings of validation images by another network, kept beside the val store: they are made once for an embedder."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from utils.defaults import LAYER
from utils.store.files import damage_is_one_line, json_digest, read_arrays, run_name, write_arrays

AGAIN = "delete it and run get_results.py again"


class Embeddings(NamedTuple):
    """Embeddings of images: ``indices`` LongTensor [n], ascending, and ``values`` [n, D] float32."""

    indices: torch.Tensor
    values: torch.Tensor


class EmbeddingFile:
    """``RUN_embeddings_<embedder>.npz`` of the store.

    Float32, as the scale of embeddings is the embedder's own: float16 would overflow, or lose the small ones. They take
    half of what a val store does for the same images.

    Parameters
    ----------
    store_dir : Path or str
    run : str
    embedder : str
        What the embedder is called.
    size : int
        Of an embedding.
    origin : dict
        All that the embeddings depend on: what was made of anything else is not read.
    """

    def __init__(self, store_dir, run, embedder, size, origin):
        self.path = Path(store_dir) / f"{run}_embeddings_{run_name(embedder, LAYER)}.npz"
        self._size, self._origin = size, np.frombuffer(bytes.fromhex(json_digest(origin)), dtype=np.uint8)

    def write(self, embeddings):
        arrays = {name: value.numpy() for name, value in embeddings._asdict().items()}
        write_arrays(self.path, {**arrays, "origin": self._origin})

    def read(self):
        """Embeddings, or None where there are none of this origin."""
        if not self.path.is_file():
            return None
        layout = {"indices": (np.int64, (None,)), "values": (np.float32, (None, self._size))}
        layout["origin"] = (np.uint8, self._origin.shape)
        if not np.array_equal(read_arrays(self.path, layout, AGAIN, ["origin"])["origin"], self._origin):
            return None
        arrays = read_arrays(self.path, layout, AGAIN, ["indices", "values"])
        with damage_is_one_line(self.path, AGAIN):
            if (np.diff(arrays["indices"]) <= 0).any() or (arrays["indices"] < 0).any():
                raise ValueError("its images are not in order")
            if not (np.isfinite(arrays["values"]).all() and arrays["values"].any(1).all()):
                raise ValueError("its embeddings are impossible")
        return Embeddings(*(torch.from_numpy(arrays[name]) for name in Embeddings._fields))
