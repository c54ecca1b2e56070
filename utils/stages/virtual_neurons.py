"""Stage 4: PURE's virtual neurons on new images, from a pass over ``val/``: they are not linear in what stores have."""

import torch

from utils.errors import UserError
from utils.images.batches import batches_of
from utils.method.clustering import nearest
from utils.stages.validation import require_finite_values
from utils.store.virtual_neurons import VirtualNeuronFile

MOST_VALUES = 2**27  # of circuits in memory at once
MOST_CLUSTERS = 128  # of a unit: their numbers are kept as int8


def stored_virtual_neurons(store, run, labels, units, centroids, load, batch_size, decoding):
    """The VirtualNeurons of units on images of a store: from their file where it is there, else from a pass.

    Parameters
    ----------
    store : ImportanceStore
        Complete.
    run : str
    labels : Labels
        Of its images, all or some.
    units : UnitCircuits
    centroids : list of R Tensors [D, K, F]
        D sets of centroids for each unit; K, the number of clusters, may differ from unit to unit.
    load : function of (batches, description) that returns ImageBatches
        Of the store's images.
    batch_size : int
    decoding : str

    Returns
    -------
    VirtualNeurons

    Raises
    ------
    UserError
        An image that cannot be read any more, or for which the network gives no finite values; too many centroids.
    """
    most = max(len(of_unit[0]) for of_unit in centroids)
    if most > MOST_CLUSTERS:
        raise UserError(f"a unit has {most} clusters by PURE, more than {MOST_CLUSTERS} virtual neurons: ask for fewer")
    file = VirtualNeuronFile(store, run, labels, units, centroids, decoding)
    if file.read() is None:
        file.write(*measure_virtual_neurons(units, centroids, load, labels.indices, batch_size))
    return file.read()


def measure_virtual_neurons(units, centroids, load, indices, batch_size):
    """Largest ``max(a, 0)`` [N, R] of units in images, and the nearest centroids [N, R, D] int8 of their circuits."""
    num_units, num_sets = len(centroids), len(centroids[0])
    maxima, clusters = torch.empty(len(indices), num_units), torch.empty(len(indices), num_units, num_sets).char()
    size = max(1, min(batch_size, MOST_VALUES // (num_units * units.num_features)))
    loader, place = load(batches_of(indices, size), "virtual neurons"), 0
    for own, pixels, _ in loader:
        if len(own):
            rows = slice(place, place := place + len(own))
            largest, circuits = units.measure(pixels)
            features = _all_circuits(circuits, len(own), num_units, units.num_features, pixels.device)
            require_finite_values([largest, features], own, loader.images)
            maxima[rows] = largest.clamp(min=0).cpu()
            for unit, of_unit in enumerate(centroids):
                clusters[rows, unit] = nearest(features[None, :, unit], of_unit.to(pixels.device)).T.char().cpu()
    if loader.skipped:
        raise UserError(f"{loader.skipped} images cannot be read any more")
    return maxima, clusters


def _all_circuits(circuits, num_images, num_units, num_features, device):
    """Circuits [B, R, F] of all units in all images of a batch."""
    features = torch.empty(num_images, num_units, num_features, device=device)
    for own, of, found in circuits(torch.ones(num_images, num_units, dtype=torch.bool, device=device)):
        features[own, of] = found
    return features
