"""Stage 3 without labels: a concept is a set of those images in which a channel is largest."""

from dataclasses import dataclass

import torch
from tqdm import tqdm

from utils.errors import UserError
from utils.method.circuits import Strongest, circuits
from utils.method.clustering import nearest
from utils.method.concept_vectors import spatial_means, spread
from utils.method.disentangling import Concept
from utils.method.unlabelled import ByCircuits, ByConceptVectors
from utils.stages.disentangling import LayerConcepts
from utils.stages.least_squares import StoredInputs
from utils.stages.virtual_neurons import stored_virtual_neurons

SHOWN_FOLDERS, LEAST_SHARE = 3, 0.1  # in the name of a concept
VALIDATION_IMAGES = 100  # of a channel, in which it is largest


@dataclass
class Clusters:
    """A unit's reference images ``indices`` [n], the largest first, their ``labels`` [n] and ``centroids`` [K, F]."""

    indices: torch.Tensor
    labels: torch.Tensor
    centroids: torch.Tensor

    def sets(self):
        """The images of each concept, ascending."""
        return [self.indices[self.labels == one].sort().values for one in range(len(self.centroids))]


def strongest_images(store, weights, number, only_correct=False):
    """The images of largest spatial sum of units, from a store alone: LongTensor [R, n] of indices, the largest first.

    One pass over the chunks. The bias moves all images of a unit alike.

    Parameters
    ----------
    store : ImportanceStore
        Complete.
    weights : Tensor [R, C_in, taps]
    number : int
    only_correct : bool
        Whether only correctly classified images count; UserError where there is none.
    """
    strongest, rows = Strongest(number), weights.flatten(1).float()
    for chunk in tqdm(range(store.num_chunks), "reference images", unit=" chunks", delay=2):
        images = store.read_chunk(chunk, ["input_sums", "targets", "predictions"])
        usable = torch.ones_like(images["targets"], dtype=torch.bool)
        if only_correct:
            usable = images["targets"] == images["predictions"]
        strongest.add(images["input_sums"][usable].flatten(1) @ rows.T, images["indices"][usable])
    if not strongest.indices.shape[1]:
        raise UserError(f"{store.folder} has no {'correctly classified' if only_correct else 'readable'} image")
    return strongest.indices


class ClustersByStore:
    """Clusters of the images of largest spatial sum of units, by what the store has of their inputs.

    Parameters
    ----------
    method : ByCircuits or ByConceptVectors
    store : ImportanceStore
    inputs : StoredInputs
        Of the same store; keeps the reference images of all units.
    weights : Tensor [R, C_in, taps]
        Of the units.
    only_correct : bool

    ``indices`` [R, n] are the reference images, the largest first.
    """

    def __init__(self, method, store, inputs, weights, only_correct):
        self.method, self.inputs, self.weights = method, inputs, weights
        self.indices = strongest_images(store, weights, method.references, only_correct)
        inputs.keep(self.indices)

    def features(self, unit):
        """What the reference images of the unit of this number are clustered by, the largest first: [n, F]."""
        ascending, places = self.indices[unit].sort()
        tap_sums = torch.empty_like(self.inputs.of_images(ascending))
        tap_sums[places] = self.inputs.of_images(ascending)
        return self.method.features(self.weights[unit], tap_sums)

    def of(self, unit):
        """The Clusters of the unit of this number."""
        return Clusters(self.indices[unit], *self.method.clusters(self.features(unit)))


