"""Reference images of units and their circuits, which only a pass over all training images finds."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.errors import UserError
from utils.store.files import (
    DIGEST,
    Layout,
    digest_array,
    is_made_from,
    json_digest,
    read_arrays,
    write_arrays,
)
from utils.store.unfinished import Unfinished

AGAIN = "delete it and run disentangle_channel.py --concepts_from {} again"
MOST_DRAWS = 2**20  # of a channel
SETTINGS = ("number", "circuit_layer", "precision", "decoding", "only_correct")
Unit = tuple[int, int]  # (channel, draw): draw 0 is the channel itself, draw d > 0 its weights in the d-th permutation


@dataclass
class ReferenceImages:
    """The n training images in which each of R units is largest, in descending order; for ties the smaller index first.

    ``indices`` LongTensor [R, n] in the store's ImageList, ``values`` [R, n] the unit's largest activations there,
    ``features`` [R, n, F] float32 the images' circuits of L1 norm 1 (0 where the unit is active nowhere).
    """

    indices: torch.Tensor
    values: torch.Tensor
    features: torch.Tensor


class ReferenceImageStore:
    """``RUN_<source>_references.npz`` next to the split files: ReferenceImages of the units requested so far.

    The file is replaced when the training store is another one. Settings other than ``usual`` have a file of their own.

    Parameters
    ----------
    model_dir : Path
    run : str
    source : str
        The name of the source of concepts.
    meta : dict
        ``meta.json`` of the training store.
    num_features : int
        F of the circuits.
    settings : dict
        ``number`` (n) of reference images, ``circuit_layer`` (its name; None: the layer's own input), ``precision`` and
        ``decoding`` of the pass, ``only_correct``.
    usual : dict
        The settings whose file has no suffix.
    """

    def __init__(
        self,
        model_dir: Path | str,
        run: str,
        source: str,
        meta: dict[str, Any],
        num_features: int,
        *,
        settings: dict[str, Any],
        usual: dict[str, Any],
    ) -> None:
        self.settings = {name: settings[name] for name in SETTINGS}
        suffix = "" if self.settings == usual else f"_{json_digest(self.settings)[:8]}"
        self.path = Path(model_dir) / f"{run}_{source}_references{suffix}.npz"
        self._num_features = num_features
        self._made_from = {**self.settings, "training_sha256": json_digest(meta)}
        self._origin = digest_array(self._made_from)
        self._again = AGAIN.format(source)

    def missing(self, units: Iterable[Unit]) -> list[Unit]:
        """Which of some units are not stored, ascending."""
        return sorted(set(units) - set(map(tuple, self._read(["units"])["units"].tolist())))

    def read(self, units: list[Unit]) -> ReferenceImages:
        """The ReferenceImages of stored units, in the given order; UserError if one is missing."""
        arrays = self._read()
        stored = _numbers(arrays["units"])
        requested = _numbers(np.array(units))
        if not np.isin(requested, stored).all():
            raise UserError(f"{self.path} was replaced while this run used it: run the same command again")
        rows = np.searchsorted(stored, requested)
        return ReferenceImages(*(torch.from_numpy(arrays[name][rows]) for name in ("indices", "values", "features")))

    def write(self, units: list[Unit], references: ReferenceImages) -> None:
        """Add the ReferenceImages of units to the stored ones."""
        stored = self._read()
        new = {"units": np.array(units), **{name: value.numpy() for name, value in vars(references).items()}}
        kept = ~np.isin(_numbers(stored["units"]), _numbers(new["units"]))
        arrays = {name: np.concatenate([stored[name][kept], values]) for name, values in new.items()}
        order = _numbers(arrays["units"]).argsort()
        write_arrays(self.path, {**{name: values[order] for name, values in arrays.items()}, "origin": self._origin})

    def unfinished(self, units: list[Unit]) -> Unfinished:
        """What a search for the ReferenceImages of units keeps until they are written."""
        return Unfinished(self.path, {**self._made_from, "units": units})

    def _read(self, names: list[str] | None = None) -> dict[str, np.ndarray]:
        """Arrays by name, default: all; without units if the file is missing or from another training store."""
        number = self.settings["number"]
        layout: Layout = {
            "units": (np.int64, (None, 2)),
            "indices": (np.int64, (None, number)),
            "values": (np.float32, (None, number)),
            "features": (np.float32, (None, number, self._num_features)),
            "origin": DIGEST,
        }
        if not is_made_from(self.path, self._origin, layout, self._again):
            return {name: np.empty((0, *shape[1:]), dtype) for name, (dtype, shape) in layout.items()}
        return read_arrays(self.path, layout, self._again, names)


def _numbers(units: np.ndarray) -> np.ndarray:
    """Units [M, 2] as numbers [M] in the same order."""
    return units[:, 0] * MOST_DRAWS + units[:, 1]
