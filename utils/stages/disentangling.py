"""Stage 3: one pass over the concepts' images, class by class, chooses rho; each split is shown to change nothing."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from utils.errors import UserError
from utils.images.batches import batches_of
from utils.method.disentangling import Concept, Split
from utils.method.polysemanticity import averaged_relevance_vectors
from utils.method.rho import RhoSearch
from utils.networks.arithmetic import network_arithmetic
from utils.networks.recording import Recorder
from utils.store.names import split_suffix
from utils.store.splits import SETTINGS, SPLIT_CONTEXT, SplitFile, find_splits, read_split, split_path, write_split

PROOF_IMAGES = 4  # of each class
SOURCE = {"from": "classes"}  # where the concepts come from


@dataclass
class Candidate:
    """A channel to split: its ``weight`` [C_in, taps] and ``bias`` ([] or None), its ``concepts``, their ``arvs``
    [K, C_in], and ``mean_arv`` [C_in], that of all training images."""

    channel: int
    weight: torch.Tensor
    bias: torch.Tensor | None
    concepts: list
    arvs: torch.Tensor
    mean_arv: torch.Tensor

    @cached_property
    def outputs(self):
        """All classes of all concepts, sorted."""
        return sorted(output for concept in self.concepts for output in concept.classes)

    def concept_of(self, output):
        """Which concept (from 0) a class is in, or None."""
        return next((k for k, concept in enumerate(self.concepts) if output in concept.classes), None)


class CandidateMaker:
    """Makes Candidates of a layer from stage 2's class means; a concept's ARV is the mean of its classes'."""

    def __init__(self, store, class_store, classes, only_correct):
        self.weight, self.bias = store.read_layer()
        self.classes, self.only_correct = classes, only_correct
        mean_inputs, images = class_store.require_means()
        self.mean_inputs, self.images = mean_inputs[int(only_correct), 0], images[int(only_correct), 0]
        everything, numbers = mean_inputs[0, 0], images[0, 0].double()
        present = numbers > 0
        self.mean_input = torch.einsum("t,tip->ip", numbers[present] / numbers.sum(), everything[present])

    def make(self, channel, concepts):
        """The Candidate of a channel and its concepts (lists of outputs); UserError where a class has no image."""
        for output in (output for concept in concepts for output in concept):
            if self.images[output] == 0:
                which = "correctly classified image" if self.only_correct else "readable image"
                raise UserError(f"class {output} ({self.classes.name(output)}) has no {which} in train/")
        weight, bias = self.weight[channel].clone(), None if self.bias is None else self.bias[channel].clone()
        arvs = [averaged_relevance_vectors(weight, self.mean_inputs[concept]).mean(0) for concept in concepts]
        mean_arv = averaged_relevance_vectors(weight, self.mean_input[None])[0]
        named = [Concept(self.classes.concept_name(concept), concept) for concept in concepts]
        return Candidate(channel, weight, bias, named, torch.stack(arvs), mean_arv)


def images_by_class(labels, outputs, only_correct):
    """Training images of each class, as used in stage 1: {output: LongTensor of indices}, classes ascending."""
    usable = labels.targets == labels.predictions if only_correct else torch.ones_like(labels.targets, dtype=torch.bool)
    return {output: labels.indices[usable & (labels.targets == output)] for output in sorted(outputs)}


class _Search:
    """A candidate on its way: its RhoSearch, and the function that applies its rows to the layer's input."""

    def __init__(self, candidate, layer):
        self.candidate, self.search = candidate, RhoSearch(candidate.weight, candidate.bias, candidate.arvs)
        self.maps = layer.maps(self.search.rows, self.search.biases)

    def add(self, x, output):
        concepts = torch.full((len(x),), self.candidate.concept_of(output))
        with torch.no_grad():
            self.search.add(self.maps(x), concepts)


