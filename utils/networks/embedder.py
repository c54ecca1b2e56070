"""Embeddings of images by another network than the one studied, for scores that need no labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from utils.errors import UserError
from utils.images.transform import Transform
from utils.networks.arithmetic import fastest_memory_format
from utils.networks.loading import LoadedNetwork, load_network
from utils.networks.timm_models import GIVE_WEIGHTS
from utils.networks.user_code import user_code


class LinearCall(NamedTuple):
    """A call of a linear layer: what entered it, and its output."""

    layer: nn.Linear
    input: Tensor
    output: Tensor


class Embedder:
    """A network that gives images embeddings, ``size`` numbers each.

    For a classifier, that is, a network whose last linear layer executed makes one row an image as wide as the
    network's output, an embedding is what enters this layer (whatever follows it, for example a softmax). For any other
    network it is the output itself: a row an image, the mean over tokens ``[B, N, D]`` (class and register tokens
    included, as in PURE), or the mean over the places of a map ``[B, D, H, W]``.

    ``fingerprint`` is a SHA-256 of the network's weights; ``features`` describes the embeddings in words.

    Parameters
    ----------
    model : str
        The name of the network.
    network : LoadedNetwork
        On the CPU.
    transform : Transform
        Transform of the images that it takes.

    Raises
    ------
    UserError
        It cannot take such images, or its output is of another form.
    """

    def __init__(self, model: str, network: LoadedNetwork, transform: Transform) -> None:
        self.model = model
        self.module = network.module
        self.transform = transform
        self.weights = network.weights
        self.transform_note = network.transform_note
        self.fingerprint = network.fingerprint
        self.layer = self._last_linear()
        name = next((name for name, module in self.module.named_modules() if module is self.layer), None)
        self.features = "its own output" if self.layer is None else f"what enters {name}"
        self.size = self.embed(self._two_images()).shape[1]

    def __str__(self) -> str:
        note = f" ({self.transform_note})" if self.transform_note else ""
        return f"{self.model} with weights {self.weights}: {self.features}, {self.size} numbers{note}"

    def to(self, device: torch.device, precision: str) -> Embedder:
        """Move the network to a device, where it will run in ``precision``."""
        self.module.to(device).to(memory_format=fastest_memory_format(precision, device))
        return self

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings of normalised images, [B, 3, H, W] -> [B, D] float32."""
        output, calls = self._run(images, [] if self.layer is None else [self.layer])
        embeddings = calls[-1].input if calls else output
        if embeddings.ndim == 3:
            return embeddings.mean(1).float()
        return embeddings.flatten(2).mean(2).float() if embeddings.ndim == 4 else embeddings.float()

    def _two_images(self) -> Tensor:
        """Noise and black, normalised."""
        size = self.transform.crop_size
        noise = torch.randint(256, (1, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        return self.transform.normalise(torch.cat([noise, torch.zeros_like(noise)]), torch.device("cpu"))

    def _last_linear(self) -> nn.Linear | None:
        """The last linear layer executed, where it makes a row an image as wide as the network's output; else None."""
        size = self.transform.crop_size

        def refusal(error: BaseException) -> UserError:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            return UserError(f"--embedding {self.model} cannot take images of {size}x{size} pixels: {reason}")

        images = self._two_images()
        with torch.no_grad(), user_code(refusal):  # without hooks: an error in ours is not the network's
            output = self.module(images)
        if not isinstance(output, Tensor) or not 2 <= output.ndim <= 4 or len(output) != 2:
            form = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise UserError(
                f"--embedding {self.model} gives {form} for two images: neither rows, tokens nor maps of these"
            )
        _, calls = self._run(images, [module for module in self.module.modules() if isinstance(module, nn.Linear)])
        if not calls or output.ndim != 2 or calls[-1].output.shape != output.shape:
            return None
        return calls[-1].layer

    def _run(self, images: Tensor, layers: list[nn.Linear]) -> tuple[Tensor, list[LinearCall]]:
        """The output of a pass, and every call of some linear layers, in order."""
        calls: list[LinearCall] = []

        def keep(layer: nn.Linear, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
            calls.append(LinearCall(layer, args[0] if args else kwargs["input"], output))

        hooks = [layer.register_forward_hook(keep, with_kwargs=True) for layer in layers]
        try:
            with torch.no_grad():
                return self.module(images), calls
        finally:
            for hook in hooks:
                hook.remove()


def load_embedder(
    model: str,
    studied: str,
    transform: Transform,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Embedder:
    """Load the network of ``--embedding`` as an Embedder, on the CPU.

    Its transform is that of torchvision's named weights, timm's, or the one that a factory's module carries as
    ``transform``, a Transform or a dictionary with its fields. ``mean`` and ``std`` replace those of the transform.
    Where the module carries none, they have to be given, and the images are resized and cropped as for the network
    studied.

    Parameters
    ----------
    model : str
        The network's name, as ``--model`` has it.
    studied : str
        Fingerprint of the studied network, which cannot also be the embedder.
    transform : Transform
        Transform of the studied network.
    mean, std : sequence of 3 numbers, optional

    Raises
    ------
    UserError
        The network is the one studied, or unknown; its transform is wrong or missing; ``Embedder`` refuses it.
    """
    try:
        network = load_network(model)
    except UserError as error:
        message = str(error).replace("--model", "--embedding", 1)
        # --weights are those of the network studied
        raise UserError(re.sub(rf"(:|, or) {GIVE_WEIGHTS}$", "", message)) from error
    if network.fingerprint == studied:
        raise UserError(f"--embedding {model} is the network studied: embeddings must come from another one")
    base = transform if network.transform_is_assumed else network.transform
    if network.transform_is_assumed and (mean is None or std is None):
        raise UserError(
            f"--embedding {model} has no transform: give --embedding_mean and --embedding_std, or let its module carry "
            "it as the attribute transform"
        )
    colours = replace(
        base, mean=base.mean if mean is None else tuple(mean), std=base.std if std is None else tuple(std)
    )
    return Embedder(model, network, colours)
