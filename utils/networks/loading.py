"""Loading networks (torchvision's by name, or user-supplied ones by factory) and their weights, and copying them."""

import ast
import copy
import hashlib
import importlib
import importlib.util
import os
import sys
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from pkgutil import extend_path
from types import ModuleType
from typing import Any, TypeVar
from urllib.parse import urlparse

import torch
import torchvision
from torch import nn

import utils
from utils import defaults
from utils.errors import UserError, nearest, nearest_hint
from utils.images.transform import Transform, checked_transform
from utils.networks.arithmetic import allow_tf32
from utils.networks.model_names import factory_file, factory_parts, is_factory
from utils.networks.user_code import in_one_line, lacks_memory, user_code

EDIT_RECORD = "concept_edits"  # the attribute of an edited network that says what was edited, also in its state dict
StateDict = dict[str, torch.Tensor]
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class LoadedNetwork:
    """A frozen network in evaluation mode, with what identifies it.

    Parameters
    ----------
    module : nn.Module
    weights : str
        The source of its weights, in words.
    fingerprint : str
        A SHA-256 of their values.
    transform : Transform
        The evaluation transform that goes with them.
    transform_is_assumed : bool
        Whether ``transform`` is the default because a user-supplied network carries none.
    """

    module: nn.Module
    weights: str
    fingerprint: str
    transform: Transform
    transform_is_assumed: bool = False


def load_network(model: str, weights: str | None = None) -> LoadedNetwork:
    """Load a network and its weights, on the CPU.

    Parameters
    ----------
    model : str
        A torchvision classification network's name, or a factory: ``package.module:function``, importable from the
        current folder or installed, or ``path/to/file.py:function``.
    weights : str, optional
        A torchvision weights name or a local state-dict file. Default: ``IMAGENET1K_V1``, else the network's
        ``DEFAULT``; a factory's own.

    Raises
    ------
    UserError
        Unknown model or weights, weights that do not fit, or that can be neither found nor downloaded.
    """
    transform: Transform | None
    if is_factory(model):
        module, source, transform = _from_factory(model, weights)
    elif model in torchvision.models.list_models(module=torchvision.models):
        module, source, transform = _from_torchvision(model, weights)
    else:
        factory = "a factory, package.module:function or path/to/file.py:function"
        hint = nearest_hint(model, _names_of_networks())
        raise UserError(f"--model {model}: neither a torchvision classification network nor {factory}{hint}")
    with user_code(lambda error: UserError(f"--model {model} cannot be used ({in_one_line(error)})")):
        module.cpu().eval().requires_grad_(False)
        weights_sha256 = fingerprint(module)
    return LoadedNetwork(module, source, weights_sha256, transform or Transform(), transform is None)


def _names_of_networks() -> dict[str, tuple[str, ...]]:
    """Names that ``--model`` may mean: functions in files of the current folder, and torchvision's networks.

    Each with its spellings; the files are not run.
    """
    names: dict[str, tuple[str, ...]] = {}
    for path in sorted(Path().glob("*.py")):
        with suppress(SyntaxError, ValueError, OSError):
            functions = [node.name for node in ast.parse(path.read_bytes()).body if isinstance(node, ast.FunctionDef)]
            names |= {f"{path.stem}:{function}": (f"{path.stem}:{function}", function) for function in functions}
    return names | {name: (name,) for name in torchvision.models.list_models(module=torchvision.models)}


def default_weights(model: str) -> str:
    """The source of a network's weights without ``--weights``, as in ``LoadedNetwork.weights``."""
    if is_factory(model):
        return "the factory's own"
    named = torchvision.models.get_model_weights(model).__members__
    return named.get(defaults.WEIGHTS, named["DEFAULT"]).name


def has_named_weights(model: str, weights: str | None) -> bool:
    """Whether a network has named weights of torchvision, which know the classes of ImageNet in their order."""
    return (
        not is_factory(model)
        and (weights or default_weights(model)) in torchvision.models.get_model_weights(model).__members__
    )


