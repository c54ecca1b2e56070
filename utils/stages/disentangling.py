"""Stage 3: which inputs are whose? Channels and their concepts, class by class through their training images."""

from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain

import numpy as np
import torch

from utils.errors import UserError
from utils.images.batches import batches_of
from utils.method.disentangling import Concept
from utils.method.polysemanticity import averaged_relevance_vectors, cosine_similarities
from utils.store.files import image_sets_name

PROOF_IMAGES = 4  # of each class or image set
MOST_AT_ONCE = 1000  # groups of images of which one is shown
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
    source: dict = field(default_factory=lambda: {"from": "classes"})

    def content(self):
        """What a Split takes over."""
        names = ("channel", "concepts", "weight", "bias", "positions", "arvs", "mean_arv")
        return {name: getattr(self, name) for name in names}

    @cached_property
    def groups(self):
        return image_groups(self.own_concepts, self.channel)

    @cached_property
    def keys(self):
        """All groups of images of all concepts, in the order in which they are read."""
        return in_order(chain.from_iterable(self.groups))

    @property
    def own_concepts(self):
        """The concepts that have images of their own."""
        return [concept for concept in self.concepts if concept.kind != "background"]

    @property
    def named_by(self):
        """What names the split, beside its channel: the classes of each concept, or what they were found by."""
        concepts = self.own_concepts
        if self.source["from"] == "classes":
            return [concept.classes for concept in concepts]
        plain = {name: value for name, value in self.source.items() if not isinstance(value, torch.Tensor)}
        return image_sets_name(self.source["from"], plain, [concept.images for concept in concepts])

    def concept_of(self, key):
        """Which concept (from 0) a group of images is of."""
        return next(k for k, own in enumerate(self.groups) if key in own)


def image_groups(concepts, name):
    """The groups of images of each concept, as keys: its classes (int); or, without labels, itself: (name, number)."""
    return [[(name, k)] if one.kind == "images" else one.classes for k, one in enumerate(concepts, start=1)]


def in_order(keys):
    """Groups of images in the order in which they are read: classes ascending, then image sets; each once."""
    return sorted(set(keys), key=lambda key: (isinstance(key, tuple), key))


class LayerConcepts:
    """What all concepts of a layer's channels have in common: the layer, and the mean over all training images.

    With a ``background``, that mean is one more concept, the last one.
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

    def candidate(self, channel, concepts, arvs, source):
        """The Candidate of a channel; ``arvs`` [K, C_in] are its Concepts'."""
        weight, bias = self.weight[channel].clone(), None if self.bias is None else self.bias[channel].clone()
        mean_arv = averaged_relevance_vectors(weight, self.mean_input[None])[0]
        if self.background is not None:
            concepts = [*concepts, Concept(BACKGROUND, [], kind="background")]
            arvs = torch.cat([arvs, mean_arv[None]])
        return Candidate(channel, concepts, weight, bias, self.positions, arvs, mean_arv, source)


class CandidateMaker(LayerConcepts):
    """Makes Candidates of a layer from stage 2's class means; a concept's ARV is the mean of its classes'."""

    def make(self, channel, concepts):
        """The Candidate of a channel and its concepts (lists of outputs); UserError where a class has no image."""
        if len(concepts) < 2 and self.background is None:
            raise UserError("one concept alone cannot be told from anything: name another one, or add --background")
        for output in (output for concept in concepts for output in concept):
            if self.images[output] == 0:
                which = "correctly classified image" if self.only_correct else "readable image"
                raise UserError(f"class {output} ({self.classes.name(output)}) has no {which} in train/")
        weight = self.weight[channel]
        arvs = [averaged_relevance_vectors(weight, self.mean_inputs[concept]).mean(0) for concept in concepts]
        named = [Concept(self.classes.concept_name(concept), concept) for concept in concepts]
        return self.candidate(channel, named, torch.stack(arvs), {"from": "classes"})

    def closeness(self, candidate):
        """The mean cosine between the ARVs of the classes of the two closest concepts; -1 with one concept alone."""
        classes = [concept.classes for concept in candidate.own_concepts]
        cosines = [
            cosine_similarities(averaged_relevance_vectors(candidate.weight, self.mean_inputs[one + other]))[
                : len(one), len(one) :
            ].mean()
            for k, one in enumerate(classes)
            for other in classes[k + 1 :]
        ]
        return float(max(cosines, default=-1.0))


def members_of(candidates, labels, only_correct):
    """Training images of all groups of images, as used in stage 1: {key: LongTensor of indices}, in order.

    ``only_correct`` is about classes; image sets are what they are.
    """
    usable = labels.targets == labels.predictions if only_correct else torch.ones_like(labels.targets, dtype=torch.bool)
    sets = {
        key: torch.tensor(concept.images)
        for one in candidates
        for keys, concept in zip(one.groups, one.own_concepts, strict=True)
        for key in keys
        if concept.kind == "images"
    }
    keys = in_order(chain.from_iterable(one.keys for one in candidates))
    return {key: sets[key] if key in sets else labels.indices[usable & (labels.targets == key)] for key in keys}


def images_in_turn(candidates, members, divider, load, batch_size):
    """One pass over all groups of images, in order; a candidate is ready when its last one has been read.

    A batch is of one group, a class or an image set, so that it is the same however many candidates there are.

    Parameters
    ----------
    candidates : list of Candidate
    members : dict
        Of ``members_of``.
    divider : ByRho or ByLeastSquares
        Sees the images that it asks for.
    load : function of (batches, description) that returns ImageBatches
    batch_size : int

    Yields
    ------
    candidate : Candidate
        For which ``divider.split(candidate)`` has all it needs.
    images : dict of key -> Tensor [n, 3, H, W], on the CPU
        Some images of each of its groups, on which to show equality.
    """
    users = {key: [] for key in members}
    for one in candidates:
        for key in one.keys:
            users[key].append(one)
    wanted = {key: divider.wanted(members[key]) for key in members if users[key]}
    plan = [(key, batch) for key in wanted for batch in batches_of(wanted[key], batch_size)]
    if not plan:
        return
    ends = {key: number for number, (key, _) in enumerate(plan)}
    proof = {key: [] for key in wanted}
    loader = load([batch for _, batch in plan], divider.description)
    with divider:
        for number, ((key, _), (indices, pixels, _)) in enumerate(zip(plan, loader, strict=True)):
            if len(indices):
                shown = torch.isin(indices, proof_images(members[key]))
                proof[key].append(pixels[shown.to(pixels.device)].cpu())
                divider.see(users[key], key, pixels)
            if number == ends[key]:
                for one in (one for one in users[key] if one.keys[-1] == key):
                    yield one, {own: torch.cat(proof[own]) for own in one.keys if proof[own]}
                done = [own for own in proof if all(ends[one.keys[-1]] <= number for one in users[own])]
                for own in done:
                    del proof[own]


def some_of_all(members, load):
    """An image of each group, or of some from all over, on which to show equality of all splits at once.

    {key: Tensor [1, 3, H, W]}
    """
    keys = list(members)
    keys = [keys[place] for place in np.unique(np.linspace(0, len(keys) - 1, MOST_AT_ONCE).astype(int))]
    loader = load([proof_images(members[key])[:1] for key in keys], "all splits at once")
    return {key: pixels.cpu() for key, (indices, pixels, _) in zip(keys, loader, strict=True) if len(indices)}


def proof_images(indices):
    """The images of a group on which equality is shown: some, from all parts of it."""
    return indices[np.unique(np.linspace(0, len(indices) - 1, PROOF_IMAGES).astype(int))]
