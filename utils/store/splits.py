"""The store: paths and formats of everything that one stage leaves for the next."""

import hashlib
import io
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import torch

from utils.errors import UserError
from utils.images.transform import Transform
from utils.method.disentangling import RHOS, Split
from utils.method.rho import OBJECTIVES
from utils.networks.loading import fingerprint
from utils.networks.splitting import why_other_weights, with_splits
from utils.store.files import (
    damage_is_one_line,
    json_digest,
    write_bytes,
)
from utils.store.names import split_name

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
        With the weights that the splits were made from, as it was then: it can be converted or wrapped afterwards.
    paths : str or Path
        Split files of different channels, of one layer or several: all that the network shall have.
    rhos : list of float, optional
        One a file; default: the chosen ones.

    Raises
    ------
    UserError
        A damaged file.
    ValueError
        A file of another network (one that is split, converted or wrapped is another), or of the same channel; a rho
        that is not stored, or not as many as files; a network that cannot be copied.
    """
    if not paths:
        raise ValueError("no split file was given")
    splits, contexts = zip(*(read_split(path) for path in paths), strict=True)
    weights = fingerprint(network)
    for path, context in zip(paths, contexts, strict=True):
        if context["weights_sha256"] != weights:
            raise ValueError(f"{path} was made for {context['model']}{why_other_weights(network)}")
    return with_splits(network, [context["layer"] for context in contexts], splits, rhos)
