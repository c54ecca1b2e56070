"""How torch computes on a device: TF32, the layout of tensors in memory, copies that do not wait."""

import ctypes
import sys
from mmap import mmap
from typing import Any

import torch
from torch import Tensor


def allow_tf32(allowed: bool) -> None:
    """Decide whether fp32 convolutions and matrix products of CUDA may use TF32; on the CPU they are exact.

    A user-supplied network may have set any of torch's switches. The newer ones (``fp32_precision``) are inherited from
    more general ones, and reading an older one (``allow_tf32``) raises where it contradicts them. So the newer ones are
    reset, and the older ones decide.
    """
    backends: Any = torch.backends
    for switch in (backends, backends.cudnn, backends.mkldnn, backends.mkldnn.conv, backends.mkldnn.rnn):
        switch.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    backends.cuda.matmul.allow_tf32 = allowed
    backends.cudnn.allow_tf32 = allowed


def fastest_memory_format(precision: str, device: torch.device) -> torch.memory_format:
    """The layout of images and kernels in memory for which the device has the fastest convolutions.

    For fp32 without TF32, cuDNN has its fast kernels for contiguous tensors; on tensor cores (TF32, bf16), and on a
    CPU, convolutions of channels-last tensors are faster.
    """
    return torch.contiguous_format if device.type == "cuda" and precision == "fp32" else torch.channels_last


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on ``device``; the copy does not wait for what the device still computes."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def outside_heap(tensor: Tensor) -> Tensor:
    """A copy of a tensor in memory of its own, with the same layout; the tensor itself on another device than the CPU,
    or if it is a part of a larger one.

    A small tensor that is kept lies in the gap that a large temporary one has left in the heap. The next large one does
    not fit there any more: kept images of 60 KB each then cost as much as the pixels they were made of, 600 KB.
    """
    is_dense = tensor.untyped_storage().nbytes() == tensor.nbytes
    if tensor.device.type != "cpu" or not tensor.nbytes or not is_dense:
        return tensor
    memory = mmap(-1, tensor.nbytes)
    return torch.frombuffer(memory, dtype=tensor.dtype).as_strided(tensor.shape, tensor.stride()).copy_(tensor)


def return_freed_memory() -> None:
    """Give the system back what is free within the C library's heap; nothing happens if it is not glibc.

    Between batches of many sizes, free gaps add up to gigabytes: a small block that is kept lies in a gap, and the next
    large one does not fit there any more. Memory that is used again has to be cleared again, so call this rarely.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
