"""What a result is compared with: seeded permutations, p and q values, and intervals by resampling channels."""

import hashlib
import json

import numpy as np
import torch

RESAMPLES, FEWEST_GROUPS = 5_000, 5


def permutation(size, *what):
    """A random permutation, LongTensor [size]: equal for equal ``what`` (plain values), whatever else is drawn."""
    seed = hashlib.sha256(json.dumps(what).encode()).digest()
    return torch.from_numpy(np.random.default_rng(list(seed)).permutation(size))


def p_value(value, references):
    """How rare a value is among references: ``(1 + number at least as high) / (1 + number)``, without resampling.

    References [n] that are NaN do not count. NaN where the value is, or where there is no reference.
    """
    references = np.asarray(references)
    references = references[~np.isnan(references)]
    if np.isnan(value) or not len(references):
        return np.nan
    return (1 + int((references >= value).sum())) / (1 + len(references))


def q_values(p_values):
    """Benjamini and Hochberg's: the lowest false discovery rate at which each of these would be a discovery.

    ``q_(i) = min over j >= i of p_(j) n / j``, the p values ascending; NaN where p is, which do not count in n.
    """
    p_values = np.asarray(p_values, dtype=float)
    q_values = np.full(len(p_values), np.nan)
    known = np.flatnonzero(~np.isnan(p_values))
    order = known[np.argsort(p_values[known], kind="stable")]
    raised = p_values[order] * len(order) / np.arange(1, len(order) + 1)
    q_values[order] = np.minimum.accumulate(raised[::-1])[::-1]
    return q_values


def mean_with_interval(values, groups):
    """The mean of values, and its 95 % interval where groups are resampled with all that is in them (bootstrap).

    Parameters
    ----------
    values : array [n]
        NaN does not count.
    groups : array [n]
        The channels that the values, one a concept, are of.

    Returns
    -------
    mean, low, high : float
        NaN without values; the interval is NaN with so few groups that resampling says little.
    """
    values, groups = np.asarray(values, dtype=float), np.asarray(groups)
    known = ~np.isnan(values)
    if not known.any():
        return (np.nan,) * 3
    names, places = np.unique(groups[known], return_inverse=True)
    sums, numbers = np.bincount(places, values[known]), np.bincount(places)
    mean = sums.sum() / numbers.sum()
    if len(names) < FEWEST_GROUPS:
        return mean, np.nan, np.nan
    drawn = np.random.default_rng(0).integers(len(names), size=(RESAMPLES, len(names)))
    return mean, *np.quantile(sums[drawn].sum(1) / numbers[drawn].sum(1), (0.025, 0.975))
