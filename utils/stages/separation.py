"""Stage 4: how well the new channels separate their concepts from all other validation images, and against what.

All of it follows from the stores: spatial sums are products of rows of weights and tap sums of the layer's input. The
bias is left out, as it moves all images alike.
"""

import hashlib
from functools import cache, partial

import numpy as np
import torch
from tqdm import tqdm

from utils.errors import UserError
from utils.method.disentangling import disentangled_rows
from utils.method.importance import relevant_classes
from utils.method.ranking import rank_images
from utils.method.references import p_value, permutation, q_values, rows_by_arv, rows_by_least_squares
from utils.stages.disentangling import CandidateMaker
from utils.stages.least_squares import ByLeastSquares, StoredInputs
from utils.stages.relevance import class_statistics
from utils.store.files import json_digest

DRAWS = 20  # of permuted owners, and of permuted weights
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


class TrainingReferences:
    """What other units of the layer there are, and how a split's rule would divide them.

    Parameters
    ----------
    store : ImportanceStore
        Of training images, complete.
    class_store : ClassStore
    classes : ClassMap
    """

    def __init__(self, store, class_store, classes):
        self.store, self.class_store, self.classes = store, class_store, classes
        self._maker, self._relevant, self._inputs = map(cache, (self._maker, self._relevant, self._inputs))

    def rule(self, opened):
        """The rule that has made a split at its rho, for any weights: [B, C_in, taps] -> rows [K, B, C_in, taps]."""
        split, background = opened.file.split, opened.file.background
        only_correct = bool(opened.file.settings["only_correct"])
        maker = self._maker(only_correct, background)
        candidate = maker.make(split.channel, split.classes)
        if not torch.allclose(candidate.arvs, split.arvs, rtol=1e-6):
            raise UserError(f"{opened.path} was made of other training images: run disentangle_channel.py again")
        if split.split_by == "least_squares":
            groups, importance = ByLeastSquares(self._inputs(only_correct), background).groups(candidate)
            return partial(rows_by_least_squares, groups=groups, importance=importance)
        means = [maker.mean_inputs[concept].mean(0) for concept in split.classes]
        means += [maker.mean_input] if split.has_background else []
        return partial(rows_by_arv, mean_inputs=torch.stack(means), rho=opened.rho)

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
        return self._maker(only_correct, opened.file.background).weight[found], there

    def _maker(self, only_correct, background):
        return CandidateMaker(self.store, self.class_store, self.classes, only_correct, background)

    def _inputs(self, only_correct):
        return StoredInputs(self.store, self.store.read_labels(), only_correct)

    def _relevant(self, tau, p, only_correct):
        _, images, (counts,) = class_statistics(self.store, self.class_store, [tau])
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


def separate(opened, thresholds, validation, references, number=None):
    """Measure splits against all validation images: a row for each concept that has classes, as plain values.

    Parameters
    ----------
    opened : list of OpenedSplit
    thresholds : list of (tau, p)
        One a split.
    validation : ValidationInputs
    references : TrainingReferences
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
        rows += _separate_one(one, validation, references, *references.irrelevant(one, tau, p, number))
    all_used = all(row["irrelevant"] == row["irrelevant_there"] for row in rows)
    q = q_values([row["p_irrelevant"] for row in rows]) if all_used else [np.nan] * len(rows)
    return [{**row, "q_irrelevant": float(value)} for row, value in zip(rows, q, strict=True)]


def _separate_one(opened, validation, references, irrelevant, there):
    split, rule = opened.file.split, references.rule(opened)
    own = validation.images_of(split.classes)
    weight, shares, num_inputs = split.weight.double(), split.shares(opened.rho), len(split.weight)

    def draws(what):
        return [permutation(num_inputs, what, split.channel, split.classes, draw) for draw in range(DRAWS)]

    permuted = weight[torch.stack(draws("weights"))]
    owners = [disentangled_rows(weight, shares[:, order])[:-1] for order in draws("owners")]
    parts = {"": split.rows(opened.rho)[:-1, None], "_original": weight.expand(len(own), 1, -1, -1)}
    units = {
        "_weights_permuted": rank_units(rule, permuted, own, validation),
        "_owners_permuted": rank_rows(torch.stack(owners, 1), own, validation),
        "_irrelevant": rank_units(rule, irrelevant.double(), own, validation),
    }
    if split.split_by == "least_squares":
        target = weight.expand_as(permuted)
        units["_real_target"] = rank_rows(rule(permuted, targets=target), own, validation)
    else:  # Ineq. 5 has no target
        units["_real_target"] = (torch.empty(len(own), 0, dtype=torch.float64),) * 2
    units |= {name: rank_rows(rows, own, validation) for name, rows in parts.items()}
    others = {name: _against_others(rows, own, validation) for name, rows in parts.items()}
    return [
        {
            **{"split": opened.path.stem, "split_by": split.split_by, "rho": opened.rho},
            **{"channel": split.channel, "concept": k + 1, "classes": classes, "name": split.concepts[k].name},
            **{"images": int(own[k].sum()), "prevalence": own[k].double().mean().item()},
            **{f"auroc_all{name}": _mean(areas[k]) for name, (areas, _) in units.items()},
            **{f"ap_all{name}": _mean(precisions[k]) for name, (_, precisions) in units.items()},
            "ap_all_own_logit": _own_logit(classes, own[k], validation),
            **{f"auroc_others{name}": areas[k] for name, areas in others.items()},
            **{"irrelevant": len(irrelevant), "irrelevant_there": there},
            "p_irrelevant": p_value(units[""][1][k].item(), units["_irrelevant"][1][k]),
            "auroc_draws": units["_weights_permuted"][0][k].tolist(),
            "ap_draws": units["_weights_permuted"][1][k].tolist(),
            "ap_draws_real_target": units["_real_target"][1][k].tolist(),
        }
        for k, classes in enumerate(split.classes)
    ]


def rank_units(rule, weights, own, validation):
    """``rank_rows`` of what a rule makes of many units, [B, C_in, taps], in blocks that fit into memory."""
    num_images, num_values = len(validation.targets), weights[:1].numel()
    size = max(1, MOST_SCORES // (len(own) * max(num_images, num_values)))
    blocks = [rank_rows(rule(block), own, validation) for block in weights.split(size) if len(block)]
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
