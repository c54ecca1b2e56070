"""Base classes of sources whose concepts are sets of a channel's reference images: those that activate it most.

Reference images are clustered by some features. A cluster is a concept, and a new image belongs to the concept whose
centroid is nearest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.concept_sources.concept_source import CandidateMaker, ConceptFinder, ConceptSource
from utils.defaults import ASSIGNED_IMAGES, BACKGROUND_WEIGHT
from utils.errors import UserError
from utils.plugins import Flag, later, positive_int

if TYPE_CHECKING:
    from torch import Tensor

    from utils.concept_sources.compared_channels import ComparedChannel, Comparison, ConceptSets
    from utils.method.disentangling import Candidate, Concept
    from utils.store.opened_splits import OpenedSplit
    from utils.store.study import Study

torch = later("torch")
circuits = later("utils.method.contributions")
clustering = later("utils.method.clustering")
compared_channels = later("utils.concept_sources.compared_channels")
disentangling = later("utils.method.disentangling")
files = later("utils.store.files")
ordering = later("utils.method.order")

SHOWN_FOLDERS = 3  # in the name of a concept
LEAST_SHARE = 0.1  # of a concept's images that a class must have to appear in its name
TOLERANCE = 1e-3  # of an ARV, relative to its largest entry
AGAIN = "run disentangle_channel.py again"


def number_flag(usual: str) -> Flag:
    """The flag of the number of concepts of a channel."""
    return Flag("nr_concepts", "number of concepts per channel", "number", positive_int, metavar="N", usual=usual)


def references_flag(usual: str) -> Flag:
    """The flag of the number of reference images."""
    return Flag(
        "nr_reference_images",
        "number of images per channel that are clustered, those that activate it most",
        "references",
        positive_int,
        metavar="N",
        usual=usual,
        details="The default is at most a quarter of the images.",
    )


@dataclass(frozen=True)
class Clusters:
    """Clusters of a unit's reference images.

    Parameters
    ----------
    indices : LongTensor [n]
        The reference images, the largest activation first.
    labels : LongTensor [n]
        The cluster of each, or -1: it was left out.
    centroids : Tensor [K, F]
    """

    indices: Tensor
    labels: Tensor
    centroids: Tensor

    def sets(self) -> list[Tensor]:
        """The images of each cluster, in ascending order."""
        return [self.indices[self.labels == k].sort().values for k in range(len(self.centroids))]


@dataclass(frozen=True)
class MapImages:
    """The images that a channel's map shows.

    Parameters
    ----------
    indices : LongTensor [n]
        In the training store, the largest activation first.
    concepts : LongTensor [n]
        The concept (from 0) of each image, or -1: it was left out.
    features : Tensor [n, F]
        Features by which images are compared.
    """

    indices: Tensor
    concepts: Tensor
    features: Tensor


class ImageSets(ConceptSource):
    """A source whose concepts are clusters of a channel's reference images.

    A dataclass with the fields ``number``, of concepts (None: the clustering determines it), and ``references``, the
    number of reference images.

    Class attributes
    ----------------
    word
        Word for a concept, before its number.
    largest
        The value that a channel's images are ranked by, in words.
    usual_references
        Default number of reference images; at most a quarter of the images that count.
    """

    number: int | None
    references: int
    usual_background: float | None = BACKGROUND_WEIGHT
    word: str
    largest: str
    usual_references: int

    @property
    def restarts(self) -> int:
        """Number of restarts of k-means."""
        return clustering.RESTARTS

    def k_means_state(self) -> dict[str, Any]:
        """How k-means is done, as plain values: other ways may make other clusters."""
        return {"k_means": clustering.ALGORITHM, "restarts": self.restarts}

    @classmethod
    def references_from(cls, given: dict[str, Any], study: Study) -> int:
        """The number of reference images: of few images that count a quarter, and never more than count."""
        num_counting = max(1, len(study.usable))
        return min(num_counting, given.get("references") or min(cls.usual_references, max(1, num_counting // 4)))

    def settings(self) -> dict[str, Any]:
        """Settings that change the concepts, by flag name, as plain values."""
        return {flag.name: getattr(self, flag.setting) for flag in self.flags}

    @abstractmethod
    def clusters(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Clusters of reference images by their features [n, F], deterministic for given features.

        Returns
        -------
        labels : LongTensor [n]
            Cluster of each image, numbered by size, the largest first; -1 for images that are left out.
        centroids : Tensor [K, F]
            The mean features of each cluster.
        """

    def manifest_stem(
        self, candidates: str | None, channels: Sequence[int], concepts: Sequence[list[int]] = ()
    ) -> str | None:
        """As in ConceptSource; several channels, or all, have a manifest even without a candidates file."""
        if candidates is None and len(channels) == 1:
            return None
        which = Path(candidates).stem if candidates else "channels" if channels else "all_channels"
        name = files.image_sets_name(self.name, self.settings())
        return files.manifest_stem(self.name, [which, "-".join(map(str, channels)), name])

    @classmethod
    def assignment(cls, state: dict[str, Any]) -> str:
        largest = f"the {ASSIGNED_IMAGES} validation images of largest {state['largest']}"
        return f"{largest}, each assigned to the nearest training centroid"


