"""PURE (Dreyer et al., CVPR workshops 2024): clusters of circuits that start from ``max(a, 0)`` at every position.

These circuits are not linear in the tap sums, so they cannot be computed from the store. They need passes over images:
over all training images for the reference images of a channel, and over ``val/`` for new images. The results of a pass
are kept in the store. Circuits are in ``utils.networks.unit_circuits``, virtual neurons in
``utils.method.virtual_neurons``.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

from utils.concept_sources.compared_channels import (
    DRAWS,
    PARTITIONED_REFERENCES,
    PERMUTED_WEIGHTS,
    ComparedChannel,
    ComparedUnits,
    UnitMaker,
    UnitsByNull,
    permuted_draws,
)
from utils.concept_sources.image_sets import (
    AGAIN,
    Clusters,
    ImageSetCandidates,
    ImageSetFinder,
    ImageSets,
    MapImages,
    concepts_of,
    image_sets_of,
    number_flag,
    references_flag,
    require_images,
)
from utils.defaults import ASSIGNED_IMAGES, DECODER, PRECISION
from utils.errors import UserError
from utils.plugins import Flag, later

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor

    from utils.concept_sources.compared_channels import Comparison
    from utils.method.contributions import Strongest
    from utils.networks.layers import Layer
    from utils.networks.unit_circuits import CircuitLayer, UnitCircuits
    from utils.store.files import Layout
    from utils.store.importance_store import ImportanceStore, Labels
    from utils.store.opened_splits import OpenedSplit
    from utils.store.reference_images import ReferenceImages, ReferenceImageStore, Unit
    from utils.store.study import Study
    from utils.store.unfinished import Unfinished
    from utils.store.virtual_neuron_files import VirtualNeurons

torch = later("torch")
circuits = later("utils.method.contributions")
clustering = later("utils.method.clustering")
network_circuits = later("utils.networks.unit_circuits")
ordering = later("utils.method.order")
recording = later("utils.networks.recording")
reference_store = later("utils.store.reference_images")
significance = later("utils.method.significance")
unfinished = later("utils.store.unfinished")
virtual_neuron_store = later("utils.store.virtual_neuron_files")

NUMBER = 2
REFERENCES = 100
USUAL = {  # the settings of reference images that are stored in a file without suffix
    "number": REFERENCES,
    "circuit_layer": None,
    "precision": PRECISION,
    "decoding": DECODER,
    "only_correct": False,
}
MOST_VALUES = 2**27  # entries of circuits in memory at once
MOST_CLUSTERS = 128  # of one unit: cluster indices are stored as int8
CIRCUIT_LAYER = (
    "pure: an earlier module whose output the circuits are of, by plain autograd (default: the layer's input)"
)


@dataclass(frozen=True)
class Pure(ImageSets):
    """k-means on PURE's circuits of single images, at the layer's input or an earlier module."""

    number: int = NUMBER
    references: int = REFERENCES
    circuit_layer: str | None = None

    name = "pure"
    words = "pure"
    split_words = "PURE's clusters"
    summary = "pure (Dreyer et al. 2024; one pass over train/)"
    flags = (
        number_flag(str(NUMBER)),
        references_flag(str(REFERENCES)),
        Flag("circuit_layer", CIRCUIT_LAYER, "circuit_layer", metavar="NAME"),
    )
    needs_images = True
    word = "circuit"
    largest = "maximum over space"
    usual_references = REFERENCES
    map_words = "training images of largest maximum over space, by PURE's circuits"

    @classmethod
    def from_given(cls, given: dict[str, Any], study: Study) -> Pure:
        return cls(
            number=given.get("number") or NUMBER,
            references=cls.references_from(given, study),
            circuit_layer=given.get("circuit_layer"),
        )

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        return {"number": NUMBER, "references": REFERENCES, "circuit_layer": None}

    def clusters(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return clustering.k_means(features, self.number)

    def stored_references(self, study: Study) -> tuple[ReferenceImageStore, CircuitLayer | None]:
        """The ReferenceImageStore of these settings, and the CircuitLayer that they name, or None."""
        circuit_layer = _circuit_layer(study, self.circuit_layer)
        num_features = study.network.layer.num_inputs if circuit_layer is None else circuit_layer.num_features
        settings = {
            "number": self.references,
            "circuit_layer": self.circuit_layer,
            "precision": study.precision,
            "decoding": study.decoding,
            "only_correct": study.only_correct,
        }
        return _reference_store(study.model_dir, study, num_features, settings), circuit_layer

    def maker(self, study: Study, channels: Sequence[int]) -> ImageSetCandidates:
        stored, circuit_layer = self.stored_references(study)
        references = references_by_draw(channels, 1, stored, study, circuit_layer=circuit_layer)
        print(f"reference images: {stored.path}")
        study.tap_sums.keep(references.indices)
        index_of = {channel: index for index, channel in enumerate(channels)}

        def clusters_of(channel: int) -> Clusters:
            index = index_of[channel]
            labels, centroids = self.clusters(references.features[index, 0])
            return Clusters(references.indices[index, 0], labels, centroids)

        return ImageSetCandidates(study, self, clusters_of)

    @classmethod
    def assigned(cls, opened: list[OpenedSplit], store: ImportanceStore, study: Study) -> dict[Any, Tensor]:
        """The validation images with the largest maximum of each channel, assigned to the nearest training centroid.

        Maxima and nearest centroids come from a pass over the images of the val store, or from the stored results of an
        earlier pass.
        """
        assigned = {}
        by_layer: dict[str | None, list[OpenedSplit]] = {}
        for split in opened:
            by_layer.setdefault(split.file.source["state"]["circuit_layer"], []).append(split)
        for name, splits in by_layer.items():
            units = _unit_circuits(
                study, [(split.file.split.channel, 0) for split in splits], _circuit_layer(study, name)
            )
            centroids = [split.file.source["state"]["centroids"][None] for split in splits]
            neurons = stored_virtual_neurons(store, study, store.read_labels(), units, centroids)
            for unit, split in enumerate(splits):
                rows, labels = neurons.strongest(unit, ASSIGNED_IMAGES)
                for k, (key,) in enumerate(split.groups):
                    assigned[key] = neurons.indices[rows[labels == k]].sort().values
        return assigned

    @classmethod
    def map_images(cls, opened: list[OpenedSplit], study: Study) -> Callable[[OpenedSplit], MapImages]:
        """Reference images and circuits, from the file that stage 3 writes next to the split."""
        return lambda split: _map_images(split, study)

    @classmethod
    def finder(cls, comparison: Comparison) -> PureFinder:
        return PureFinder(cls.from_given(comparison.given, comparison.study), comparison)

    @classmethod
    def own_units(cls) -> dict[str, tuple[str, Callable[[PureFinder], UnitMaker]]]:
        return {"virtual_neurons": ("PURE's virtual neurons", Neurons)}


def _map_images(opened: OpenedSplit, study: Study) -> MapImages:
    """The MapImages of a split: the stored reference images of its channel, with their circuits as features."""
    channel = opened.file.split.channel
    sets = image_sets_of(opened)
    require_images(opened, study, sets)
    state = opened.file.source["state"]
    settings = {"number": state["nr_reference_images"], "circuit_layer": state["circuit_layer"]}
    settings |= {name: opened.file.settings[name] for name in ("precision", "decoding", "only_correct")}
    stored = _reference_store(opened.path.parent, study, state["centroids"].shape[1], settings)
    if stored.missing([(channel, 0)]):
        raise UserError(f"{stored.path} has no references of channel {channel}: {AGAIN}")
    references = stored.read([(channel, 0)])
    indices = references.indices[0]
    require_images(opened, study, sets, among=indices)
    return MapImages(indices, concepts_of(indices, sets), references.features[0])


def _circuit_layer(study: Study, name: str | None) -> CircuitLayer | None:
    if name is None:
        return None
    network = study.network
    return network_circuits.find_circuit_layer(network.module, network.layer, name, study.transform.crop_size)


def _reference_store(model_dir: Path, study: Study, num_features: int, settings: dict[str, Any]) -> ReferenceImageStore:
    return reference_store.ReferenceImageStore(
        model_dir, study.run, Pure.name, study.meta, num_features, settings=settings, usual=USUAL
    )


def _unit_circuits(study: Study, units: list[Unit], circuit_layer: CircuitLayer | None = None) -> UnitCircuits:
    """The UnitCircuits of units (channel, draw)."""
    network = study.network
    rows, biases = unit_rows(network.layer, units)
    return network_circuits.UnitCircuits(
        network.module, network.layer, rows, biases, precision=network.precision, circuit_layer=circuit_layer
    )


# --------------------------------------------------------------------------------------------------------------------
# References: the training images in which units are largest, and their circuits, from two passes over images


def unit_rows(layer: Layer, units: list[Unit]) -> tuple[Tensor, Tensor | None]:
    """Weights [R, C_in, taps] and biases [R] or None of units (channel, draw).

    Draw 0 is the channel itself, any other the channel with its weights permuted over the inputs.
    """
    rows = layer.weight[[channel for channel, _ in units]].clone()
    for row, (channel, draw) in zip(rows, units, strict=True):
        if draw:
            row.copy_(row[significance.permutation(layer.num_inputs, "weights", channel, draw).to(row.device)])
    return rows, None if layer.bias is None else layer.bias[[channel for channel, _ in units]]


def unit_references(
    units: list[Unit], stored: ReferenceImageStore, study: Study, circuit_layer: CircuitLayer | None = None
) -> ReferenceImages:
    """The ReferenceImages of units (channel, draw) from their store; one pass measures and adds the missing ones."""
    missing = stored.missing(units)
    if missing:
        circuits_of_missing = _unit_circuits(study, missing, circuit_layer)
        kept = stored.unfinished(missing)
        measured = find_references(circuits_of_missing, study, number=stored.settings["number"], kept=kept)
        while stored.missing(missing):  # repeat: another run may have replaced the file meanwhile
            stored.write(missing, measured)
        kept.remove()
    return stored.read(units)


def references_by_draw(
    channels: Sequence[int],
    num_draws: int,
    stored: ReferenceImageStore,
    study: Study,
    circuit_layer: CircuitLayer | None = None,
) -> ReferenceImages:
    """The ``unit_references`` of draws 0 ... ``num_draws`` - 1 of channels: arrays [channel, draw, ...]."""
    references = unit_references(list(product(channels, range(num_draws))), stored, study, circuit_layer)
    shape = (len(channels), num_draws)
    return reference_store.ReferenceImages(
        references.indices.unflatten(0, shape),
        references.values.unflatten(0, shape),
        references.features.unflatten(0, shape),
    )


def find_references(units: UnitCircuits, study: Study, number: int, kept: Unfinished) -> ReferenceImages:
    """The n images with the largest activation of each of R units, and their circuits.

    All images are read once to find the largest activations. The reference images are read again to compute circuits.
    Memory depends only on R x n. Both passes go on from what an interrupted run has kept.

    Parameters
    ----------
    units
        R units.
    study
        Reference images are chosen among its N ``usable`` training images.
    number
        n, the number of reference images of a unit; at most N.
    kept
        What is kept every few thousand images; of the same units, settings and images.

    Raises
    ------
    UserError
        There are fewer images than reference images, an image cannot be read, or the network gives values for an image
        that are not finite.
    """
    strongest = _largest_activations(units, study, number, kept)
    features = _reference_circuits(units, strongest.indices, study, kept)
    return reference_store.ReferenceImages(strongest.indices, strongest.values, features)


def _largest_activations(units: UnitCircuits, study: Study, number: int, kept: Unfinished) -> Strongest:
    """The n usable images in which each unit is largest."""
    key = "largest activations"
    shape = (len(units.rows), number)
    layout: Layout = {"indices": ("int64", shape), "values": ("float32", shape), "done_and_skipped": ("int64", (2,))}
    _require_enough(len(study.usable), number)
    strongest = circuits.Strongest(number)
    done = skipped = 0
    found = kept.find_arrays(key, layout)
    if found is not None:
        strongest.indices, strongest.values = torch.from_numpy(found["indices"]), torch.from_numpy(found["values"])
        done, skipped = found["done_and_skipped"].tolist()
    kept_images = done
    loader = study.image_source(study.training).in_order(study.usable, key, done)
    loader.skipped = skipped
    for batch, planned in zip(loader, loader.batches, strict=True):
        if len(batch.indices):
            maxima = units.maxima(batch.pixels).cpu()  # the only wait for the device
            recording.require_finite_values([maxima], batch.indices, loader.images)
            strongest.add(maxima, batch.indices)
        done += len(planned)
        is_step = done - kept_images >= unfinished.KEPT_IMAGES or done == len(study.usable)
        if is_step and strongest.indices.shape == shape:
            counts = torch.tensor([done, loader.skipped])
            state = {"indices": strongest.indices, "values": strongest.values, "done_and_skipped": counts}
            kept.keep_arrays(key, {name: tensor.numpy() for name, tensor in state.items()})
            kept_images = done
    _require_enough(len(study.usable) - loader.skipped, number)
    return strongest


def _require_enough(num_images: int, number: int) -> None:
    if num_images < number:
        raise UserError(f"there are {num_images} usable training images, fewer than {number} references: ask for fewer")


def _reference_circuits(units: UnitCircuits, references: Tensor, study: Study, kept: Unfinished) -> Tensor:
    """Circuits [R, n, F] of the reference images [R, n] of units."""
    images, image_of, times = references.flatten().unique(return_inverse=True, return_counts=True)
    # Batches hold images of similar numbers of units: at an earlier circuit layer, a backward pass serves one unit of
    # each image of a batch
    order = ordering.largest_first(times)
    images = images[order]
    ends = [0, *times[order].cumsum(0).tolist()]
    places = order.argsort()[image_of].argsort(stable=True)  # unit * n + rank, image by image; of an image by unit
    num_units, number = references.shape
    features = torch.empty(num_units * number, units.num_features)

    digest = hashlib.sha256(references.numpy().data).hexdigest()
    layout: Layout = {"circuits": ("float32", (None, units.num_features)), "done": ("int64", (1,))}
    kept_images = 0
    while (found := kept.find_arrays([digest, kept_images], layout)) is not None:
        (done,) = found["done"].tolist()
        features[places[ends[kept_images] : ends[done]]] = torch.from_numpy(found["circuits"])
        kept_images = done

    source = study.image_source(study.training)
    size = max(1, min(source.batch_size, MOST_VALUES // (int(times.max()) * units.num_features)))
    loader = replace(source, batch_size=size).in_order(images, "circuits of references", kept_images)
    done = kept_images
    for batch, planned in zip(loader, loader.batches, strict=True):
        if loader.skipped:
            raise UserError(f"{loader.skipped} reference images cannot be read any more")
        first = done
        done += len(planned)
        of_batch = places[ends[first] : ends[done]]
        rows = torch.arange(len(planned)).repeat_interleave(times[order[first:done]])
        wanted = torch.zeros(len(planned), num_units, dtype=torch.bool)
        wanted[rows, of_batch // number] = True
        _, circuits_of = units.measure(batch.pixels)
        values = circuits_of(wanted).cpu()
        recording.require_finite_values([values], batch.indices[rows], loader.images)
        features[of_batch] = values
        if done - kept_images >= unfinished.KEPT_IMAGES:
            of_step = features[places[ends[kept_images] : ends[done]]]
            kept.keep_arrays([digest, kept_images], {"circuits": of_step.numpy(), "done": torch.tensor([done]).numpy()})
            kept_images = done
    return features.view(num_units, number, -1)


# --------------------------------------------------------------------------------------------------------------------
# Virtual neurons on images of a store, from one pass over them: they are not linear in the stored tap sums


def stored_virtual_neurons(
    store: ImportanceStore, study: Study, labels: Labels, units: UnitCircuits, centroids: list[Tensor]
) -> VirtualNeurons:
    """The VirtualNeurons of units on images of a store: from their file if it exists, else from a pass.

    Parameters
    ----------
    store
        A complete store.
    study
        Determines how images are read.
    labels
        Labels of the images to measure: all images of the store, or some of them.
    units
        R units.
    centroids : list of R Tensors [D, K, F]
        D sets of centroids for each unit; K, the number of clusters, may differ from unit to unit.

    Raises
    ------
    UserError
        An image cannot be read any more, the network gives values for an image that are not finite, or there are too
        many centroids.
    """
    most = max(len(of_unit[0]) for of_unit in centroids)
    if most > MOST_CLUSTERS:
        raise UserError(f"a unit has {most} clusters by PURE, more than {MOST_CLUSTERS} virtual neurons: ask for fewer")
    file = virtual_neuron_store.VirtualNeuronFile(store, study.run, labels, units, centroids, decoding=study.decoding)
    if file.read() is None:
        maxima, nearest = measure_virtual_neurons(store, study, labels.indices, units, centroids)
        file.write(maxima, nearest)
    return file.read()


def measure_virtual_neurons(
    store: ImportanceStore, study: Study, indices: Tensor, units: UnitCircuits, centroids: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Largest ``max(a, 0)`` [N, R] of units in images, and the centroid [N, R, D] int8 nearest to each circuit."""
    num_units = len(centroids)
    maxima = torch.empty(len(indices), num_units)
    clusters = torch.empty(len(indices), num_units, len(centroids[0])).char()
    size = max(1, min(study.batch_size, MOST_VALUES // (num_units * units.num_features)))
    loader = replace(study.image_source(store), batch_size=size).in_order(indices, "virtual neurons")
    first = 0
    for shown, pixels, _ in loader.readable():
        rows = slice(first, first + len(shown))
        first = rows.stop
        largest, circuits_of = units.measure(pixels)
        everything = torch.ones(len(shown), num_units, dtype=torch.bool)
        features = circuits_of(everything).unflatten(0, everything.shape)
        recording.require_finite_values([largest, features], shown, loader.images)
        maxima[rows] = largest.clamp(min=0).cpu()
        for unit, of_unit in enumerate(centroids):
            nearest = clustering.nearest(features[None, :, unit], of_unit.to(pixels.device))
            clusters[rows, unit] = nearest.T.char().cpu()
    if loader.skipped:
        raise UserError(f"{loader.skipped} images cannot be read any more")
    return maxima, clusters


# --------------------------------------------------------------------------------------------------------------------
# Comparison


class PureFinder(ImageSetFinder):
    """PURE's clusters of channels and of their permuted weights.

    ``training`` and ``validation`` are their VirtualNeurons on images, with the centroids found here.
    """

    def __init__(self, source: Pure, comparison: Comparison) -> None:
        super().__init__(source, comparison)
        study = comparison.study
        channels = [channel for channel, _ in comparison.channels]
        stored, circuit_layer = source.stored_references(study)
        self.references = references_by_draw(channels, 1 + DRAWS, stored, study, circuit_layer=circuit_layer)
        self.tap_sums.keep(self.references.indices)
        units = _unit_circuits(study, list(product(channels, range(1 + DRAWS))), circuit_layer)
        centroids = self.centroids()
        of_train = study.labels.some(comparison.all_images())
        self.training = virtual_neurons_by_draw(study.training, study, of_train, units, centroids)
        of_val = comparison.store.read_labels()
        self.validation = virtual_neurons_by_draw(comparison.store, study, of_val, units, centroids)

    def features(self, index: int, draw: int) -> Tensor:
        return self.references.features[index, draw]

    def find_clusters(self, index: int, draw: int, number: int | None) -> Clusters:
        labels, centroids = self.source.clusters(self.features(index, draw))
        return Clusters(self.references.indices[index, draw], labels, centroids)

    def centroids(self) -> Tensor:
        """Centroids of all channels and draws: [channel, draw, 1 + DRAWS, K, F], float64.

        Entry 0 of the third axis has the clusters that were found. The other entries have the random partitions of the
        channel itself (draw 0), and are 0 for the other draws. All entries are 0 for a unit without clusters.
        """
        num_channels, num_draws, _, num_features = self.references.features.shape
        shape = (num_channels, num_draws, 1 + DRAWS, self.source.number, num_features)
        centroids = torch.zeros(shape, dtype=torch.float64)
        for index, draw in product(range(num_channels), range(num_draws)):
            with suppress(UserError):
                centroids[index, draw] = self.clusters(index, draw).centroids
                if draw == 0:
                    partitions = [partition.centroids for partition in self.partitioned(index)]
                    centroids[index, draw, 1:] = torch.stack(partitions)
        return centroids

    def assign(
        self, channel: ComparedChannel, draw: int, clusters: Clusters, partition: int = 0
    ) -> tuple[Tensor, Tensor]:
        return self.validation[channel.index].strongest(draw, ASSIGNED_IMAGES, partition)


def virtual_neurons_by_draw(
    store: ImportanceStore, study: Study, labels: Labels, units: UnitCircuits, centroids: Tensor
) -> list[VirtualNeurons]:
    """The VirtualNeurons of each channel; their units are the draws of the channel.

    ``centroids`` has the shape [channel, draw, D, K, F]; ``units`` are those of all channels and draws, channel by
    channel. The other arguments are as in ``stored_virtual_neurons``.
    """
    neurons = stored_virtual_neurons(store, study, labels, units, list(centroids.flatten(0, 1)))
    maxima = neurons.maxima.unflatten(1, centroids.shape[:2])
    nearest = neurons.nearest.unflatten(1, centroids.shape[:2])
    return [
        virtual_neuron_store.VirtualNeurons(neurons.indices, maxima[:, index], nearest[:, index])
        for index in range(len(centroids))
    ]


class Neurons(UnitMaker):
    """PURE's virtual neurons, of a PureFinder."""

    def __init__(self, finder: PureFinder) -> None:
        self.finder = finder

    def units_by_null(self, channel: ComparedChannel) -> UnitsByNull:
        clusters = self.finder.clusters(channel.index, 0)

        def units_of_draw(draw: int) -> ComparedUnits:
            return self._units(channel, self.finder.clusters(channel.index, draw), draw)

        partitions = enumerate(self.finder.partitioned(channel.index), start=1)
        return {
            "": [self._units(channel, clusters)],
            PERMUTED_WEIGHTS: permuted_draws(units_of_draw),
            PARTITIONED_REFERENCES: [
                self._units(channel, clusters, partition=partition) for partition, clusters in partitions
            ],
        }

    def _units(self, channel: ComparedChannel, clusters: Clusters, draw: int = 0, partition: int = 0) -> ComparedUnits:
        number = len(clusters.centroids)
        training = self.finder.training[channel.index]
        rows = torch.searchsorted(training.indices, channel.images)
        return ComparedUnits(
            training=training.values(draw, number, partition)[:, rows],
            validation=self.finder.validation[channel.index].values(draw, number, partition),
            clusters=clusters,
        )