def fingerprint(network: nn.Module) -> str:
    """SHA-256 of a network's parameters and buffers: names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        if isinstance(value, torch.Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        else:  # a module's extra state
            digest.update(f"{name} {value!r}\n".encode())
    return digest.hexdigest()


def _from_factory(model: str, weights: str | None) -> tuple[nn.Module, str, Transform | None]:
    """The network of a factory, the source of its weights, and the transform that it carries, or None."""
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
    transform = _carried_transform(model, network)
    if weights is None:
        return network, default_weights(model), transform
    _load_into(network, _read_state_dict(weights), weights)
    return network, Path(weights).name, transform


def _nearest_functions(definitions: ModuleType, function: str) -> str:
    """The functions of a module with the nearest names, as the end of a message; those defined there go first."""
    public = {name: value for name, value in vars(definitions).items() if callable(value) and not name.startswith("_")}
    defined = {name: (name,) for name, value in public.items() if value.__module__ == definitions.__name__}
    names = defined or {name: (name,) for name in public}
    near = nearest(function, names) or nearest(function, names, similarity=0)
    return f"; near it: {', '.join(near)}" if near else "; it has none"


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


def _from_torchvision(model: str, weights: str | None) -> tuple[nn.Module, str, Transform]:
    named = torchvision.models.get_model_weights(model).__members__
    weights = weights or default_weights(model)
    if weights in named:
        return _download(model, named[weights]), named[weights].name, _transform_of(named[weights])
    if not Path(weights).is_file():
        raise UserError(f"--weights {weights}: neither a file nor one of {model}'s weights ({', '.join(named)})")
    state = _read_state_dict(weights)
    network = torchvision.models.get_model(model, weights=None, **_local_options(model, state, weights))
    _load_into(network, state, weights)
    return network, Path(weights).name, Transform()


def _download(model: str, weights: torchvision.models.WeightsEnum) -> nn.Module:
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(weights.url).path).name
    present = file.is_file()

    def refusal(error: BaseException) -> UserError:
        if present:
            return UserError(f"weights file {file} is damaged or not {model}'s ({type(error).__name__}): delete it")
        return UserError(f"no weights file {file}, and it cannot be downloaded ({error}): put {weights.url} there")

    with user_code(refusal):  # a damaged file can fail to be read in many ways, and so can a download
        return torchvision.models.get_model(model, weights=weights)


def _transform_of(weights: torchvision.models.WeightsEnum) -> Transform:
    preset = weights.transforms()
    (resize_size,) = preset.resize_size
    (crop_size,) = preset.crop_size
    return Transform(resize_size, crop_size, preset.interpolation.value, tuple(preset.mean), tuple(preset.std))


def _read_state_dict(path: str) -> StateDict:
    """A state dict, also as ``state_dict`` or ``model`` of a checkpoint, or of a network in DataParallel."""
    if not Path(path).is_file():
        raise UserError(f"--weights {path}: there is no such file")

    def refusal(error: BaseException) -> UserError:
        if isinstance(error, UnpicklingError) and "Unsupported global" in str(error):
            return UserError(
                f"--weights {path} is a pickled object, not a state dict: save its state_dict(), "
                "torch.save(network.state_dict(), FILE)"
            )
        return UserError(f"--weights {path} is damaged or no state dict ({type(error).__name__})")

    with open(path, "rb") as file, warnings.catch_warnings(), user_code(refusal):  # a damaged file fails in many ways
        warnings.simplefilter("ignore")  # files they warn of are refused below, or are harmless
        state = torch.load(file, map_location="cpu", weights_only=True)
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


def _local_options(model: str, state: StateDict, weights: str) -> dict[str, Any]:
    """Number of classes and auxiliary classifiers, read off a state dict.

    The classifier is what changes its shape with the number of classes.
    """
    auxiliary = {"googlenet": "aux1.", "inception_v3": "AuxLogits."}.get(model)
    options: dict[str, Any] = {}
    if auxiliary:
        options = {"aux_logits": any(name.startswith(auxiliary) for name in state), "init_weights": False}
    shapes = [_shapes(model, {"num_classes": number, **options}) for number in (1000, 1001)]
    classifier = [name for name, shape in shapes[0].items() if shape != shapes[1][name] and len(shape) > 1]
    if classifier[-1] not in state or state[classifier[-1]].ndim == 0:
        raise UserError(f"--weights {weights} does not fit {model}: it has no {classifier[-1]}")
    return {"num_classes": len(state[classifier[-1]]), **options}


def _shapes(model: str, options: dict[str, Any]) -> dict[str, torch.Size]:
    """Names and shapes of a network's parameters and buffers."""
    try:
        with torch.device("meta"):  # costs no time and no memory
            network = torchvision.models.get_model(model, **options)
    except RuntimeError:  # RegNet computes while it is made, and meta tensors have no values
        network = torchvision.models.get_model(model, **options)
    return {name: value.shape for name, value in network.state_dict().items()}


