"""The strongest patches that a report has found: read as they were written, or not at all."""

import numpy as np
import pytest

from utils.store.strongest import read_strongest, write_strongest


def arrays(count=3):
    random = np.random.default_rng(0)
    keys = random.integers(0, 256, (count, 32), dtype=np.uint8)
    values = random.random((count, 16), dtype=np.float32)
    return keys, values, random.integers(-1, 9, (count, 16)), random.random((count, 16, 2), dtype=np.float32)


def by_key(keys, *parts):
    return {key.tobytes(): part for key, part in zip(keys, zip(*parts, strict=True), strict=True)}


def test_units_are_found_by_their_keys(tmp_path):
    keys, *parts = arrays()
    write_strongest(tmp_path / "patches.npz", by_key(keys, *parts))
    found = read_strongest(tmp_path / "patches.npz")
    assert list(found) == [key.tobytes() for key in keys]
    for number, key in enumerate(found):
        assert all(np.array_equal(one, part[number]) for one, part in zip(found[key], parts, strict=True))


@pytest.mark.parametrize("damage", ["absent", "cut"])
def test_what_is_not_whole_is_nothing(damage, tmp_path):
    path = tmp_path / "patches.npz"
    if damage != "absent":
        write_strongest(path, by_key(*arrays()))
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    assert read_strongest(path) == {}
