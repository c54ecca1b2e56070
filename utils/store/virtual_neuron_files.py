"""PURE's virtual neurons on images of a store: what only a pass over them finds, kept beside the store."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from utils.method.virtual_neurons import strongest_images, virtual_neurons
from utils.store.files import damage_is_one_line, json_digest, read_arrays, write_arrays

AGAIN = "delete it and run get_results.py again"


@dataclass
class VirtualNeurons:
    """Of N images and R units, each with D sets of centroids (the clusters found, and their nulls).

    ``indices`` LongTensor [N] in the store's ImageList, ascending; ``maxima`` [N, R] the largest ``max(a, 0)``;
    ``nearest`` int8 [N, R, D] the centroid of each set that is nearest to the image's circuit.
    """

    indices: torch.Tensor
    maxima: torch.Tensor
    nearest: torch.Tensor

    def values(self, unit, number, of_set=0):
        """Values [K, N] of the ``number`` virtual neurons of a unit."""
        return virtual_neurons(self.maxima[:, unit], self.nearest[:, unit, of_set], number)

    def strongest(self, unit, number, of_set=0):
        """The images, as rows 0 ... N-1, in which a unit is largest, and their clusters: LongTensor [n] each."""
        return strongest_images(self.maxima[:, unit], self.nearest[:, unit, of_set], number)


class VirtualNeuronFile:
    """``RUN_pure_virtual_neurons_val_<digest>.npz``, or ``..._train_...``: of all that VirtualNeurons depend on.

    Parameters
    ----------
    store : ImportanceStore
        Complete.
    run : str
    labels : Labels
        Of its images, all or some.
    units : UnitCircuits
    centroids : list of R Tensors [D, K, F]
    decoding : str
        Of the pass.
    """

    def __init__(self, store, run, labels, units, centroids, decoding):
        circuit_layer = None if units.circuit_layer is None else units.circuit_layer.name
        bias = [] if units.biases is None else [units.biases]
        tensors = [units.rows, *bias, *centroids, labels.indices, torch.from_numpy(labels.contents.view(np.int64))]
        made_of = {"store": store.meta, "tensors": _tensors_digest(tensors), "decoding": decoding}
        origin = json_digest({**made_of, "circuit_layer": circuit_layer, "precision": units.precision})
        self.path = store.folder.parent / f"{run}_pure_virtual_neurons_{store.meta['images']}_{origin[:16]}.npz"
        self._origin, self._indices = np.frombuffer(bytes.fromhex(origin), dtype=np.uint8), labels.indices
        self._numbers = np.array([len(of_unit[0]) for of_unit in centroids])
        self._shape = len(labels.indices), len(centroids), len(centroids[0])

    def read(self):
        """The VirtualNeurons, or None where they are not there."""
        if not self.path.is_file():
            return None
        layout = {"maxima": (np.float32, self._shape[:2]), "nearest": (np.int8, self._shape)}
        arrays = read_arrays(self.path, {**layout, "origin": (np.uint8, (len(self._origin),))}, AGAIN)
        with damage_is_one_line(self.path, AGAIN):
            if not np.array_equal(arrays["origin"], self._origin):
                raise ValueError("it is of something else")
            if not ((arrays["maxima"] >= 0) & np.isfinite(arrays["maxima"])).all():
                raise ValueError("its activations are impossible")
            if not ((arrays["nearest"] >= 0) & (arrays["nearest"] < self._numbers[:, None])).all():
                raise ValueError("its clusters are impossible")
        return VirtualNeurons(self._indices, *(torch.from_numpy(arrays[name]) for name in ("maxima", "nearest")))

    def write(self, maxima, nearest):
        """Write maxima [N, R] and nearest [N, R, D]."""
        write_arrays(self.path, {"maxima": maxima.numpy(), "nearest": nearest.numpy(), "origin": self._origin})


def _tensors_digest(tensors):
    """SHA-256 of types, shapes and values."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.hexdigest()
