"""Convolutions in the normal form. Only this module knows about kernels, strides and padding."""

import torch
from torch import nn
from torch.nn import functional as F

from utils.errors import UserError
from utils.networks.copying import copy_module
from utils.networks.hooks import without_hooks
from utils.networks.normal_form import Layer, map_places


class Convolution(Layer):
    """``nn.Conv2d``, ungrouped: a tap for every place in the kernel, in row-major order; a position for every place of
    the output map, likewise.
    """

    kind = "convolution"
    plain = "a plain zero-padded convolution"
    module_type = nn.Conv2d
    description = "convolution (Conv2d)"

    def refusal(self):
        if self.module.groups == self.module.in_channels > 1:
            return "is depthwise: one input a channel, nothing to divide"
        if self.module.groups != 1:
            return f"has groups={self.module.groups}: only ungrouped convolutions can be split"
        if self.module.padding_mode != "zeros":
            return f"pads with padding_mode={self.module.padding_mode}: only zero-padded convolutions can be split"
        return super().refusal()

    def takes(self, shape):
        return len(shape) == 4

    def locate(self, network, traced):
        (shape,) = traced.input_shapes(self.name)
        if shape[0] != traced.IMAGES:
            raise UserError(
                f"layer {self.name} is called with {shape[0]} maps for {traced.IMAGES} images: "
                "they cannot be told apart"
            )
        with torch.no_grad():
            self.map_size = tuple(self.module(torch.zeros(shape)).shape[2:])

    @property
    def weight(self):
        return self.module.weight.detach().flatten(2)

    @property
    def num_positions(self):
        return self.map_size[0] * self.map_size[1]

    def tap_sums(self, x):
        layer = self.module
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

    def by_position(self, output):
        return output.flatten(2)

    def with_rows(self, rows, bias):
        layer = self.module
        other = copy_module(without_hooks(layer))  # what hooks on the layer expect are its own channels
        kernels = rows.unflatten(2, layer.kernel_size).to(layer.weight)
        other.weight = nn.Parameter(kernels.contiguous(memory_format=torch.channels_last), requires_grad=False)
        other.bias = None if bias is None else nn.Parameter(bias.to(layer.weight), requires_grad=False)
        other.out_channels = rows.shape[0]
        return other

    def places(self, device="cpu"):
        return map_places(self.map_size, device)


def _padding(layer):
    """Zero padding as ``F.pad`` takes it: left, right, top, bottom."""
    if layer.padding == "valid":
        return (0, 0, 0, 0)
    if layer.padding == "same":
        total_h, total_w = (d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
        return (total_w // 2, total_w - total_w // 2, total_h // 2, total_h - total_h // 2)
    (pad_h, pad_w) = layer.padding
    return (pad_w, pad_w, pad_h, pad_h)
