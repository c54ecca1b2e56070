"""The strongest patches of units that a report has found, so that another report need not look at all images again."""

import numpy as np

from utils.errors import UserError
from utils.method.patches import TOP_IMAGES
from utils.store.files import damage_is_one_line, read_arrays, write_arrays

AGAIN = "delete it and run get_results.py --report again"
LAYOUT = {
    "keys": (np.uint8, (None, 32)),
    "values": (np.float32, (None, TOP_IMAGES)),
    "images": (np.int64, (None, TOP_IMAGES)),
    "centres": (np.float32, (None, TOP_IMAGES, 2)),
}


def write_strongest(path, found):
    """Write {key: (values, images, centres)}; the 32 bytes of a key tell a unit and its images from others."""
    keys = np.array([list(key) for key in found], dtype=np.uint8)
    write_arrays(path, dict(zip(LAYOUT, (keys, *stacked(found.values())), strict=True)))


def stacked(units):
    """Values, images and centres of some units, an array of all each."""
    return [np.stack(part) for part in zip(*units, strict=True)]


def read_strongest(path):
    """What ``write_strongest`` has written, as {key: (values, images, centres)}; empty where there is nothing whole."""
    if not path.is_file():
        return {}
    try:
        arrays = read_arrays(path, LAYOUT, AGAIN)
        with damage_is_one_line(path, AGAIN):
            if np.isnan(arrays["values"]).any() or not ((arrays["centres"] >= 0) & (arrays["centres"] <= 1)).all():
                raise ValueError("its patches are impossible")
    except UserError:  # damaged, or of another version: it is made anew
        return {}
    parts = zip(*(arrays[name] for name in ("values", "images", "centres")), strict=True)
    return {key.tobytes(): part for key, part in zip(arrays["keys"], parts, strict=True)}
