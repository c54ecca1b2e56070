"""State dicts: reading them from files, and loading them into networks."""

import importlib
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from utils.errors import UserError
from utils.networks.user_code import in_one_line, user_code

EDIT_RECORD = "concept_edits"  # the attribute of an edited network that says what was edited, also in its state dict
SAFETENSORS = ".safetensors"  # the ending of files that have no pickled objects
StateDict = dict[str, torch.Tensor]


def read_state_dict(path: str) -> StateDict:
    """A state dict, also as ``state_dict`` or ``model`` of a checkpoint, or of a network in DataParallel.

    A file that ends in ``.safetensors`` is read by that library.
    """
    if not Path(path).is_file():
        raise UserError(f"--weights {path}: there is no such file")
    load = _safetensors_loader(path) if path.endswith(SAFETENSORS) else _load_pickled

    def refusal(error: BaseException) -> UserError:
        if isinstance(error, UnpicklingError) and "Unsupported global" in str(error):
            return UserError(
                f"--weights {path} is a pickled object, not a state dict: save its state_dict(), "
                "torch.save(network.state_dict(), FILE)"
            )
        return UserError(f"--weights {path} is damaged or no state dict ({type(error).__name__})")

    with warnings.catch_warnings(), user_code(refusal):  # a damaged file fails in many ways
        warnings.simplefilter("ignore")  # files they warn of are refused below, or are harmless
        state = load(path)
    for key in ("state_dict", "model"):
        state = state[key] if isinstance(state, dict) and isinstance(state.get(key), dict) else state
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise UserError(f"--weights {path} is no state dict (names and tensors)")
    for name, value in state.items():
        if value.is_complex() or value.is_quantized or value.layout != torch.strided:
            kind = f"{value.dtype}, {value.layout}"
            raise UserError(f"--weights {path}: {name} is no ordinary tensor of real numbers ({kind})")
    return _without_prefix(state, "module.")


def _load_pickled(path: str) -> Any:
    with open(path, "rb") as file:
        return torch.load(file, map_location="cpu", weights_only=True)


def _safetensors_loader(path: str) -> Callable[[str], Any]:
    """The function of safetensors that reads a file; UserError if the library is not installed."""
    try:
        return importlib.import_module("safetensors.torch").load_file
    except ImportError as error:
        raise UserError(f"--weights {path} needs safetensors: pip install safetensors") from error


def _without_prefix(state: StateDict, prefix: str) -> StateDict:
    """A state dict whose names all begin with a prefix, without it; the versions of its modules stay with them."""
    if not all(name.startswith(prefix) for name in state):
        return state
    plain = OrderedDict((name.removeprefix(prefix), value) for name, value in state.items())
    versions = getattr(state, "_metadata", {})
    plain._metadata = {  # type: ignore[attr-defined]  # torch keeps it there
        f"{name}.".removeprefix(prefix).removesuffix("."): version for name, version in versions.items() if name
    }
    return plain


def load_into(network: nn.Module, state: StateDict, weights: str) -> None:
    """Load a state dict, from the file ``weights``, and the record of its edits; UserError if it does not fit."""

    def refusal(error: BaseException) -> UserError:
        problems = [line.strip() for line in str(error).split("\n")[1:]] or [in_one_line(error)]
        return UserError(f"--weights {weights} does not fit the network: {' '.join(problems)[:300]}")

    with user_code(refusal):
        network.load_state_dict(state)
    record = edit_record(state)
    if record is not None:
        setattr(network, EDIT_RECORD, record)


def edit_record(state: StateDict) -> dict[str, Any] | None:
    """What was edited, of the state dict of an edited network that stage 4 has written; else None.

    It lies where a state dict has the versions of its modules, so the names of its tensors are the plain network's.
    """
    return getattr(state, "_metadata", {}).get("", {}).get(EDIT_RECORD)
