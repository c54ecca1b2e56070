"""Stage 4: how well the new channels separate their concepts from all other validation images, and against what.

All of it follows from the stores: spatial sums are products of rows of weights and tap sums of the layer's input. The
bias is left out, as it moves all images alike.
"""

import hashlib
from dataclasses import replace
from functools import cache, partial

import numpy as np
import torch
from tqdm import tqdm

from utils.concept_sources.source_registry import SOURCES
from utils.defaults import SEPARATION_DRAWS as DRAWS
from utils.divisions.nulls import NULLS
from utils.errors import UserError
from utils.method.importance import relevant_classes
from utils.method.ranking import rank_images
from utils.method.significance import p_value, permutation, q_values
from utils.stages.relevance import class_statistics
from utils.store.files import json_digest

MOST_SCORES = 2**24  # in memory at once


class ValidationInputs:
    """What a val store has of all its images, N of them: ``input_sums`` [N, C_in * taps] float32, ``targets`` [N].

    ``logits`` {class: Tensor [N]} are those of ``outputs``.
    """

    def __init__(self, store, outputs):
        num_images, num_inputs, num_taps = (store.meta[key] for key in ("num_images", "num_inputs", "num_taps"))
        self.input_sums, self.targets = torch.empty(num_images, num_inputs * num_taps), torch.empty(0).long()
        logits = []
        for chunk in tqdm(range(store.num_chunks), "reading validation images", unit=" chunks", delay=2):
            images = store.read_chunk(chunk, ["input_sums", "targets", "logits"])
            first = len(self.targets)
            self.targets = torch.cat([self.targets, images["targets"]])
            self.input_sums[first : len(self.targets)] = images["input_sums"].flatten(1)
            logits.append(images["logits"][:, outputs].float())
        self.input_sums = self.input_sums[: len(self.targets)]  # fewer where unreadable ones were left out
        self.logits = dict(zip(outputs, torch.cat(logits).T.contiguous(), strict=True))

    def images_of(self, concepts):
        """Which images are of each concept (lists of outputs): BoolTensor [K, N]."""
        return torch.stack([torch.isin(self.targets, torch.tensor(concept)) for concept in concepts])

    def scores(self, rows):
        """Spatial sums of channels without bias, [..., C_in, taps] -> [..., N] float32."""
        return rows.flatten(-2).float() @ self.input_sums.T


class TrainingUnits:
    """What other units of the layer there are, and how a split's inputs would be divided for them.

    Parameters
    ----------
    study : Study
        Whatever its background, and whichever of its images count: every split says so itself.
    """

    def __init__(self, study):
        self._study = study
        self._tap_sums, self._maker, self._relevant = map(cache, (self._tap_sums, self._maker, self._relevant))

    def rule(self, opened):
        """The Rule that has divided a split, at its rho, for any units."""
        split, background = opened.file.split, opened.file.background
        only_correct = bool(opened.file.settings["only_correct"])
        maker = self._maker(opened.file.source["name"], only_correct, background)
        candidate = maker.make(split.channel, split.classes)
        if not torch.allclose(candidate.arvs, split.arvs, rtol=1e-6):
            raise UserError(f"{opened.path} was made of other training images: run disentangle_channel.py again")
        means = [maker.mean_inputs[concept].mean(0) for concept in split.classes]
        means += [maker.mean_input] if split.has_background else []
        inputs = self._tap_sums(only_correct).of_concepts(candidate.own_concepts, background, torch.stack(means))
        return split.division.rule(split.division.settings(), inputs, opened.rho)

    def irrelevant(self, opened, tau, p, number):
        """Weights [B, C_in, taps] of channels that are relevant for no class of a split, and how many there are.

        ``number`` of them, drawn; all where there are no more, or where it is None.
        """
        split, only_correct = opened.file.split, bool(opened.file.settings["only_correct"])
        relevant = self._relevant(tau, p, only_correct)[opened.outputs].any(0)
        relevant[split.channel] = True
        found = torch.nonzero(~relevant).flatten()
        there = len(found)
        if number is not None:
            chosen = permutation(len(found), "irrelevant", split.channel, split.classes)[:number]
            found = found[chosen.sort().values]
        return self._study.weight_and_bias[0][found], there

    def _tap_sums(self, only_correct):
        return replace(self._study, only_correct=only_correct).tap_sums

    def _maker(self, source, only_correct, background):
        study = replace(self._study, only_correct=only_correct, background=background)
        return SOURCES.get(source).from_given({}, study).maker(study, [])

    def _relevant(self, tau, p, only_correct):
        _, images, (counts,) = class_statistics(self._study.training, self._study.class_store, [tau])
        return relevant_classes(counts[int(only_correct)], images[int(only_correct), 0], p)


def measured_digest(store):
    """SHA-256 of what a val store was made of: its settings, and the contents of all its images."""
    contents = hashlib.sha256(json_digest(store.meta).encode())
    for chunk in range(store.num_chunks):
        contents.update(store.read_chunk(chunk, ["content"])["content"].tobytes())
    return contents.hexdigest()


def describe_separation(name, run, opened, thresholds, store, training, number):
    """All of a separation that is known before anything is measured; what is there and equal need not be made again.

    Parameters
    ----------
    name : str
        Of its file.
    run : str
    opened : list of OpenedSplit
    thresholds : list of (tau, p)
        For which channels are relevant or not, one a split.
    store, training : ImportanceStore
        Of validation and of training images.
    number : int or None
        Of irrelevant channels to draw.
    """
    return {
        **{"name": name, "run": run},
        **{key: store.meta[key] for key in ("layer", "weights_sha256", "transform", "precision", "decoding")},
        **{"validation_sha256": measured_digest(store), "training_sha256": json_digest(training.meta)},
        **{"draws": DRAWS, "irrelevant": number},
        "splits": {
            one.path.stem: [one.file.sha256, one.rho, *of_one] for one, of_one in zip(opened, thresholds, strict=True)
        },
    }


