"""Significance of results: seeded permutations, p and q values, and intervals by resampling channels."""

import hashlib
import json
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.stats import false_discovery_control
from torch import Tensor

RESAMPLES = 5_000
FEWEST_GROUPS = 5


def permutation(size: int, *purpose: Any) -> Tensor:
    """A random permutation, LongTensor [size]: equal for an equal ``purpose``, plain values, whatever else is drawn."""
    seed = hashlib.sha256(json.dumps(purpose).encode()).digest()
    return torch.from_numpy(np.random.default_rng(list(seed)).permutation(size))


def p_value(value: float, nulls: ArrayLike) -> float:
    """The p value of a value among nulls: ``(1 + number at least as high) / (1 + number)``, without resampling.

    Nulls [n] that are NaN do not count. NaN if the value is NaN, or if there is no null.
    """
    measured = np.asarray(nulls)
    measured = measured[~np.isnan(measured)]
    if np.isnan(value) or not len(measured):
        return np.nan
    return (1 + int((measured >= value).sum())) / (1 + len(measured))


def q_values(p_values: ArrayLike) -> np.ndarray:
    """Benjamini and Hochberg's: the lowest false discovery rate at which each of these would be a discovery.

    ``q_(i) = min over j >= i of p_(j) n / j``, the p values ascending; NaN where p is, which do not count in n.
    """
    p = np.asarray(p_values, dtype=float)
    measured = ~np.isnan(p)
    q = np.full(len(p), np.nan)
    if measured.any():
        q[measured] = false_discovery_control(p[measured])
    return q


class Interval(NamedTuple):
    """A mean and its 95 % interval, from ``low`` to ``high``; NaN where it cannot be known."""

    mean: float
    low: float
    high: float


def mean_with_interval(values: ArrayLike, groups: ArrayLike) -> Interval:
    """The mean of values, and its 95 % interval where groups are resampled with all their values (bootstrap).

    Parameters
    ----------
    values : array [n]
        NaN does not count.
    groups : array [n]
        The channels of the values, which are one for each concept.

    Returns
    -------
    Interval
        NaN without values; ``low`` and ``high`` are NaN with too few groups for resampling.
    """
    values_array = np.asarray(values, dtype=float)
    measured = ~np.isnan(values_array)
    if not measured.any():
        return Interval(np.nan, np.nan, np.nan)
    names, group_numbers = np.unique(np.asarray(groups)[measured], return_inverse=True)
    sums = np.bincount(group_numbers, values_array[measured])
    counts = np.bincount(group_numbers)
    mean = sums.sum() / counts.sum()
    if len(names) < FEWEST_GROUPS:
        return Interval(mean, np.nan, np.nan)
    times_drawn = _times_drawn(len(names))
    means = np.einsum("rg,g->r", times_drawn, sums) / np.einsum("rg,g->r", times_drawn, counts)
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(mean, low, high)


@lru_cache(maxsize=4)
def _times_drawn(num_groups: int) -> np.ndarray:
    """How many times each group is drawn in each resample: [RESAMPLES, num_groups]."""
    drawn = np.random.default_rng(0).integers(num_groups, size=(RESAMPLES, num_groups))
    return np.stack([np.bincount(of_resample, minlength=num_groups) for of_resample in drawn]).astype(float)
