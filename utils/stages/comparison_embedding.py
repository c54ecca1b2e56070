"""Stage 4's comparison: scores of units and of clusters that need no labels, from embeddings of another network.

They are of the methods and of the first draw of each null: a draw has as many units as the method.
"""

from dataclasses import dataclass, field
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
    patch_distances,
    strongest_alone,
)
from utils.method.patches import default_patch_size, peaks
from utils.networks.embedder import Embedder
from utils.networks.opened_network import OpenedNetwork
from utils.networks.recording import require_finite_values
from utils.stages.embedding import patch_embeddings, unit_monosemanticity
from utils.store.embeddings import Embeddings

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


class LinearUnits(NamedTuple):
    """Units that are linear in the layer's input, with the row of scores that they are for."""

    scores: Row
    rows: torch.Tensor
    biases: torch.Tensor


class ClusteredImages(NamedTuple):
    """Images of a unit's clusters, with the row of scores that they are for.

    ``weight`` [C_in, taps] and ``bias`` ([] or None) are the unit's; ``images`` [n] are rows of the embeddings,
    ``labels`` [n] the cluster of each, of ``number``.
    """

    scores: Row
    weight: torch.Tensor
    bias: torch.Tensor | None
    images: torch.Tensor
    labels: torch.Tensor
    number: int


@dataclass
class EmbeddingScores:
    """Collects the units of ``compare``, and adds scores to its rows at the end: few passes serve all rows."""

    embedded: EmbeddedImages
    linear: list[LinearUnits] = field(default_factory=list)
    clustered: list[ClusteredImages] = field(default_factory=list)

    def collect(
        self, channel: ComparedChannel, method: UnitMaker, units_by_null: UnitsByNull, rows: dict[str, Row]
    ) -> None:
        """Collect the units that a method makes of a channel, and the row of each null."""
        for null in (null for null, draws in units_by_null.items() if draws):
            units = units_by_null[null][0]
            sums = units.validation
            if units.rows is not None:
                biases = torch.zeros(len(units.rows)) if units.biases is None else units.biases.float()
                self.linear.append(LinearUnits(rows[null], units.rows.float(), biases))
                sums = sums + biases[:, None] * self.embedded.network.layer.num_positions
            self._add_from_stores(rows[null], sums.clamp(min=0).T, is_linear=units.rows is not None)
        if isinstance(method.finder, ImageSetFinder):
            self._collect_clusters(channel, method.finder, units_by_null, rows)

    def _add_from_stores(self, row: Row, activations: torch.Tensor, is_linear: bool) -> None:
        """Scores that need no pass, from activations [N, R].

        They are of the strongest images of each unit, and of all images where the units are not linear.
        """
        embeddings = self.embedded.embeddings.values
        cosine = mean_cosine(embeddings)
        strongest = strongest_alone(activations, ASSIGNED_IMAGES)
        corrected = corrected_for_chance(monosemanticity(strongest, embeddings), cosine)
        row["monosemanticity_strongest"] = _mean(corrected)
        if not is_linear:
            _add_means(row, monosemanticity(activations, embeddings), cosine)

    def _collect_clusters(
        self, channel: ComparedChannel, finder: ImageSetFinder, units_by_null: UnitsByNull, rows: dict[str, Row]
    ) -> None:
        for null, partition in (("", 0), (PERMUTED_WEIGHTS, 0), (PARTITIONED_REFERENCES, 1)):
            units = units_by_null[null][0] if units_by_null.get(null) else None
            if units is not None and units.clusters is not None:
                images, labels = finder.assign(channel, units.draw, units.clusters, partition)
                weight = channel.weights[units.draw]
                number = len(units.clusters.centroids)
                self.clustered.append(ClusteredImages(rows[null], weight, channel.bias, images, labels, number))

    def finish(self) -> None:
        """Compute the scores of everything that was collected."""
        if self.linear:
            self._add_monosemanticity()
        if self.clustered:
            self._add_distances()

    def _add_monosemanticity(self) -> None:
        rows = torch.cat([units.rows for units in self.linear])
        biases = torch.cat([units.biases for units in self.linear])
        embedded = self.embedded
        running = unit_monosemanticity(embedded.network, rows, biases, embedded.source, embedded.embeddings)
        scores = running.scores().split([len(units.rows) for units in self.linear])
        for units, of_units in zip(self.linear, scores, strict=True):
            _add_means(units.scores, of_units, running.mean_cosine())

    def _add_distances(self) -> None:
        """Each patch is embedded once: a unit's images may be clustered in several ways."""
        numbers: dict[bytes, int] = {}
        unit_of = [numbers.setdefault(clustered.weight.numpy().tobytes(), len(numbers)) for clustered in self.clustered]
        wanted = torch.zeros(len(self.embedded.embeddings.indices), len(numbers), dtype=torch.bool)
        for unit, clustered in zip(unit_of, self.clustered, strict=True):
            wanted[clustered.images, unit] = True
        values = self._patches([self.clustered[unit_of.index(unit)] for unit in range(len(numbers))], wanted)
        patch_of = torch.full(wanted.shape, -1)
        patch_of[wanted] = torch.arange(len(values))
        for unit, clustered in zip(unit_of, self.clustered, strict=True):
            embeddings = values[patch_of[clustered.images, unit]]
            distances = patch_distances(embeddings, clustered.labels, clustered.number)
            clustered.scores.update({f"patch_{side}": getattr(distances, side) for side in SIDES})

    def _patches(self, units: list[ClusteredImages], wanted: torch.Tensor) -> torch.Tensor:
        """Embeddings of the patches in which units are largest, of wanted [N, R] pairs in their order: [P, D]."""
        embedded = self.embedded
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
    loader = embedded.source.in_order(indices[wanted.any(1)], "patches")
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
