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
from utils.store.unfinished import KEPT_IMAGES, Unfinished

AGAIN = "delete it and run get_results.py again"
FORMAT = 2


@dataclass(frozen=True)
class ClusteredUnits:
    """Units of which an image is given to the nearest of their centroids, in the images of some classes.

    Parameters
    ----------
    circuits : UnitCircuits
        Of R units.
    centroids : list of R Tensors [D, K, F]
        D sets of K centroids; both numbers may differ from unit to unit.
    classes : BoolTensor [T, R]
        True where a unit is measured in the images of a class.
    """

    circuits: UnitCircuits
    centroids: list[torch.Tensor]
    classes: torch.Tensor

    @property
    def num_sets(self) -> list[int]:
        """D of each unit."""
        return [len(of_unit) for of_unit in self.centroids]


@dataclass
class VirtualNeurons:
    """Activations and nearest centroids of a unit in N images; there are D sets of centroids.

    The first set are the centroids of the clusters, the others those of nulls. ``indices`` LongTensor [N] in the
    store's ImageList, ascending; ``maxima`` [N] the largest ``max(a, 0)``; ``nearest`` int8 [N, D] the centroid of each
    set that is nearest to the image's circuit.
    """

    indices: torch.Tensor
    maxima: torch.Tensor
    nearest: torch.Tensor

    def values(self, number: int, of_set: int = 0) -> torch.Tensor:
        """Values [K, N] of the ``number`` virtual neurons."""
        return virtual_neurons(self.maxima, self.nearest[:, of_set], number)

    def strongest(self, number: int, of_set: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """The images (rows 0 ... N-1) in which the unit is largest, and their clusters: LongTensor [n] each."""
        return strongest_images(self.maxima, self.nearest[:, of_set], number)


class VirtualNeuronFile:
    """``RUN_pure_virtual_neurons_val_<digest>.npz``, or ``..._train_...``; the digest is of all values it depends on.

    It has the ``maxima`` and ``nearest`` of the VirtualNeurons of each unit, one unit after the other. The arrays of a
    block of images, which are kept until the pass is finished, are in the same order.

    Parameters
    ----------
    store : ImportanceStore
        A complete store.
    run : str
    labels : Labels
        Labels of images of the store; those of the classes that are measured are ``indices``.
    units : ClusteredUnits
    decoding : str
        The decoder of the pass.
    """

    def __init__(
        self, store: ImportanceStore, run: str, labels: Labels, units: ClusteredUnits, *, decoding: str
    ) -> None:
        circuits = units.circuits
        circuit_layer = None if circuits.circuit_layer is None else circuits.circuit_layer.name
        bias = [] if circuits.biases is None else [circuits.biases]
        tensors = [circuits.rows, *bias, *units.centroids, units.classes, labels.indices, labels.targets]
        tensors.append(torch.from_numpy(labels.contents.view(np.int64)))
        made_of = {"store": store.meta, "tensors": _tensors_digest(tensors), "decoding": decoding, "format": FORMAT}
        origin = json_digest({**made_of, "circuit_layer": circuit_layer, "precision": circuits.precision})
        self.path = store.folder.parent / f"{run}_pure_virtual_neurons_{store.meta['images']}_{origin[:16]}.npz"
        self.kept = Unfinished(self.path, {"origin": origin})
        self._origin = np.frombuffer(bytes.fromhex(origin), dtype=np.uint8)
        self._units = units
        measured = units.classes.any(1)[labels.targets]
        self.indices = labels.indices[measured]
        self._targets = labels.targets[measured]

    def wanted(self, indices: torch.Tensor) -> torch.Tensor:
        """The units that are measured in some of the images, given by ascending indices: BoolTensor [n, R]."""
        return self._units.classes[self._targets[torch.searchsorted(self.indices, indices)]]

    def layout(self, indices: torch.Tensor) -> Layout:
        """Layout of the arrays of some of the images."""
        counts = self._counts(indices)
        num_nearest = int((counts * torch.tensor(self._units.num_sets)).sum())
        return {"maxima": (np.float32, (int(counts.sum()),)), "nearest": (np.int8, (num_nearest,))}

    def read(self) -> list[VirtualNeurons] | None:
        """The stored VirtualNeurons of each unit; None if there are none."""
        if not self.path.is_file():
            return None
        arrays = read_arrays(self.path, {**self.layout(self.indices), "origin": DIGEST}, AGAIN)
        with damage_is_one_line(self.path, AGAIN):
            if not np.array_equal(arrays["origin"], self._origin):
                raise ValueError("it is of something else")
        maxima, nearest = self._by_unit(arrays, self._counts(self.indices))
        images: dict[bytes, torch.Tensor] = {}  # many units are measured in the same images
        neurons = []
        for unit, num_sets in enumerate(self._units.num_sets):
            classes = self._units.classes[:, unit]
            key = classes.numpy().tobytes()
            if key not in images:
                images[key] = self.indices[classes[self._targets]]
            of_unit = torch.from_numpy(nearest[unit]).view(-1, num_sets)
            neurons.append(VirtualNeurons(images[key], torch.from_numpy(maxima[unit]), of_unit))
        return neurons

    def write(self, blocks: list[dict[str, np.ndarray]]) -> None:
        """Write the arrays of the blocks of all images, which are kept no longer."""
        counts = [self._counts(block) for block in self.indices.split(KEPT_IMAGES)]
        parts = [self._by_unit(arrays, of_block) for arrays, of_block in zip(blocks, counts, strict=True)]
        units = range(len(self._units.centroids))
        maxima = np.concatenate([maxima[unit] for unit in units for maxima, _ in parts])
        nearest = np.concatenate([nearest[unit] for unit in units for _, nearest in parts])
        write_arrays(self.path, {"maxima": maxima, "nearest": nearest, "origin": self._origin})
        self.kept.remove()

    def _counts(self, indices: torch.Tensor) -> torch.Tensor:
        """The number of images of each unit among some images: LongTensor [R]."""
        images_of_class = self._targets[torch.searchsorted(self.indices, indices)].bincount(
            minlength=len(self._units.classes)
        )
        return images_of_class @ self._units.classes.long()

    def _by_unit(
        self, arrays: dict[str, np.ndarray], counts: torch.Tensor
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The maxima and the nearest centroids of each unit."""
        num_nearest = counts * torch.tensor(self._units.num_sets)
        maxima, nearest = (
            np.split(arrays[name], numbers.cumsum(0)[:-1].numpy())
            for name, numbers in (("maxima", counts), ("nearest", num_nearest))
        )
        return maxima, nearest


def _tensors_digest(tensors: Iterable[torch.Tensor]) -> str:
    """SHA-256 of the types, shapes and values of tensors."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()
