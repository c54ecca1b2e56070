"""Files that are written as a whole or not at all, and whose damage is always detected.

A file is made in memory, written under a temporary name, synced and renamed. Checksums are verified when it is read.
Damage becomes a UserError of one line that names the file; a failure of the machine (OSError, MemoryError) is not
called damage.
"""

import errno
import hashlib
import io
import json
import math
import os
import re
import secrets
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from utils.defaults import LAYER
from utils.errors import UserError, printable, shortened
from utils.networks.model_names import model_name

LEFTOVER_SECONDS = 3600
_cleaned: dict[Path, float] = {}  # when this process last looked for leftovers in a folder

Layout = dict[str, tuple[Any, tuple[Any, ...]]]  # dtype and shape of each array of an npz, by name
DIGEST = (np.uint8, (32,))  # dtype and shape of a ``digest_array``


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file atomically, and remove the temporary files that killed writers have left in its folder.

    Writers on other machines may share the folder, so the owner of a temporary file is unknown: random names keep
    writers apart, and a temporary file that is an hour older than the file just written is taken as abandoned. A
    process looks for them when it first writes to a folder, and then once an hour.
    """
    with _temporary_beside(path) as temporary:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    with suppress(OSError):  # another writer may remove them at the same time
        now = path.stat().st_mtime
        if now - _cleaned.get(path.parent, -math.inf) >= LEFTOVER_SECONDS:  # listing a folder for every file is slow
            _cleaned[path.parent] = now
            remove_leftovers(path.parent, now - LEFTOVER_SECONDS)


def require_writable(path: Path) -> None:
    """Raise UserError if ``write_bytes`` cannot write this file; its folder is made. For use before a long computation.

    That there is enough space is not known before.
    """
    with _temporary_beside(path) as temporary:
        temporary.touch(exist_ok=False)
        temporary.unlink()


@contextmanager
def _temporary_beside(path: Path) -> Iterator[Path]:
    """A name for a temporary file in the folder of a file, which is made; a failure removes it and is a UserError."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write {path} ({error.strerror}): nothing was stored in its place") from error


def remove_leftovers(folder: Path, before: float) -> None:
    """Remove temporary files of a folder that were last written before a time (of the same file system's clock)."""
    for leftover in folder.glob(".*.tmp"):
        if leftover.stat().st_mtime < before:
            leftover.unlink(missing_ok=True)


def file_identity(path: Path) -> tuple[int, ...] | None:
    """Numbers that change when a file is written again; None if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


@contextmanager
def damage_is_one_line(path: Path | str, advice: str) -> Iterator[None]:
    """Turn every exception that reading a damaged file can raise into a UserError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UserError:
        raise
    except Exception as error:  # the readers of zip, pickle, JSON and arrays raise a dozen kinds
        if is_machine_failure(error):
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise UserError(f"cannot read {path}: {reason}; the file itself may be intact") from error
        reason = " ".join(str(error).split())[:120].split(". ")[0] or type(error).__name__
        raise UserError(f"{path} is damaged ({printable(reason)}): {advice}") from error


def is_machine_failure(error: Exception) -> bool:
    """Whether an exception comes from the machine (disk, permission, memory) and not from the content of a file."""
    if isinstance(error, OSError):
        return error.errno not in (None, errno.EINVAL)  # EINVAL: a damaged file points to a negative offset
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def read_bytes(path: Path) -> bytes:
    """The whole content of a file; a failure of the machine is a UserError that names the file."""
    with damage_is_one_line(path, ""):
        return path.read_bytes()


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a dictionary as JSON, with the SHA-256 of its content."""
    write_bytes(path, (json.dumps({"sha256": json_digest(content), **content}, indent=1) + "\n").encode())


def read_json(path: Path, advice: str) -> dict[str, Any]:
    """Read a dictionary written by ``write_json``."""
    data = read_bytes(path)
    with damage_is_one_line(path, advice):
        content = json.loads(data)
        if content.pop("sha256") != json_digest(content):
            raise ValueError("its checksum is wrong")
    return content


def json_digest(content: Any) -> str:
    """SHA-256 of plain values, in hexadecimal digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def digest_array(content: Any) -> np.ndarray:
    """``json_digest`` as an array uint8 [32], to be stored in an npz: what its other arrays were made from."""
    return np.frombuffer(bytes.fromhex(json_digest(content)), dtype=np.uint8)


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write named arrays as an uncompressed npz; equal arrays make equal bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # numpy's stubs confuse the names with its own keyword
    write_bytes(path, buffer.getbuffer())


