"""The layer of interest: everything that depends on what kind of layer it is.

The rest of the project sees a layer as a weight ``[C, C_in, taps]``, an input that is summed tap by tap to
``[B, C_in, taps]``, and an output with the channels in dimension 1. Only this module knows about kernels.
"""

import copy

import torch
from torch import nn
from torch.nn import functional as F

from utils.errors import UserError
from utils.method.importance import spatial_sums

HOOKS = (
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_backward_hooks", "_backward_pre_hooks"),
)


def _padding(layer):
    """Zero padding as ``F.pad`` takes it: left, right, top, bottom."""
    if layer.padding == "valid":
        return (0, 0, 0, 0)
    if layer.padding == "same":
        total_h, total_w = (d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
        return (total_w // 2, total_w - total_w // 2, total_h // 2, total_h - total_h // 2)
    (pad_h, pad_w) = layer.padding
    return (pad_w, pad_w, pad_h, pad_h)


def weight_taps(layer):
    """The layer's weight as ``[C, C_in, taps]``, taps in row-major order of the kernel."""
    return layer.weight.detach().flatten(2)


def tap_sums(layer, x):
    """Sum of the padded input over the positions that each kernel tap visits.

    The spatial sum of every output channel is linear in them: ``sum_hw a = W . S + b * positions``.

    Parameters
    ----------
    layer : nn.Conv2d
    x : Tensor [B, C_in, H, W]
        The layer's input.

    Returns
    -------
    Tensor [B, C_in, taps], float32
    """
    x = F.pad(x.float(), _padding(layer))
    (kernel_h, kernel_w), (step_h, step_w), (gap_h, gap_w) = layer.kernel_size, layer.stride, layer.dilation
    reach_h = (x.shape[2] - gap_h * (kernel_h - 1) - 1) // step_h * step_h + 1
    reach_w = (x.shape[3] - gap_w * (kernel_w - 1) - 1) // step_w * step_w + 1
    sums = [
        x[:, :, u * gap_h : u * gap_h + reach_h : step_h, v * gap_w : v * gap_w + reach_w : step_w].sum((2, 3))
        for u in range(kernel_h)
        for v in range(kernel_w)
    ]
    return torch.stack(sums, dim=-1)


def check_tap_sums(layer, x, activation, name):
    """Raise UserError unless ``W S + b * positions`` equals the spatial sum of the layer's real output.

    A subclass of convolution may pad by itself or standardise its weight; what is stored would then be wrong.

    Parameters
    ----------
    layer : nn.Conv2d
    x : Tensor [B, C_in, H, W]
    activation : Tensor [B, C, H', W']
        What the layer made of ``x`` in the network, in whatever precision.
    name : str
    """
    computed = torch.einsum("bit,cit->bc", tap_sums(layer, x), weight_taps(layer))
    if layer.bias is not None:
        computed = computed + layer.bias.detach() * activation[0, 0].numel()
    scale = activation.float().abs().flatten(2).sum(-1).max()
    tolerance = 2e-2 if activation.dtype == torch.bfloat16 else 1e-3
    if ((computed - spatial_sums(activation)).abs() > tolerance * scale).any():
        raise UserError(f"layer {name} ({type(layer).__name__}) does not compute a plain zero-padded convolution")


def with_rows(layer, rows, bias):
    """A deep copy of ``layer`` that computes other channels from the same input.

    Parameters
    ----------
    layer : nn.Conv2d
    rows : Tensor [R, C_in, taps]
        Weights of the new output channels.
    bias : Tensor [R] or None

    Returns
    -------
    nn.Conv2d (of the layer's own class), R output channels, frozen
    """
    wider = copy.deepcopy(layer)
    for hooks in HOOKS:
        getattr(wider, hooks).clear()  # what hooks on the layer expect are its own channels
    kernels = rows.unflatten(2, layer.kernel_size).to(layer.weight)
    wider.weight = nn.Parameter(kernels.contiguous(memory_format=torch.channels_last), requires_grad=False)
    wider.bias = None if bias is None else nn.Parameter(bias.to(layer.weight), requires_grad=False)
    wider.out_channels = rows.shape[0]
    return wider
