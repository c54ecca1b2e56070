"""Networks: torchvision's by name or anybody's by factory, their weights, and copies of them."""

import copy
import hashlib
import importlib
import os
import sys
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from pkgutil import extend_path
from urllib.parse import urlparse

import torch
import torchvision
from torch import nn

import utils
from utils.errors import UserError
from utils.images.transform import Transform


@dataclass
class LoadedNetwork:
    """A frozen network in evaluation mode, with what identifies it.

    ``weights`` says where its weights came from, for people; ``fingerprint`` is a SHA-256 of their values;
    ``transform`` is the evaluation transform that goes with them.
    """

    module: nn.Module
    weights: str
    fingerprint: str
    transform: Transform


def load_network(model, weights=None):
    """Load a network and its weights, on the CPU.

    Parameters
    ----------
    model : str
        A torchvision classification network's name, or ``package.module:function``.
    weights : str, optional
        A torchvision weights name or a local state-dict file. Default: ``IMAGENET1K_V1``, else the network's
        ``DEFAULT``; a factory's own.

    Raises
    ------
    UserError
        Unknown model or weights, weights that do not fit, or that can be neither found nor downloaded.
    """
    if ":" in model:
        module, source, transform = _from_factory(model, weights)
    elif model in torchvision.models.list_models(module=torchvision.models):
        module, source, transform = _from_torchvision(model, weights)
    else:
        raise UserError(f"--model {model}: neither a torchvision classification network nor package.module:function")
    try:
        module.cpu().eval().requires_grad_(False)
        weights_sha256 = fingerprint(module)
    except Exception as error:  # whatever somebody else's network raises
        raise UserError(f"--model {model} cannot be used ({_in_one_line(error)})") from error
    return LoadedNetwork(module, source, weights_sha256, transform)


def default_weights(model):
    """Where a network's weights come from unless ``--weights`` says otherwise, as ``LoadedNetwork.weights`` has it."""
    if ":" in model:
        return "the factory's own"
    named = torchvision.models.get_model_weights(model).__members__
    return named.get("IMAGENET1K_V1", named["DEFAULT"]).name


def has_named_weights(model, weights):
    """Whether a network has named weights of torchvision, which know the classes of ImageNet in their order."""
    return (
        ":" not in model
        and (weights or default_weights(model)) in torchvision.models.get_model_weights(model).__members__
    )


def fingerprint(network):
    """SHA-256 of a network's parameters and buffers: names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        if isinstance(value, torch.Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        else:  # a module's extra state
            digest.update(f"{name} {value!r}\n".encode())
    return digest.hexdigest()


def _from_factory(model, weights):
    module_name, _, function = model.partition(":")
    sys.path.insert(0, os.getcwd())
    utils.__path__ = extend_path(utils.__path__, "utils")  # a package of that name in the working directory, too
    try:
        network = getattr(importlib.import_module(module_name), function)()
    except (Exception, SystemExit) as error:  # whatever somebody else's code raises
        raise UserError(f"--model {model} cannot be made ({_in_one_line(error)})") from error
    if not isinstance(network, nn.Module) or isinstance(network, torch.jit.ScriptModule):
        raise UserError(f"--model {model} returned a {type(network).__name__}, not an ordinary torch.nn.Module")
    if weights is None:
        return network, default_weights(model), Transform()
    _load_into(network, _read_state_dict(weights), weights)
    return network, Path(weights).name, Transform()


def _from_torchvision(model, weights):
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


def _download(model, weights):
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(weights.url).path).name
    present = file.is_file()
    try:
        return torchvision.models.get_model(model, weights=weights)
    except Exception as error:  # the many ways in which a damaged file can fail to be read, or a download
        if present:
            reason = f"weights file {file} is damaged or not {model}'s ({type(error).__name__}): delete it"
        else:
            reason = f"no weights file {file}, and it cannot be downloaded ({error}): put {weights.url} there"
        raise UserError(reason) from error


def _transform_of(weights):
    preset = weights.transforms()
    (resize_size,), (crop_size,) = preset.resize_size, preset.crop_size
    return Transform(resize_size, crop_size, preset.interpolation.value, tuple(preset.mean), tuple(preset.std))


def _read_state_dict(path):
    """A state dict, also as ``state_dict`` or ``model`` of a checkpoint, or of a network in DataParallel."""
    if not Path(path).is_file():
        raise UserError(f"--weights {path}: there is no such file")
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they are about is refused here, or of no concern
            state = torch.load(file, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except Exception as error:  # the many ways in which a damaged file can fail to be read
        raise UserError(f"--weights {path} is damaged or no state dict ({type(error).__name__})") from error
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


def _without_prefix(state, prefix):
    """A state dict whose names all begin with a prefix, without it; the versions of its modules stay with them."""
    if not all(name.startswith(prefix) for name in state):
        return state
    plain = OrderedDict((name.removeprefix(prefix), value) for name, value in state.items())
    versions = getattr(state, "_metadata", {})
    plain._metadata = {f"{name}.".removeprefix(prefix).removesuffix("."): own for name, own in versions.items() if name}
    return plain


def _local_options(model, state, weights):
    """Number of classes and auxiliary classifiers, read off a state dict.

    The classifier is what changes its shape with the number of classes.
    """
    auxiliary = {"googlenet": "aux1.", "inception_v3": "AuxLogits."}.get(model)
    options = {}
    if auxiliary:
        options = {"aux_logits": any(name.startswith(auxiliary) for name in state), "init_weights": False}
    shapes = [_shapes(model, {"num_classes": number, **options}) for number in (1000, 1001)]
    classifier = [name for name, shape in shapes[0].items() if shape != shapes[1][name] and len(shape) > 1]
    if classifier[-1] not in state or state[classifier[-1]].ndim == 0:
        raise UserError(f"--weights {weights} does not fit {model}: it has no {classifier[-1]}")
    return {"num_classes": len(state[classifier[-1]]), **options}


def _shapes(model, options):
    """Names and shapes of a network's parameters and buffers."""
    try:
        with torch.device("meta"):  # costs no time and no memory
            network = torchvision.models.get_model(model, **options)
    except Exception:  # it computes while it is made, and meta tensors have no values (RegNet)
        network = torchvision.models.get_model(model, **options)
    return {name: value.shape for name, value in network.state_dict().items()}


