"""Edits of a 1x1 convolution after which it no longer responds to a mark, all in one form: another weight and bias.

Each way of editing has a strength s, from 0, the layer as it is. W [C, C_in] is the layer's weight and z the mean of
its input, or of its output, at a position of pictures without the mark.

- Parts of channels, or whole channels, in the order of their average precision for the mark. Part n of channel c has
  the shares alpha_n of the inputs. ``f_n = min(max(s - n, 0), 1)`` of it (n from 0) is replaced by its mean: the row
  becomes ``W_c (1 - f_n alpha_n)``, the bias ``f_n (alpha_n W_c) . z``. A whole channel is a part whose shares are 1.
- A projection, ``h - s v v^T (h - z)``, for h the layer's input or its output: p-ClArC (Anders et al., Information
  Fusion 77, 2022). The unit vector v is along the mean of marked minus the mean of unmarked pictures, which is the
  direction of a signal CAV for a binary target (Pahde et al., arXiv 2202.03482).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from utils.method.order import largest_first
from utils.method.ranking import rank_images

STEPS_A_PART = 4
MOST_PROJECTION, PROJECTION_STEPS = 4.0, 80
MOST_LOGIT, LOGIT_STEPS = 40.0, 160


@dataclass(frozen=True)
class Edit:
    """What replaces the layer: ``weight`` [C, C_in] and ``bias`` [C]; and what is added to the logits, [T] or 0."""

    weight: Tensor
    bias: Tensor
    logits: Tensor | float = 0.0


@dataclass(frozen=True)
class Way:
    """A way of editing: ``edit(s)`` is the Edit of strength s, from 0 to ``most``; ``steps`` of it are tried."""

    edit: Callable[[float], Edit]
    most: float
    steps: int


@dataclass(frozen=True)
class Parts:
    """Parts of channels: part n has ``shares`` [N, C_in] of the inputs of channel ``channels`` [N]."""

    channels: Tensor
    shares: Tensor

    def of(self, order: Tensor) -> "Parts":
        return Parts(self.channels[order], self.shares[order])

    def rows(self, weight: Tensor) -> Tensor:
        """The weights of the parts, [N, C_in], for the layer's ``weight`` [C, C_in]."""
        return self.shares * weight[self.channels]


def ranked(parts: Parts, weight: Tensor, input_sums: Tensor, is_marked: Tensor) -> tuple[Parts, Tensor]:
    """Parts in the order of their average precision for the mark, the highest first, and these precisions.

    A part may respond to the mark by being high or by being low: the better of both counts. ``input_sums`` [n, C_in]
    and ``is_marked`` [n] are of pictures.
    """
    sums = parts.rows(weight) @ input_sums.T
    precisions = torch.maximum(rank_images(sums, is_marked).ap, rank_images(-sums, is_marked).ap).nan_to_num()
    order = largest_first(precisions)
    return parts.of(order), precisions[order]


def take_out_parts(parts: Parts, weight: Tensor, mean: Tensor) -> Way:
    """The Way that takes parts out one after the other; ``mean`` [C_in] is that of the inputs at a position."""
    rows = parts.rows(weight)

    def edit(strength: float) -> Edit:
        fractions = (strength - torch.arange(len(rows))).clamp(0, 1).to(rows)
        removed = torch.zeros_like(weight).index_add_(0, parts.channels, fractions[:, None] * rows)
        return Edit(weight - removed, removed @ mean)

    return Way(edit, float(len(rows)), STEPS_A_PART * len(rows))


def project_input(weight: Tensor, direction: Tensor, mean: Tensor) -> Way:
    """The Way that projects the layer's input; ``direction`` and ``mean`` [C_in] in the space of the inputs."""
    unit = direction / direction.norm()

    def edit(strength: float) -> Edit:
        along = weight @ unit
        return Edit(weight - strength * torch.outer(along, unit), strength * along * (unit @ mean))

    return Way(edit, MOST_PROJECTION, PROJECTION_STEPS)


def project_output(weight: Tensor, direction: Tensor, mean: Tensor) -> Way:
    """The Way that projects the layer's output; ``direction`` and ``mean`` [C] in the space of the outputs."""
    unit = direction / direction.norm()

    def edit(strength: float) -> Edit:
        return Edit(weight - strength * torch.outer(unit, unit @ weight), strength * unit * (unit @ mean))

    return Way(edit, MOST_PROJECTION, PROJECTION_STEPS)


def lower_logit(weight: Tensor, output: int, num_outputs: int) -> Way:
    """The Way that leaves the layer as it is, and subtracts s from the logit of one class for every picture."""
    direction = torch.zeros(num_outputs).index_fill_(0, torch.tensor([output]), -1.0)
    no_bias = torch.zeros(len(weight))
    return Way(lambda strength: Edit(weight, no_bias, strength * direction), MOST_LOGIT, LOGIT_STEPS)


def edited_layer(inputs: Tensor, edit: Edit) -> Tensor:
    """The output of the edited layer: inputs [n, C_in, H, W] -> [n, C, H, W]."""
    return conv2d(inputs, edit.weight[..., None, None].to(inputs), edit.bias.to(inputs))


def least_strength(recovery: Callable[[float], float], most: float, target: float, steps: int) -> float | None:
    """The smallest strength, on a grid of ``steps`` steps up to ``most``, whose recovery reaches ``target``, or None.

    The recovery need not grow with the strength, so the grid is searched from below, not by bisection.
    """
    for step in range(1, steps + 1):
        strength = most * step / steps
        if recovery(strength) >= target:
            return strength
    return None
