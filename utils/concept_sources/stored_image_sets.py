"""Base class of sources that find and compare reference images by the tap sums in the store, without the network."""

from __future__ import annotations

import hashlib
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
from utils.processes import progress

if TYPE_CHECKING:
    from torch import Tensor

    from utils.concept_sources.compared_channels import Comparison
    from utils.method.contributions import Strongest
    from utils.store.files import Layout
    from utils.store.importance_store import ImportanceStore
    from utils.store.opened_splits import OpenedSplit
    from utils.store.study import Study
    from utils.store.unfinished import Unfinished

np = later("numpy")
torch = later("torch")
circuits = later("utils.method.contributions")
clustering = later("utils.method.clustering")
derived_arrays = later("utils.store.derived_arrays")
files = later("utils.store.files")
stored_sums = later("utils.store.tap_sums")

KEPT_CHUNKS = 32  # after which the reference images so far are kept
KEPT_CHANNELS = 32  # whose clusters are kept together
PASS = "pass"  # key of the reference images so far


def strongest_images(
    store: ImportanceStore,
    weights: Tensor,
    number: int,
    only_correct: bool = False,
    kept: Unfinished | None = None,
) -> Tensor:
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
    kept
        Keeps what has been found every few chunks, so that a stopped pass goes on.

    Returns
    -------
    LongTensor [..., n]
        Indices of images, the largest spatial sum first.
    """
    strongest = circuits.Strongest(number)
    rows = weights.reshape(-1, weights.shape[-2] * weights.shape[-1]).float()
    done = 0 if kept is None else _found_so_far(kept, strongest, len(rows))
    chunks = range(done, store.num_chunks)
    bar = progress(
        chunks,
        "reference images",
        unit=" chunks",
        delay=2,
        images=store.meta["num_images"],
        initial=done,
        total=store.num_chunks,
    )
    for chunk in bar:
        images = store.read_chunk(chunk, ["input_sums", "targets", "predictions"])
        usable = torch.ones_like(images["targets"], dtype=torch.bool)
        if only_correct:
            usable = images["targets"] == images["predictions"]
        strongest.add(images["input_sums"][usable].flatten(1) @ rows.T, images["indices"][usable])
        if kept is not None and (chunk + 1) % KEPT_CHUNKS == 0:
            so_far = {"indices": strongest.indices.T.numpy(), "values": strongest.values.T.numpy()}
            kept.keep_arrays(PASS, {"chunks": np.array(chunk + 1), **so_far})
    if not strongest.indices.shape[1]:
        raise UserError(f"{store.folder} has no {'correctly classified' if only_correct else 'readable'} image")
    return strongest.indices.unflatten(0, weights.shape[:-2])


def _found_so_far(kept: Unfinished, strongest: Strongest, num_units: int) -> int:
    """The number of chunks of a pass that was stopped; what it has found is set in ``strongest``."""
    layout: Layout = {"chunks": (np.int64, ()), "indices": (np.int64, (None, num_units))}
    so_far = kept.find_arrays(PASS, {**layout, "values": (np.float32, (None, num_units))})
    if so_far is None:
        return 0
    strongest.indices = torch.from_numpy(so_far["indices"]).T
    strongest.values = torch.from_numpy(so_far["values"]).T
    return int(so_far["chunks"])


class StoredImageSets(ImageSets):
    """A source whose reference images and features follow from the tap sums in the store."""

    largest = "spatial sum"
    finds_from_store = True

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
        weights = study.weight_and_bias[0][channels][:, None]
        clusters = StoredClusters(self, study, weights) if len(channels) == 1 else KeptClusters(self, study, weights)
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
    def clusters_of_units(cls, state: dict[str, Any], study: Study, weights: Tensor) -> KeptReferences:
        """Finds the concepts of any units as those of a split were found: the null of a single concept needs them.

        Parameters
        ----------
        state
            Of the split: the settings of its source.
        study
        weights : Tensor [channel, draw, C_in, taps]
            Weights of the units.
        """
        source: Any = cls.from_given({flag.setting: state[flag.name] for flag in cls.flags}, study)
        return KeptReferences(source, study, weights.float())

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
        self.study = study
        self.tap_sums = study.tap_sums
        self.weights = weights
        self.references = self.strongest_images()
        self.tap_sums.keep(self.references)

    def strongest_images(self, kept: Unfinished | None = None) -> Tensor:
        """The reference images, from a pass over the store."""
        study = self.study
        return strongest_images(study.training, self.weights, self.source.references, study.only_correct, kept)

    def features(self, index: int, draw: int) -> Tensor:
        """Features by which the reference images of a channel's draw are clustered, in their order: [n, F]."""
        ascending, ranks = self.references[index, draw].sort()
        tap_sums = self.tap_sums.of_images(ascending)
        return self.source.features(self.weights[index, draw], tap_sums[ranks.argsort()])

    def labels(self, index: int, features: Tensor) -> Tensor:
        """The cluster of each reference image of a channel, by its features."""
        return self.source.clusters(features)[0]

    def of(self, index: int, draw: int) -> Clusters:
        """The Clusters of a channel's draw."""
        features = self.features(index, draw)
        labels = self.labels(index, features)
        return Clusters(self.references[index, draw], labels, clustering.centroids_of(features, labels))

    def of_number(self, index: int, draw: int, number: int) -> Clusters:
        """Exactly ``number`` Clusters of a channel's draw, by k-means if the source leaves fewer."""
        features = self.features(index, draw)
        labels, centroids = self._labels_of_number(features, number)
        return Clusters(self.references[index, draw], labels, centroids)

    def _labels_of_number(self, features: Tensor, number: int) -> tuple[Tensor, Tensor]:
        source: Any = self.source
        with suppress(clustering.TooFewImagesError):
            labels, centroids = replace(source, number=number).clusters(features)
            if len(centroids) == number:
                return labels, centroids
        return clustering.k_means(features, number)


