"""Base class of sources that find and compare reference images by the tap sums in the store, without the network."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.concept_sources.image_sets import (
    Clusters,
    ImageSetCandidates,
    ImageSetFinder,
    ImageSets,
    MapImages,
    check_arvs,
    image_sets_of,
    map_images,
    require_images,
)
from utils.defaults import ASSIGNED_IMAGES
from utils.errors import UserError
from utils.plugins import later

if TYPE_CHECKING:
    from torch import Tensor

    from utils.concept_sources.compared_channels import Comparison
    from utils.store.importance_store import ImportanceStore
    from utils.store.opened_splits import OpenedSplit
    from utils.store.study import Study

torch = later("torch")
tqdm = later("tqdm")
circuits = later("utils.method.contributions")
clustering = later("utils.method.clustering")
stored_sums = later("utils.store.tap_sums")


def strongest_images(store: ImportanceStore, weights: Tensor, number: int, only_correct: bool = False) -> Tensor:
    """The images in which units have the largest spatial sum, computed from a store.

    One pass over the chunks. The bias is left out: it moves all images of a unit by the same value.

    Parameters
    ----------
    store
        A complete store.
    weights : Tensor [..., C_in, taps]
        Weights of the units.
    number
        Number of images for each unit.
    only_correct
        Whether only correctly classified images count; UserError if there are none.

    Returns
    -------
    LongTensor [..., n]
        Indices of images, the largest spatial sum first.
    """
    strongest = circuits.Strongest(number)
    rows = weights.reshape(-1, weights.shape[-2] * weights.shape[-1]).float()
    for chunk in tqdm.tqdm(range(store.num_chunks), "reference images", unit=" chunks", delay=2):
        images = store.read_chunk(chunk, ["input_sums", "targets", "predictions"])
        usable = torch.ones_like(images["targets"], dtype=torch.bool)
        if only_correct:
            usable = images["targets"] == images["predictions"]
        strongest.add(images["input_sums"][usable].flatten(1) @ rows.T, images["indices"][usable])
    if not strongest.indices.shape[1]:
        raise UserError(f"{store.folder} has no {'correctly classified' if only_correct else 'readable'} image")
    return strongest.indices.unflatten(0, weights.shape[:-2])


class StoredImageSets(ImageSets):
    """A source whose reference images and features follow from the tap sums in the store."""

    largest = "spatial sum"

    @abstractmethod
    def features(self, weight: Tensor, tap_sums: Tensor) -> Tensor:
        """Features by which images are clustered and assigned.

        For a unit [C_in, taps] and tap sums [n, C_in, taps] of images: [n, F].
        """

    @classmethod
    @abstractmethod
    def of_layer(cls, store: ImportanceStore) -> StoredImageSets:
        """A source with the layer's values that ``features`` needs, and default settings."""

    def maker(self, study: Study, channels: Sequence[int]) -> ImageSetCandidates:
        clusters = StoredClusters(self, study, study.weight_and_bias[0][channels][:, None])
        index_of = {channel: index for index, channel in enumerate(channels)}
        return ImageSetCandidates(study, self, lambda channel: clusters.of(index_of[channel], 0))

    @classmethod
    def assigned(cls, opened: list[OpenedSplit], store: ImportanceStore, study: Study) -> dict[Any, Tensor]:
        """The images of largest spatial sum of each channel, each assigned to the nearest training centroid.

        A concept may have no image.
        """
        weight, _ = store.read_layer()
        strongest = strongest_images(store, weight[[split.file.split.channel for split in opened]], ASSIGNED_IMAGES)
        tap_sums = stored_sums.StoredTapSums(store, store.read_labels, only_correct=False)
        tap_sums.keep(strongest)
        source = cls.of_layer(store)
        assigned: dict[Any, Tensor] = {}
        for split, indices in zip(opened, strongest, strict=True):
            images = indices.sort().values
            features = source.features(weight[split.file.split.channel], tap_sums.of_images(images))
            labels = clustering.nearest(features, split.file.source["state"]["centroids"])
            assigned |= {key: images[labels == k] for k, (key,) in enumerate(split.groups)}
        return assigned

    @classmethod
    def dropped(cls, opened: list[OpenedSplit], study: Study) -> dict[Path, Tensor]:
        """Reference images of splits that belong to no concept, by the path of the split."""
        return {}

    @classmethod
    def map_images(cls, opened: list[OpenedSplit], study: Study) -> Callable[[OpenedSplit], MapImages]:
        source = cls.of_layer(study.training)
        sets = {split.path: image_sets_of(split) for split in opened}
        dropped = cls.dropped(opened, study)
        kept = torch.cat([*(images for of_split in sets.values() for images in of_split), *dropped.values()])
        study.tap_sums.keep(kept[torch.isin(kept, study.labels.indices)])

        def of(split: OpenedSplit) -> MapImages:
            require_images(split, study, sets[split.path])
            check_arvs(split, study, sets[split.path])
            return map_images(split, study, sets[split.path], features=source.features, dropped=dropped.get(split.path))

        return of

    @classmethod
    def finder(cls, comparison: Comparison) -> StoredFinder:
        source: Any = cls.from_given(comparison.given, comparison.study)
        return StoredFinder(source, comparison)


class StoredClusters:
    """Clusters of the images of largest spatial sum of channels and draws, by the tap sums in the store.

    Parameters
    ----------
    source : StoredImageSets
    study : Study
        Its tap sums keep all reference images.
    weights : Tensor [channel, draw, C_in, taps]

    ``references`` LongTensor [channel, draw, n] are the reference images, the largest spatial sum first.
    """

    def __init__(self, source: StoredImageSets, study: Study, weights: Tensor) -> None:
        self.source = source
        self.tap_sums = study.tap_sums
        self.weights = weights
        self.references = strongest_images(study.training, weights, source.references, study.only_correct)
        self.tap_sums.keep(self.references)

    def features(self, index: int, draw: int) -> Tensor:
        """Features by which the reference images of a channel's draw are clustered, in their order: [n, F]."""
        ascending, ranks = self.references[index, draw].sort()
        tap_sums = self.tap_sums.of_images(ascending)
        return self.source.features(self.weights[index, draw], tap_sums[ranks.argsort()])

    def of(self, index: int, draw: int) -> Clusters:
        """The Clusters of a channel's draw."""
        labels, centroids = self.source.clusters(self.features(index, draw))
        return Clusters(self.references[index, draw], labels, centroids)


class StoredFinder(ImageSetFinder):
    """Clusters of the images of largest spatial sum, of the channels and their permuted weights."""

    def __init__(self, source: StoredImageSets, comparison: Comparison) -> None:
        super().__init__(source, comparison)
        self.stored = StoredClusters(source, comparison.study, comparison.weights.float())

    def features(self, index: int, draw: int) -> Tensor:
        return self.stored.features(index, draw)

    def find_clusters(self, index: int, draw: int, number: int | None) -> Clusters:
        if number is None:
            return self.stored.of(index, draw)
        labels, centroids = self._of_number(self.features(index, draw), number)
        return Clusters(self.stored.references[index, draw], labels, centroids)

    def _of_number(self, features: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Labels and centroids of exactly ``number`` clusters, by k-means if the source leaves fewer."""
        with suppress(UserError):
            labels, centroids = replace(self.source, number=number).clusters(features)
            if len(centroids) == number:
                return labels, centroids
        return clustering.k_means(features, number)