def separate(opened, thresholds, validation, units, number=None):
    """Measure splits against all validation images: a row for each concept that has classes, as plain values.

    Parameters
    ----------
    opened : list of OpenedSplit
    thresholds : list of (tau, p)
        One a split.
    validation : ValidationInputs
    units : TrainingUnits
    number : int, optional
        Of irrelevant channels to draw; default: all. There are q values where all of every split's were used.

    Returns
    -------
    list of dict
        What ``separation.csv`` has of a concept, NaN where a value cannot be; the means over irrelevant channels and
        their number, of how many there are; ``auroc_draws`` and ``ap_draws`` (lists) of permuted weights, of which
        figures show a cloud, and ``ap_draws_real_target``.
    """
    rows = []
    for one, (tau, p) in zip(tqdm(opened, "separation", unit=" splits"), thresholds, strict=True):
        rows += _separate_one(one, validation, units, *units.irrelevant(one, tau, p, number))
    all_used = all(row["irrelevant"] == row["irrelevant_there"] for row in rows)
    q = q_values([row["p_irrelevant"] for row in rows]) if all_used else [np.nan] * len(rows)
    return [{**row, "q_irrelevant": float(value)} for row, value in zip(rows, q, strict=True)]


def _separate_one(opened, validation, units, irrelevant, there):
    split, rule = opened.file.split, units.rule(opened)
    own, division = validation.images_of(split.classes), split.division
    weight, shares = split.weight.double(), split.shares(opened.rho)

    def draws(what):
        """A permutation of the inputs for each draw, of what is permuted: weights, or whose inputs are."""
        orders = [permutation(len(weight), what, split.channel, split.classes, draw) for draw in range(DRAWS)]
        return torch.stack(orders)

    nothing = (torch.empty(len(own), 0, dtype=torch.float64),) * 2
    ranked = dict.fromkeys((f"_{null.column}" for null in NULLS), nothing)  # a null may mean nothing to the division
    for null in division.nulls:
        rows_of = partial(null.rows, rule, weight, shares)
        ranked[f"_{null.column}"] = rank_units(rows_of, draws(null.permuted), own, validation, weight.numel())
    ranked["_irrelevant"] = rank_units(rule.rows, irrelevant.double(), own, validation, weight.numel())
    parts = {"": split.rows(opened.rho)[:-1, None], "_original": weight.expand(len(own), 1, -1, -1)}
    ranked |= {name: rank_rows(rows, own, validation) for name, rows in parts.items()}
    others = {name: _against_others(rows, own, validation) for name, rows in parts.items()}
    return [
        {
            **{"split": opened.path.stem, "split_by": division.name, "rho": opened.rho},
            **{"channel": split.channel, "concept": k + 1, "classes": classes, "name": split.concepts[k].name},
            **{"images": int(own[k].sum()), "prevalence": own[k].double().mean().item()},
            **{f"auroc_all{name}": _mean(areas[k]) for name, (areas, _) in ranked.items()},
            **{f"ap_all{name}": _mean(precisions[k]) for name, (_, precisions) in ranked.items()},
            "ap_all_own_logit": _own_logit(classes, own[k], validation),
            **{f"auroc_others{name}": areas[k] for name, areas in others.items()},
            **{"irrelevant": len(irrelevant), "irrelevant_there": there},
            "p_irrelevant": p_value(ranked[""][1][k].item(), ranked["_irrelevant"][1][k]),
            "auroc_draws": ranked["_weights_permuted"][0][k].tolist(),
            "ap_draws": ranked["_weights_permuted"][1][k].tolist(),
            "ap_draws_real_target": ranked["_real_target"][1][k].tolist(),
        }
        for k, classes in enumerate(split.classes)
    ]


def rank_units(rows_of, units, own, validation, num_values):
    """``rank_rows`` of many units, in blocks that fit into memory.

    Parameters
    ----------
    rows_of : function of some of ``units`` that returns their ``c'_1 .. c'_K``, [K, B, C_in, taps]
    units : Tensor [B, ...]
        Weights, or permutations of them.
    own : BoolTensor [K, N]
    validation : ValidationInputs
    num_values : int
        Of the weight of a unit.
    """
    size = max(1, MOST_SCORES // (len(own) * max(len(validation.targets), num_values)))
    blocks = [rank_rows(rows_of(block), own, validation) for block in units.split(size) if len(block)]
    nothing = torch.empty(len(own), 0, dtype=torch.float64)
    return tuple(torch.cat([nothing, *values], dim=1) for values in (zip(*blocks, strict=True) if blocks else ((), ())))


def rank_rows(rows, own, validation):
    """Areas and average precisions [K, B] of the channels [K or more, B, C_in, taps] of K concepts, ``own`` [K, N]."""
    ranked = [rank_images(validation.scores(rows[k]), own[k]) for k in range(len(own))]
    return tuple(map(torch.stack, zip(*ranked, strict=True)))


def _against_others(rows, own, validation):
    """Areas [K] against the images of the other concepts of the channel alone."""
    shown = own.any(0)
    return [rank_images(validation.scores(rows[k])[:, shown], own[k, shown])[0].item() for k in range(len(own))]


def _own_logit(classes, own, validation):
    """Average precision of the network's own logit, the largest one of a concept's classes."""
    largest = torch.stack([validation.logits[output] for output in classes]).amax(0)
    return rank_images(largest[None], own)[1].item()


def _mean(values):
    return values.nanmean().item()
