"""Stage 2: what tau, p and gamma change, from one pass over the chunks."""

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from tqdm import tqdm

from utils.divisions.division_registry import DIVISIONS, USUAL
from utils.method.grouping import concept_means
from utils.method.polysemanticity import gamma_polysemantic
from utils.method.significance import permutation
from utils.stages.gamma_diagnostics import clean_split
from utils.stages.relevance import class_statistics, find_classes
from utils.stages.separation import rank_rows

MOST_CHANNELS = 60  # that clean splits and separation are measured on, for each combination


def sensitivity(store, class_store, taus, ps, gammas, counted, validation=None):
    """What each combination of thresholds finds in a layer, and how good what it finds is.

    Parameters
    ----------
    store : ImportanceStore
        Complete.
    class_store : ClassStore
    taus, ps, gammas : list of float
    counted : dict
        only_correct, min_images and only_above_mean of ``find_classes``.
    validation : ValidationInputs, optional
        For separation.

    Returns
    -------
    list of dict
        For each combination ``tau``, ``p`` and ``gamma``; ``several``: channels that are relevant for several classes;
        ``polysemantic``: those of them with a pair under gamma, ``pairs``: all such pairs; ``split``: channels of two
        or more groups, and their ``concepts``; of a seeded sample of these channels, divided into their groups by the
        rule at rho = 1: ``clean``, the share of concepts that are clean on held-out halves of the training images;
        ``ap`` and ``ap_permuted``, average precision against all other validation images, and of a unit of permuted
        weights. NaN for what cannot be measured.
    """
    class_statistics(store, class_store, taus)
    rows = []
    for tau, p, gamma in tqdm(list(product(taus, ps, gammas)), "thresholds", unit=" combinations"):
        found = find_classes(store, class_store, gamma, tau=tau, p=p, **counted)
        under = found.pairs[gamma_polysemantic(found.pairs.cosine, gamma)]
        split = [one for one in found.groups.values() if len(one.concepts) > 1]
        sample = np.sort(np.random.default_rng(0).permutation(len(split))[:MOST_CHANNELS])
        chosen = [split[place] for place in sample]
        clean = [clean_split(found, one.channel, one.concepts) for one in chosen]
        clean = [one for one in clean if one is not None]
        ap, permuted = _precisions(found, chosen, validation) if validation else (np.nan, np.nan)
        rows.append(
            {
                **{"tau": tau, "p": p, "gamma": gamma, "several": int((found.relevant.sum(0) > 1).sum())},
                **{"polysemantic": len(under.channel.unique()), "pairs": len(under), "split": len(split)},
                "concepts": sum(len(one.concepts) for one in split),
                "clean": float(np.concatenate(clean).mean()) if clean else np.nan,
                **{"ap": ap, "ap_permuted": permuted},
            }
        )
    return rows


@dataclass
class ConceptMeans:
    """ConceptInputs of which the mean tap sums alone are known, [K, C_in, taps] float64."""

    mean_inputs: torch.Tensor

    def means(self):
        return self.mean_inputs


def _precisions(found, chosen, validation):
    """Mean average precision over the concepts of channels, and over those of the same with permuted weights."""
    values = []
    for one in chosen:
        own = validation.images_of(one.concepts)
        weight = found.weight[one.channel].double()
        units = torch.stack([weight, weight[permutation(len(weight), "sensitivity", one.channel, one.concepts)]])
        inputs = ConceptMeans(concept_means(found.mean_inputs[0], one.concepts))
        division = DIVISIONS.get(USUAL)
        rows = division.rule(division.settings_from({}), inputs, rho=1.0).rows(units)
        values.append(rank_rows(rows, own, validation)[1])
    return torch.cat(values).nanmean(0).tolist() if values else (np.nan, np.nan)
