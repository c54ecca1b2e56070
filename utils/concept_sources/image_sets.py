"""Base classes of sources whose concepts are sets of a channel's reference images: those in which it is largest.

Reference images are clustered by some features; a cluster is a concept, and a new image is the concept's whose centroid
is nearest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from utils.concept_sources.concept_source import CandidateMaker, ConceptSource
from utils.defaults import ASSIGNED_IMAGES, BACKGROUND_WEIGHT
from utils.errors import UserError
from utils.plugins import Flag, later, positive_int

if TYPE_CHECKING:
    from torch import Tensor

torch = later("torch")
tqdm = later("tqdm")
cases = later("utils.concept_sources.cases")
circuits = later("utils.method.contributions")
clustering = later("utils.method.clustering")
disentangling = later("utils.method.disentangling")
files = later("utils.store.files")
tap_sums = later("utils.store.tap_sums")

SHOWN_FOLDERS, LEAST_SHARE = 3, 0.1  # in the name of a concept
LONGEST_STEM = 100
TOLERANCE = 1e-3  # of an ARV, relative to its largest entry
AGAIN = "run disentangle_channel.py again"


def number_flag(usual):
    """The flag of how many concepts a channel has."""
    return Flag("nr_concepts", "of each channel", "number", positive_int, usual=usual)


def references_flag(usual):
    """The flag of how many images are clustered."""
    what = "in which a channel is largest; of few images a quarter"
    return Flag("nr_reference_images", what, "references", positive_int, usual=usual)


@dataclass
class Clusters:
    """A unit's reference images ``indices`` [n], the largest first, their ``labels`` [n] and ``centroids`` [K, F]."""

    indices: Tensor
    labels: Tensor
    centroids: Tensor

    def sets(self):
        """The images of each cluster, in ascending order."""
        return [self.indices[self.labels == k].sort().values for k in range(len(self.centroids))]


@dataclass
class MapImages:
    """The images that a channel's map shows: ``indices`` [n] in the training store, those of largest activation first.

    ``concepts`` [n] says which concept (from 0) an image is of, or -1: dropped; ``features`` [n, F] are what images
    are compared by.
    """

    indices: Tensor
    concepts: Tensor
    features: Tensor