class UnlabelledConcepts(LayerConcepts):
    """Makes Candidates of channels alone: the concepts are sets of the images in which a channel is largest.

    A concept's ARV is the mean circuit of its images; its name tells the class folders that are most frequent in it.

    Parameters
    ----------
    store, class_store, classes, only_correct, background
        As in CandidateMaker.
    labels : Labels
    inputs : StoredInputs
        That keeps the images of all sets.
    clusters : function of a channel that returns its Clusters
    method : ByCircuits, ByPure or ByConceptVectors
    """

    def __init__(self, store, class_store, classes, only_correct, background, *, labels, inputs, clusters, method):
        super().__init__(store, class_store, classes, only_correct, background)
        self.labels, self.inputs, self.clusters, self.method = labels, inputs, clusters, method

    def make(self, channel, _):
        """The Candidate of a channel; UserError where its images make no two concepts, or one and no background."""
        found = self.clusters(channel)
        sets = found.sets()
        if len(sets) < 2 and self.background is None:
            raise UserError("its images are one concept: ask for another --nr_concepts, or add --background")
        weight = self.weight[channel]
        arvs = [circuits(weight.double(), self.inputs.of_images(one).double()).mean(0) for one in sets]
        concepts = [self._concept(number, images) for number, images in enumerate(sets, start=1)]
        source = {"from": self.method.name, **self.method.settings(), "restarts": self.method.restarts}
        source |= {"largest": self.method.largest, "centroids": found.centroids}
        return self.candidate(channel, concepts, torch.stack(arvs), source)

    def closeness(self, _):
        """Sets of images need not be unlike each other: how close they are is a finding, and no reason to warn."""
        return -1.0

    def _concept(self, number, images):
        rows = torch.searchsorted(self.labels.indices, images)
        return Concept(f"{self.method.word} {number} ({self._folders(rows)})", [], images.tolist(), "images")

    def _folders(self, rows):
        """The classes that are frequent among images, by their names; where none is, how many there are."""
        outputs, counts = self.labels.targets[rows].unique(return_counts=True)
        order = counts.argsort(descending=True, stable=True)[:SHOWN_FOLDERS]
        frequent = [one for one in order.tolist() if counts[one] >= LEAST_SHARE * len(rows)]
        return ", ".join(self.classes.name(int(outputs[one])) for one in frequent) or f"{len(outputs)} classes"


# --------------------------------------------------------------------------------------------------------------------
# The same for validation images


def settings_of(source):
    """How concepts were found, as plain values: what another result may not be summed up with."""
    return {name: value for name, value in sorted(source.items()) if not isinstance(value, torch.Tensor)}


def assignment(source):
    """Which validation images the concepts of a split without labels have, in words; None where there are labels."""
    if source["from"] == "classes":
        return None
    number, largest = VALIDATION_IMAGES, source["largest"]
    return f"the {number} validation images of largest {largest}, each given to the nearest training centroid"


def by_concept_vectors(weight, bias, positions, inputs, **asked):
    """ByConceptVectors for a layer, measured by the spread of a sample of its training images (StoredInputs)."""
    scale = spread(spatial_means(weight, bias, positions, inputs.of_others([])))
    return ByConceptVectors(weight, bias, positions, scale=scale, **asked)


def stored_method(name, weight, bias, positions):
    """What makes features of images from a store, for splits by concept vectors; else by circuits."""
    return ByConceptVectors(weight, bias, positions) if name == "concept_vectors" else ByCircuits()


def assigned_images(opened, store):
    """Validation images of the concepts of splits without labels, from a val store.

    Of each channel the images of largest spatial sum, each given to the nearest of the training images' centroids.

    Parameters
    ----------
    opened : list of OpenedSplit
        By ``circuits`` or ``concept_vectors``.
    store : ImportanceStore
        Of validation images.

    Returns
    -------
    dict of key -> LongTensor, ascending; a concept may have no image
    """
    weight, bias = store.read_layer()
    channels = [one.file.split.channel for one in opened]
    indices = strongest_images(store, weight[channels], VALIDATION_IMAGES)
    inputs, found = StoredInputs(store, store.read_labels(), only_correct=False), {}
    inputs.keep(indices)
    for one, strongest in zip(opened, indices, strict=True):
        strongest, source = strongest.sort().values, one.file.source
        method = stored_method(source["from"], weight, bias, store.meta["positions"])
        features = method.features(weight[one.file.split.channel], inputs.of_images(strongest))
        labels = nearest(features, source["centroids"])
        found |= {key: strongest[labels == k] for k, (key,) in enumerate(one.groups)}
    return found


def assigned_by_pure(opened, store, run, units, load, batch_size, decoding):
    """The same of splits by ``pure``, from a pass over the images of the val store, or from what one has left.

    Parameters
    ----------
    opened : list of OpenedSplit
    store, run, units, load, batch_size, decoding
        As in ``stored_virtual_neurons``; ``units`` are the channels.
    """
    centroids = [one.file.source["centroids"][None] for one in opened]
    labels, found = store.read_labels(), {}
    neurons = stored_virtual_neurons(store, run, labels, units, centroids, load, batch_size, decoding)
    for unit, one in enumerate(opened):
        rows, clusters = neurons.strongest(unit, VALIDATION_IMAGES)
        found |= {key: neurons.indices[rows[clusters == k]].sort().values for k, (key,) in enumerate(one.groups)}
    return found