class ImageSetCandidates(CandidateMaker):
    """Makes Candidates of channels without labels: the concepts are sets of reference images.

    A concept's ARV is the mean circuit of its images; its name shows the class folders that are most frequent in it.

    Parameters
    ----------
    study : Study
    source : ImageSets
    clusters_of : function
        Returns the Clusters of a channel. The tap sums of the study keep all of their images.
    """

    def __init__(self, study: Study, source: ImageSets, clusters_of: Callable[[int], Clusters]) -> None:
        super().__init__(study)
        self.source = source
        self.clusters_of = clusters_of

    def make(self, channel: int, concepts: list[list[int]]) -> Candidate:
        """The Candidate of a channel.

        UserError if its images form a single concept and there is no background.
        """
        source = self.source
        clusters = self.clusters_of(channel)
        sets = clusters.sets()
        if len(sets) < 2 and self.background is None:
            raise UserError("its images form one concept: use another --nr_concepts, or add --background")
        weight = self.weight[channel]
        arvs = _mean_circuits(weight, self.study, sets)
        named = [self._concept(number, images) for number, images in enumerate(sets, start=1)]
        state = {**source.settings(), **source.k_means_state(), "largest": source.largest}
        image_lists = [concept.images for concept in named]
        named_by = files.image_sets_name(source.name, {"from": source.name, **state}, image_lists)
        state["centroids"] = clusters.centroids
        return self.candidate(channel, named, arvs, named_by=named_by, source={"name": source.name, "state": state})

    def _concept(self, number: int, images: Tensor) -> Concept:
        rows = torch.searchsorted(self.study.labels.indices, images)
        name = f"{self.source.word} {number} ({self._folders(rows)})"
        return disentangling.Concept(name, [], images.tolist(), "images")

    def _folders(self, rows: Tensor) -> str:
        """The names of the frequent classes of images; where no class is frequent, the number of classes."""
        targets = self.study.labels.targets[rows]
        names = [self.study.classes.name(output) for output in frequent_classes(targets)]
        return ", ".join(names) or f"{len(targets.unique())} classes"


def name_parts(name: str) -> tuple[str, str]:
    """The number and the description in the name of a concept: ``circuit 7``, and ``bikini, seashore``."""
    number, _, description = name.partition(" (")
    return number, description.removesuffix(")")


def frequent_classes(targets: Tensor) -> list[int]:
    """The classes that a set of images stands out in, given the class of each image: [n] -> at most SHOWN_FOLDERS.

    A class has at least LEAST_SHARE of the images; the most frequent comes first.
    """
    outputs, counts = targets.unique(return_counts=True)
    order = ordering.largest_first(counts, SHOWN_FOLDERS)
    return [int(outputs[rank]) for rank in order.tolist() if counts[rank] >= LEAST_SHARE * len(targets)]


# --------------------------------------------------------------------------------------------------------------------
# Maps


def circuit_features(weight: Tensor, tap_sums: Tensor) -> Tensor:
    """Circuits divided by their L1 norm, so that images are compared independently of how strong the unit is."""
    return circuits.per_norm(circuits.circuits(weight, tap_sums))


def map_images(
    opened: OpenedSplit,
    study: Study,
    sets: list[Tensor],
    *,
    features: Callable[[Tensor, Tensor], Tensor],
    dropped: Tensor | None = None,
) -> MapImages:
    """MapImages of a split, by descending spatial sum.

    Parameters
    ----------
    opened
        The split.
    study
        Has the training images of the split.
    sets : list of K LongTensors
        The images of each concept.
    features
        A function of (weight, tap sums) that returns the features by which images are compared.
    dropped : LongTensor, optional
        Images of no concept.
    """
    require_images(opened, study, sets)
    weight = opened.file.split.weight
    indices = torch.cat(sets if dropped is None else [*sets, dropped]).sort().values
    tap_sums = study.tap_sums.of_images(indices)
    order = ordering.largest_first(circuits.circuits(weight, tap_sums).sum(1))
    return MapImages(indices[order], concepts_of(indices[order], sets), features(weight, tap_sums[order]))


def image_sets_of(opened: OpenedSplit) -> list[Tensor]:
    """The images of each concept of a split without labels: K LongTensors."""
    return [torch.tensor(concept.images) for concept in opened.file.split.own_concepts]


