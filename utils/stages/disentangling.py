"""Stage 3: which inputs are whose? Channels and their concepts, class by class through their training images."""

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import torch

from utils.errors import UserError
from utils.images.batches import batches_of
from utils.method.disentangling import Concept
from utils.method.polysemanticity import averaged_relevance_vectors, cosine_similarities

PROOF_IMAGES = 4  # of each class
BACKGROUND = "everything else"


@dataclass
class Candidate:
    """A channel to split, and its concepts: all of a Split (which see) but how its inputs are divided."""

    channel: int
    concepts: list
    weight: torch.Tensor
    bias: torch.Tensor | None
    positions: int
    arvs: torch.Tensor
    mean_arv: torch.Tensor

    def content(self):
        """What a Split takes over."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def outputs(self):
        """All classes of all concepts, sorted."""
        return sorted(output for concept in self.concepts for output in concept.classes)

    @property
    def classes(self):
        """The classes of each concept that has images of its own."""
        return [concept.classes for concept in self.concepts[: self.num_own]]

    @property
    def num_own(self):
        """Number of concepts that have images of their own."""
        return sum(concept.kind != "background" for concept in self.concepts)

    def concept_of(self, output):
        """Which concept (from 0) a class is in, or None."""
        return next((k for k, concept in enumerate(self.concepts) if output in concept.classes), None)


class CandidateMaker:
    """Makes Candidates of a layer from stage 2's class means; a concept's ARV is the mean of its classes'.

    With a ``background``, the mean over all training images is one more concept, the last one.
    """

    def __init__(self, store, class_store, classes, only_correct, background=None):
        self.weight, self.bias = store.read_layer()
        self.positions, self.classes = store.meta["positions"], classes
        self.only_correct, self.background = only_correct, background
        mean_inputs, images = class_store.require_means()
        self.mean_inputs, self.images = mean_inputs[int(only_correct), 0], images[int(only_correct), 0]
        everything, numbers = mean_inputs[0, 0], images[0, 0].double()
        present = numbers > 0
        self.mean_input = torch.einsum("t,tip->ip", numbers[present] / numbers.sum(), everything[present])

    def make(self, channel, concepts):
        """The Candidate of a channel and its concepts (lists of outputs); UserError where a class has no image."""
        if len(concepts) < 2 and self.background is None:
            raise UserError("one concept alone cannot be told from anything: name another one, or add --background")
        for output in (output for concept in concepts for output in concept):
            if self.images[output] == 0:
                which = "correctly classified image" if self.only_correct else "readable image"
                raise UserError(f"class {output} ({self.classes.name(output)}) has no {which} in train/")
        weight, bias = self.weight[channel].clone(), None if self.bias is None else self.bias[channel].clone()
        arvs = [averaged_relevance_vectors(weight, self.mean_inputs[concept]).mean(0) for concept in concepts]
        mean_arv = averaged_relevance_vectors(weight, self.mean_input[None])[0]
        named = [Concept(self.classes.concept_name(concept), concept) for concept in concepts]
        if self.background is not None:
            named.append(Concept(BACKGROUND, [], kind="background"))
            arvs.append(mean_arv)
        return Candidate(channel, named, weight, bias, self.positions, torch.stack(arvs), mean_arv)

    def closeness(self, candidate):
        """The mean cosine between the ARVs of the classes of the two closest concepts; -1 with one concept alone."""
        classes = candidate.classes
        cosines = [
            cosine_similarities(averaged_relevance_vectors(candidate.weight, self.mean_inputs[one + other]))[
                : len(one), len(one) :
            ].mean()
            for k, one in enumerate(classes)
            for other in classes[k + 1 :]
        ]
        return float(max(cosines, default=-1.0))


def images_by_class(labels, outputs, only_correct):
    """Training images of each class, as used in stage 1: {output: LongTensor of indices}, classes ascending."""
    usable = labels.targets == labels.predictions if only_correct else torch.ones_like(labels.targets, dtype=torch.bool)
    return {output: labels.indices[usable & (labels.targets == output)] for output in sorted(outputs)}


def images_in_turn(candidates, members, divider, load, batch_size):
    """One pass over the images of all classes, in order; a candidate is ready when its last class has been read.

    A batch is of one class, so that it is the same however many candidates there are.

    Parameters
    ----------
    candidates : list of Candidate
    members : dict
        Of ``images_by_class``, for all classes of the candidates at least.
    divider : ByRho or ByLeastSquares
        Sees the images that it asks for.
    load : function of (batches, description) that returns ImageBatches
    batch_size : int

    Yields
    ------
    candidate : Candidate
        For which ``divider.split(candidate)`` has all it needs.
    images : dict of class -> Tensor [n, 3, H, W], on the CPU
        Some images of each of its classes, on which to show equality.
    """
    users = {output: [one for one in candidates if output in one.outputs] for output in members}
    wanted = {output: divider.wanted(members[output]) for output in members if users[output]}
    plan = [(output, batch) for output in wanted for batch in batches_of(wanted[output], batch_size)]
    if not plan:
        return
    ends = {output: number for number, (output, _) in enumerate(plan)}
    proof = {output: [] for output in wanted}
    loader = load([batch for _, batch in plan], divider.description)
    with divider:
        for number, ((output, _), (indices, pixels, _)) in enumerate(zip(plan, loader, strict=True)):
            if len(indices):
                shown = torch.isin(indices, proof_images(members[output]))
                proof[output].append(pixels[shown.to(pixels.device)].cpu())
                divider.see(users[output], output, pixels)
            if number == ends[output]:
                for one in (one for one in users[output] if one.outputs[-1] == output):
                    yield one, {own: torch.cat(proof[own]) for own in one.outputs if proof[own]}
                for done in [own for own in proof if all(one.outputs[-1] <= output for one in users[own])]:
                    del proof[done]


def one_of_each(members, load):
    """An image of each class, on which to show equality of all splits at once: {class: Tensor [1, 3, H, W]}."""
    loader = load([proof_images(indices)[:1] for indices in members.values()], "all splits at once")
    batches = zip(members, loader, strict=True)
    return {output: pixels.cpu() for output, (indices, pixels, _) in batches if len(indices)}


def proof_images(indices):
    """The images of a class on which equality is shown: some, from all parts of the class."""
    return indices[np.unique(np.linspace(0, len(indices) - 1, PROOF_IMAGES).astype(int))]
