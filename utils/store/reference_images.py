"""Reference images of units, and what they are clustered by, where only a pass over all training images finds them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from utils.errors import UserError
from utils.store.files import damage_is_one_line, json_digest, read_arrays, write_arrays

AGAIN = "delete it and run disentangle_channel.py --concepts_from {} again"
ORIGIN = {"origin": (np.uint8, (32,))}
MOST_DRAWS = 2**20  # of a channel
SETTINGS = ("number", "circuit_layer", "precision", "decoding", "only_correct")


@dataclass
class References:
    """The n training images in which each of R units is largest, the largest first; of equal ones the smaller index.

    ``indices`` LongTensor [R, n] in the store's ImageList, ``values`` [R, n] the unit's largest activations there,
    ``features`` [R, n, F] float32 the images' circuits of L1 norm 1 (0 where the unit is active nowhere).
    """

    indices: torch.Tensor
    values: torch.Tensor
    features: torch.Tensor


class ReferenceStore:
    """``RUN_<source>_references.npz`` beside the split files: References of the units that anybody has asked for.

    A unit is (channel, draw): draw 0 is the channel itself, a higher one the channel with its weights permuted. Another
    training store replaces the file; other settings than the usual ones have one of their own.

    Parameters
    ----------
    model_dir : Path
    run : str
    source : str
        The name of the source of concepts.
    meta : dict
        Of the training store.
    num_features : int
        F of the circuits.
    settings : dict
        ``number`` (n) of references, ``circuit_layer`` (its name, None: the layer's own input), ``precision`` and
        ``decoding`` of the pass, ``only_correct``.
    usual : dict
        The settings whose file has no suffix.
    """

    def __init__(self, model_dir, run, source, meta, num_features, *, settings, usual):
        self.settings, self._again = {name: settings[name] for name in SETTINGS}, AGAIN.format(source)
        suffix = "" if self.settings == usual else f"_{json_digest(self.settings)[:8]}"
        self.path = Path(model_dir) / f"{run}_{source}_references{suffix}.npz"
        self._num_channels, self._num_images = meta["num_channels"], meta["num_images"]
        self._num_features = num_features
        origin = json_digest({**self.settings, "training_sha256": json_digest(meta)})
        self._origin = np.frombuffer(bytes.fromhex(origin), dtype=np.uint8)

    def missing(self, units):
        """Which of some units are not there, ascending."""
        return sorted(set(units) - set(map(tuple, self._read(["units"])["units"].tolist())))

    def read(self, units):
        """The References of units that are there, in the order that is asked for; UserError where one is not."""
        arrays = self._read()
        there, asked = _numbers(arrays["units"]), _numbers(np.array(units))
        if not np.isin(asked, there).all():
            raise UserError(f"{self.path} was replaced while this run used it: run the same command again")
        rows = np.searchsorted(there, asked)
        return References(*(torch.from_numpy(arrays[name][rows]) for name in ("indices", "values", "features")))

    def write(self, units, references):
        """Add References of units to those that are there."""
        there = self._read()
        new = {"units": np.array(units), **{name: value.numpy() for name, value in vars(references).items()}}
        kept = ~np.isin(_numbers(there["units"]), _numbers(new["units"]))
        arrays = {name: np.concatenate([there[name][kept], values]) for name, values in new.items()}
        order = _numbers(arrays["units"]).argsort()
        write_arrays(self.path, {**{name: values[order] for name, values in arrays.items()}, "origin": self._origin})

    def _read(self, names=None):
        """Arrays by name, default: all; of no unit where they are not there, or of another training store."""
        number = self.settings["number"]
        layout = {
            "units": (np.int64, (None, 2)),
            "indices": (np.int64, (None, number)),
            "values": (np.float32, (None, number)),
            "features": (np.float32, (None, number, self._num_features)),
        }
        if not self._is_there():
            return {name: np.empty((0, *shape[1:]), dtype) for name, (dtype, shape) in layout.items()}
        found = read_arrays(self.path, {**layout, **ORIGIN}, self._again, names)
        with damage_is_one_line(self.path, self._again):
            for name, array in found.items():
                if not self._is_possible(name, array):
                    raise ValueError(f"its {name} are impossible")
        return found

    def _is_there(self):
        if not self.path.is_file():
            return False
        anything = dict.fromkeys(("units", "indices", "values", "features"))
        return np.array_equal(
            read_arrays(self.path, {**anything, **ORIGIN}, self._again, ["origin"])["origin"], self._origin
        )

    def _is_possible(self, name, array):
        """Whether an array can have been measured, whatever its checksum says."""
        if name == "units":
            in_range = (array >= 0).all() and (array < (self._num_channels, MOST_DRAWS)).all()
            return in_range and (np.diff(_numbers(array)) > 0).all()
        if name == "indices":
            return ((array >= 0) & (array < self._num_images)).all()
        if name == "values":
            return np.isfinite(array).all() and (np.diff(array, axis=1) <= 0).all()
        return name == "origin" or (np.abs(array).sum(-1) <= 1 + 1e-3).all()  # which NaN is not


def _numbers(units):
    """A number for each unit [M, 2], in their order."""
    return units[:, 0] * MOST_DRAWS + units[:, 1]
