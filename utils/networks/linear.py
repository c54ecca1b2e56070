"""Linear layers over tokens in the normal form. Only this module knows that their channels come last."""

from dataclasses import dataclass, field

import torch
from torch import nn

from utils.networks.arrangement import Arrangement, arrangement_of
from utils.networks.copying import copy_module
from utils.networks.hooks import without_hooks
from utils.networks.normal_form import Layer, map_places


@dataclass
class Linear(Layer):
    """``nn.Linear`` of a vector ``[B, C_in]``, tokens ``[B, N, C_in]``, a channels-last map ``[B, H, W, C_in]``, or
    windows of one ``[B * windows, N, C_in]``: one tap, and a position for every token of an image, in their order.
    """

    arrangement: Arrangement = field(default_factory=Arrangement)

    channel_dim = -1
    kind = "linear layer"
    plain = "a plain linear layer"
    module_type = nn.Linear
    description = "linear layer (Linear)"

    def takes(self, shape):
        return len(shape) >= 2

    def locate(self, network, traced):
        self.arrangement = arrangement_of(network, self.name, traced)
        self.map_size = self.arrangement.map_size

    @property
    def weight(self):
        return self.module.weight.detach()[..., None]

    @property
    def num_positions(self):
        return self.arrangement.positions

    def tap_sums(self, x):
        return self._of_images(x.float()).sum(1)[..., None]

    def by_position(self, output):
        return self._of_images(output).movedim(-1, 1)

    def _of_images(self, x):
        """``[B, positions, C]``"""
        return x.unflatten(0, (-1, self.arrangement.windows)).flatten(1, -2)

    def with_rows(self, rows, bias):
        layer = self.module
        other = copy_module(without_hooks(layer))  # what hooks on the layer expect are its own channels
        other.weight = nn.Parameter(rows.squeeze(2).to(layer.weight), requires_grad=False)
        other.bias = None if bias is None else nn.Parameter(bias.to(layer.weight), requires_grad=False)
        other.out_features = len(rows)
        return other

    def places(self, device="cpu"):
        if self.map_size is None:
            return None
        nowhere = torch.full((1, 2), torch.nan, device=device)
        return torch.cat([map_places(self.map_size, device), nowhere])[self.arrangement.order.to(device)]
