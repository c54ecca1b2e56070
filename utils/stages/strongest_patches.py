"""The patches of val/ that activate channels most: one pass over the images for all of them, the strongest kept.

Reports and cards share the file in which these are kept.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from utils.errors import UserError
from utils.images.batches import ImageSource
from utils.images.folders import ImageList
from utils.method.order import largest_first
from utils.method.patches import TOP_IMAGES, patch, peaks
from utils.networks.opened_network import OpenedNetwork
from utils.processes import progress
from utils.store.files import Layout, json_digest
from utils.store.strongest import read_strongest, stacked, write_strongest
from utils.store.unfinished import KEPT_IMAGES, Unfinished

TILE = 80  # pixels: of a multiple of 16, JPEG mixes no colours of two tiles
MOST_VALUES = 2**24  # of maps in memory at once
MOST_UNITS = 512  # whose tiles are in memory at once, 300 KB each


class TopPatches(NamedTuple):
    """The most activating patches of U units, strongest first, at most one of each image.

    ``values`` float32 [U, 16] are the largest activations at any position, ``centres`` float32 [U, 16, 2] their places,
    as fractions of the image's sides; ``images`` int64 [U, 16] are indices in an ImageList, -1 where there are fewer.
    """

    values: torch.Tensor
    images: torch.Tensor
    centres: torch.Tensor

    @classmethod
    def nothing(cls, num_units: int) -> "TopPatches":
        shape = (num_units, TOP_IMAGES)
        return cls(torch.full(shape, -torch.inf), torch.full(shape, -1), torch.zeros(*shape, 2))

    def with_batch(self, values: torch.Tensor, images: torch.Tensor, centres: torch.Tensor) -> "TopPatches":
        """The strongest of these and of new ones: [U, B], [B], [U, B, 2]; of equal values the earlier image."""
        values = torch.cat([self.values, values], 1)
        images = torch.cat([self.images, images.expand(len(values), -1)], 1)
        centres = torch.cat([self.centres, centres], 1)
        order = largest_first(values, TOP_IMAGES, dim=1)
        where = order[..., None].expand(-1, -1, 2)
        return TopPatches(values.gather(1, order), images.gather(1, order), centres.gather(1, where))


@dataclass(frozen=True)
class KeptPatches:
    """The strongest patches of any units among some images, kept in a file.

    ``images`` are all that are searched; ``origin`` are plain values on which the values of a unit depend: network,
    layer, images, and how they are read.
    """

    path: Path
    images: ImageList
    origin: dict[str, Any]

    @classmethod
    def of(
        cls, path: Path, images: ImageList, context: dict[str, Any], *, precision: str, decoding: str
    ) -> "KeptPatches":
        """Those of a network and layer, whose ``context`` has the fields of a store's ``meta``."""
        origin = {key: context[key] for key in ("weights_sha256", "layer", "transform")}
        return cls(path, images, {**origin, "images": images.digest(), "precision": precision, "decoding": decoding})

    def keys(self, rows: torch.Tensor, biases: torch.Tensor | None) -> np.ndarray:
        return unit_keys(self.origin, rows, biases)

    def has(self, rows: torch.Tensor, biases: torch.Tensor | None) -> bool:
        """Whether the patches of all units [U, C_in, taps] are in the file."""
        stored = read_strongest(self.path)
        return all(key.tobytes() in stored for key in self.keys(rows, biases))

    def patches(
        self, rows: torch.Tensor, biases: torch.Tensor | None, source: ImageSource, network: OpenedNetwork
    ) -> TopPatches:
        """The patches of units: those in the file are read, the others are searched for and added to it.

        Parameters
        ----------
        rows : Tensor [U, C_in, taps]
        biases : Tensor [U] or None
        source : ImageSource
            Of ``images``.
        network : OpenedNetwork
        """
        keys = self.keys(rows, biases)
        stored = read_strongest(self.path)
        new = [unit for unit, key in enumerate(keys) if key.tobytes() not in stored]
        if new:
            new_biases = None if biases is None else biases[new]
            unfinished = Unfinished(self.path, {"units": [keys[unit].tobytes().hex() for unit in new]})
            strongest = find_strongest(source, network, rows[new], new_biases, unfinished)
            units = zip(*(part.numpy() for part in strongest), strict=True)
            stored |= {keys[unit].tobytes(): part for unit, part in zip(new, units, strict=True)}
            write_strongest(self.path, stored)
            unfinished.remove()
        return TopPatches(*map(torch.from_numpy, stacked(stored[key.tobytes()] for key in keys)))


