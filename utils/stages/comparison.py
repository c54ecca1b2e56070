"""Stage 4's comparison: methods that find a channel's concepts, side by side on the same channels and images.

Of a method's k units each labelled concept has the one that ranks its training images best above those of the channel's
other concepts; it is judged on validation images alone. All nulls are matched in the same way.
"""

from functools import cache

import numpy as np
import torch
from tqdm import tqdm

from utils.concept_sources.cases import Case, permuted_weights
from utils.errors import UserError
from utils.method.clustering import adjusted_rand_index
from utils.method.disentangling import Concept
from utils.method.matching import judge, match
from utils.stages.separation import measured_digest
from utils.store.files import json_digest

JUDGED = ("auroc_all", "ap_all", "auroc_others")


class Comparison:
    """Channels and their labelled concepts, one Case at a time, and all that finders of concepts need.

    Parameters
    ----------
    study : Study
        Its images that count are those that may be references, and decide what is matched.
    channels : list of (channel, concepts as lists of outputs)
    mean_inputs : Tensor [T, C_in, taps], float64
        Mean tap sums of classes.
    store : ImportanceStore
        Of validation images, complete.
    validation : ValidationInputs
        Of the same.
    rho : float
        Of divisions that have several.
    given : dict
        Settings of sources that somebody has given: ``number`` of concepts, and of ``references``.
    """

    def __init__(self, study, channels, mean_inputs, store, validation, *, rho, given):
        self.study, self.channels, self.mean_inputs = study, channels, mean_inputs
        self.store, self.validation, self.rho, self.given = store, validation, rho, given
        weight, self._bias = study.weight_and_bias
        self._weights = [permuted_weights(weight[channel], channel) for channel, _ in channels]
        self.finder = cache(self.finder)

    def finder(self, source):
        """What finds concepts, of a class of ConceptSource; made once."""
        return source.finder(self)

    def __len__(self):
        return len(self.channels)

    def __iter__(self):
        labels = self.study.labels
        for place, (channel, concepts) in enumerate(self.channels):
            images = self.images_of(concepts)
            targets = labels.targets[torch.searchsorted(labels.indices, images)]
            own = torch.stack([torch.isin(targets, torch.tensor(concept)) for concept in concepts])
            named = [Concept("", concept) for concept in concepts]
            bias = None if self._bias is None else self._bias[channel]
            training = self.study.tap_sums.of_images(images).flatten(1)
            yield Case(place, channel, named, self._weights[place], bias, images, training, own, self.validation)

    def all_weights(self):
        """Those of all units, place by place: [R, C_in, taps] float64."""
        return torch.cat(self._weights)

    def all_images(self):
        """The training images of all concepts of all channels, ascending."""
        return self.images_of([concept for _, concepts in self.channels for concept in concepts])

    def images_of(self, concepts):
        """The training images of concepts, ascending."""
        labels, usable = self.study.labels, self.study.usable
        targets = labels.targets[torch.searchsorted(labels.indices, usable)]
        return usable[torch.isin(targets, torch.tensor([output for one in concepts for output in one]))]


def require_comparable(channel, concepts, others):
    """Refuse a channel whose units could not be matched, or that is among ``others`` already."""
    if channel in others:
        raise UserError("it is there twice: give groups of its classes (stage 2's _groups.json), not pairs")
    if len(concepts) < 2:
        raise UserError("it has one concept alone, which nothing can be matched against")
    outputs = [output for one in concepts for output in one]
    if len(set(outputs)) < len(outputs):
        raise UserError("its concepts share a class")


def compare(comparison, methods, scores=None):
    """Measure methods on all cases: two lists of rows, as plain values.

    Parameters
    ----------
    comparison : Comparison
    methods : dict of name -> what makes Units of a Case
    scores : EmbeddingScores, optional

    Returns
    -------
    concepts : list of dict
        For each method, null, channel and concept the means over draws: JUDGED.
    channels : list of dict
        For each method, null and channel: ``k``, ``draws``, ``ari`` and the scores.
    problems : list of str
        Why a method could not be measured on a channel.
    """
    concepts, channels, problems, labels = [], [], [], comparison.study.labels
    for case in tqdm(comparison, "comparison", unit=" channels", total=len(comparison)):
        own = case.validation.images_of(case.classes)
        for name, method in methods.items():
            try:
                found = method.of(case)
            except UserError as error:
                problems.append(f"{name}, channel {case.channel}: {error}")
                continue
            rows = {}
            for null, draws in found.items():
                what = {"method": name, "null": null, "channel": case.channel}
                if draws:
                    concepts += [{**what, **row} for row in _judged(case, draws, own)]
                    rows[null] = {**what, **_of_channel(case, draws, labels)}
            channels += rows.values()
            if scores is not None:
                scores.collect(case, method, found, rows)
    if scores is not None:
        scores.finish()
    return concepts, channels, problems


def _judged(case, draws, own):
    """A row for each concept: means over draws."""
    judgements = [judge(units.validation[match(units.training, case.own)], own) for units in draws]
    columns = (
        [judgement.score.auroc for judgement in judgements],
        [judgement.score.ap for judgement in judgements],
        [judgement.auroc_others for judgement in judgements],
    )
    means = {name: torch.stack(values).nanmean(0).tolist() for name, values in zip(JUDGED, columns, strict=True)}
    return [{"concept": k + 1, **{name: means[name][k] for name in JUDGED}} for k in range(len(own))]


def _of_channel(case, draws, labels):
    """What there is one of for a channel."""
    agreements = [agreement(units.clusters, case.classes, labels) for units in draws]
    agreements = [one for one in agreements if not np.isnan(one)]
    mean = float(np.mean(agreements)) if agreements else np.nan
    numbers = {len(units.training) for units in draws}
    return {"k": max(numbers), "draws": len(draws), "ari": mean}


def agreement(clusters, concepts, labels):
    """Adjusted Rand index between clusters of references and groups of classes, among references that are in both.

    NaN without clusters, or where so few references are in a group that nothing can be said.
    """
    if clusters is None:
        return np.nan
    targets = labels.targets[torch.searchsorted(labels.indices, clusters.indices)]
    group = torch.full_like(targets, -1)
    for k, concept in enumerate(concepts):
        group[torch.isin(targets, torch.tensor(concept))] = k
    both = (group >= 0) & (clusters.labels >= 0)
    return adjusted_rand_index(group[both], clusters.labels[both]) if both.sum() > 1 else np.nan


def describe_comparison(name, run, asked, settings, methods, store, training):
    """All of a comparison that is known before anything is measured; what is there and equal need not be made again.

    Parameters
    ----------
    name : str
        Of its file.
    run : str
    asked : list of (channel, concepts as lists of outputs)
    settings : dict
        Plain values that the methods depend on.
    methods : dict of name -> plain values
        What is said of each.
    store, training : ImportanceStore
        Of validation and of training images.
    """
    return {
        **{"name": name, "run": run},
        **{key: store.meta[key] for key in ("layer", "weights_sha256", "transform", "precision", "decoding")},
        **{"validation_sha256": measured_digest(store), "training_sha256": json_digest(training.meta)},
        **{"asked": [[channel, concepts] for channel, concepts in asked], "settings": settings},
        "methods": methods,
    }
