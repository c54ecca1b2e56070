"""Edited networks: a state dict for the plain network, and beside it what was taken out and what it costs."""

import hashlib
import io
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from utils.errors import UserError
from utils.networks.state_dicts import EDIT_RECORD, edit_record
from utils.store.files import read_bytes, read_json, require_writable, write_bytes, write_json

EDITED_FORMAT = 1
RECORD_SUFFIX = ".json"


class EditedFile:
    """The state dict at ``path``, and its record beside it, ``record_path``: the same name followed by ``.json``.

    The whole name, as ``edited_0.5`` and ``edited_0.25`` are two networks, and so are ``a.pt`` and ``a.pth``. The state
    dict itself says that it is one of an edited network, so that no other file is ever overwritten.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.record_path = Path(f"{self.path}{RECORD_SUFFIX}")

    def require_writable(self) -> None:
        """Raise UserError if a file would be overwritten that was not written here, or if none can be written there.

        The folder is made.
        """
        if self.path.suffix == RECORD_SUFFIX:
            raise UserError(f"--write_edited {self.path}: its record has a name in .json, give another: edited.pth")
        if self.path.is_dir():
            raise UserError(f"--write_edited {self.path} is a folder: name a file in it, for example edited.pth")
        if self.path.exists() and _record_of(read_bytes(self.path)) is None:
            raise UserError(f"{self.path} is there and is no edited network: choose another name for --write_edited")
        if self.record_path.exists() and self.read() is None:
            raise UserError(
                f"{self.record_path} is there and is no record of an edited network: choose another name for "
                "--write_edited"
            )
        require_writable(self.record_path)  # the longer of the two names

    def read(self) -> dict[str, Any] | None:
        """The record; None if there is none, or another file."""
        if not self.record_path.is_file():
            return None
        try:
            record = read_json(self.record_path, "")
        except UserError:
            return None
        return record if record.get("format") == EDITED_FORMAT and "file_sha256" in record else None

    def find(self, described: dict[str, Any]) -> dict[str, Any] | None:
        """The record, if it is of the same edit and of the file that is there; else None."""
        record = self.read()
        if record is None or not self.path.is_file() or any(record.get(key) != described[key] for key in described):
            return None
        return record if record["file_sha256"] == hashlib.sha256(read_bytes(self.path)).hexdigest() else None

    def write(self, network: nn.Module, record: dict[str, Any]) -> None:
        """Write the state dict of an edited network, on the CPU, and its record."""
        content = _packed(network)
        write_bytes(self.path, content)
        digest = hashlib.sha256(content).hexdigest()
        write_json(self.record_path, {"format": EDITED_FORMAT, **record, "file_sha256": digest})


def _packed(network: nn.Module) -> bytes:
    """The bytes of a state dict; what was edited is among the versions of modules, which change no name."""
    state = network.state_dict()
    tensors = ((name, _on_cpu(value)) for name, value in state.items())
    packed: OrderedDict[str, Any] = OrderedDict(tensors)
    versions = getattr(state, "_metadata", OrderedDict())
    of_network = {**versions.get("", {}), EDIT_RECORD: getattr(network, EDIT_RECORD)}
    packed._metadata = OrderedDict([*versions.items(), ("", of_network)])  # type: ignore[attr-defined]
    buffer = io.BytesIO()
    torch.save(packed, buffer)
    return buffer.getvalue()


def _on_cpu(value: Any) -> Any:
    return value.detach().cpu().contiguous() if isinstance(value, torch.Tensor) else value


def _record_of(content: bytes) -> dict[str, Any] | None:
    """What was edited, of the bytes of a state dict that was written here; None of other bytes."""
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # whatever the file is, reading it as a state dict can fail in many ways
        return None
    return edit_record(state) if isinstance(state, dict) else None