def unit_keys(origin: dict[str, Any], rows: torch.Tensor, biases: torch.Tensor | None) -> np.ndarray:
    """A key for each unit and the images on which it is ranked; only equal ones have equal keys: uint8 array [U, 32].

    Parameters
    ----------
    origin : dict
        Plain values: network, layer, images, and how they are read.
    rows : Tensor [U, C_in, taps]
    biases : Tensor [U] or None
    """
    start = json_digest(origin).encode()
    keys = [hashlib.sha256(start + row.double().numpy().tobytes()) for row in rows]
    if biases is not None:
        for key, bias in zip(keys, biases.double(), strict=True):
            key.update(bias.numpy().tobytes())
    return np.array([list(key.digest()) for key in keys], dtype=np.uint8).reshape(-1, 32)


def find_strongest(
    source: ImageSource,
    network: OpenedNetwork,
    rows: torch.Tensor,
    biases: torch.Tensor | None,
    unfinished: Unfinished,
) -> TopPatches:
    """One pass over all images of a source for any number of units: what is kept does not grow with the images.

    Parameters
    ----------
    source : ImageSource
    network : OpenedNetwork
        Units are computed in fp32, independently of its precision.
    rows : Tensor [U, C_in, taps]
        Weights of the units, which see the layer's input.
    biases : Tensor [U] or None
    unfinished : Unfinished
        Keeps the strongest patches so far every ``KEPT_IMAGES`` images.
    """
    layer = network.layer
    size = max(1, MOST_VALUES // (source.batch_size * layer.num_positions))
    blocks = [slice(start, start + size) for start in range(0, len(rows), size)]
    maps = [layer.maps(rows[block], None if biases is None else biases[block]) for block in blocks]
    so_far, done = _resumed(unfinished, len(rows))
    strongest = [TopPatches(*(part[block] for part in so_far)) for block in blocks]
    loader = source.in_order(range(len(source.images)), "validation images", done)
    places = layer.places(source.loading.device)
    kept = done
    for planned, (batch, record) in zip(loader.batches, network.records_in_step(loader), strict=True):
        if record is not None:
            with torch.no_grad():
                for number, of_block in enumerate(maps):
                    values, centres = (part.float().cpu() for part in peaks(of_block(record.input), places))
                    strongest[number] = strongest[number].with_batch(values.T, batch.indices, centres.transpose(0, 1))
        done += len(planned)
        if done - kept >= KEPT_IMAGES and done < len(source.images):
            unfinished.keep_arrays("strongest", {"done": np.array(done), **_arrays(_joined(strongest))})
            kept = done
    return _joined(strongest)


def _joined(blocks: list[TopPatches]) -> TopPatches:
    return TopPatches(*map(torch.cat, zip(*blocks, strict=True)))


def _arrays(patches: TopPatches) -> dict[str, np.ndarray]:
    return {name: part.numpy() for name, part in patches._asdict().items()}


def _resumed(unfinished: Unfinished, num_units: int) -> tuple[TopPatches, int]:
    """The strongest patches of a pass that was stopped, and the number of images that it had read."""
    nothing = TopPatches.nothing(num_units)
    layout: Layout = {name: (array.dtype, array.shape) for name, array in _arrays(nothing).items()}
    kept = unfinished.find_arrays("strongest", {**layout, "done": (np.int64, ())})
    if kept is None:
        return nothing, 0
    return TopPatches(*(torch.from_numpy(kept[name]) for name in TopPatches._fields)), int(kept["done"])


def tiles_of(source: ImageSource, patches: TopPatches, size: int) -> Iterator[np.ndarray]:
    """The patches, read again from their files, each image once for some hundreds of units.

    Parameters
    ----------
    source : ImageSource
    patches : TopPatches
    size : int
        Side of a patch in pixels of the transform.

    Yields
    ------
    uint8 array [16, TILE, TILE, 3]
        The tiles of a unit; grey where there are fewer patches.
    """
    for start in range(0, len(patches.images), MOST_UNITS):
        yield from _tiles(source, TopPatches(*(part[start : start + MOST_UNITS] for part in patches)), size)


def _tiles(source: ImageSource, patches: TopPatches, size: int) -> np.ndarray:
    images = patches.images.numpy()
    tiles = np.full((*images.shape, TILE, TILE, 3), 128, np.uint8)
    loader = source.in_order(np.unique(images[images >= 0]), None)
    for batch in progress(loader.loader, "patches", unit=" batches", leave=False):
        if batch.unreadable:
            index, reason = batch.unreadable[0]
            raise UserError(f"cannot read image {source.images.path(index)} again ({reason})")
        for index, crop in zip(batch.indices.tolist(), batch.crops.numpy(), strict=True):
            for unit, rank in np.argwhere(images == index):
                row, column = patches.centres[unit, rank].tolist()
                picture = Image.fromarray(patch(crop, (row, column), size))
                tiles[unit, rank] = picture.resize((TILE, TILE), Image.Resampling.BICUBIC)
    return tiles
