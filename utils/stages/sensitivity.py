"""Stage 2: how the results depend on tau, p and gamma, from one pass over the chunks."""

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.divisions.division_registry import DIVISIONS, USUAL
from utils.method.grouping import ChannelGroups, concept_means
from utils.method.polysemanticity import gamma_polysemantic
from utils.method.significance import permutation
from utils.processes import progress
from utils.stages.gamma_diagnostics import clean_split
from utils.stages.relevance import LayerClasses, class_statistics, find_classes
from utils.stages.separation import ValidationInputs, rank_rows
from utils.store.class_statistics import ClassStore
from utils.store.importance_store import ImportanceStore
from utils.store.unfinished import Unfinished

MOST_CHANNELS = 60  # on which clean splits and separation are measured, for each combination


def sensitivity(
    store: ImportanceStore,
    class_store: ClassStore,
    *,
    taus: list[float],
    ps: list[float],
    gammas: list[float],
    counted: dict[str, Any],
    unfinished: Unfinished,
    validation: ValidationInputs | None = None,
) -> list[dict[str, Any]]:
    """The results of each combination of thresholds in a layer, and their quality.

    Parameters
    ----------
    store
        A complete store.
    class_store
    taus, ps, gammas
    counted
        only_correct, min_images and only_above_mean of ``find_classes``.
    unfinished
        Keeps each combination.
    validation
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
    rows = {combination: unfinished.find(combination) for combination in product(taus, ps, gammas)}
    missing = [combination for combination, row in rows.items() if row is None]
    done = len(rows) - len(missing)
    bar = progress(missing, "thresholds", unit=" combinations", total=len(rows), initial=done)
    for tau, p, gamma in bar:
        layer_classes = find_classes(store, class_store, gamma, tau=tau, p=p, **counted)
        row = {"tau": tau, "p": p, "gamma": gamma, **_measured(layer_classes, gamma, validation)}
        unfinished.keep((tau, p, gamma), row)
        rows[tau, p, gamma] = row
    return [row for row in rows.values() if row is not None]


def _measured(layer_classes: LayerClasses, gamma: float, validation: ValidationInputs | None) -> dict[str, Any]:
    """The measured values of a combination of thresholds."""
    under_gamma = layer_classes.pairs[gamma_polysemantic(layer_classes.pairs.cosine, gamma)]
    split = [groups for groups in layer_classes.groups.values() if len(groups.concepts) > 1]
    sample = np.sort(np.random.default_rng(0).permutation(len(split))[:MOST_CHANNELS])
    sampled = [split[number] for number in sample]
    of_channels = [clean_split(layer_classes, groups.channel, groups.concepts) for groups in sampled]
    clean = [of_channel for of_channel in of_channels if of_channel is not None]
    ap, ap_permuted = _precisions(layer_classes, sampled, validation)
    return {
        "several": int((layer_classes.relevant.sum(0) > 1).sum()),
        "polysemantic": len(under_gamma.channel.unique()),
        "pairs": len(under_gamma),
        "split": len(split),
        "concepts": sum(len(groups.concepts) for groups in split),
        "clean": float(np.concatenate(clean).mean()) if clean else np.nan,
        "ap": ap,
        "ap_permuted": ap_permuted,
    }


@dataclass
class ConceptMeans:
    """ConceptInputs of which only the mean tap sums are known, [K, C_in, taps] float64."""

    mean_inputs: Tensor

    def means(self) -> Tensor:
        return self.mean_inputs


def _precisions(
    layer_classes: LayerClasses, sampled: list[ChannelGroups], validation: ValidationInputs | None
) -> tuple[float, float]:
    """Mean average precision over the concepts of channels, and over those of the same with permuted weights."""
    if validation is None or not sampled:
        return np.nan, np.nan
    division = DIVISIONS.get(USUAL)
    precisions = []
    for groups in sampled:
        weight = layer_classes.weight[groups.channel].double()
        order = permutation(len(weight), "sensitivity", groups.channel, groups.concepts)
        inputs = ConceptMeans(concept_means(layer_classes.mean_inputs[0], groups.concepts))
        rule = division.rule(division.settings_from({}), inputs, rho=1.0)
        rows = rule.rows(torch.stack([weight, weight[order]]))
        precisions.append(rank_rows(rows, validation.images_of(groups.concepts), validation).ap)
    ap, ap_permuted = torch.cat(precisions).nanmean(0).tolist()
    return ap, ap_permuted
