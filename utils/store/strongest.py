"""The strongest patches of units that a report has found, stored so that the next report needs no pass over images."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from utils.errors import UserError
from utils.method.patches import TOP_IMAGES
from utils.store.files import Layout, read_arrays, write_arrays

AGAIN = "delete it and run get_results.py --report again"
LAYOUT: Layout = {
    "keys": (np.uint8, (None, 32)),
    "values": (np.float32, (None, TOP_IMAGES)),
    "images": (np.int64, (None, TOP_IMAGES)),
    "centres": (np.float32, (None, TOP_IMAGES, 2)),
}
Patches = tuple[np.ndarray, np.ndarray, np.ndarray]  # values, images and centres of one unit


def write_strongest(path: Path, strongest: Mapping[bytes, Patches]) -> None:
    """Write the patches of units; a key of 32 bytes identifies a unit and the images it was searched in."""
    keys = np.array([list(key) for key in strongest], dtype=np.uint8)
    values, images, centres = stacked(strongest.values())
    write_arrays(path, {"keys": keys, "values": values, "images": images, "centres": centres})


def stacked(units: Iterable[Patches]) -> list[np.ndarray]:
    """Values, images and centres of several units, each as one array."""
    return [np.stack(part) for part in zip(*units, strict=True)]


def read_strongest(path: Path) -> dict[bytes, Patches]:
    """The patches that ``write_strongest`` has written; empty if the file is missing or damaged."""
    if not path.is_file():
        return {}
    try:
        arrays = read_arrays(path, LAYOUT, AGAIN)
    except UserError:  # damaged, or of another version: it will be made again
        return {}
    patches = zip(arrays["values"], arrays["images"], arrays["centres"], strict=True)
    return {key.tobytes(): unit for key, unit in zip(arrays["keys"], patches, strict=True)}