def concepts_of(indices: Tensor, sets: list[Tensor]) -> Tensor:
    """The index of the set that contains each image, or -1."""
    concepts = torch.full_like(indices, -1)
    for k, images in enumerate(sets):
        concepts[torch.isin(indices, images)] = k
    return concepts


def require_images(opened: OpenedSplit, study: Study, sets: list[Tensor], among: Tensor | None = None) -> None:
    """UserError unless all images of some sets are ``among`` others; default: those of the training store."""
    among = study.labels.indices if among is None else among
    if not torch.isin(torch.cat(sets), among).all():
        raise UserError(other_images(opened, study))


def check_arvs(opened: OpenedSplit, study: Study, sets: list[Tensor]) -> None:
    """UserError unless the ARV of each concept is the mean circuit of its images in the store."""
    split = opened.file.split
    arvs = split.arvs[: len(sets)]
    differences = (_mean_circuits(split.weight, study, sets) - arvs).abs().amax(1)
    if (differences > TOLERANCE * arvs.abs().amax(1)).any():
        raise UserError(other_images(opened, study))


def _mean_circuits(weight: Tensor, study: Study, sets: list[Tensor]) -> Tensor:
    """The mean circuit of each set of images, which is the ARV of the concept that they form: [K, C_in], float64."""
    images, rows = torch.cat(sets).sort()
    of_images = circuits.circuits(weight.double(), study.tap_sums.of_images(images).double())
    in_order = of_images[rows.argsort()].split([len(of_set) for of_set in sets])
    return torch.stack([of_set.mean(0) for of_set in in_order])


def other_images(opened: OpenedSplit, study: Study) -> str:
    """The message for a split that was made from other training images than those in the store."""
    return f"{opened.path} was made from other training images than those of {study.training.folder}: {AGAIN}"


# --------------------------------------------------------------------------------------------------------------------
# Comparison


class ImageSetFinder(ConceptFinder, ABC):
    """Finds concepts of the channels of a comparison: clusters of reference images.

    ``index`` and ``draw`` are those of the axes ``[channel, draw]`` of a Comparison.

    Parameters
    ----------
    source : ImageSets
    comparison : Comparison
    """

    def __init__(self, source: Any, comparison: Comparison) -> None:
        self.source = source
        self.comparison = comparison
        self.tap_sums = comparison.study.tap_sums
        self._clusters: dict[tuple[int, int, int | None], Clusters] = {}

    @abstractmethod
    def find_clusters(self, index: int, draw: int, number: int | None) -> Clusters:
        """Clusters of a channel's draw, exactly ``number`` where it is given; UserError if there are none."""

    @abstractmethod
    def features(self, index: int, draw: int) -> Tensor:
        """Features by which the reference images were clustered, [n, F]."""

    def clusters(self, index: int, draw: int, number: int | None = None) -> Clusters:
        """``find_clusters``, each found once."""
        key = (index, draw, number)
        if key not in self._clusters:
            self._clusters[key] = self.find_clusters(index, draw, number)
        return self._clusters[key]

    def assign(
        self, channel: ComparedChannel, draw: int, clusters: Clusters, partition: int = 0
    ) -> tuple[Tensor, Tensor]:
        """The validation images in which a unit is largest, and the nearest of the clusters' centroids to each.

        ``partition`` is 0 for the unit's own clusters, else the number of a random partition. Returns rows
        (0 ... N-1) and labels, LongTensor [n] each.
        """
        weight = channel.weights[draw].float()
        scores = channel.validation.scores(weight[None])[0]
        strongest = ordering.largest_first(scores, ASSIGNED_IMAGES)
        tap_sums = channel.validation.input_sums[strongest].view(-1, *weight.shape)
        return strongest, clustering.nearest(self.source.features(weight, tap_sums), clusters.centroids)

    def sets(self, channel: ComparedChannel, draw: int = 0, number: int | None = None) -> ConceptSets:
        return self.sets_of(self.clusters(channel.index, draw, number))

    def sets_of(self, clusters: Clusters) -> ConceptSets:
        """Clusters as ConceptSets."""
        images = clusters.sets()
        means = torch.stack([self.tap_sums.of_images(of_set).double().mean(0) for of_set in images])
        concepts = [disentangling.Concept("", [], of_set.tolist(), "images") for of_set in images]
        return compared_channels.ConceptSets(concepts, means, self.tap_sums, clusters)

    def partitioned(self, index: int) -> Iterator[Clusters]:
        """A channel's reference images partitioned at random into clusters of the same sizes, for each draw."""
        clusters = self.clusters(index, 0)
        features = self.features(index, 0)
        channel, _ = self.comparison.channels[index]
        for order in compared_channels.permutations("references", channel, len(clusters.labels), self.draws):
            labels = clusters.labels[order]
            centroids = [features[labels == k].double().mean(0) for k in range(len(clusters.centroids))]
            yield Clusters(clusters.indices, labels, torch.stack(centroids))
