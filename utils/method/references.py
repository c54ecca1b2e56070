"""What separation is worth: the same rule on other weights, p and q values, and intervals by resampling channels."""

import hashlib
import json

import numpy as np
import torch

from utils.method.disentangling import disentangled_rows, shares_of_owners, split_sources
from utils.method.least_squares import TOLERANCE, least_squares_shares

RESAMPLES, FEWEST_GROUPS = 5_000, 5


def permutation(size, *what):
    """A random permutation, LongTensor [size]: equal for equal ``what`` (plain values), whatever else is drawn."""
    seed = hashlib.sha256(json.dumps(what).encode()).digest()
    return torch.from_numpy(np.random.default_rng(list(seed)).permutation(size))


def shares_by_arv(weights, mean_inputs, rho):
    """The paper's rule (Ineq. 5) for B units at once, each by ARVs of its own: whose input is whose.

    Parameters
    ----------
    weights : Tensor [B, C_in, taps], float64
    mean_inputs : Tensor [K, C_in, taps], float64
        Mean tap sums of each concept; a background is the last one.
    rho : float

    Returns
    -------
    BoolTensor [K + 1, B, C_in], the residual last
    """
    owners = split_sources(torch.einsum("bit,kit->kbi", weights, mean_inputs), rho)
    return shares_of_owners(owners, len(mean_inputs))


def shares_by_least_squares(weights, groups, importance, targets=None):
    """Least squares for B units at once: [K + 1, B, C_in], the residual, which has nothing, last.

    Arguments are those of least_squares_shares. In float32 and to a tenfold tolerance: average precisions change by
    1e-4, to both sides alike.
    """
    targets = None if targets is None else targets.float()
    shares = least_squares_shares(weights.float(), groups, importance, targets, tolerance=10 * TOLERANCE)
    shares = shares.transpose(0, 1)
    return torch.cat([shares / shares.sum(0), torch.zeros_like(shares[:1])])


def rows_by_arv(weights, mean_inputs, rho):
    """``c'_1 .. c'_K`` of B units by the paper's rule, [K, B, C_in, taps]; arguments of shares_by_arv."""
    return disentangled_rows(weights, shares_by_arv(weights, mean_inputs, rho))[:-1]


def rows_by_least_squares(weights, groups, importance, targets=None):
    """``c'_1 .. c'_K`` of B units by least squares, [K, B, C_in, taps]; arguments of shares_by_least_squares."""
    return disentangled_rows(weights, shares_by_least_squares(weights, groups, importance, targets))[:-1]


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
