"""Which of a method's units is a labelled concept's, decided on some images, and how good it is, on others."""

import torch

from utils.method.ranking import rank_images


def match(scores, own):
    """For each concept the unit that ranks its images best above those of the other concepts (area under the ROC
    curve); of equally good ones the first. One unit may serve several concepts.

    Parameters
    ----------
    scores : Tensor [k, n]
        Of k units, in images of the concepts alone.
    own : BoolTensor [K, n]
        Which images are of which concept.

    Returns
    -------
    LongTensor [K]
    """
    return torch.stack([rank_images(scores, of_concept)[0].nan_to_num(0.5).argmax() for of_concept in own])


def judge(scores, own):
    """How well units that were matched with K concepts rank these, in images that did not decide on it.

    A unit that is the same for all images is as good as chance. NaN without images of a concept, or without others.

    Parameters
    ----------
    scores : Tensor [K, N]
        Of the unit of each concept, in all images.
    own : BoolTensor [K, N]
        Which images are of which concept.

    Returns
    -------
    dict of str -> Tensor [K], float64
        ``auroc_all`` and ``ap_all`` against all other images, ``auroc_others`` against those of the other concepts.
    """
    shown = own.any(0)
    found = [
        (*_ranked(one[None], of_concept), _ranked(one[None, shown], of_concept[shown])[0])
        for one, of_concept in zip(scores, own, strict=True)
    ]
    return dict(zip(("auroc_all", "ap_all", "auroc_others"), map(torch.stack, zip(*found, strict=True)), strict=True))


def _ranked(scores, own):
    """Area and average precision of one unit [1, N]; those of chance where it ranks nothing."""
    (area,), (precision,) = rank_images(scores, own)
    if 0 < own.sum() < len(own) and scores.min() == scores.max():
        return torch.tensor(0.5).double(), own.double().mean()
    return area, precision
