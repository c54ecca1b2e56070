"""Stage 3: choosing rho on the concepts' images, and showing that a split changes nothing."""

from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import torch

from utils.errors import UserError
from utils.images.batches import batches_of
from utils.method.disentangling import Split
from utils.method.equality import EqualityCheck
from utils.method.polysemanticity import averaged_relevance_vectors
from utils.method.rho import RhoSearch
from utils.networks.arithmetic import network_arithmetic
from utils.networks.copying import copy_module
from utils.networks.recording import Recorder
from utils.networks.splitting import DisentangledLayer, in_place_of

PROOF_IMAGES, PROOF_BATCH = 32, 8


@dataclass
class Candidate:
    """A channel to split: its ``concepts`` as lists of outputs, their ``arvs`` [K, C_in]."""

    channel: int
    concepts: list
    arvs: torch.Tensor

    def concept_of(self, output):
        """Which concept (from 0) a class is in, or None."""
        return next((k for k, concept in enumerate(self.concepts) if output in concept), None)


def concept_arvs(class_store, weight, concepts, classes, only_correct):
    """ARV of each concept, the mean of its classes': Tensor [K, C_in]."""
    means = class_store.read_means()
    if means is None:
        raise UserError(f"there is no {class_store.means_path()} for this store: run get_cosine_similarities.py first")
    mean_inputs, num_images = (values[int(only_correct)] for values in means)
    for output in (output for concept in concepts for output in concept):
        if num_images[output] == 0:
            which = "correctly classified image" if only_correct else "readable image"
            raise UserError(f"class {output} ({classes.name(output)}) has no {which} in train/")
    return torch.stack([averaged_relevance_vectors(weight, mean_inputs[concept]).mean(0) for concept in concepts])


def images_by_class(store, candidates, only_correct):
    """Training images of each class that a candidate uses, as used in stage 1: {output: LongTensor of indices}."""
    indices, targets, predictions = store.read_labels()
    usable = targets == predictions if only_correct else torch.ones_like(targets, dtype=torch.bool)
    outputs = {output for candidate in candidates for concept in candidate.concepts for output in concept}
    return {output: indices[usable & (targets == output)] for output in sorted(outputs)}


def search_rho(network, layer, candidates, members, load, *, batch_size, precision):
    """One pass over the images of all classes: every rho's objectives, as a RhoSearch for each candidate.

    A batch is of one class, so that it is the same however many candidates there are.

    Parameters
    ----------
    network : nn.Module
        Frozen, on its device.
    layer : Layer
    candidates : list of Candidate
    members : dict
        Of ``images_by_class``.
    load : function of (batches, description) that returns ImageBatches
    batch_size : int
    precision : str
    """
    weight, bias = layer.weight.cpu(), None if layer.bias is None else layer.bias.cpu()
    searches = [
        RhoSearch(weight[one.channel], None if bias is None else bias[one.channel], one.arvs) for one in candidates
    ]
    maps = [layer.maps(search.rows, search.biases) for search in searches]
    plan = [(output, batch) for output in members for batch in batches_of(members[output], batch_size)]
    loader = load([batch for _, batch in plan], "choosing rho")
    with Recorder(network, layer) as recorder, torch.no_grad():
        for (output, _), (indices, pixels) in zip(plan, loader, strict=True):
            if len(indices):
                with network_arithmetic(precision, pixels.device):
                    record = recorder.forward(pixels)
                for candidate, search, apply in zip(candidates, searches, maps, strict=True):
                    concept = candidate.concept_of(output)
                    if concept is not None:
                        search.add(apply(record.input), torch.full((len(indices),), concept))
    for candidate, search in zip(candidates, searches, strict=True):
        if search.objectives().isfinite().all():
            continue
        what = "is NaN or infinite" if search.has_images() else "has no readable training image of a concept"
        raise UserError(f"rho cannot be chosen: channel {candidate.channel} {what} (classes {candidate.concepts})")
    return searches


def split_by(search, candidate, layer, objective):
    """The Split of a candidate, with the rho of a RhoSearch that one of the objectives chooses."""
    bias = None if layer.bias is None else layer.bias[candidate.channel].cpu().clone()
    return Split(
        channel=candidate.channel,
        concepts=candidate.concepts,
        weight=layer.weight[candidate.channel].cpu().clone(),
        bias=bias,
        arvs=candidate.arvs,
        owners=search.owners.to(torch.uint8),
        objectives=search.objectives(),
        objective=objective,
        rho=search.best(objective),
    )


def check_equality(network, layer, splits, members, load, *, batch_size):
    """Compare split networks with the original on real images of all concepts: an EqualityCheck each.

    In fp32, and on every fourth image in fp64 if the network runs in it: however deep a network is, and however much it
    enlarges roundings, there it shows whether a split is correct. Batches are small, for fp64 takes twice the memory.
    """
    picked = [_proof_images(split, members) for split in splits]
    checks, comparisons = [EqualityCheck() for _ in splits], None
    batches = batches_of(torch.cat(picked).unique(), min(batch_size, PROOF_BATCH))
    for indices, pixels in load(batches, "images to check"):
        if len(indices):
            comparisons = comparisons or _comparisons(network, layer, splits, picked, pixels)
            for comparison in comparisons:
                comparison.add_to(checks, indices, pixels)
    return checks


class _Comparison:
    """A network and some splits of it in one precision; each split has its own images, given as indices."""

    def __init__(self, network, layer, splits, picked, precision):
        self.network, self.layer, self.splits, self.picked, self.precision = network, layer, splits, picked, precision
        self.wrapped = [DisentangledLayer(layer, [split]) for split in splits]

    def add_to(self, checks, indices, pixels):
        """Compare on those images of a batch that were picked."""
        wanted = torch.isin(indices, torch.cat(self.picked))
        if not wanted.any():
            return
        indices, pixels = indices[wanted], pixels[wanted.to(pixels.device)].to(self.layer.weight.dtype)
        with Recorder(self.network, self.layer) as recorder:
            original = recorder.forward(pixels)
        for split, wrapped, own, check in zip(self.splits, self.wrapped, self.picked, checks, strict=True):
            rows = torch.isin(indices, own).to(pixels.device)
            if rows.any():
                recorder = Recorder(self.network, replace(self.layer, module=wrapped))
                with in_place_of(self.network, self.layer, wrapped), recorder:
                    merged = recorder.forward(pixels[rows])
                maps = original.activation[rows, split.channel], merged.activation[:, split.channel]
                check.add(*maps, original.logits[rows], merged.logits, self.precision)


def _comparisons(network, layer, splits, picked, pixels):
    """The comparison in fp32, and the one in fp64 if the network can be copied and runs in it."""
    comparisons = [_Comparison(network, layer, splits, picked, "fp32")]
    with suppress(Exception):  # whatever somebody else's network raises
        double = copy_module(network).double()
        with torch.no_grad():
            double(pixels.double())
        own_layer, fewer = replace(layer, module=double.get_submodule(layer.name)), [own[::4] for own in picked]
        comparisons.append(_Comparison(double, own_layer, splits, fewer, "fp64"))
    return comparisons


def _proof_images(split, members):
    """Indices of the images on which a split is checked, of all its concepts equally many."""
    of_concepts = [torch.cat([members[output] for output in concept]) for concept in split.concepts]
    each = -(-PROOF_IMAGES // len(of_concepts))
    places = [np.unique(np.linspace(0, len(indices) - 1, each).astype(int)) for indices in of_concepts]
    return torch.cat([indices[at] for indices, at in zip(of_concepts, places, strict=True)])
