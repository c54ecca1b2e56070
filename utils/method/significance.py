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
ENOUGH_REACHED = 3  # nulls that reach a value end a sequential test


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


class SequentialTest(NamedTuple):
    """The test of a value against nulls that are drawn one after another.

    ``p`` is its p value, NaN where it cannot be known, ``reached`` how many of the first ``draws`` nulls are at least
    as high as the value: ENOUGH_REACHED where the test has stopped.
    """

    p: float
    reached: int
    draws: int

    @property
    def has_stopped(self) -> bool:
        """Whether further nulls change nothing."""
        return self.reached == ENOUGH_REACHED


def sequential_test(value: float, nulls: ArrayLike) -> SequentialTest:
    """The sequential Monte Carlo test of Besag and Clifford (Biometrika 78, 1991, p. 301-304), with h = ENOUGH_REACHED.

    Nulls are drawn until h of them are at least as high as the value, or until there are ``n`` of them:

        p = h / l               where the h-th is the l-th draw, l <= n
        p = (g + 1) / (n + 1)   where only g < h of the n draws are

    If the value and its nulls are exchangeable, P(p <= a) <= a for every a: ``p <= h / l`` says that fewer than h of
    l - 1 nulls reach the value, thus that its rank among these l is at most h. What is drawn after the h-th changes
    nothing, so that nulls may be drawn in blocks.

    Parameters
    ----------
    value : float
        NaN if it could not be measured: so is p.
    nulls : array [n]
        In the order in which they were drawn. Those that are NaN do not count.
    """
    measured = np.asarray(nulls, dtype=float)
    measured = measured[~np.isnan(measured)]
    if np.isnan(value) or not len(measured):
        return SequentialTest(np.nan, 0, 0)
    reaching = np.flatnonzero(measured >= value)
    if len(reaching) < ENOUGH_REACHED:
        return SequentialTest((len(reaching) + 1) / (len(measured) + 1), len(reaching), len(measured))
    draws = int(reaching[ENOUGH_REACHED - 1]) + 1
    return SequentialTest(ENOUGH_REACHED / draws, ENOUGH_REACHED, draws)


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
    return ratio_with_interval(values_array, np.where(np.isnan(values_array), np.nan, 1.0), groups)


def ratio_with_interval(numerators: ArrayLike, denominators: ArrayLike, groups: ArrayLike) -> Interval:
    """The ratio of two sums, and its 95 % interval where groups are resampled with all their values (bootstrap).

    Parameters
    ----------
    numerators, denominators : array [n]
        Where either is NaN, neither counts.
    groups : array [n]
        The channels of the values, which are one for each concept.

    Returns
    -------
    Interval
        NaN without values, or if all denominators are 0; ``low`` and ``high`` are NaN with too few groups for
        resampling.
    """
    tops, bottoms = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    measured = ~(np.isnan(tops) | np.isnan(bottoms))
    if not bottoms[measured].any():
        return Interval(np.nan, np.nan, np.nan)
    names, group_numbers = np.unique(np.asarray(groups)[measured], return_inverse=True)
    top_sums = np.bincount(group_numbers, tops[measured])
    bottom_sums = np.bincount(group_numbers, bottoms[measured])
    ratio = top_sums.sum() / bottom_sums.sum()
    if len(names) < FEWEST_GROUPS:
        return Interval(ratio, np.nan, np.nan)
    times_drawn = _times_drawn(len(names))
    drawn_tops = np.einsum("rg,g->r", times_drawn, top_sums)
    drawn_bottoms = np.einsum("rg,g->r", times_drawn, bottom_sums)
    is_known = drawn_bottoms != 0  # not a resample whose denominators are all 0
    low, high = np.quantile(drawn_tops[is_known] / drawn_bottoms[is_known], (0.025, 0.975))
    return Interval(ratio, low, high)


@lru_cache(maxsize=4)
def _times_drawn(num_groups: int) -> np.ndarray:
    """How many times each group is drawn in each resample: [RESAMPLES, num_groups]."""
    drawn = np.random.default_rng(0).integers(num_groups, size=(RESAMPLES, num_groups))
    return np.stack([np.bincount(of_resample, minlength=num_groups) for of_resample in drawn]).astype(float)
