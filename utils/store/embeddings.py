"""Embeddings of validation images by another network, stored next to the val store: computed once for an embedder."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from utils.defaults import LAYER
from utils.store.files import DIGEST, Layout, digest_array, is_made_from, read_arrays, run_name, write_arrays

AGAIN = "delete it and run get_results.py again"


class Embeddings(NamedTuple):
    """Embeddings of images: ``indices`` LongTensor [n], ascending, and ``values`` [n, D] float32."""

    indices: torch.Tensor
    values: torch.Tensor


class EmbeddingFile:
    """``RUN_embeddings_<embedder>.npz`` of the store.

    Values are float32, because the scale of embeddings depends on the embedder: float16 could overflow, or lose small
    values. The file is half as large as a val store of the same images.

    Parameters
    ----------
    store_dir : Path or str
    run : str
    embedder : str
        Name of the embedder.
    size : int
        D of the embeddings.
    origin : dict
        All values that the embeddings depend on; a file of another origin is not read.

    ``layout`` is that of embeddings as arrays.
    """

    def __init__(self, store_dir: Path | str, run: str, embedder: str, size: int, origin: dict[str, Any]) -> None:
        self.path = Path(store_dir) / f"{run}_embeddings_{run_name(embedder, LAYER)}.npz"
        self._origin = digest_array(origin)

        self.layout: Layout = {"indices": (np.int64, (None,)), "values": (np.float32, (None, size))}

    @staticmethod
    def arrays(embeddings: Embeddings) -> dict[str, np.ndarray]:
        """Embeddings as arrays of ``layout``."""
        return {"indices": embeddings.indices.numpy(), "values": embeddings.values.numpy()}

    def write(self, embeddings: Embeddings) -> None:
        write_arrays(self.path, {**self.arrays(embeddings), "origin": self._origin})

    def read(self) -> Embeddings | None:
        """The stored embeddings; None if there are none of this origin."""
        layout: Layout = {**self.layout, "origin": DIGEST}
        if not is_made_from(self.path, self._origin, layout, AGAIN):
            return None
        arrays = read_arrays(self.path, layout, AGAIN)
        return Embeddings(torch.from_numpy(arrays["indices"]), torch.from_numpy(arrays["values"]))