def _load_into(network, state, weights):
    try:
        network.load_state_dict(state)
    except Exception as error:  # of somebody else's network, whatever it raises
        problems = [line.strip() for line in str(error).split("\n")[1:]] or [_in_one_line(error)]
        raise UserError(f"--weights {weights} does not fit the network: {' '.join(problems)[:300]}") from error


def _in_one_line(error):
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


# --------------------------------------------------------------------------------------------------------------------
# Copies of networks that are not made to be copied, and what becomes of the hooks of a module.


def copy_module(module):
    """A deep copy of a module: nothing that is done to the copy reaches the original.

    ``copy.deepcopy`` alone stops at a tensor with a graph behind it (the weight that the old ``weight_norm`` computes)
    and at a lock, an open file or the like. Of the first the copy has the values. The second is shared with the
    original: it is no part of what a network computes, and there is no other way to give it to the copy.

    Parameters
    ----------
    module : nn.Module

    Returns
    -------
    nn.Module

    Raises
    ------
    ValueError
        What cannot be copied is deeper than in an attribute of a module, or in a list or dictionary there.
    """
    modules = {id(one): one for one in module.modules()}
    memo = {}
    for one in modules.values():
        for value in _held_by(one):
            if isinstance(value, torch.Tensor):
                if not value.is_leaf:
                    memo[id(value)] = value.detach().clone()
            elif not _can_be_copied(value, modules):
                memo[id(value)] = value
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:  # whatever somebody else's objects raise
        reason = str(error).split("\n")[0]
        raise ValueError(f"{type(module).__name__} cannot be copied ({type(error).__name__}: {reason})") from error


def _held_by(module):
    """Everything in a module's attributes but its submodules, one by one."""
    for name, value in vars(module).items():
        if name == "_modules":
            continue
        if isinstance(value, dict):
            yield from value.values()
        elif isinstance(value, (list, tuple)):
            yield from value
        else:
            yield value


def _can_be_copied(value, modules):
    try:
        copy.deepcopy(value, dict(modules))  # modules count as copied: each is asked for itself
    except Exception:  # whatever somebody else's objects raise
        return False
    return True


# --------------------------------------------------------------------------------------------------------------------
# Hooks of a module: they belong to whatever takes its place, never to its copies.


HOOKS = (
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_backward_hooks", "_backward_pre_hooks"),
)


def without_hooks(module):
    """The same module without its hooks: another object with the same parameters, buffers and submodules."""
    bare = copy.copy(module)
    for hooks in HOOKS:
        setattr(bare, hooks, OrderedDict())
    bare._is_full_backward_hook = None
    return bare


def share_hooks(module, other):
    """Let ``other`` run the hooks that are on ``module`` now."""
    for hooks in HOOKS:
        getattr(other, hooks).update(getattr(module, hooks))
    other._is_full_backward_hook = module._is_full_backward_hook