def _load_into(network: nn.Module, state: StateDict, weights: str) -> None:
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


def lines_that_make(model: str, network: nn.Module) -> list[str]:
    """Lines of Python that set ``network`` to the architecture that ``--model`` names, without this project.

    ``network`` is one of this architecture, with its weights.
    """
    if is_factory(model):
        module, function = factory_parts(model)
        file = factory_file(model)
        folder = Path.cwd() if file is None else file.resolve().parent
        path = f"sys.path.insert(0, {str(folder)!r})"
        if file is not None:
            module = file.stem
        return ["import importlib, sys", path, f"network = importlib.import_module({module!r}).{function}()"]
    options = _local_options(model, network.state_dict(), model)
    if getattr(network, "transform_input", False):  # of googlenet and inception_v3 with named weights
        options["transform_input"] = True
    arguments = "".join(f", {name}={value!r}" for name, value in options.items())
    return ["import torchvision", f"network = torchvision.models.get_model({model!r}, weights=None{arguments})"]


# --------------------------------------------------------------------------------------------------------------------
# Copies of networks that are not made to be copied, and the hooks of a module.


def copy_module(module: Module) -> Module:
    """A deep copy of a module: nothing that is done to the copy reaches the original.

    ``copy.deepcopy`` alone fails on a tensor that has a graph (the weight that the old ``weight_norm`` computes) and on
    a lock, an open file and similar objects. The copy has the values of such a tensor. It shares the other objects with
    the original: they do not affect what a network computes, and cannot be copied in any way.

    Raises
    ------
    ValueError
        An object that cannot be copied is deeper than in an attribute of a module, or in a list or dictionary there.
    """
    modules = {id(submodule): submodule for submodule in module.modules()}
    memo: dict[int, Any] = {}
    for submodule in modules.values():
        for value in _attributes(submodule):
            if isinstance(value, torch.Tensor):
                if not value.is_leaf:
                    memo[id(value)] = value.detach().clone()
            elif not _can_be_copied(value, modules):
                memo[id(value)] = value

    def refusal(error: BaseException) -> ValueError:
        reason = str(error).split("\n")[0]
        return ValueError(f"{type(module).__name__} cannot be copied ({type(error).__name__}: {reason})")

    with user_code(refusal):
        return copy.deepcopy(module, memo)


def _attributes(module: nn.Module) -> Iterator[Any]:
    """Every value in a module's attributes but its submodules; those in lists and dictionaries one by one."""
    for name, value in vars(module).items():
        if name == "_modules":
            continue
        if isinstance(value, dict):
            yield from value.values()
        elif isinstance(value, (list, tuple)):
            yield from value
        else:
            yield value


def _can_be_copied(value: Any, modules: Mapping[int, nn.Module]) -> bool:
    try:
        copy.deepcopy(value, dict(modules))  # modules count as copied: the attributes of each are checked separately
    except Exception as error:  # of the user's object, whose class decides what it raises
        if lacks_memory(error):
            raise
        return False
    return True


# --------------------------------------------------------------------------------------------------------------------
# Hooks of a module: the module that takes its place gets them, its copies never do.


HOOKS = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def without_hooks(module: Module) -> Module:
    """The same module without its hooks: another object with the same parameters, buffers and submodules."""
    bare = copy.copy(module)
    for hooks in HOOKS:
        setattr(bare, hooks, OrderedDict())
    bare._is_full_backward_hook = None
    return bare


def share_hooks(source: nn.Module, target: nn.Module) -> None:
    """Let ``target`` run the hooks that are on ``source`` now."""
    for hooks in HOOKS:
        getattr(target, hooks).update(getattr(source, hooks))
    target._is_full_backward_hook = source._is_full_backward_hook
