"""User-supplied networks: a function without arguments, in a module or in a file, that returns the network."""

import ast
import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from pkgutil import extend_path
from types import ModuleType

import torch
from torch import nn

import utils
from utils.errors import UserError, nearest
from utils.images.transform import Transform, checked_transform
from utils.networks.arithmetic import allow_tf32
from utils.networks.model_names import factory_file, factory_parts
from utils.networks.named_network import MadeNetwork, NamedNetwork
from utils.networks.state_dicts import load_into, read_state_dict
from utils.networks.user_code import in_one_line, user_code

OWN_WEIGHTS = "the factory's own"


class FactoryNetwork(NamedNetwork):
    """The network that a factory returns; its attribute ``transform``, if it has one, is its evaluation transform."""

    def make(self, weights: str | None) -> MadeNetwork:
        network = _made(self.model)
        transform = _carried_transform(self.model, network)
        if weights is None:
            return MadeNetwork(network, OWN_WEIGHTS, transform)
        load_into(network, read_state_dict(weights), weights)
        return MadeNetwork(network, Path(weights).name, transform)

    def are_default_weights(self, weights: str) -> bool:
        return weights == OWN_WEIGHTS

    def lines_that_make(self, network: nn.Module) -> list[str]:
        module, function = factory_parts(self.model)
        file = factory_file(self.model)
        folder = Path.cwd() if file is None else file.resolve().parent
        path = f"sys.path.insert(0, {str(folder)!r})"
        if file is not None:
            module = file.stem
        return ["import importlib, sys", path, f"network = importlib.import_module({module!r}).{function}()"]


def factories_here() -> dict[str, tuple[str, ...]]:
    """Functions in files of the current folder, which ``--model`` may mean, each with its spellings.

    The files are not run.
    """
    names: dict[str, tuple[str, ...]] = {}
    for path in sorted(Path().glob("*.py")):
        with suppress(SyntaxError, ValueError, OSError):
            functions = [node.name for node in ast.parse(path.read_bytes()).body if isinstance(node, ast.FunctionDef)]
            names |= {f"{path.stem}:{function}": (f"{path.stem}:{function}", function) for function in functions}
    return names


def _made(model: str) -> nn.Module:
    """What the factory returns, if it is a network; UserError otherwise."""
    place, function = factory_parts(model)
    file = factory_file(model)
    if file is not None and not file.is_file():
        raise UserError(f"--model {model}: there is no file {file} (paths begin in the current folder, {os.getcwd()})")
    sys.path[:0] = [os.getcwd()] if file is None else [str(file.resolve().parent), os.getcwd()]
    utils.__path__ = extend_path(utils.__path__, "utils")  # a package of that name in the working directory, too

    def refusal(error: BaseException) -> UserError:
        if file is None and isinstance(error, ModuleNotFoundError) and f"{place}.".startswith(f"{error.name}."):
            where = f"there is no module {error.name} in the current folder, {os.getcwd()}, nor an installed one"
            return UserError(f"--model {model}: {where}: give its file, --model path/to/{error.name}.py:{function}")
        return UserError(f"--model {model} cannot be made ({in_one_line(error)})")

    with user_code(refusal):
        definitions = importlib.import_module(place) if file is None else _module_of(file)
        if not hasattr(definitions, function):
            raise UserError(
                f"--model {model}: {place} has no function {function}{_nearest_functions(definitions, function)}"
            )
        network = getattr(definitions, function)()
    allow_tf32(False)  # whatever the factory has set: --precision decides
    if not isinstance(network, nn.Module) or isinstance(network, torch.jit.ScriptModule):
        raise UserError(f"--model {model} returned a {type(network).__name__}, not an ordinary torch.nn.Module")
    return network


def _nearest_functions(definitions: ModuleType, function: str) -> str:
    """The functions of a module with the nearest names, as the end of a message; those defined there go first."""
    public = {name: value for name, value in vars(definitions).items() if callable(value) and not name.startswith("_")}
    defined = {name: (name,) for name, value in public.items() if value.__module__ == definitions.__name__}
    names = defined or {name: (name,) for name in public}
    near = nearest(function, names)
    if near:
        return f"; similar: {', '.join(near)}"
    any_names = nearest(function, names, similarity=0)
    return f"; it has {', '.join(any_names)}" if any_names else "; it has none"


def _carried_transform(model: str, network: nn.Module) -> Transform | None:
    """The transform that a network carries as its attribute ``transform``, a Transform or a mapping; else None."""
    carried = getattr(network, "transform", None)
    if not isinstance(carried, (Transform, Mapping)):
        return None
    try:
        return checked_transform(carried)
    except ValueError as error:
        raise UserError(f"--model {model}: its transform {error}") from error


def _module_of(file: Path) -> ModuleType:
    """The module that a Python file defines, whatever other modules are called."""
    name = f"model_of_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file.resolve())
    assert spec is not None and spec.loader is not None  # its name ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look there
    spec.loader.exec_module(module)
    return module
