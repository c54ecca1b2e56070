"""Embeddings of images by another network than the one studied, for scores that need no labels."""

from dataclasses import asdict, fields, replace

import numpy as np
import torch
from torch import nn

from utils.errors import UserError
from utils.images.resizing import FILTERS
from utils.images.transform import Transform
from utils.networks.loading import load_network


class Embedder:
    """A network that gives images embeddings, ``size`` numbers each.

    Of a classifier, that is, a network whose last linear layer executed makes one row an image as wide as the network's
    output, an embedding is what enters this layer (whatever follows it: a softmax, say). Of any other network it is the
    output itself: a row an image, the mean over tokens ``[B, N, D]`` (class and register tokens among them, as PURE
    takes it), or the mean over the places of a map ``[B, D, H, W]``.

    ``fingerprint`` is a SHA-256 of the network's weights; ``features`` says in words what the embeddings are.

    Parameters
    ----------
    model : str
        What it is called.
    network : LoadedNetwork
        On the CPU.
    transform : Transform
        Of the images that it takes.

    Raises
    ------
    UserError
        It cannot take such images, or gives something else than one of these outputs.
    """

    def __init__(self, model, network, transform):
        self.model, self.module, self.transform = model, network.module, transform
        self.weights, self.fingerprint = network.weights, network.fingerprint
        self.layer = self._last_linear()
        name = next((name for name, module in self.module.named_modules() if module is self.layer), None)
        self.features = "its own output" if self.layer is None else f"what enters {name}"
        self.size = self.embed(self._two_images()).shape[1]

    def __str__(self):
        return f"{self.model} with weights {self.weights}: {self.features}, {self.size} numbers"

    def to(self, device):
        """Move the network to a device."""
        self.module.to(device, memory_format=torch.channels_last)
        return self

    def embed(self, images):
        """Embeddings of normalised images, [B, 3, H, W] -> [B, D] float32."""
        output, calls = self._run(images, [] if self.layer is None else [self.layer])
        found = calls[-1][1] if calls else output
        if found.ndim == 3:
            found = found.mean(1)
        return found.flatten(2).mean(2).float() if found.ndim == 4 else found.float()

    def _two_images(self):
        """Noise and black, normalised."""
        size = self.transform.crop_size
        noise = torch.randint(256, (1, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        return self.transform.normalise(torch.cat([noise, torch.zeros_like(noise)]), torch.device("cpu"))

    def _last_linear(self):
        """The last linear layer executed, where it makes a row an image as wide as the network's output; else None."""
        size = self.transform.crop_size
        try:
            linear = [module for module in self.module.modules() if isinstance(module, nn.Linear)]
            output, calls = self._run(self._two_images(), linear)
        except Exception as error:  # whatever somebody else's network raises
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(f"--embedding {self.model} cannot take images of {size}x{size} pixels: {reason}") from error
        if not isinstance(output, torch.Tensor) or not 2 <= output.ndim <= 4 or len(output) != 2:
            what = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
            raise UserError(
                f"--embedding {self.model} gives {what} for two images: neither rows, tokens nor maps of these"
            )
        last, _, made = calls[-1] if calls else (None, None, None)
        return last if last is not None and output.ndim == 2 and made.shape == output.shape else None

    def _run(self, images, layers):
        """The output of a pass, and (layer, its input, its output) of every call of some linear layers, in order."""
        calls, hooks = [], []

        def keep(layer, given, named, made):
            calls.append((layer, given[0] if given else named["input"], made))

        for layer in layers:
            hooks.append(layer.register_forward_hook(keep, with_kwargs=True))
        try:
            with torch.no_grad():
                return self.module(images), calls
        finally:
            for hook in hooks:
                hook.remove()


def load_embedder(model, studied, transform, mean=None, std=None):
    """Load what ``--embedding`` asks for: an Embedder, on the CPU.

    Its transform is that of torchvision's named weights, or the one that a factory's module carries as ``transform``, a
    Transform or a dictionary with its fields. ``mean`` and ``std`` replace these. Where the module carries none, they
    have to be given, and the images are resized and cropped as for the network studied.

    Parameters
    ----------
    model : str
        A torchvision classification network's name, or ``package.module:function``.
    studied : str
        Fingerprint of the network that is studied, which cannot be its own judge.
    transform : Transform
        Of the network that is studied.
    mean, std : sequence of 3 numbers, optional

    Raises
    ------
    UserError
        The network studied; an unknown network; a transform that is not known, or none; what ``Embedder`` refuses.
    """
    try:
        network = load_network(model)
    except UserError as error:
        raise UserError(str(error).replace("--model", "--embedding", 1)) from error
    if network.fingerprint == studied:
        raise UserError(f"--embedding {model} is the network studied: embeddings must come from another one")
    if ":" not in model:
        own = network.transform
    elif hasattr(network.module, "transform"):
        own = _carried(model, network.module.transform)
    elif mean is None or std is None:
        raise UserError(
            f"--embedding {model} has no transform: give --embedding_mean and --embedding_std, or let its module carry "
            "it as the attribute transform"
        )
    else:
        own = transform
    given = {name: tuple(value) for name, value in (("mean", mean), ("std", std)) if value is not None}
    return Embedder(model, network, replace(own, **given))


def _carried(model, transform):
    """The Transform that a module carries; UserError where it is none."""
    values = asdict(transform) if isinstance(transform, Transform) else transform
    names = [field.name for field in fields(Transform)]
    try:
        sizes = values["resize_size"], values["crop_size"]
        colours = {name: tuple(float(value) for value in values[name]) for name in ("mean", "std")}
        right = all(type(size) is int for size in sizes) and sizes[0] >= sizes[1] >= 1
        right &= set(values) == set(names) and values["interpolation"] in FILTERS
        right &= all(len(one) == 3 and np.isfinite(one).all() for one in colours.values()) and min(colours["std"]) > 0
    except (KeyError, TypeError, ValueError):
        right = False
    if not right:
        raise UserError(f"--embedding {model}: its transform must be a dictionary of {', '.join(names)}, all possible")
    return Transform(**{**values, **colours})
