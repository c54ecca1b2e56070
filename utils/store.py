"""The store: paths and formats of everything that one stage leaves for the next."""

import hashlib
import io
import os
import re
import time
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch

from utils.data import Transform
from utils.disentangling import OBJECTIVES, RHOS, Split, with_splits
from utils.errors import UserError
from utils.files import damage_is_one_line, json_digest, read_arrays, read_json, write_arrays, write_bytes, write_json
from utils.models import fingerprint


def run_name(model, layer_flag):
    """RUN: the model's name, and the layer's where it is not ``last_conv``, fit for a file name."""
    name = model if layer_flag == "last_conv" else f"{model}_{layer_flag}"
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)


def split_name(run, channel, concepts):
    """Name of a channel and its concepts: ``RUN_channel1660_530_938``; classes of one concept joined by ``-``."""
    classes = "_".join("-".join(map(str, concept)) for concept in concepts)
    if len(classes) > 100:
        classes = f"{len(concepts)}concepts_{hashlib.sha256(classes.encode()).hexdigest()[:16]}"
    return f"{run}_channel{channel}_{classes}"


# --------------------------------------------------------------------------------------------------------------------
# Stage 1: importances and input sums


class ImportanceStore:
    """``RUN_channel_importances/``: ``meta.json``, and a chunk file for every ``chunk_size`` images."""

    def __init__(self, store_dir, run):
        store_dir = Path(store_dir)
        if store_dir.exists() and not store_dir.is_dir():
            raise UserError(f"--store_dir {store_dir} is a file, not a folder")
        self.folder = store_dir / f"{run}_channel_importances"
        self.meta = None

    @property
    def meta_path(self):
        return self.folder / "meta.json"

    def chunk_path(self, chunk):
        return self.folder / f"chunk_{chunk:06d}.npz"

    def load_meta(self):
        """Read ``meta.json``; UserError where stage 1 has not begun."""
        if not self.meta_path.is_file():
            raise UserError(f"there is no {self.meta_path}: run get_importances_for_classes.py first")
        self.meta = read_json(self.meta_path, f"delete {self.folder} and run get_importances_for_classes.py again")
        return self.meta

    def begin(self, meta, process=0):
        """Begin a store described by ``meta``, or go on with one that agrees in everything that changes its content.

        That leaves out where equal weights came from, and versions. Without a chunk there is nothing to go on with.
        Of several processes the first one writes ``meta.json``, and the others wait for it.
        """
        keys = [key for key in meta if key not in ("weights", "versions")]
        chunks = any(self.folder.glob("chunk_*.npz"))
        if chunks and not self.meta_path.is_file():
            raise UserError(f"{self.folder} has chunks but no meta.json that says of what: delete the folder")
        if chunks:
            refuse_differences(meta, self.load_meta(), keys, self.folder)
        elif process > 0:
            self._wait_for(meta, keys)
            if not self.meta_path.is_file():
                raise UserError(f"process 0 has not begun {self.folder}: do all processes see the same --store_dir?")
            refuse_differences(meta, self.load_meta(), keys, self.folder)
        elif not self._agrees(meta, keys):
            write_json(self.meta_path, meta)
            self.meta = meta

    def _agrees(self, meta, keys):
        return self.meta_path.is_file() and all(self.load_meta().get(key) == meta[key] for key in keys)

    def _wait_for(self, meta, keys, seconds=300):
        """Wait until the first process has written ``meta``; what is there may be of an earlier attempt."""
        end = time.monotonic() + seconds
        while not self._agrees(meta, keys) and time.monotonic() < end:
            time.sleep(0.2)

    @property
    def num_chunks(self):
        return -(-self.meta["num_images"] // self.meta["chunk_size"])

    def chunk_range(self, chunk):
        """Indices of the images of a chunk."""
        size = self.meta["chunk_size"]
        return range(chunk * size, min((chunk + 1) * size, self.meta["num_images"]))

    def missing_chunks(self):
        present = set(os.listdir(self.folder))
        return [chunk for chunk in range(self.num_chunks) if self.chunk_path(chunk).name not in present]

    def require_complete(self):
        missing = sum(len(self.chunk_range(chunk)) for chunk in self.missing_chunks())
        if missing:
            raise UserError(
                f"stage 1 is not finished: {missing} of {self.meta['num_images']} images are missing in {self.folder}; "
                "run get_importances_for_classes.py again, it goes on where it stopped"
            )

    def _layout(self):
        num_channels, num_inputs, num_taps = (self.meta[key] for key in ("num_channels", "num_inputs", "num_taps"))
        return {
            "relative_importances": (np.float16, (None, num_channels)),
            "positive_sums": (np.float32, (None,)),
            "input_sums": (np.float32, (None, num_inputs, num_taps)),
            "targets": (np.int64, (None,)),
            "predictions": (np.int64, (None,)),
            "indices": (np.int64, (None,)),
        }

    def _origin(self):
        return np.frombuffer(bytes.fromhex(json_digest(self.meta)), dtype=np.uint8)

    def write_chunk(self, chunk, batches):
        """Write a chunk from the tensors of its batches (dictionaries as ``_layout`` has them)."""
        arrays = {}
        for name, (dtype, shape) in self._layout().items():
            parts = [batch[name].cpu().numpy().astype(dtype, copy=False) for batch in batches]
            arrays[name] = np.concatenate([np.empty((0, *shape[1:]), dtype), *parts])
        write_arrays(self.chunk_path(chunk), {**arrays, "origin": self._origin()})

    def read_chunk(self, chunk, names=None):
        """Read a chunk as tensors, by name; ``indices`` are always among them."""
        path, advice = self.chunk_path(chunk), "delete it and run get_importances_for_classes.py again"
        names = {"indices", "origin", *(names or self._layout())}
        layout = {**self._layout(), "origin": (np.uint8, (32,))}
        arrays = read_arrays(path, layout, advice, sorted(names))
        with damage_is_one_line(path, advice):
            indices, expected = arrays["indices"], self.chunk_range(chunk)
            if not self.meta["skip_unreadable"] and len(indices) != len(expected):
                raise ValueError(f"it has {len(indices)} images, not {len(expected)}")
            if np.any(np.diff(indices) <= 0) or np.any(indices < expected[0]) or np.any(indices > expected[-1]):
                raise ValueError("its images are not those of its place")
            if not np.array_equal(arrays.pop("origin"), self._origin()):
                raise ValueError("it is of another store")
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def read_labels(self):
        """Indices, targets and predictions of all images used: three LongTensors [N]."""
        names = ["indices", "targets", "predictions"]
        chunks = [self.read_chunk(chunk, names) for chunk in range(self.num_chunks)]
        return tuple(torch.cat([chunk[name] for chunk in chunks]) for name in names)


def refuse_differences(asked, stored, keys, where):
    """Raise a UserError that names the first of ``keys`` in which what was asked for differs from what is stored."""
    for key in keys:
        if asked[key] != stored.get(key):  # a store of an earlier version may lack it
            what = key.removesuffix("_sha256").replace("_", " ")
            if isinstance(stored.get(key), dict):
                refuse_differences(asked[key], {**asked[key], **stored[key]}, asked[key], where)
            both = "" if key.endswith("_sha256") else f" ({stored.get(key)}; now {asked[key]})"
            raise UserError(f"{where} was made with another {what}{both}: ask for the same, or use another --store_dir")


# --------------------------------------------------------------------------------------------------------------------
# Stage 2: class means, and counts of relevant images


class ClassStore:
    """``results_get_cosine_similarities/`` of the store: what stage 2 derives from a complete stage 1."""

    def __init__(self, store_dir, run, meta):
        self._folder, self._run, self._meta = Path(store_dir) / "results_get_cosine_similarities", run, meta
        self._origin = np.frombuffer(bytes.fromhex(json_digest(meta)), dtype=np.uint8)

    def _layouts(self):
        num_outputs, num_channels = self._meta["num_outputs"], self._meta["num_channels"]
        inputs = (self._meta["num_inputs"], self._meta["num_taps"])
        return {
            "means": {"mean_inputs": (np.float64, (2, num_outputs, *inputs)), "images": (np.int64, (2, num_outputs))},
            "relevant": {"relevant": (np.int64, (2, num_outputs, num_channels))},
        }

    def means_path(self):
        return self._folder / f"{self._run}_class_means.npz"

    def relevant_path(self, tau):
        return self._folder / f"{self._run}_relevant_images_required{tau}.npz"

    def channels_path(self, pairs_path):
        """Path of the table of all channels, named like the table of pairs."""
        return self._folder / f"{pairs_path.stem}_channels.csv"

    def write(self, statistics, tau):
        write_arrays(
            self.means_path(),
            {
                "mean_inputs": statistics.mean_inputs().numpy(),
                "images": statistics.images.numpy(),
                "origin": self._origin,
            },
        )
        write_arrays(self.relevant_path(tau), {"relevant": statistics.relevant.numpy(), "origin": self._origin})

    def read_means(self):
        """Class means [2, T, C_in, taps] and numbers of images [2, T], or None where stage 2 has not run yet."""
        arrays = self._read(self.means_path(), "means")
        return arrays and (arrays["mean_inputs"], arrays["images"])

    def read_relevant(self, tau):
        """Counts of relevant images [2, T, C] for ``tau``, or None where they were not counted yet."""
        arrays = self._read(self.relevant_path(tau), "relevant")
        return arrays and arrays["relevant"]

    def _read(self, path, kind):
        if not path.is_file():
            return None
        layout = {**self._layouts()[kind], "origin": (np.uint8, (len(self._origin),))}
        arrays = read_arrays(path, layout, "delete it and run get_cosine_similarities.py again")
        if not np.array_equal(arrays["origin"], self._origin):
            return None  # made from a store that has since been replaced
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


# --------------------------------------------------------------------------------------------------------------------
# Stage 3: split channels

# What a split file takes over from meta.json, to be compared with what the next stage is asked for
SPLIT_CONTEXT = ("model", "weights", "weights_sha256", "layer", "num_channels", "num_outputs", "transform", "classes")
SPLIT_FORMAT = 2
SPLIT_KEYS = {
    *(field.name for field in fields(Split)),
    *SPLIT_CONTEXT,
    *("only_correct", "format", "rhos", "objective_names", "sha256"),
}


def split_path(model_dir, run, channel, concepts):
    return Path(model_dir) / f"{split_name(run, channel, concepts)}.pt"


def find_splits(model_dir, run, channel):
    """Paths of all split files of a channel, sorted."""
    return sorted(Path(model_dir).glob(f"{run}_channel{channel}_*.pt"))


def write_split(path, split, context):
    """Write a Split with what it belongs to: ``context`` has ``SPLIT_CONTEXT`` and ``only_correct``."""
    content = {
        "format": SPLIT_FORMAT,
        "rhos": list(RHOS),
        "objective_names": list(OBJECTIVES),
        **vars(split),
        **context,
    }
    content["sha256"] = _split_digest(content)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(path, buffer.getvalue())


def read_split(path):
    """Read a split file: the Split, and a dictionary of what it belongs to."""
    data = Path(path).read_bytes()
    with damage_is_one_line(path, "run disentangle_channel.py again"):
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if content["sha256"] != _split_digest(content):
            raise ValueError("its checksum is wrong")
        version = content["format"], content["rhos"], content["objective_names"]
        if set(content) != SPLIT_KEYS or version != (SPLIT_FORMAT, list(RHOS), list(OBJECTIVES)):
            raise ValueError("it is of another version of this program")
        split = Split(**{field.name: content[field.name] for field in fields(Split)})
    return split, content


def read_first_split(paths):
    """The first of several split files that is not damaged."""
    for path in paths[:-1]:
        with suppress(UserError):
            return read_split(path)
    return read_split(paths[-1])


def _split_digest(content):
    """SHA-256 of a split file's content: plain values as JSON, tensors as type, shape and bytes."""

    def plain(value):
        if isinstance(value, torch.Tensor):
            data = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            return [str(value.dtype), list(value.shape), hashlib.sha256(data).hexdigest()]
        return value

    return json_digest({key: plain(value) for key, value in content.items() if key != "sha256"})


def transform_from(stored):
    """The Transform that a meta or split file holds as a dictionary."""
    return Transform(**{key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()})


def split_network(network, *paths, rhos=None):
    """A copy of ``network`` with the channels of one or several split files disentangled, and equal outputs.

    Parameters
    ----------
    network : nn.Module
        With the weights that the splits were made from.
    paths : str or Path
        Split files of different channels of one layer.
    rhos : list of float, optional
        One a file; default: the chosen ones.

    Raises
    ------
    UserError
        A damaged file.
    ValueError
        A file of another network (a split one is another), of another layer than the first, or of the same channel.
    """
    if not paths:
        raise ValueError("no split file was given")
    splits, contexts = zip(*(read_split(path) for path in paths), strict=True)
    weights = fingerprint(network)
    for path, context in zip(paths, contexts, strict=True):
        if context["layer"] != contexts[0]["layer"]:
            raise ValueError(f"{path} is a split of {context['layer']}, {paths[0]} of {contexts[0]['layer']}")
        if context["weights_sha256"] != weights:
            raise ValueError(f"{path} was made for {context['model']} with other weights (or before a split)")
    return with_splits(network, contexts[0]["layer"], splits, rhos)
