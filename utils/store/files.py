"""Files that are whole or not there, and damage that is always found.

A file is made in memory, written under a temporary name, synced and renamed. Reading checks every byte that matters.
Damage ends in one UserError that names the file; a machine that fails (OSError, MemoryError) is not damage.
"""

import errno
import hashlib
import io
import json
import os
import re
import secrets
import warnings
import zipfile
from contextlib import contextmanager, suppress

import numpy as np

from utils.defaults import LAYER
from utils.errors import UserError, printable, shortened

LEFTOVER_SECONDS = 3600


def write_bytes(path, content):
    """Write a file atomically, and remove what killed writers have left beside it.

    Writers of other machines may share the folder, so nobody can tell whose a temporary file is: its random name keeps
    them apart, and one that is an hour older than the file just written is nobody's any more.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write {path} ({error.strerror}): nothing was stored in its place") from error
    with suppress(OSError):  # somebody else may be tidying up, too
        remove_leftovers(path.parent, path.stat().st_mtime - LEFTOVER_SECONDS)


def remove_leftovers(folder, before):
    """Remove temporary files of a folder that were last written before a time (of the same file system's clock)."""
    for leftover in folder.glob(".*.tmp"):
        if leftover.stat().st_mtime < before:
            leftover.unlink(missing_ok=True)


@contextmanager
def damage_is_one_line(path, advice):
    """Turn whatever a damaged file can raise while it is taken apart into a UserError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UserError:
        raise
    except Exception as error:  # zip, pickle, JSON and array readers raise a dozen kinds
        if is_machine_failure(error):
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise UserError(f"cannot read {path}: {reason}; the file itself may be whole") from error
        reason = " ".join(str(error).split())[:120].split(". ")[0] or type(error).__name__
        raise UserError(f"{path} is damaged ({printable(reason)}): {advice}") from error


def is_machine_failure(error):
    """Whether an exception is about the machine (disk, permission, memory) and not about what a file holds."""
    if isinstance(error, OSError):
        return error.errno not in (None, errno.EINVAL)  # a place that a damaged file points to, before its beginning
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def read_bytes(path):
    """All of a file; a machine's failure is a UserError that names it."""
    with damage_is_one_line(path, ""):
        return path.read_bytes()


def write_json(path, content):
    """Write a dictionary as JSON, with a SHA-256 of its content."""
    write_bytes(path, (json.dumps({"sha256": json_digest(content), **content}, indent=1) + "\n").encode())


def read_json(path, advice):
    """Read a dictionary written by ``write_json``."""
    data = read_bytes(path)
    with damage_is_one_line(path, advice):
        content = json.loads(data)
        if content.pop("sha256") != json_digest(content):
            raise ValueError("its checksum is wrong")
    return content


def json_digest(content):
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_arrays(path, arrays):
    """Write named arrays as an uncompressed npz; equal arrays make equal bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def read_arrays(path, layout, advice, names=None):
    """Read the arrays of an npz, whole members at a time, so that their CRC is checked.

    Parameters
    ----------
    path : Path
    layout : dict of name -> (dtype, shape)
        What the file must hold; a shape's first entry may be None, the same number in all arrays.
    advice : str
        What to do if the file is damaged.
    names : list of str, optional
        Which of the arrays to read; default: all.
    """
    arrays, length = {}, None
    with damage_is_one_line(path, advice), open(path, "rb") as file, zipfile.ZipFile(file) as archive:
        if sorted(archive.namelist()) != sorted(f"{name}.npy" for name in layout):
            raise ValueError(f"it holds {archive.namelist()}")
        for name in names or layout:
            arrays[name] = _read_member(archive, name)
            dtype, shape = layout[name]
            if shape and shape[0] is None:
                length = len(arrays[name]) if length is None else length
                shape = (length, *shape[1:])
            if arrays[name].dtype != dtype or arrays[name].shape != shape:
                raise ValueError(f"{name} is {arrays[name].dtype} {arrays[name].shape}")
    return arrays


def _read_member(archive, name):
    """An array of an npz; what its header promises is compared with its bytes before memory is asked for."""
    if archive.getinfo(f"{name}.npy").compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed")
    data = archive.read(f"{name}.npy")
    member = io.BytesIO(data)
    if np.lib.format.read_magic(member) != (1, 0):
        raise ValueError(f"{name} is of another version of numpy's format")
    shape, in_columns, dtype = np.lib.format.read_array_header_1_0(member)
    if in_columns or dtype.hasobject or len(data) - member.tell() != dtype.itemsize * int(np.prod(shape, dtype=object)):
        raise ValueError(f"{name} is not what its header says")
    return np.frombuffer(data, dtype, offset=member.tell()).reshape(shape).copy()


def refuse_differences(asked, stored, keys, where):
    """Raise a UserError that names the first of ``keys`` in which what was asked for differs from what is stored."""
    for key in keys:
        if asked[key] != stored.get(key):
            if isinstance(asked[key], dict) and isinstance(stored.get(key), dict):
                refuse_differences(asked[key], {**asked[key], **stored[key]}, asked[key], where)
            before, now = (shortened(printable(str(value)), 80) for value in (stored.get(key), asked[key]))
            what = key.removesuffix("_sha256").replace("_", " ")
            what += "" if key.endswith("_sha256") else f" ({before}; now {now})"
            raise UserError(f"{where} was made with another {what}: ask for the same, or use another --store_dir")


# --------------------------------------------------------------------------------------------------------------------
# Names of files.


def run_name(model, layer_flag):
    """RUN: the model's name, and the layer's where it is not ``last_conv``, fit for a file name."""
    name = model if layer_flag == LAYER else f"{model}_{layer_flag}"
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)


def split_name(run, channel, concepts):
    """Name of a channel and its concepts: ``RUN_channel1660_530_938``; classes of one concept joined by ``-``.

    ``concepts`` are lists of outputs; or, where they have no labels, what ``image_sets_name`` makes of them.
    """
    if isinstance(concepts, str):
        return f"{run}_channel{channel}_{concepts}"
    classes = "_".join("-".join(map(str, concept)) for concept in concepts)
    if len(classes) > 100:
        classes = f"{len(concepts)}concepts_{hashlib.sha256(classes.encode()).hexdigest()[:16]}"
    return f"{run}_channel{channel}_{classes}"


def image_sets_name(method, *what):
    """Name of concepts without labels: ``circuits_5f0c...``, with a digest of all (plain values) that makes others."""
    return f"{method}_{hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]}"


SUFFIXES = r"(_only_correct)?(?:{divisions})(_background[0-9.e+-]*)?"


def split_suffix(*, only_correct, division, background):
    """What follows in the name of a split: everything that makes another split of the same channel and concepts.

    ``division`` is what its way of dividing says; ``background`` is a weight, or None without one.
    """
    suffix = ("_only_correct" if only_correct else "") + division
    if background is None:
        return suffix
    return f"{suffix}_background" + ("" if background == 1 else number_text(background))


def number_text(value):
    """A number as short as it can be written without another one: 1 for 1.0."""
    return str(value).removesuffix(".0")