class KeptReferences(StoredClusters):
    """StoredClusters whose reference images are kept in a file beside the splits."""

    def _made_from(self) -> dict[str, Any]:
        """Plain values that determine the reference images."""
        weights = self.weights.float().contiguous().numpy().tobytes()
        return {
            "training_sha256": files.json_digest(self.study.meta),
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "number": self.source.references,
            "only_correct": self.study.only_correct,
        }

    def strongest_images(self, kept: Unfinished | None = None) -> Tensor:
        """The reference images, from their file if there is one."""
        layout: Layout = {"indices": (np.int64, (None, *self.weights.shape[:-2]))}
        name = f"{self.study.run}_strongest_images"
        file = derived_arrays.DerivedArrays(self.study.model_dir, name, self._made_from(), layout)
        stored = file.read()
        if stored is None:
            kept = file.unfinished if file.is_writable() else None  # stage 4 can do without
            stored = {"indices": super().strongest_images(kept).movedim(-1, 0).numpy()}
            if kept is not None:
                file.write(stored)
        return torch.from_numpy(stored["indices"]).movedim(0, -1)


class KeptClusters(KeptReferences):
    """KeptReferences of channels themselves, whose labels are kept, too."""

    def __init__(self, source: StoredImageSets, study: Study, weights: Tensor) -> None:
        super().__init__(source, study, weights)
        self._labels = self._all_labels()

    def labels(self, index: int, features: Tensor) -> Tensor:
        labels = self._labels[index]
        return labels if (labels >= 0).any() else super().labels(index, features)  # raises what has failed

    def _all_labels(self) -> Tensor:
        """The labels of the reference images of all channels [channel, n], from their file if there is one."""
        source = self.source
        num_channels, _, num_images = self.references.shape
        made_from = {**self._made_from(), "source": source.name, **source.settings(), **source.k_means_state()}
        layout: Layout = {"labels": (np.int16, (num_channels, num_images))}
        name = f"{self.study.run}_{source.name}_clusters"
        file = derived_arrays.DerivedArrays(self.study.model_dir, name, made_from, layout)
        stored = file.read()
        if stored is None:
            stored = {"labels": self._find_labels(file.unfinished).numpy()}
            file.write(stored)
        return torch.from_numpy(stored["labels"]).long()

    def _find_labels(self, kept: Unfinished) -> Tensor:
        """The labels of all channels, int16 [channel, n], found or kept a few channels at a time; -1 for a failure."""
        num_channels, _, num_images = self.references.shape
        labels = torch.full((num_channels, num_images), -1, dtype=torch.int16)
        missing = []
        for block in torch.arange(num_channels).split(KEPT_CHANNELS):
            rows = slice(int(block[0]), int(block[-1]) + 1)
            kept_labels = kept.find_arrays([rows.start, rows.stop], {"labels": (np.int16, (len(block), num_images))})
            if kept_labels is None:
                missing.append(rows)
            else:
                labels[rows] = torch.from_numpy(kept_labels["labels"])
        done = num_channels - sum(rows.stop - rows.start for rows in missing)
        with progress(total=num_channels, initial=done, desc="concepts", unit=" channels", delay=2) as bar:
            for rows in missing:
                for index in range(rows.start, rows.stop):
                    with suppress(clustering.TooFewImagesError):
                        labels[index] = self.source.clusters(self.features(index, 0))[0].short()
                    bar.update()
                kept.keep_arrays([rows.start, rows.stop], {"labels": labels[rows].numpy()})
        return labels


class StoredFinder(ImageSetFinder):
    """Clusters of the images of largest spatial sum, of the channels and their permuted weights."""

    def __init__(self, source: StoredImageSets, comparison: Comparison) -> None:
        super().__init__(source, comparison)
        self.stored = KeptReferences(source, comparison.study, comparison.weights.float())

    def features(self, index: int, draw: int) -> Tensor:
        return self.stored.features(index, draw)

    def find_clusters(self, index: int, draw: int, number: int | None) -> Clusters:
        return self.stored.of(index, draw) if number is None else self.stored.of_number(index, draw, number)
