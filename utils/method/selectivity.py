"""Edits of a channel: how selective one is, and how strong another must be for the same effect."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from utils.method.significance import Interval, ratio_with_interval

MOST_STRENGTH = 4.0
BRACKETS = (0.5, 1.0, 2.0, MOST_STRENGTH)  # upper ends, the first that reaches the target is halved
HALVINGS = 6
TARGET_SHARE = 0.5  # of the part's effect, which every method has to reach
NORMAL_QUANTILE = 1.96  # of a 95 % interval


class Selectivity(NamedTuple):
    """A ratio of an effect to a harm. ``is_least``: the harm is not known well enough, the ratio is at least this."""

    value: float
    is_least: bool


def selectivity(effect: float, harm: Interval) -> Selectivity:
    """Selectivity: ``|mean change on the concept's images| / mean |change| on other images``.

    Where the harm is below the half width of its interval, it cannot be told from any smaller one: the ratio is then
    that to the upper end of the interval, a lower bound (">x").

    Parameters
    ----------
    effect : float
        The mean change, signed, or already a magnitude.
    harm : Interval
        The mean of the change's magnitude; without known ends, it is taken as it is.

    Returns
    -------
    Selectivity
        NaN where a value is, and for 0 / 0; infinite where only the harm is 0.
    """
    if np.isnan(effect) or np.isnan(harm.mean):
        return Selectivity(np.nan, False)
    half_width = (harm.high - harm.low) / 2
    is_least = bool(harm.mean < half_width)  # False if it is NaN
    return Selectivity(_ratio(abs(effect), harm.high if is_least else harm.mean), is_least)


def selectivity_of_layer(effects: ArrayLike, harms: ArrayLike, channels: ArrayLike) -> tuple[Selectivity, Interval]:
    """Selectivity of a layer: the ratio of sums over concepts, ``sum |effect| / sum harm``, and its interval.

    The interval resamples channels with all their concepts. The ratio is a lower bound where the mean harm is below the
    half width of its own interval over channels, as in ``selectivity``.

    Parameters
    ----------
    effects, harms : array [n]
        Of each concept; where either is NaN, neither counts.
    channels : array [n]
    """
    effect_array = np.abs(np.asarray(effects, dtype=float))
    harm_array = np.asarray(harms, dtype=float)
    measured = ~(np.isnan(effect_array) | np.isnan(harm_array))
    effect_array, harm_array = effect_array[measured], harm_array[measured]
    channel_array = np.asarray(channels)[measured]
    harm = ratio_with_interval(harm_array, np.ones(len(harm_array)), channel_array)
    mean_effect = effect_array.mean() if len(effect_array) else np.nan
    return selectivity(mean_effect, harm), ratio_with_interval(effect_array, harm_array, channel_array)


def interval_over_images(values: Tensor) -> Interval:
    """The mean of values of single images [n], and its 95 % interval, ``mean +- 1.96 sd / sqrt(n)``.

    NaN without images; the ends are NaN for a single one.
    """
    if not len(values):
        return Interval(np.nan, np.nan, np.nan)
    mean = values.double().mean().item()
    if len(values) == 1:
        return Interval(mean, np.nan, np.nan)
    half_width = NORMAL_QUANTILE * values.double().std().item() / len(values) ** 0.5
    return Interval(mean, mean - half_width, mean + half_width)


def _ratio(numerator: float, denominator: float) -> float:
    if denominator == 0:
        return np.nan if numerator == 0 else np.inf
    return numerator / denominator


def strengths_for(effects_at: Callable[[Tensor], Tensor], targets: Tensor) -> Tensor:
    """Equal effect: the smallest strength s found at which each of M edits, ``original + s (edited - original)``, has
    its target effect.

    An interval is found among 0, 0.5, 1, 2 and 4: from the last end below the target to the first that reaches it.
    It is halved, always keeping the half in which the target is reached, and s interpolated in what is left.

    Parameters
    ----------
    effects_at : function
        From strengths [M, S] to the effects of the edits at these, [M, S] float64. An effect at 0 is 0.
    targets : Tensor [M], float64
        Effects to reach, with their sign.

    Returns
    -------
    Tensor [M], float64
        NaN where no strength up to MOST_STRENGTH reaches the target ("not reached"), or where the target is 0 or NaN.
    """
    number = len(targets)
    rows = torch.arange(number)
    ends = torch.tensor((0.0, *BRACKETS), dtype=torch.float64)
    # As shares of the target, so that a target that is reached is at least 1, whatever its sign
    reached = effects_at(ends[1:].expand(number, -1)) / targets[:, None]
    is_reached = torch.cat([reached >= 1, torch.ones(number, 1, dtype=torch.bool)], 1)
    first = is_reached.int().argmax(1)
    is_found = (first < len(BRACKETS)) & targets.isfinite() & (targets != 0)
    first = first.clamp(max=len(BRACKETS) - 1)
    shares = torch.cat([torch.zeros(number, 1, dtype=torch.float64), reached], 1)
    low, high = ends[first], ends[first + 1]
    low_share, high_share = shares[rows, first], shares[rows, first + 1]
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        share = effects_at(middle[:, None])[:, 0] / targets
        is_above = share >= 1
        high, high_share = torch.where(is_above, middle, high), torch.where(is_above, share, high_share)
        low, low_share = torch.where(is_above, low, middle), torch.where(is_above, low_share, share)
    strengths = low + (high - low) * (1 - low_share) / (high_share - low_share)
    return torch.where(is_found, strengths, torch.nan)


class LogitChanges(NamedTuple):
    """How V edits change the logits of B images: ``own`` [V, B], that of each image's own class; ``margin`` [V, B],
    this minus the mean of all others; ``correct`` BoolTensor [V, B], whether the own class is largest afterwards."""

    own: Tensor
    margin: Tensor
    correct: Tensor


def logit_changes(logits: Tensor, differences: Tensor, targets: Tensor) -> LogitChanges:
    """Changes of the own class's logit and margin, and whether an edited network is right.

    Parameters
    ----------
    logits : Tensor [B, outputs]
        Before the edits.
    differences : Tensor [V, B, outputs]
        Logits after each edit, minus ``logits``.
    targets : LongTensor [B]
    """
    number = len(differences)
    own = differences.gather(2, targets[None, :, None].expand(number, -1, 1))[..., 0]
    others = (differences.sum(2) - own) / max(1, logits.shape[1] - 1)
    return LogitChanges(own, own - others, (logits + differences).argmax(2) == targets)


def drawn_half(order: Tensor) -> Tensor:
    """Half of the inputs (rounded up) as shares of 0 and 1, from a permutation of all: LongTensor [C_in] -> [C_in]."""
    shares = torch.zeros(len(order), dtype=torch.float64)
    shares[order[: (len(order) + 1) // 2]] = 1
    return shares


def central_range(values: Tensor, share: float) -> tuple[float, float]:
    """The central ``share`` of some values: the quantiles of ``(1 - share) / 2`` and ``1 - (1 - share) / 2``.

    NaN without values.
    """
    if not values.numel():
        return np.nan, np.nan
    outside = (1 - share) / 2
    low, high = np.quantile(values.double().cpu().numpy(), (outside, 1 - outside))
    return float(low), float(high)