def search_rho(network, layer, candidates, members, load, *, batch_size, precision):
    """One pass over the images of all classes, in order; a candidate is ready when its last class has been read.

    A batch is of one class, so that it is the same however many candidates there are.

    Parameters
    ----------
    network : nn.Module
        Frozen, on its device.
    layer : Layer
    candidates : list of Candidate
    members : dict
        Of ``images_by_class``, for all classes of the candidates.
    load : function of (batches, description) that returns ImageBatches
    batch_size : int
    precision : str

    Yields
    ------
    candidate : Candidate
    search : RhoSearch
    images : dict of class -> Tensor [n, 3, H, W], on the CPU
        Some images of each of its classes, on which to show equality.
    """
    plan = [(output, batch) for output in members for batch in batches_of(members[output], batch_size)]
    if not plan:
        return
    ends = {output: number for number, (output, _) in enumerate(plan)}
    users = {output: [one for one in candidates if output in one.outputs] for output in members}
    begun, proof = {}, {output: [] for output in members}
    loader = load([batch for _, batch in plan], "choosing rho")
    with Recorder(network, layer) as recorder:
        for number, ((output, _), (indices, pixels, _)) in enumerate(zip(plan, loader, strict=True)):
            if len(indices):
                with network_arithmetic(precision, pixels.device):
                    record = recorder.forward(pixels)
                shown = torch.isin(indices, proof_images(members[output]))
                proof[output].append(pixels[shown.to(pixels.device)].cpu())
                for one in users[output]:
                    if id(one) not in begun:
                        begun[id(one)] = _Search(one, layer)
                    begun[id(one)].add(record.input, output)
            if number == ends[output]:
                for one in (one for one in users[output] if one.outputs[-1] == output):
                    search = begun.pop(id(one), None) or _Search(one, layer)
                    yield one, search.search, {own: torch.cat(proof[own]) for own in one.outputs if proof[own]}
                for done in [own for own in proof if all(one.outputs[-1] <= output for one in users[own])]:
                    del proof[done]


def proof_images(indices):
    """The images of a class on which equality is shown: some, from all parts of the class."""
    return indices[np.unique(np.linspace(0, len(indices) - 1, PROOF_IMAGES).astype(int))]


def split_by(candidate, search, objective):
    """The Split of a candidate, with the rho of a RhoSearch that one of the objectives chooses.

    Raises
    ------
    UserError
        Rho cannot be chosen.
    """
    if not search.objectives().isfinite().all():
        what = "is NaN or infinite" if search.has_images() else "has no readable training image of a concept"
        raise UserError(f"rho cannot be chosen: channel {candidate.channel} {what} (classes {candidate.outputs})")
    return Split(
        channel=candidate.channel,
        concepts=candidate.concepts,
        weight=candidate.weight,
        bias=candidate.bias,
        arvs=candidate.arvs,
        owners=search.owners.to(torch.uint8),
        objectives=search.objectives(),
        objective=objective,
        rho=search.best(objective),
    )


class SplitWriter:
    """Writes the splits of one run of stage 3, and knows which are there and equal.

    Parameters
    ----------
    store_dir : str
    run : str
    meta : dict
        Of the training store.
    settings : dict
        What stages 2 and 3 were asked, as far as it is known.
    objective : str
    """

    def __init__(self, store_dir, run, meta, settings, objective):
        self.folder, self.run, self.objective = Path(store_dir) / "models_disentangled", run, objective
        self.context = {key: meta[key] for key in SPLIT_CONTEXT}
        self.settings = {key: settings.get(key) for key in SETTINGS}

    def path(self, candidate):
        suffix = split_suffix(only_correct=self.settings["only_correct"], objective=self.objective)
        concepts = [concept.classes for concept in candidate.concepts]
        return split_path(self.folder, self.run, candidate.channel, concepts, suffix)

    def selectors(self, candidates):
        """The flags with which stage 4 takes these splits, where others of the same channels and concepts are there."""
        several = any(
            len(find_splits(self.folder, self.run, one.channel, [concept.classes for concept in one.concepts])) > 1
            for one in candidates
        )
        which = "--only_correct" if self.settings["only_correct"] else "--no-only_correct"
        return [which, "--rho_objective", self.objective] if several else []

    def is_there(self, candidate):
        """Whether the split is stored already, made of the same in the same way; says so."""
        try:
            file = read_split(self.path(candidate))
        except UserError:  # missing, damaged or of another version: it is made anew
            return False
        split, how = file.split, ("only_correct", "precision", "decoding", "batch_size")
        plain = (file.context, [file.settings[key] for key in how], file.source, split.objective, split.concepts)
        asked = (self.context, [self.settings[key] for key in how], SOURCE, self.objective, candidate.concepts)
        tensors = [(split.weight, candidate.weight), (split.arvs, candidate.arvs), (file.mean_arv, candidate.mean_arv)]
        equal = plain == asked and all(torch.equal(one, other) for one, other in tensors)
        if equal:
            print(f"there already: {self.path(candidate)}")
        return equal

    def write(self, candidate, split, check):
        """Write a split, with its EqualityCheck: its path, and the SplitFile; UserError where it is not equal."""
        if not check.is_equal():
            raise UserError("the split network does not equal the original: the split was not stored")
        proof = {
            "images": check.images,
            "changed_predictions": check.changed_predictions,
            "precision": check.precision,
            "errors": list(check.errors()),
            "fp32_errors": list(check.fp32_errors()),
        }
        file = SplitFile(split, self.context, self.settings, candidate.mean_arv, SOURCE, proof)
        write_split(self.path(candidate), file)
        return self.path(candidate), file
