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
from itertools import chain, product
from typing import TYPE_CHECKING, Any

from utils.concept_sources.compared_channels import (
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
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from utils.concept_sources.compared_channels import Comparison
    from utils.images.batches import ImageBatch, ImageSource
    from utils.method.contributions import Strongest
    from utils.networks.layers import Layer
    from utils.networks.unit_circuits import CircuitLayer, UnitCircuits
    from utils.store.files import Layout
    from utils.store.importance_store import ImportanceStore, Labels
    from utils.store.opened_splits import OpenedSplit
    from utils.store.reference_images import ReferenceImages, ReferenceImageStore, Unit
    from utils.store.study import Study
    from utils.store.unfinished import Unfinished
    from utils.store.virtual_neuron_files import ClusteredUnits, VirtualNeuronFile, VirtualNeurons

torch = later("torch")
arithmetic = later("utils.networks.arithmetic")
circuits = later("utils.method.contributions")
clustering = later("utils.method.clustering")
image_passes = later("utils.store.image_passes")
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
NULL_DRAWS = 3  # of each null in a comparison: each needs circuits of its own, from passes over images
MOST_VALUES = 2**27  # entries of circuits in memory at once
MOST_CLUSTERS = 128  # of one unit: cluster indices are stored as int8
CIRCUIT_LAYER = "It comes before the layer; attributions are then computed by autograd."


@dataclass(frozen=True)
class Pure(ImageSets):
    """k-means on PURE's circuits of single images, at the layer's input or an earlier module."""

    number: int = NUMBER
    references: int = REFERENCES
    circuit_layer: str | None = None

    name = "pure"
    words = "pure"
    split_words = "PURE's clusters"
    summary = "pure (clusters of reference images by PURE's circuits, Dreyer et al. 2024; one pass over train/)"
    flags = (
        number_flag(str(NUMBER)),
        references_flag(str(REFERENCES)),
        Flag(
            "circuit_layer",
            "pure: module whose output channels make up a circuit",
            "circuit_layer",
            metavar="NAME",
            usual="the layer's input",
            details=CIRCUIT_LAYER,
        ),
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
        return {"number": NUMBER, "references": REFERENCES, "circuit_layer": None, "k_means": clustering.ALGORITHM}

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
            units = virtual_neuron_store.ClusteredUnits(
                _unit_circuits(study, [(split.file.split.channel, 0) for split in splits], _circuit_layer(study, name)),
                [split.file.source["state"]["centroids"][None] for split in splits],
                torch.ones(store.meta["num_outputs"], len(splits), dtype=torch.bool),
            )
            neurons = stored_virtual_neurons(store, study, store.read_labels(), units)
            for split, of_unit in zip(splits, neurons, strict=True):
                rows, labels = of_unit.strongest(ASSIGNED_IMAGES)
                for k, (key,) in enumerate(split.groups):
                    assigned[key] = of_unit.indices[rows[labels == k]].sort().values
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


def pure_clusters(
    channels: Sequence[int], classes: Sequence[list[int]], study: Study, store: ImportanceStore
) -> list[tuple[int, VirtualNeurons, VirtualNeurons]]:
    """PURE's usual clusters of channels, and what is nearest to them.

    Parameters
    ----------
    channels
        Some may be the same.
    classes
        For each channel the classes whose training images are measured.
    study
    store
        A complete store of validation images, all of which are measured.

    Returns
    -------
    list of (number of clusters, VirtualNeurons of training images, VirtualNeurons of validation images)
        For each channel.
    """
    source = Pure.from_given({}, study)
    stored, circuit_layer = source.stored_references(study)
    distinct = sorted(set(channels))
    references = references_by_draw(distinct, 1, stored, study, circuit_layer=circuit_layer)
    found = {
        channel: source.clusters(of_channel)[1]
        for channel, of_channel in zip(distinct, references.features[:, 0], strict=True)
    }
    of_classes = torch.zeros(study.meta["num_outputs"], len(channels), dtype=torch.bool)
    for number, outputs in enumerate(classes):
        of_classes[outputs, number] = True
    circuits_of_units = _unit_circuits(study, [(channel, 0) for channel in channels], circuit_layer)
    centroids = [found[channel][None].double() for channel in channels]
    units = virtual_neuron_store.ClusteredUnits(circuits_of_units, centroids, of_classes)
    everywhere = replace(units, classes=torch.ones_like(of_classes))
    training = stored_virtual_neurons(study.training, study, study.labels, units)
    validation = stored_virtual_neurons(store, study, store.read_labels(), everywhere)
    numbers = [len(found[channel]) for channel in channels]
    return list(zip(numbers, training, validation, strict=True))


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
    so_far = kept.find_arrays(key, layout)
    if so_far is not None:
        strongest.indices, strongest.values = torch.from_numpy(so_far["indices"]), torch.from_numpy(so_far["values"])
        done, skipped = so_far["done_and_skipped"].tolist()
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
        raise UserError(
            f"there are {num_images} usable training images, fewer than {number} references: give a smaller "
            "--nr_reference_images"
        )


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
    layout: Layout = {"features": ("float32", (None, units.num_features)), "done": ("int64", (1,))}
    kept_images = 0
    while (step := kept.find_arrays([digest, kept_images], layout)) is not None:
        (done,) = step["done"].tolist()
        features[places[ends[kept_images] : ends[done]]] = torch.from_numpy(step["features"])
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
            kept.keep_arrays([digest, kept_images], {"features": of_step.numpy(), "done": torch.tensor([done]).numpy()})
            kept_images = done
    return features.view(num_units, number, -1)


# --------------------------------------------------------------------------------------------------------------------
# Virtual neurons on images of a store, from one pass over them: they are not linear in the stored tap sums


def stored_virtual_neurons(
    store: ImportanceStore, study: Study, labels: Labels, units: ClusteredUnits
) -> list[VirtualNeurons]:
    """The VirtualNeurons of each unit on images of a store: from their file if it exists, else from a pass.

    Parameters
    ----------
    store
        A complete store.
    study
        Determines how images are read.
    labels
        Labels of the images of the store, all or some; those of the units' classes are measured.
    units

    Raises
    ------
    UserError
        An image cannot be read any more, the network gives values for an image that are not finite, or there are too
        many centroids.
    """
    most = max(of_unit.shape[1] for of_unit in units.centroids)
    if most > MOST_CLUSTERS:
        raise UserError(
            f"a unit has {most} clusters by PURE, more than {MOST_CLUSTERS} virtual neurons: give a smaller "
            "--nr_concepts"
        )
    file = virtual_neuron_store.VirtualNeuronFile(store, study.run, labels, units, decoding=study.decoding)
    neurons = file.read()
    if neurons is not None:
        return neurons
    measured = _VirtualNeuronPass(file, units, study.image_source(store))
    file.write(measured.blocks())
    return file.read()


class _VirtualNeuronPass:
    """A pass over the images of a VirtualNeuronFile, block by block."""

    def __init__(self, file: VirtualNeuronFile, units: ClusteredUnits, source: ImageSource) -> None:
        most_values = int(units.classes.sum(1).max()) * units.circuits.num_features  # of the circuits of an image
        size = max(1, min(source.batch_size, MOST_VALUES // most_values))
        self._file = file
        self._circuits = units.circuits
        self._source = replace(source, batch_size=size)
        self._device = source.loading.device
        self._centroids = [of_unit.to(self._device) for of_unit in units.centroids]

    def blocks(self) -> list[dict[str, Any]]:
        """The arrays of each block of images."""
        file = self._file
        description = "virtual neurons"
        return image_passes.pass_in_blocks(
            file.kept, file.layout, self._source, file.indices, description, measure=self._block
        )

    def _block(self, indices: Tensor, batches: Iterator[ImageBatch]) -> dict[str, Any]:
        maxima: list[list[Tensor]] = [[] for _ in self._centroids]
        nearest: list[list[Tensor]] = [[] for _ in self._centroids]
        num_read = 0
        for batch in batches:
            num_read += len(batch.indices)
            if len(batch.indices):
                self._measure(batch, maxima, nearest)
        if num_read < len(indices):
            raise UserError(f"{len(indices) - num_read} images cannot be read any more")
        return {
            "maxima": torch.cat(list(chain.from_iterable(maxima))).numpy(),
            "nearest": torch.cat(list(chain.from_iterable(nearest))).numpy(),
        }

    def _measure(self, batch: ImageBatch, maxima: list[list[Tensor]], nearest: list[list[Tensor]]) -> None:
        """Add the values of the images of a batch to those of each unit."""
        wanted = self._file.wanted(batch.indices)
        largest, circuits_of = self._circuits.measure(batch.pixels)
        features = circuits_of(wanted)
        images, units = wanted.nonzero(as_tuple=True)
        recording.require_finite_values([features], batch.indices[images], self._source.images)
        recording.require_finite_values([largest], batch.indices, self._source.images)
        order = units.argsort(stable=True)  # unit by unit
        rows, image_rows, unit_numbers = arithmetic.upload(
            torch.stack([order, images[order], units[order]]), self._device
        )
        sizes = wanted.sum(0).tolist()
        shown = [unit for unit, size in enumerate(sizes) if size]
        by_unit = features[rows].split([sizes[unit] for unit in shown])
        nearest_by_unit = [
            clustering.nearest(of_unit[None], self._centroids[unit]).T.char().flatten()
            for unit, of_unit in zip(shown, by_unit, strict=True)
        ]
        of_pairs = largest[image_rows, unit_numbers].clamp(min=0).cpu()
        for unit, values in zip(shown, of_pairs.split([sizes[unit] for unit in shown]), strict=True):
            maxima[unit].append(values)
        for unit, values in zip(
            shown, torch.cat(nearest_by_unit).cpu().split([len(values) for values in nearest_by_unit]), strict=True
        ):
            nearest[unit].append(values)


# --------------------------------------------------------------------------------------------------------------------
# Comparison


class PureFinder(ImageSetFinder):
    """PURE's clusters of channels and of their permuted weights.

    Their VirtualNeurons, with the centroids found here, are those of the training images of a channel's concepts and of
    all validation images.
    """

    draws = NULL_DRAWS

    def __init__(self, source: Pure, comparison: Comparison) -> None:
        super().__init__(source, comparison)
        study = comparison.study
        channels = [channel for channel, _ in comparison.channels]
        stored, circuit_layer = source.stored_references(study)
        self.references = references_by_draw(channels, 1 + self.draws, stored, study, circuit_layer=circuit_layer)
        self.tap_sums.keep(self.references.indices)
        circuits_of_units = _unit_circuits(study, list(product(channels, range(1 + self.draws))), circuit_layer)
        of_concepts = virtual_neuron_store.ClusteredUnits(circuits_of_units, self.centroids(), self.classes())
        everywhere = replace(of_concepts, classes=torch.ones_like(of_concepts.classes))
        self._training = stored_virtual_neurons(study.training, study, comparison.usable, of_concepts)
        of_val = comparison.store.read_labels()
        self._validation = stored_virtual_neurons(comparison.store, study, of_val, everywhere)

    def features(self, index: int, draw: int) -> Tensor:
        return self.references.features[index, draw]

    def find_clusters(self, index: int, draw: int, number: int | None) -> Clusters:
        labels, centroids = self.source.clusters(self.features(index, draw))
        return Clusters(self.references.indices[index, draw], labels, centroids)

    def training(self, index: int, draw: int) -> VirtualNeurons:
        """The virtual neurons of a channel's draw in the training images of the channel's concepts."""
        return self._training[index * (1 + self.draws) + draw]

    def validation(self, index: int, draw: int) -> VirtualNeurons:
        """The virtual neurons of a channel's draw in all validation images."""
        return self._validation[index * (1 + self.draws) + draw]

    def centroids(self) -> list[Tensor]:
        """Centroids of the draws of all channels, channel by channel: [D, K, F] each, float64.

        The first set are those of the clusters that were found; the channel itself (draw 0) has those of its random
        partitions, too. All are 0 for a unit without clusters.
        """
        num_channels, num_draws, _, num_features = self.references.features.shape
        centroids = []
        for index, draw in product(range(num_channels), range(num_draws)):
            sets = torch.zeros(1 if draw else 1 + self.draws, self.source.number, num_features, dtype=torch.float64)
            with suppress(UserError):
                sets[0] = self.clusters(index, draw).centroids
                if draw == 0:
                    sets[1:] = torch.stack([partition.centroids for partition in self.partitioned(index)])
            centroids.append(sets)
        return centroids

    def classes(self) -> Tensor:
        """True where a class is one of the concepts of a channel, for each of its draws: BoolTensor [T, R]."""
        comparison = self.comparison
        of_channels = torch.zeros(comparison.study.meta["num_outputs"], len(comparison), dtype=torch.bool)
        for index, (_, concepts) in enumerate(comparison.channels):
            of_channels[list(chain.from_iterable(concepts)), index] = True
        return of_channels.repeat_interleave(1 + self.draws, dim=1)

    def assign(
        self, channel: ComparedChannel, draw: int, clusters: Clusters, partition: int = 0
    ) -> tuple[Tensor, Tensor]:
        return self.validation(channel.index, draw).strongest(ASSIGNED_IMAGES, partition)


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
            PERMUTED_WEIGHTS: permuted_draws(units_of_draw, self.finder.draws),
            PARTITIONED_REFERENCES: [
                self._units(channel, clusters, partition=partition) for partition, clusters in partitions
            ],
        }

    def _units(self, channel: ComparedChannel, clusters: Clusters, draw: int = 0, partition: int = 0) -> ComparedUnits:
        number = len(clusters.centroids)
        return ComparedUnits(
            training=self.finder.training(channel.index, draw).values(number, partition),
            validation=self.finder.validation(channel.index, draw).values(number, partition),
            clusters=clusters,
        )
