"""Loading the network that ``--model`` names, with its weights."""

import hashlib
from dataclasses import dataclass

import torch
from torch import nn

from utils.errors import UserError, nearest_hint
from utils.images.transform import Transform
from utils.networks.factory_models import FactoryNetwork, factories_here
from utils.networks.model_names import is_factory, is_timm
from utils.networks.named_network import NamedNetwork
from utils.networks.timm_models import TimmNetwork, timm_hint
from utils.networks.torchvision_models import TorchvisionNetwork, torchvision_names
from utils.networks.user_code import in_one_line, user_code


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
    transform_note : str
        What ``transform`` does not reproduce of the one that the network is evaluated with; empty if nothing.
    has_imagenet_classes : bool
        Whether its outputs are known to be the 1000 classes of ImageNet, in their order.
    """

    module: nn.Module
    weights: str
    fingerprint: str
    transform: Transform
    transform_is_assumed: bool = False
    transform_note: str = ""
    has_imagenet_classes: bool = False


def named_network(model: str) -> NamedNetwork:
    """The network that ``--model`` names, not yet loaded; UserError for an unknown name."""
    if is_timm(model):
        return TimmNetwork(model)
    if is_factory(model):
        return FactoryNetwork(model)
    if model in torchvision_names():
        return TorchvisionNetwork(model)
    hint = nearest_hint(model, factories_here() | {name: (name,) for name in torchvision_names()})
    raise UserError(
        f"--model {model}: neither a torchvision classification network, timm:NAME, nor a factory, "
        f"package.module:function or path/to/file.py:function{timm_hint(model) or hint}"
    )


def load_network(model: str, weights: str | None = None) -> LoadedNetwork:
    """Load a network and its weights, on the CPU.

    Parameters
    ----------
    model : str
        A torchvision classification network's name, ``timm:NAME``, or a factory: ``package.module:function``,
        importable from the current folder or installed, or ``path/to/file.py:function``.
    weights : str, optional
        A torchvision weights name or a local state-dict file. Default: ``IMAGENET1K_V1``, else the network's
        ``DEFAULT``; timm's pretrained weights; a factory's own.

    Raises
    ------
    UserError
        Unknown model or weights, weights that do not fit, or that can be neither found nor downloaded.
    """
    made = named_network(model).make(weights)
    module = made.module
    with user_code(lambda error: UserError(f"--model {model} cannot be used ({in_one_line(error)})")):
        module.cpu().eval().requires_grad_(False)
        weights_sha256 = fingerprint(module)
    return LoadedNetwork(
        module,
        made.weights,
        weights_sha256,
        made.transform or Transform(),
        transform_is_assumed=made.transform is None,
        transform_note=made.transform_note,
        has_imagenet_classes=made.has_imagenet_classes,
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