def read_arrays(path: Path, layout: Layout, advice: str, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """Read the arrays of an npz, each member as a whole, so that its CRC is verified.

    Parameters
    ----------
    path : Path
    layout : dict of name -> (dtype, shape)
        What the file must hold; a shape's first entry may be None, the same number in all arrays.
    advice : str
        What to do if the file is damaged.
    names : list of str, optional
        Names of the arrays to read; default: all.
    """
    arrays: dict[str, np.ndarray] = {}
    length = None
    with damage_is_one_line(path, advice), open(path, "rb") as file, zipfile.ZipFile(file) as archive:
        if sorted(archive.namelist()) != sorted(f"{name}.npy" for name in layout):
            raise ValueError(f"it holds {archive.namelist()}")
        for name in names or layout:
            array = np.lib.format.read_array(io.BytesIO(archive.read(f"{name}.npy")), allow_pickle=False)
            dtype, shape = layout[name]
            if shape and shape[0] is None:
                length = len(array) if length is None else length
                shape = (length, *shape[1:])
            if array.dtype != dtype or array.shape != shape:
                raise ValueError(f"{name} is {array.dtype} {array.shape}")
            arrays[name] = array
    return arrays


def is_made_from(path: Path, origin: np.ndarray, layout: Layout, advice: str) -> bool:
    """Whether there is an npz whose array ``origin`` is this one."""
    return path.is_file() and np.array_equal(read_arrays(path, layout, advice, ["origin"])["origin"], origin)


def refuse_differences(
    requested: Mapping[str, Any], stored: Mapping[str, Any], keys: Iterable[str], source: object
) -> None:
    """Raise a UserError that names the first of ``keys`` whose stored value is not the requested one.

    ``source`` is the path of what is stored.
    """
    for key in keys:
        if requested[key] != stored.get(key):
            if isinstance(requested[key], dict) and isinstance(stored.get(key), dict):
                refuse_differences(requested[key], {**requested[key], **stored[key]}, requested[key], source)
            before, now = (shortened(printable(str(value)), 80) for value in (stored.get(key), requested[key]))
            field = key.removesuffix("_sha256").replace("_", " ")
            field += "" if key.endswith("_sha256") else f" ({before}; now {now})"
            raise UserError(f"{source} was made with another {field}: use the same one again, or another --store_dir")


# --------------------------------------------------------------------------------------------------------------------
# Names of files


def run_name(model: str, layer_flag: str) -> str:
    """RUN: the model's name, followed by the layer's unless it is ``last_conv``, in characters of file names.

    ``model`` is as ``--model`` has it.
    """
    name = model_name(model) if layer_flag == LAYER else f"{model_name(model)}_{layer_flag}"
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)


def split_name(run: str, channel: int | str, concepts: list[list[int]] | str) -> str:
    """Name of a channel and its concepts: ``RUN_channel1660_530_938``; classes of one concept joined by ``-``.

    ``concepts`` are lists of outputs; or, for concepts without labels, their ``image_sets_name``.
    """
    if isinstance(concepts, str):
        return f"{run}_channel{channel}_{concepts}"
    classes = "_".join("-".join(map(str, concept)) for concept in concepts)
    if len(classes) > 100:
        classes = f"{len(concepts)}concepts_{hashlib.sha256(classes.encode()).hexdigest()[:16]}"
    return f"{run}_channel{channel}_{classes}"


def image_sets_name(method: str, *made_from: Any) -> str:
    """Name of concepts without labels: ``circuits_5f0c...``, with a digest of the plain values they are made from."""
    return f"{method}_{json_digest(made_from)[:12]}"


LONGEST_STEM = 100  # characters of a manifest's stem: run, suffix and ending come on top, and file systems allow 255


def manifest_stem(method: str, words: Iterable[str]) -> str:
    """The stem of the manifest of splits without labels, from its parts, or from their digest if they are long."""
    stem = "_".join(filter(None, words))
    return stem if len(stem) <= LONGEST_STEM else image_sets_name(method, stem)


SUFFIXES = r"(_only_correct)?(?:{divisions})(_background[0-9.e+-]*)?"


def split_suffix(*, only_correct: bool, division: str, background: float | None) -> str:
    """End of the name of a split: all settings that make another split of the same channel and concepts.

    ``division`` is the suffix of its way of dividing inputs; ``background`` is a weight, or None without one.
    """
    suffix = ("_only_correct" if only_correct else "") + division
    if background is None:
        return suffix
    return f"{suffix}_background" + ("" if background == 1 else number_text(background))


def with_suffix(stem: str, suffix: str) -> str:
    """The stem of stage 2's file with the end of the names of its splits, without ``_only_correct`` twice.

    Splits of other images than the stem says have ``_correct_images`` or ``_all_images`` in the name: the lists of
    ``X_only_correct`` and of ``X`` differ, and both can be split with ``--only_correct``.
    """
    rest = suffix.removeprefix("_only_correct")
    of_correct_images = rest != suffix
    if of_correct_images == bool(re.search(r"_only_correct(_|$)", stem)):
        return stem + rest
    return stem + ("_correct_images" if of_correct_images else "_all_images") + rest


def number_text(value: float) -> str:
    """A number without a trailing ``.0``: 1 for 1.0."""
    return str(value).removesuffix(".0")
