"""PURE's virtual neurons on the images of a store: the result of a pass over the images, stored next to the store."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from utils.method.virtual_neurons import strongest_images, virtual_neurons
from utils.networks.unit_circuits import UnitCircuits
from utils.store.files import DIGEST, Layout, damage_is_one_line, json_digest, read_arrays, write_arrays
from utils.store.importance_store import ImportanceStore, Labels

AGAIN = "delete it and run get_results.py again"


@dataclass
class VirtualNeurons:
    """Activations and nearest centroids of R units in N images; D sets of centroids for each unit.

    The first set are the centroids of the clusters, the others those of nulls. ``indices`` LongTensor [N] in the
    store's ImageList, ascending; ``maxima`` [N, R] the largest ``max(a, 0)``; ``nearest`` int8 [N, R, D] the centroid
    of each set that is nearest to the image's circuit.
    """

    indices: torch.Tensor
    maxima: torch.Tensor
    nearest: torch.Tensor

    def values(self, unit: int, number: int, of_set: int = 0) -> torch.Tensor:
        """Values [K, N] of the ``number`` virtual neurons of a unit."""
        return virtual_neurons(self.maxima[:, unit], self.nearest[:, unit, of_set], number)

    def strongest(self, unit: int, number: int, of_set: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """The images (rows 0 ... N-1) in which a unit is largest, and their clusters: LongTensor [n] each."""
        return strongest_images(self.maxima[:, unit], self.nearest[:, unit, of_set], number)


class VirtualNeuronFile:
    """``RUN_pure_virtual_neurons_val_<digest>.npz``, or ``..._train_...``; the digest is of all values it depends on.

    Parameters
    ----------
    store : ImportanceStore
        A complete store.
    run : str
    labels : Labels
        Labels of the images of the pass: all of the store, or some.
    units : UnitCircuits
    centroids : list of R Tensors [D, K, F]
    decoding : str
        The decoder of the pass.
    """

    def __init__(
        self,
        store: ImportanceStore,
        run: str,
        labels: Labels,
        units: UnitCircuits,
        centroids: list[torch.Tensor],
        *,
        decoding: str,
    ) -> None:
        circuit_layer = None if units.circuit_layer is None else units.circuit_layer.name
        bias = [] if units.biases is None else [units.biases]
        tensors = [units.rows, *bias, *centroids, labels.indices, torch.from_numpy(labels.contents.view(np.int64))]
        made_of = {"store": store.meta, "tensors": _tensors_digest(tensors), "decoding": decoding}
        origin = json_digest({**made_of, "circuit_layer": circuit_layer, "precision": units.precision})
        self.path = store.folder.parent / f"{run}_pure_virtual_neurons_{store.meta['images']}_{origin[:16]}.npz"
        self._origin = np.frombuffer(bytes.fromhex(origin), dtype=np.uint8)
        self._indices = labels.indices
        self._shape = (len(labels.indices), len(centroids), len(centroids[0]))

    def read(self) -> VirtualNeurons | None:
        """The stored VirtualNeurons; None if there are none."""
        if not self.path.is_file():
            return None
        layout: Layout = {
            "maxima": (np.float32, self._shape[:2]),
            "nearest": (np.int8, self._shape),
            "origin": DIGEST,
        }
        arrays = read_arrays(self.path, layout, AGAIN)
        with damage_is_one_line(self.path, AGAIN):
            if not np.array_equal(arrays["origin"], self._origin):
                raise ValueError("it is of something else")
        return VirtualNeurons(self._indices, torch.from_numpy(arrays["maxima"]), torch.from_numpy(arrays["nearest"]))

    def write(self, maxima: torch.Tensor, nearest: torch.Tensor) -> None:
        """Write maxima [N, R] and nearest [N, R, D]."""
        write_arrays(self.path, {"maxima": maxima.numpy(), "nearest": nearest.numpy(), "origin": self._origin})


def _tensors_digest(tensors: Iterable[torch.Tensor]) -> str:
    """SHA-256 of the types, shapes and values of tensors."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()
