"""Stage 4's comparison: scores of units and of clusters that need no labels, from embeddings of another network.

They are of the methods and of the first draw of each null: a draw has as many units as the method.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from utils.concept_sources.compared_channels import (
    PARTITIONED_REFERENCES,
    PERMUTED_WEIGHTS,
    ComparedChannel,
    UnitMaker,
    UnitsByNull,
)
from utils.concept_sources.image_sets import ImageSetFinder
from utils.defaults import ASSIGNED_IMAGES
from utils.errors import UserError
from utils.images.batches import ImageSource
from utils.method.embedding_scores import (
    corrected_for_chance,
    mean_cosine,
    monosemanticity,
    monosemanticity_of_strongest,
    patch_distances,
)
from utils.method.patches import default_patch_size, peaks
from utils.networks.embedder import Embedder
from utils.networks.opened_network import OpenedNetwork
from utils.networks.recording import require_finite_values
from utils.stages.embedding import patch_embeddings, unit_monosemanticity
from utils.store.embeddings import Embeddings
from utils.store.unfinished import Unfinished

SIDES = ("intra", "inter", "any")

Row = dict[str, Any]


@dataclass(frozen=True)
class EmbeddedImages:
    """Validation images as the studied network sees them, and their embeddings by another network.

    ``network`` is the studied one, ``source`` reads the images of the val store with its transform; ``embeddings`` are
    those of all of these images by ``embedder``.
    """

    network: OpenedNetwork
    source: ImageSource
    embedder: Embedder
    embeddings: Embeddings

    @cached_property
    def mean_cosine(self) -> float:
        """That of all pairs of images."""
        return mean_cosine(self.embeddings.values)

    def add_monosemanticity(self, channels: list[tuple[list[Row], LinearUnits]], kept: Unfinished) -> None:
        """Add the scores of linear units to the rows of their channels, from one pass over all images."""
        units = [of_channel for _, of_channel in channels]
        rows = torch.cat([of_channel.rows for of_channel in units])
        biases = torch.cat([of_channel.biases for of_channel in units])
        running = unit_monosemanticity(self.network, rows, biases, self.source, self.embeddings, kept=kept)
        scores = running.scores().split([len(of_channel.rows) for of_channel in units])
        for (rows_of_channel, of_channel), of_units in zip(channels, scores, strict=True):
            for number in of_channel.row_of.unique().tolist():
                of_row = of_units[of_channel.row_of == number]
                _add_means(rows_of_channel[number], of_row, running.mean_cosine())


class LinearUnits(NamedTuple):
    """Units of a channel that are linear in the layer's input: their scores need a pass of the network.

    ``rows`` [n, C_in, taps], ``biases`` [n], and ``row_of`` LongTensor [n]: for each unit the index of its row among
    those of the channel.
    """

    rows: torch.Tensor
    biases: torch.Tensor
    row_of: torch.Tensor

    def keep(self, kept: Unfinished, key: Any) -> None:
        """Keep the units of a channel."""
        kept.keep_arrays(key, {name: values.numpy() for name, values in self._asdict().items()})

    @classmethod
    def find(cls, kept: Unfinished, key: Any, shape: tuple[int, ...]) -> LinearUnits | None:
        """The units of a channel that were kept; ``shape`` of a row is (C_in, taps)."""
        layout = {"rows": (np.float32, (None, *shape)), "biases": (np.float32, (None,)), "row_of": (np.int64, (None,))}
        arrays = kept.find_arrays(key, layout)
        return None if arrays is None else cls(*(torch.from_numpy(arrays[name]) for name in cls._fields))


class ClusteredImages(NamedTuple):
    """Images in which a unit is largest, with the row of scores that they are for.

    ``weight`` [C_in, taps] and ``bias`` [] or None are the unit's; ``images`` are rows 0 ... N-1 of the embeddings,
    ``labels`` [n] the cluster of each, of ``number``.
    """

    scores: Row
    weight: torch.Tensor
    bias: torch.Tensor | None
    images: torch.Tensor
    labels: torch.Tensor
    number: int


class ChannelScores:
    """Adds scores to the rows of a channel, and collects its units that need a pass of the network over all images.

    Parameters
    ----------
    embedded : EmbeddedImages
    channel : ComparedChannel
    """

    def __init__(self, embedded: EmbeddedImages, channel: ComparedChannel) -> None:
        self._embedded = embedded
        self._channel = channel
        self._linear: list[LinearUnits] = []
        self._clustered: list[ClusteredImages] = []

    def collect(self, method: UnitMaker, units_by_null: UnitsByNull, rows: dict[str, Row], first: int) -> None:
        """Collect the units that a method makes of the channel; not where all channels have the same ones.

        ``rows`` are those of each null with draws, in order; ``first`` is the index of the first among the channel's.
        """
        if not method.is_of_channel:
            return
        for number, (null, row) in enumerate(rows.items(), start=first):
            units = units_by_null[null][0]
            (sums,) = self._channel.in_validation([units], [torch.arange(len(units.training))])
            if units.rows is not None:
                biases = torch.zeros(len(units.rows)) if units.biases is None else units.biases.float()
                self._linear.append(LinearUnits(units.rows.float(), biases, torch.full((len(biases),), number)))
                sums = sums + biases[:, None] * self._embedded.network.layer.num_positions
            self._add_from_stores(row, sums.clamp(min=0).T, is_linear=units.rows is not None)
        if isinstance(method.finder, ImageSetFinder):
            self._collect_clusters(method.finder, units_by_null, rows)

    def _add_from_stores(self, row: Row, activations: torch.Tensor, is_linear: bool) -> None:
        """Scores that need no pass, from activations [N, R].

        They are of the strongest images of each unit, and of all images where the units are not linear.
        """
        embeddings = self._embedded.embeddings.values
        cosine = self._embedded.mean_cosine
        strongest = monosemanticity_of_strongest(activations, embeddings, ASSIGNED_IMAGES)
        row["monosemanticity_strongest"] = _mean(corrected_for_chance(strongest, cosine))
        if not is_linear:
            _add_means(row, monosemanticity(activations, embeddings), cosine)

    def _collect_clusters(self, finder: ImageSetFinder, units_by_null: UnitsByNull, rows: dict[str, Row]) -> None:
        channel = self._channel
        for null, partition in (("", 0), (PERMUTED_WEIGHTS, 0), (PARTITIONED_REFERENCES, 1)):
            units = units_by_null[null][0] if units_by_null.get(null) else None
            if units is not None and units.clusters is not None:
                images, labels = finder.assign(channel, units.draw, units.clusters, partition)
                weight = channel.weights[units.draw]
                number = len(units.clusters.centroids)
                self._clustered.append(ClusteredImages(rows[null], weight, channel.bias, images, labels, number))

    def finish(self) -> LinearUnits:
        """Add the distances of patches to the rows; returns the units that need a pass."""
        if self._clustered:
            self._add_distances()
        return LinearUnits(*(torch.cat(parts) for parts in zip(*self._linear, strict=True)))

    def _add_distances(self) -> None:
        """Each patch is embedded once: a unit's images may be clustered in several ways."""
        numbers: dict[bytes, int] = {}
        unit_of = [
            numbers.setdefault(clustered.weight.numpy().tobytes(), len(numbers)) for clustered in self._clustered
        ]
        wanted = torch.zeros(len(self._embedded.embeddings.indices), len(numbers), dtype=torch.bool)
        for unit, clustered in zip(unit_of, self._clustered, strict=True):
            wanted[clustered.images, unit] = True
        values = self._patches([self._clustered[unit_of.index(unit)] for unit in range(len(numbers))], wanted)
        patch_of = torch.full(wanted.shape, -1)
        patch_of[wanted] = torch.arange(len(values))
        for unit, clustered in zip(unit_of, self._clustered, strict=True):
            embeddings = values[patch_of[clustered.images, unit]]
            distances = patch_distances(embeddings, clustered.labels, clustered.number)
            clustered.scores.update({f"patch_{side}": getattr(distances, side) for side in SIDES})

    def _patches(self, units: list[ClusteredImages], wanted: torch.Tensor) -> torch.Tensor:
        """Embeddings of the patches in which units are largest, of wanted [N, R] pairs in their order: [P, D]."""
        embedded = self._embedded
        size = embedded.source.transform.crop_size
        map_size = embedded.network.layer.map_size
        images, _ = wanted.nonzero(as_tuple=True)
        return patch_embeddings(
            embedded.source,
            embedded.embeddings.indices[images].numpy(),
            _centres(embedded, units, wanted).numpy(),
            size=size if map_size is None else default_patch_size(size, min(map_size)),
            embedder=embedded.embedder,
            precision=embedded.network.precision,
        )


