"""Files that are whole or not there, and damage that is always found.

A file is made in memory, written under a temporary name, synced and renamed. Reading checks every byte that matters,
and any damage ends in one UserError that names the file.
"""

import hashlib
import io
import json
import os
import socket
import warnings
import zipfile
from contextlib import contextmanager, suppress

import numpy as np

from utils.errors import UserError


def write_bytes(path, content):
    """Write a file atomically, and remove what killed writers of the same file have left."""
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write {path} ({error.strerror}): nothing was stored in its place") from error


def remove_leftovers(path):
    """Remove temporary files of ``path`` whose writer is not a living process of this host."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        host, _, pid = leftover.name.removeprefix(f".{path.name}.").removesuffix(".tmp").rpartition(".")
        if host != socket.gethostname() or not (pid.isdigit() and _is_alive(int(pid))):
            leftover.unlink(missing_ok=True)


def _is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


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
        reason = str(error).strip().split("\n")[0].split(". ")[0][:120] or type(error).__name__
        raise UserError(f"{path} is damaged ({reason}): {advice}") from error


def write_json(path, content):
    """Write a dictionary as JSON, with a SHA-256 of its content."""
    write_bytes(path, (json.dumps({"sha256": json_digest(content), **content}, indent=1) + "\n").encode())


def read_json(path, advice):
    """Read a dictionary written by ``write_json``."""
    data = path.read_bytes()
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
    arrays = {}
    with open(path, "rb") as file, damage_is_one_line(path, advice), zipfile.ZipFile(file) as archive:
        if sorted(archive.namelist()) != sorted(f"{name}.npy" for name in layout):
            raise ValueError(f"it holds {archive.namelist()}")
        for name in names or layout:
            member = io.BytesIO(archive.read(f"{name}.npy"))
            arrays[name] = np.lib.format.read_array(member, allow_pickle=False)
            dtype, shape = layout[name]
            length = len(next(iter(arrays.values()))) if shape[0] is None else shape[0]
            if arrays[name].dtype != dtype or arrays[name].shape != (length, *shape[1:]):
                raise ValueError(f"{name} is {arrays[name].dtype} {arrays[name].shape}")
    return arrays


def refuse_differences(asked, stored, keys, where):
    """Raise a UserError that names the first of ``keys`` in which what was asked for differs from what is stored."""
    for key in keys:
        if asked[key] != stored.get(key):  # a store of an earlier version may lack it
            what = key.removesuffix("_sha256").replace("_", " ")
            if isinstance(stored.get(key), dict):
                refuse_differences(asked[key], {**asked[key], **stored[key]}, asked[key], where)
            both = "" if key.endswith("_sha256") else f" ({stored.get(key)}; now {asked[key]})"
            raise UserError(f"{where} was made with another {what}{both}: ask for the same, or use another --store_dir")