class ImageSets(ConceptSource):
    """A source whose concepts are clusters of a channel's reference images.

    A dataclass with the fields ``number``, of concepts (None: as the clusters say), and ``references``.

    Class attributes
    ----------------
    word : str
        What a concept is called, before its number.
    largest : str
        By which value a channel's images are ranked, in words.
    usual_references : int
        How many reference images there are where nobody says; of few images a quarter.
    """

    usual_background = BACKGROUND_WEIGHT
    word = largest = ""
    usual_references = None

    @property
    def restarts(self):
        """Of k-means."""
        return clustering.RESTARTS

    @classmethod
    def references_from(cls, given, study):
        """How many reference images there are."""
        return given.get("references") or min(cls.usual_references, max(1, study.meta["num_images"] // 4))

    def settings(self):
        """Settings that change the concepts, by flag name, as plain values."""
        return {flag.name: getattr(self, flag.setting) for flag in self.flags}

    @abstractmethod
    def clusters(self, features):
        """Clusters of references by their features [n, F], the same for the same features.

        Returns
        -------
        labels : LongTensor [n]
            In the order of size, the largest cluster first; -1 for images that are left out.
        centroids : Tensor [K, F]
        """

    def manifest_stem(self, candidates, channels):
        """As in ConceptSource; several channels, or all, are a layer without a candidates file, too."""
        if candidates is None and len(channels) == 1:
            return None
        which = Path(candidates).stem if candidates else "channels" if channels else "all_channels"
        name = files.image_sets_name(self.name, self.settings())
        stem = "_".join(filter(None, [which, "-".join(map(str, channels)), name]))
        return stem if len(stem) <= LONGEST_STEM else files.image_sets_name(self.name, stem)

    @classmethod
    def assignment(cls, state):
        largest = f"the {ASSIGNED_IMAGES} validation images of largest {state['largest']}"
        return f"{largest}, each given to the nearest training centroid"


class ImageSetCandidates(CandidateMaker):
    """Makes Candidates of channels alone: the concepts are sets of the images in which a channel is largest.

    A concept's ARV is the mean circuit of its images; its name tells the class folders that are most frequent in it.

    Parameters
    ----------
    study : Study
    source : ImageSets
    clusters_of : function of a channel that returns its Clusters
        The tap sums of the study keep the images of all of them.
    """

    def __init__(self, study, source, clusters_of):
        super().__init__(study)
        self.source, self.clusters_of = source, clusters_of

    def make(self, channel, concepts):
        """The Candidate of a channel; UserError where its images make no two concepts, or one and no background."""
        clusters = self.clusters_of(channel)
        sets = clusters.sets()
        if len(sets) < 2 and self.background is None:
            raise UserError("its images are one concept: ask for another --nr_concepts, or add --background")
        weight, inputs = self.weight[channel].double(), self.study.tap_sums
        arvs = [circuits.circuits(weight, inputs.of_images(images).double()).mean(0) for images in sets]
        named = [self._concept(number, images) for number, images in enumerate(sets, start=1)]
        source = self.source
        state = {**source.settings(), "restarts": source.restarts, "largest": source.largest}
        images = [concept.images for concept in named]
        named_by = files.image_sets_name(source.name, {"from": source.name, **state}, images)
        state["centroids"] = clusters.centroids
        return self.candidate(channel, named, torch.stack(arvs), named_by, {"name": source.name, "state": state})

    def _concept(self, number, images):
        rows = torch.searchsorted(self.study.labels.indices, images)
        name = f"{self.source.word} {number} ({self._folders(rows)})"
        return disentangling.Concept(name, [], images.tolist(), "images")

    def _folders(self, rows):
        """The classes that are frequent among images, by their names; where none is, how many there are."""
        outputs, counts = self.study.labels.targets[rows].unique(return_counts=True)
        order = counts.argsort(descending=True, stable=True)[:SHOWN_FOLDERS]
        frequent = [place for place in order.tolist() if counts[place] >= LEAST_SHARE * len(rows)]
        names = [self.study.classes.name(int(outputs[place])) for place in frequent]
        return ", ".join(names) or f"{len(outputs)} classes"


# --------------------------------------------------------------------------------------------------------------------
# References and features from a store alone


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
    strongest, rows = circuits.Strongest(number), weights.flatten(1).float()
    for chunk in tqdm.tqdm(range(store.num_chunks), "reference images", unit=" chunks", delay=2):
        images = store.read_chunk(chunk, ["input_sums", "targets", "predictions"])
        usable = torch.ones_like(images["targets"], dtype=torch.bool)
        if only_correct:
            usable = images["targets"] == images["predictions"]
        strongest.add(images["input_sums"][usable].flatten(1) @ rows.T, images["indices"][usable])
    if not strongest.indices.shape[1]:
        raise UserError(f"{store.folder} has no {'correctly classified' if only_correct else 'readable'} image")
    return strongest.indices


class StoredImageSets(ImageSets):
    """A source that has references, and what they are clustered by, from the store: linear in the tap sums.

    ``largest`` is the spatial sum; a subclass has ``features``.
    """

    largest = "spatial sum"

    @abstractmethod
    def features(self, weight, tap_sums):
        """What images are clustered and assigned by, for a unit [C_in, taps], of [n, C_in, taps]: [n, F]."""

    @classmethod
    @abstractmethod
    def of_layer(cls, store):
        """The source for the layer of a store, as far as features of images need it."""

    def maker(self, study, channels):
        found = StoredClusters(self, study, study.weight_and_bias[0][channels])
        unit_of = {channel: unit for unit, channel in enumerate(channels)}
        return ImageSetCandidates(study, self, lambda channel: found.of(unit_of[channel]))

    @classmethod
    def assigned(cls, opened, store, study):
        """Of each channel the images of largest spatial sum, each given to the nearest training centroid.

        A concept may have no image.
        """
        weight, found = store.read_layer()[0], {}
        indices = strongest_images(store, weight[[one.file.split.channel for one in opened]], ASSIGNED_IMAGES)
        inputs = tap_sums.StoredTapSums(store, store.read_labels, only_correct=False)
        inputs.keep(indices)
        source = cls.of_layer(store)
        for one, strongest in zip(opened, indices, strict=True):
            strongest = strongest.sort().values
            features = source.features(weight[one.file.split.channel], inputs.of_images(strongest))
            labels = clustering.nearest(features, one.file.source["state"]["centroids"])
            found |= {key: strongest[labels == k] for k, (key,) in enumerate(one.groups)}
        return found

    @classmethod
    def dropped(cls, opened, study):
        """Reference images of splits that are of no concept: {path of a split: LongTensor}."""
        return {}

    @classmethod
    def map_images(cls, opened, study):
        dropped, source = cls.dropped(opened, study), cls.of_layer(study.training)
        sets_of = {one.path: image_sets_of(one) for one in opened}
        kept = torch.cat([*(images for sets in sets_of.values() for images in sets), *dropped.values()])
        study.tap_sums.keep(kept[torch.isin(kept, study.labels.indices)])

        def of(one):
            sets = sets_of[one.path]
            require_images(one, study, sets)
            _check_arvs(one, study, sets)
            more = [dropped[one.path]] if one.path in dropped else []
            return map_images(one, study, sets, [*sets, *more], source.features)

        return of

    @classmethod
    def finder(cls, comparison):
        source = cls.from_given(comparison.given, comparison.study)
        return StoredFinder(source, comparison)


class StoredClusters:
    """Clusters of the images of largest spatial sum of units, by what the store has of their inputs.

    Parameters
    ----------
    source : StoredImageSets
    study : Study
        Its tap sums keep the reference images of all units.
    weights : Tensor [R, C_in, taps]
        Of the units.

    ``indices`` [R, n] are the reference images, the largest first.
    """

    def __init__(self, source, study, weights):
        self.source, self.tap_sums, self.weights = source, study.tap_sums, weights
        self.indices = strongest_images(study.training, weights, source.references, study.only_correct)
        self.tap_sums.keep(self.indices)

    def features(self, unit):
        """What the reference images of the unit of this number are clustered by, the largest first: [n, F]."""
        ascending, places = self.indices[unit].sort()
        tap_sums = torch.empty_like(self.tap_sums.of_images(ascending))
        tap_sums[places] = self.tap_sums.of_images(ascending)
        return self.source.features(self.weights[unit], tap_sums)

    def of(self, unit):
        """The Clusters of the unit of this number."""
        return Clusters(self.indices[unit], *self.source.clusters(self.features(unit)))


# --------------------------------------------------------------------------------------------------------------------
# Maps


def circuit_features(weight, tap_sums):
    """Circuits over their L1 norm: what images are compared by, however strong the unit is in them."""
    return circuits.per_norm(circuits.circuits(weight, tap_sums))


def map_images(opened, study, sets, shown, features):
    """MapImages of a split, by descending spatial sum.

    Parameters
    ----------
    opened : OpenedSplit
    study : Study
    sets : list of LongTensor
        The images of each concept.
    shown : list of LongTensor
        All images: these, and others.
    features : function of (weight, tap sums)
    """
    require_images(opened, study, sets)
    weight, indices = opened.file.split.weight, torch.cat(shown).sort().values
    tap_sums = study.tap_sums.of_images(indices)
    order = circuits.circuits(weight, tap_sums).sum(1).argsort(descending=True, stable=True)
    return MapImages(indices[order], concepts_of(indices[order], sets), features(weight, tap_sums[order]))


def image_sets_of(opened):
    """The images of each concept of an OpenedSplit without labels: a list of LongTensor."""
    return [torch.tensor(concept.images) for concept in opened.file.split.own_concepts]


def concepts_of(indices, sets):
    """Which of some sets (from 0) each image is in, or -1."""
    concepts = torch.full_like(indices, -1)
    for k, images in enumerate(sets):
        concepts[torch.isin(indices, images)] = k
    return concepts


def require_images(opened, study, sets, among=None):
    """UserError unless all images of some sets are ``among`` others; default: those of the training store."""
    among = study.labels.indices if among is None else among
    if not torch.isin(torch.cat(sets), among).all():
        raise UserError(other_images(opened, study))


def _check_arvs(opened, study, sets):
    """A concept's ARV is the mean circuit of its images: UserError unless it is that of the store's images."""
    split = opened.file.split
    for images, arv in zip(sets, split.arvs, strict=False):
        mean = circuits.circuits(split.weight.double(), study.tap_sums.of_images(images).double()).mean(0)
        if (mean - arv).abs().max() > TOLERANCE * arv.abs().max():
            raise UserError(other_images(opened, study))


def other_images(opened, study):
    """What is said of a split that was made from other training images than those that are there."""
    return f"{opened.path} was made from other training images than those of {study.training.folder}: {AGAIN}"


# --------------------------------------------------------------------------------------------------------------------
# Comparison


class ImageSetFinder(ABC):
    """Finds concepts of the units of a comparison: clusters of reference images.

    A unit is (place of its channel, draw): draw 0 is the channel itself, a higher one has its weights permuted.

    Parameters
    ----------
    source : ImageSets
    comparison : Comparison
    """

    def __init__(self, source, comparison):
        self.source, self.comparison, self.tap_sums = source, comparison, comparison.study.tap_sums
        self.clusters = cache(self.clusters)

    @abstractmethod
    def clusters(self, place, unit, number=None):
        """Clusters of a unit; exactly ``number`` of them where it is given."""

    @abstractmethod
    def features(self, place, unit):
        """What the references were clustered by, [n, F]."""

    def assign(self, case, unit, clusters, of_set=0):
        """The validation images (0 ... N-1) in which a unit is largest, and the nearest of Clusters' centroids to each.

        ``of_set`` is 0 for the unit's own clusters, else the number of a partition.
        """
        weight = case.weights[unit].float()
        strongest = case.validation.scores(weight[None])[0].argsort(descending=True, stable=True)[:ASSIGNED_IMAGES]
        inputs = case.validation.input_sums[strongest].view(-1, *weight.shape)
        return strongest, clustering.nearest(self.source.features(weight, inputs), clusters.centroids)

    def sets(self, case, unit=0, number=None):
        """The Sets of a unit of a case."""
        return self.sets_of(self.clusters(case.place, unit, number))

    def sets_of(self, clusters):
        """The Sets that Clusters are."""
        images = clusters.sets()
        means = torch.stack([self.tap_sums.of_images(of_set).double().mean(0) for of_set in images])
        concepts = [disentangling.Concept("", [], of_set.tolist(), "images") for of_set in images]
        return cases.Sets(concepts, means, self.tap_sums, clusters)

    def partitioned(self, place, channel):
        """The channel's references divided at random into clusters of the same sizes, for each draw."""
        real, features = self.clusters(place, 0), self.features(place, 0)
        for order in cases.orders("references", channel, len(real.labels)):
            labels = real.labels[order]
            centroids = [features[labels == k].double().mean(0) for k in range(len(real.centroids))]
            yield Clusters(real.indices, labels, torch.stack(centroids))


class StoredFinder(ImageSetFinder):
    """Clusters of the images of largest spatial sum, of the channels and their permuted weights."""

    def __init__(self, source, comparison):
        super().__init__(source, comparison)
        self.found = StoredClusters(source, comparison.study, comparison.all_weights().float())

    def features(self, place, unit):
        return self.found.features(cases.row_of(place, unit))

    def clusters(self, place, unit, number=None):
        row = cases.row_of(place, unit)
        if number is None:
            return self.found.of(row)
        return Clusters(self.found.indices[row], *self._of_number(self.found.features(row), number))

    def _of_number(self, features, number):
        """Labels and centroids of as many clusters; none are dropped where the source would leave fewer."""
        with suppress(UserError):
            labels, centroids = replace(self.source, number=number).clusters(features)
            if len(centroids) == number:
                return labels, centroids
        return clustering.k_means(features, number)
