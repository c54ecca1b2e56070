"""What the tests of the store begin with: a store of three made-up images, and split files of made-up networks."""

from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import nn

from tests.helpers import as_layer
from tests.splits import random_split
from utils.images.batches import Loading
from utils.images.folders import ImageList
from utils.store import importance_store as store
from utils.store.splits import SETTINGS, SplitFile, transform_from
from utils.store.study import Study

IMAGES = ImageList(
    Path("data/train"),
    ["a", "b"],
    np.array([b"a/1.png", b"a/2.png", b"b/a long name \xff.png"]),
    np.array([100, 20, 3]),
    np.array([0, 0, 1]),
)
TRANSFORM = {
    **{"resize_size": 8, "crop_size": 8, "interpolation": "bilinear"},
    **{"mean": [0.5, 0.5, 0.5], "std": [1.0, 1.0, 1.0]},
}
META = {
    **{"format": store.STORE_FORMAT, "images": "train", "model": "m", "weights": "w", "weights_sha256": "00"},
    **{"layer": "l", "kind": "convolution", "num_images": 3, "chunk_size": 2, "num_channels": 2, "num_inputs": 1},
    **{"num_taps": 1, "num_outputs": 2, "positions": 4, "transform": TRANSFORM, "precision": "fp32"},
    **{"decoding": "pil", "skip_unreadable": False, "data_sha256": IMAGES.digest(), "classes": {"a": 0, "b": 1}},
    **{"class_counts": {"a": 2, "b": 1}, "versions": {"torch": "1"}},
}
CONTEXT = {
    **{"model": "m", "weights": "w", "weights_sha256": "00", "layer": "l", "num_channels": 3, "num_outputs": 2},
    **{"transform": TRANSFORM, "classes": {"a": 0, "b": 1}},
}


def layer_of():
    """The layer of META."""
    torch.manual_seed(0)
    return as_layer(nn.Conv2d(1, 2, 1).requires_grad_(False))


def batch(*indices):
    """What stage 1 keeps of a batch of images."""
    n = len(indices)
    return {
        "relative_importances": torch.rand(n, 2).half(),
        "positive_sums": torch.rand(n),
        "input_sums": torch.rand(n, 1, 1),
        "targets": torch.zeros(n, dtype=torch.long),
        "predictions": torch.ones(n, dtype=torch.long),
        "indices": torch.tensor(indices, dtype=torch.long),
        "content": np.arange(n, dtype=np.uint64) + 2**63,
        "shares": torch.rand(n, 2).half(),
        "logits": torch.randn(n, 2).half(),
    }


def opened(folder, listed=IMAGES, **changes):
    """A store that has been begun."""
    opened_store = store.ImportanceStore(folder, "m", changes.get("images", "train"))
    opened_store.begin({**META, **changes}, layer_of(), listed)
    return opened_store


def split_file(module, channel, num_concepts=2, **context):
    """A SplitFile of a channel of a module, with concepts and ARVs at random."""
    split = random_split(module, channel, num_concepts)
    settings = {**dict.fromkeys(SETTINGS), "only_correct": False, "precision": "fp32", "tau": 0.03}
    proof = {"images": 8, "changed_predictions": 0}
    return SplitFile(split, {**CONTEXT, **context}, settings, None, {"name": "classes", "state": {}}, proof)


def study_of(training, kind=Study, **changes):
    """The Study of a complete training store; where the network is needed, ``open_network`` is to be given."""
    loading = Loading(torch.device("cpu"))
    usual = {
        **{"run": "m", "store_dir": training.folder.parent, "data_dir": Path("data"), "training": training},
        **{"only_correct": False, "background": None, "transform": transform_from(training.meta["transform"])},
        **{
            "open_network": None,
            "open_loading": lambda: loading,
            "decoding": "pil",
            "batch_size": 4,
            "precision": "fp32",
        },
    }
    return kind(**{**usual, **changes})


def flips(data):
    """Every copy of ``data`` with a single bit flipped."""
    for position in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            yield position, bytes(damaged)


def some_flips(data, whole=(), every=1):
    """Copies of ``data`` with a single bit flipped: one of every so many-th byte, drawn at random but always the same,
    and every bit of the bytes in ``whole``."""
    random = Random(0)
    drawn = {position: random.randrange(8) for position in range(0, len(data), every)}
    for number, (position, damaged) in enumerate(flips(data)):
        if position in whole or drawn.get(position) == number % 8:
            yield position, damaged


def equal(one, other):
    """Whether values or tensors, or dictionaries and lists of them, are equal, in type as well."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    return type(one) is type(other) and one == other
