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

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from utils.method.order import largest_first
from utils.method.ranking import rank_images

STEPS_A_PART = 4
SCALES = torch.arange(1, 81) / 20  # of what is taken out: up to four times what there is, as for a projection
LOGITS = torch.arange(1, 161) / 4  # that are subtracted from one class


@dataclass(frozen=True)
class Edit:
    """What replaces the layer: ``weight`` [C, C_in] and ``bias`` [C]; and what is added to the logits, [T] or 0."""

    weight: Tensor
    bias: Tensor
    logits: Tensor | float = 0.0


@dataclass(frozen=True)
class Way:
    """A way of editing: ``edit(s)`` is the Edit of strength s; ``strengths`` are tried, in ascending order."""

    edit: Callable[[float], Edit]
    strengths: Tensor


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


@dataclass(frozen=True)
class RankedParts:
    """Parts in the order of their average precision (AP) for the mark, the highest first.

    ``signs`` [N] are 1 where a part responds to the mark by being high, and -1 where it does by being low.
    """

    parts: Parts
    signs: Tensor

    def precisions(self, weight: Tensor, input_sums: Tensor, is_marked: Tensor) -> Tensor:
        """The AP [N] of each part, with its sign, for the mark in pictures: ``input_sums`` [n, C_in], [n]."""
        sums = self.parts.rows(weight) @ input_sums.T
        return rank_images(self.signs[:, None] * sums, is_marked).ap.nan_to_num()

    def first(self, number: int) -> Parts:
        """The first ``number`` parts, or all if there are fewer."""
        return self.parts.of(torch.arange(min(number, len(self.signs))))


def ranked(parts: Parts, weight: Tensor, input_sums: Tensor, is_marked: Tensor) -> RankedParts:
    """The RankedParts for the mark in pictures with ``input_sums`` [n, C_in], of which ``is_marked`` [n] carry it.

    A part may respond to the mark by being high or by being low: the better of both counts.
    """
    high = torch.ones(len(parts.channels))
    of_high, of_low = (RankedParts(parts, signs).precisions(weight, input_sums, is_marked) for signs in (high, -high))
    order = largest_first(torch.maximum(of_high, of_low))
    return RankedParts(parts.of(order), torch.where(of_high >= of_low, high, -high)[order])


def take_out_parts(parts: Parts, weight: Tensor, mean: Tensor) -> Way:
    """The Way that takes parts out one after the other, and then more than once.

    ``mean`` [C_in] is that of the inputs at a position. Beyond N, the number of parts, ``f_n = s / N``.
    """
    rows = parts.rows(weight)
    number = len(rows)

    def edit(strength: float) -> Edit:
        one_by_one = (strength - torch.arange(number)).clamp(0, 1)
        fractions = one_by_one.clamp(min=strength / number) if strength > number else one_by_one
        removed = torch.zeros_like(weight).index_add_(0, parts.channels, fractions[:, None].to(rows) * rows)
        return Edit(weight - removed, removed @ mean)

    in_turn = torch.arange(1, STEPS_A_PART * number + 1) / STEPS_A_PART
    return Way(edit, torch.cat([in_turn, number * SCALES[SCALES > 1]]))


def project_input(weight: Tensor, direction: Tensor, mean: Tensor) -> Way:
    """The Way that projects the layer's input; ``direction`` and ``mean`` [C_in] in the space of the inputs."""
    unit = direction / direction.norm()

    def edit(strength: float) -> Edit:
        along = weight @ unit
        return Edit(weight - strength * torch.outer(along, unit), strength * along * (unit @ mean))

    return Way(edit, SCALES)


def project_output(weight: Tensor, direction: Tensor, mean: Tensor) -> Way:
    """The Way that projects the layer's output; ``direction`` and ``mean`` [C] in the space of the outputs."""
    unit = direction / direction.norm()

    def edit(strength: float) -> Edit:
        return Edit(weight - strength * torch.outer(unit, unit @ weight), strength * unit * (unit @ mean))

    return Way(edit, SCALES)


def lower_logit(weight: Tensor, output: int, num_outputs: int) -> Way:
    """The Way that leaves the layer as it is, and subtracts s from the logit of one class for every picture."""
    direction = torch.zeros(num_outputs).index_fill_(0, torch.tensor([output]), -1.0)
    no_bias = torch.zeros(len(weight))
    return Way(lambda strength: Edit(weight, no_bias, strength * direction), LOGITS)


def edited_layer(inputs: Tensor, edit: Edit) -> Tensor:
    """The output of the edited layer: inputs [n, C_in, H, W] -> [n, C, H, W]."""
    return conv2d(inputs, edit.weight[..., None, None].to(inputs), edit.bias.to(inputs))


def least_strengths(
    recovery: Callable[[float], float], strengths: Tensor, targets: Sequence[float]
) -> list[float | None]:
    """The first of ascending strengths whose recovery reaches each of ascending ``targets``; None where none does.

    The recovery need not grow with the strength, so they are tried one after the other, without bisection.
    """
    found: list[float | None] = []
    for strength in strengths.tolist():
        reached = recovery(strength)
        while len(found) < len(targets) and reached >= targets[len(found)]:
            found.append(strength)
        if len(found) == len(targets):
            break
    return found + [None] * (len(targets) - len(found))
