"""How well the scores of channels rank the images of a concept above all others."""

import numpy as np
import torch


def rank_images(scores, own):
    """Area under the ROC curve and average precision of each row of scores, which are signed: higher is meant.

    The area is the probability that an own image is above another one, ties counting half. Average precision is
    ``sum_n (R_n - R_n-1) P_n``, with recall R_n and precision P_n at the n-th distinct score: the mean over own images
    of the share of own ones among all that are at least as high. A random ranking has 0.5, and about the prevalence.

    Parameters
    ----------
    scores : Tensor [B, N]
        Of N images by B channels.
    own : BoolTensor [N]
        Which of them are the concept's.

    Returns
    -------
    areas, precisions : Tensor [B], float64, in 0..1
        NaN where all scores are equal, or where there is no image of the concept, or no other one.
    """
    if not own.any() or own.all():
        return (torch.full((len(scores),), torch.nan, dtype=torch.float64),) * 2
    everything = torch.from_numpy(np.sort(scores.numpy(), axis=1))  # numpy's is 20 times as fast as torch's here
    positives = torch.from_numpy(np.sort(scores[:, own].numpy(), axis=1))
    at_least, own_at_least = (_numbers(among, positives, right=False) for among in (everything, positives))
    above, own_above = (_numbers(among, positives, right=True) for among in (everything, positives))
    others = (at_least - own_at_least + above - own_above) / 2
    areas = 1 - others.mean(1) / (~own).sum()
    precisions = (own_at_least / at_least).mean(1)
    ranks = everything[:, 0] < everything[:, -1]
    return areas.where(ranks, torch.nan), precisions.where(ranks, torch.nan)


def _numbers(ascending, thresholds, right):
    """How many of each row's values are at least (``right``: above) each of its thresholds, [B, P] float64."""
    return (ascending.shape[1] - torch.searchsorted(ascending, thresholds, right=right)).double()
