"""Stage 4's comparison: scores of units and of clusters that need no labels, from embeddings of another network.

They are of the methods and of the first draw of each null: a draw has as many units as the method.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from utils.concept_sources.compared_channels import PARTITIONED_REFERENCES, PERMUTED_WEIGHTS
from utils.concept_sources.image_sets import ImageSetFinder
from utils.defaults import ASSIGNED_IMAGES
from utils.errors import UserError
from utils.images.batches import ImageBatches, batches_of
from utils.method.embedding_scores import (
    corrected_for_chance,
    mean_cosine,
    monosemanticity,
    patch_distances,
    strongest_alone,
)
from utils.method.patches import default_patch_size, peaks
from utils.networks.precision import network_arithmetic
from utils.networks.recording import layer_input, require_finite_values
from utils.stages.embedding import patch_embeddings, unit_monosemanticity

SIDES = ("intra", "inter", "any")


@dataclass
class Seen:
    """How the network studied sees validation images, and what another network makes of them.

    ``images`` is an ImageList, ``embeddings`` are Embeddings of all images of the val store; ``transform`` and ``how``
    (``batch_size``, ``precision``, ``loading``) are those of the network studied.
    """

    network: torch.nn.Module
    layer: object
    images: object
    transform: object
    embedder: object
    embeddings: object
    how: dict


@dataclass
class EmbeddingScores:
    """Collects what ``compare`` has measured, and adds scores to its rows in one go: few passes for all of them."""

    seen: Seen
    linear: list = field(default_factory=list)  # (row, rows of weights, biases)
    clusters: list = field(default_factory=list)  # (rows, clusters' images, labels, number, unit)
    units: list = field(default_factory=list)  # weights and bias of the units whose images were clustered

    def collect(self, channel, method, found, rows):
        """Take in what a method makes of a channel, ``{null: draws}``, and the row of each null."""
        for null, (units, *_) in ((null, draws) for null, draws in found.items() if draws):
            sums = units.validation
            if units.rows is not None:
                biases = torch.zeros(len(units.rows)) if units.biases is None else units.biases.float()
                self.linear.append((rows[null], units.rows.float(), biases))
                sums = sums + biases[:, None] * self.seen.layer.num_positions
            self._note_from_stores(rows[null], sums.clamp(min=0).T, of_all=units.rows is None)
        if isinstance(method.finder, ImageSetFinder):
            self._collect_clusters(channel, method.finder, found, rows)

    def _note_from_stores(self, row, activations, of_all):
        """Scores of units [N, R] that need no pass: among the strongest images, and of all of units that are not
        linear."""
        embeddings = self.seen.embeddings.values
        cosine, strongest = mean_cosine(embeddings), strongest_alone(activations, ASSIGNED_IMAGES)
        corrected = corrected_for_chance(monosemanticity(strongest, embeddings), cosine)
        row["monosemanticity_strongest"] = _mean(corrected)
        if of_all:
            _note(row, monosemanticity(activations, embeddings), cosine)

    def _collect_clusters(self, channel, finder, found, rows):
        for null, partition in (("", 0), (PERMUTED_WEIGHTS, 0), (PARTITIONED_REFERENCES, 1)):
            if found.get(null) and found[null][0].clusters is not None:
                clusters, draw = found[null][0].clusters, found[null][0].draw
                images, labels = finder.assign(channel, draw, clusters, partition)
                self.units.append((channel.weights[draw], channel.bias))
                self.clusters.append((rows[null], images, labels, len(clusters.centroids)))

    def finish(self):
        """Measure what was collected."""
        if self.linear:
            self._add_monosemanticity()
        if self.clusters:
            self._add_distances()

    def _add_monosemanticity(self):
        seen = self.seen
        owners, rows, biases = zip(*self.linear, strict=True)
        what = seen.network, seen.layer, torch.cat(rows), torch.cat(biases), seen.images, seen.embeddings
        running = unit_monosemanticity(*what, seen.transform, **seen.how)
        scores = running.scores().split([len(one) for one in rows])
        for row, of_row in zip(owners, scores, strict=True):
            _note(row, of_row, running.mean_cosine())

    def _add_distances(self):
        """Each patch once, whatever clusters it is in: a unit's images may be clustered in several ways."""
        names = {}
        unit_of = [names.setdefault(weight.numpy().tobytes(), len(names)) for weight, _ in self.units]
        first = [unit_of.index(unit) for unit in range(len(names))]
        wanted = torch.zeros(len(self.seen.embeddings.indices), len(first), dtype=torch.bool)
        for unit, (_, images, _, _) in zip(unit_of, self.clusters, strict=True):
            wanted[images, unit] = True
        values = self._patches([self.units[one] for one in first], wanted)
        place = torch.full(wanted.shape, -1)
        place[wanted] = torch.arange(len(values))
        for unit, (row, images, labels, number) in zip(unit_of, self.clusters, strict=True):
            found = patch_distances(values[place[images, unit]], labels, number)
            row |= {f"patch_{side}": getattr(found, side) for side in SIDES}

    def _patches(self, units, wanted):
        """Embeddings of the patches in which units are largest, of wanted [N, R] pairs in their order: [P, D]."""
        seen = self.seen
        indices = seen.embeddings.indices
        size = seen.transform.crop_size
        if seen.layer.map_size is not None:
            size = default_patch_size(size, min(seen.layer.map_size))
        weights = torch.stack([weight for weight, _ in units]).float()
        biases = None if units[0][1] is None else torch.stack([bias for _, bias in units])
        centres = _centres(seen, weights, biases, wanted)
        images, _ = wanted.nonzero(as_tuple=True)
        what = seen.images, indices[images].numpy(), centres.numpy(), size, seen.transform, seen.embedder
        return patch_embeddings(*what, **seen.how)


def _centres(seen, weights, biases, wanted):
    """Where units are largest in images, of wanted [N, R] pairs in their order: [P, 2], fractions of the sides."""
    device, layer, precision = seen.how["loading"]["device"], seen.layer, seen.how["precision"]
    apply = layer.maps(weights.to(device), None if biases is None else biases.to(device))
    places, found = layer.places(device), []
    shown, indices = wanted.any(1), seen.embeddings.indices
    batches = batches_of(indices[shown], seen.how["batch_size"])
    loader = ImageBatches(seen.images, seen.transform, batches, "patches", **seen.how["loading"])
    for own, pixels, _ in loader:
        with torch.no_grad():
            with network_arithmetic(precision, device):
                x = layer_input(seen.network, layer.module, pixels)
            maps = apply(x)
        require_finite_values([maps], own, seen.images)
        found.append(peaks(maps, places)[1].cpu()[wanted[torch.searchsorted(indices, own)]])
    if loader.skipped:
        raise UserError(f"{loader.skipped} validation images cannot be read any more")
    return torch.cat(found).float()


def _note(row, scores, cosine):
    """The means of a method's units; NaN where none has a score."""
    row["monosemanticity"] = _mean(scores)
    row["monosemanticity_corrected"] = _mean(corrected_for_chance(scores, cosine))


def _mean(scores):
    return float(np.nan if scores.isnan().all() else scores.nanmean())
