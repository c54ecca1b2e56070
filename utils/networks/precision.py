"""Devices and precisions in which networks run: TF32, autocast, compilation."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn

from utils.errors import UserError
from utils.networks.arithmetic import allow_tf32
from utils.networks.layers import Layer
from utils.networks.recording import Recorder
from utils.networks.user_code import user_code
from utils.processes import this_process


def choose_device(device: str | None) -> torch.device:
    """The device that is named; for None ``cuda`` if there is one, else ``cpu``.

    ``cuda`` is the device of this process: that of its local rank. More processes than devices share these evenly.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        device = f"cuda:{this_process().local_rank % max(torch.cuda.device_count(), 1)}"
    chosen: torch.device | None = None
    with suppress(RuntimeError):
        chosen = torch.device(device)
    if chosen is None or chosen.type not in ("cpu", "cuda"):
        raise UserError(f"--device {device}: must be cpu, cuda or cuda:N")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {device}: there are {torch.cuda.device_count()} CUDA devices here")
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)  # pinned memory belongs to it, too
    return chosen


def check_precision(precision: str, device: torch.device) -> None:
    """Raise UserError if the device does not have the arithmetic, and make cuDNN deterministic.

    Everything outside of ``network_arithmetic`` is true fp32.
    """
    if precision == "tf32" and device.type != "cuda":
        raise UserError("--precision tf32 needs a CUDA device")
    torch.backends.cudnn.deterministic = True
    allow_tf32(False)


@contextmanager
def network_arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """The context in which a network is called: ``fp32``, ``tf32`` (CUDA only) or ``bf16`` (autocast)."""
    allow_tf32(precision == "tf32")
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        allow_tf32(False)


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """The context in which values are computed in the type that they have: without autocast, and without TF32 on CUDA.

    Compiled code keeps its TF32, which is decided where it runs, outside of any context.
    """
    kinds = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]  # made at import
    settable = device.type == "cuda" and not torch.compiler.is_compiling()
    in_tf32 = [kind for kind in kinds if kind.fp32_precision == "tf32"] if settable else []
    try:
        for kind in in_tf32:
            kind.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for kind in in_tf32:
            kind.fp32_precision = "tf32"


def compile_network(network: nn.Module, layer: Layer, images: Tensor, precision: str) -> None:
    """Compile a network in place, and run it once on ``images``, so that a failure shows at once.

    The layer of interest is left out: hooks on it run outside of the compiled code.

    Parameters
    ----------
    network : nn.Module
        On its device.
    layer : Layer
    images : Tensor [B, 3, H, W]
        With the shape and layout of most batches.
    precision : str

    Raises
    ------
    UserError
        There is no working compiler, or the network cannot be compiled.
    """

    def refusal(error: BaseException) -> UserError:
        reason = str(error).strip().split("\n")[0]
        return UserError(
            f"--compile: the network cannot be compiled ({reason}): is there a C++ compiler? Else leave out --compile"
        )

    parent, _, child = layer.name.rpartition(".")
    setattr(network.get_submodule(parent), child, torch.compiler.disable(layer.module))
    network.compile(dynamic=False)  # each batch size its own code, so that results do not depend on which came first
    targets = torch.zeros(len(images), dtype=torch.long, device=images.device)
    # compilers can be missing or fail in many ways, in either direction of the pass
    with network_arithmetic(precision, images.device), Recorder(network, layer) as recorder, user_code(refusal):
        recorder.forward_with_gradient(images, targets)