def _centres(embedded: EmbeddedImages, units: list[ClusteredImages], wanted: torch.Tensor) -> torch.Tensor:
    """The places where units are largest in images, for wanted [N, R] pairs in their order: [P, 2], in 0..1."""
    network = embedded.network
    weights = torch.stack([unit.weight for unit in units]).float().to(network.device)
    biases = [unit.bias for unit in units if unit.bias is not None]  # of all units or of none
    maps_of = network.layer.maps(weights, torch.stack(biases).to(network.device) if biases else None)
    places = network.layer.places(network.device)
    centres = []
    indices = embedded.embeddings.indices
    loader = embedded.source.in_order(indices[wanted.any(1)], None)
    for batch, x in network.layer_inputs(loader):
        maps = maps_of(x)
        require_finite_values([maps], batch.indices, loader.images)
        centres.append(peaks(maps, places)[1].cpu()[wanted[torch.searchsorted(indices, batch.indices)]])
    if loader.skipped:
        raise UserError(f"{loader.skipped} validation images cannot be read any more")
    return torch.cat(centres).float()


def _add_means(row: Row, scores: torch.Tensor, cosine: float) -> None:
    """The means of a method's units; NaN where none has a score."""
    row["monosemanticity"] = _mean(scores)
    row["monosemanticity_corrected"] = _mean(corrected_for_chance(scores, cosine))


def _mean(scores: torch.Tensor) -> float:
    return float(np.nan if scores.isnan().all() else scores.nanmean())
