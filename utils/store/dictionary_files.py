"""Files of dictionaries of a layer's output: positions that they are trained on, themselves, their units' values.

All are DerivedArrays beside the splits: whatever they depend on is in the digest of their names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.method.dictionary_fit import Fit
from utils.store.derived_arrays import DerivedArrays
from utils.store.files import Layout, json_digest
from utils.store.importance_store import ImportanceStore
from utils.store.study import Study

FORMAT = 2
NOT_INSERTED = -1  # the prediction of an image in which no reconstruction was inserted


def positions_made_from(study: Study, number: int) -> dict[str, Any]:
    """Plain values that positions of the training images depend on; ``number`` is how many are drawn."""
    return {
        "format": FORMAT,
        "training_sha256": json_digest(study.meta),
        "precision": study.precision,
        "decoding": study.decoding,
        "positions": number,
    }


def position_layout(number: int | None, dimension: int) -> Layout:
    """Coordinates [n, D] of positions, each divided by the root of its mean square, ``scales`` [n]: halves hold the
    quotients of any network."""
    return {"values": (np.float16, (number, dimension)), "scales": (np.float32, (number,))}


def packed_positions(coordinates: Tensor) -> dict[str, np.ndarray]:
    """Coordinates [n, D] as ``position_layout`` has them."""
    scales = coordinates.square().mean(1).sqrt()
    values = coordinates / scales.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    return {"values": values.half().numpy(), "scales": scales.numpy()}


def unpacked_positions(arrays: Mapping[str, np.ndarray]) -> Tensor:
    """Coordinates [n, D] float32, from arrays of ``position_layout``."""
    return torch.from_numpy(arrays["values"]).float() * torch.from_numpy(arrays["scales"])[:, None]


def positions_file(study: Study, number: int, dimension: int) -> DerivedArrays:
    """``RUN_positions_<digest>.npz``: coordinates of ``number`` positions."""
    made_from = positions_made_from(study, number)
    layout = position_layout(None, dimension)
    return DerivedArrays(study.model_dir, f"{study.run}_positions", made_from, layout)


def stored_dictionary(
    study: Study,
    name: str,
    made_from: dict[str, Any],
    layout: Layout,
    *,
    words: str,
    make: Callable[[], tuple[dict[str, Tensor], Fit]],
) -> tuple[dict[str, Tensor], Fit]:
    """A dictionary's tensors of ``layout`` on the CPU, and its fit to the positions it was trained on.

    They are in ``RUN_NAME_<digest>.npz``, whose name is printed when it is made.

    Parameters
    ----------
    study
    name : str
        In the file's name.
    made_from : dict
        Plain values that the dictionary depends on.
    layout
        Of the tensors.
    words : str
        What it is, for the screen.
    make
        Trains it: the tensors, and the fit.
    """
    whole: Layout = {**layout, "active": (np.bool_, (None,)), "fit": (np.float64, (2,))}
    file = DerivedArrays(study.model_dir, f"{study.run}_{name}", made_from, whole)
    arrays = file.read()
    if arrays is None:
        tensors, fit = make()
        made = {key: tensor.cpu().numpy() for key, tensor in {**tensors, "active": fit.active}.items()}
        arrays = {**made, "fit": np.array([fit.explained, fit.units_at_position])}
        file.write(arrays)
        print(f"{words}: {file.path}")
    explained, units_at_position = arrays["fit"].tolist()
    fit = Fit(explained, torch.from_numpy(arrays["active"]), units_at_position)
    return {key: torch.from_numpy(arrays[key]) for key in layout}, fit


def unit_values_layout(units: Mapping[str, int], images: int) -> Layout:
    """Arrays of n images: ``values_NAME`` [n, U], the spatial sum of each unit of a dictionary; ``predictions`` and
    ``predictions_NAME`` [n], the network's as it is, and with the dictionary's reconstruction in place of the layer's
    output, both NOT_INSERTED where that was not done; ``errors_NAME`` and ``totals_NAME`` [n], squared errors of the
    reconstruction and squared distances from the training mean, summed over an image's positions."""
    layout: Layout = {"predictions": (np.int64, (images,))}
    for name, number in units.items():
        layout[f"values_{name}"] = (np.float32, (images, number))
        layout[f"predictions_{name}"] = (np.int64, (images,))
        layout |= {f"{kind}_{name}": (np.float64, (images,)) for kind in ("errors", "totals")}
    return layout


def unit_values_file(
    study: Study,
    store: ImportanceStore,
    indices: Tensor,
    inserted: Tensor,
    *,
    made_from: Mapping[str, Any],
    units: Mapping[str, int],
) -> DerivedArrays:
    """``RUN_dictionary_units_val_<digest>.npz``, or ``..._train_...``.

    Parameters
    ----------
    study
    store
        Store of the images.
    indices, inserted : LongTensor [n], LongTensor [m]
        The images, and those of them in which reconstructions are inserted.
    made_from
        What each dictionary was made from, by name.
    units
        The number of units of each dictionary.
    """
    depends_on = {
        "format": FORMAT,
        "dictionaries": {name: json_digest(values) for name, values in made_from.items()},
        "store_sha256": json_digest(store.meta),
        "images": _digest([indices, inserted]),
        "precision": study.precision,
        "decoding": study.decoding,
    }
    name = f"{study.run}_dictionary_units_{store.meta['images']}"
    return DerivedArrays(study.model_dir, name, depends_on, unit_values_layout(units, len(indices)))


def _digest(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{len(tensor)}\n".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()
