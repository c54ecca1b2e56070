"""Stage 3 by PURE: the training images in which units are largest, and their circuits, from two passes over images."""

import torch

from utils.errors import UserError
from utils.images.batches import batches_of
from utils.method.circuits import Strongest
from utils.method.references import permutation
from utils.networks.circuits import UnitCircuits
from utils.stages.validation import require_finite_values
from utils.store.references import References


def usable_images(labels, only_correct):
    """Indices of the training images that may be references: all of stage 1, or the correctly classified ones."""
    return labels.indices[labels.targets == labels.predictions] if only_correct else labels.indices


def unit_rows(layer, units):
    """Weights [R, C_in, taps] and biases [R] or None of units (channel, draw).

    Draw 0 is the channel itself, any other the channel with its weights permuted over the inputs.
    """
    rows = layer.weight[[channel for channel, _ in units]].clone()
    for row, (channel, draw) in zip(rows, units, strict=True):
        if draw:
            row.copy_(row[permutation(layer.num_inputs, "weights", channel, draw).to(row.device)])
    return rows, None if layer.bias is None else layer.bias[[channel for channel, _ in units]]


def unit_references(units, stored, network, layer, load, usable, batch_size, circuit_layer=None):
    """The References of units: from the store where they are there; what is missing is added to it, by one pass.

    Parameters
    ----------
    units : list of (channel, draw)
        As in ``unit_rows``.
    stored : ReferenceStore
        Its settings say what is measured.
    network : nn.Module
        Frozen, on its device.
    layer : Layer
    load : function of (batches, description) that returns ImageBatches
    usable : LongTensor [N], ascending
        Of ``usable_images``.
    batch_size : int
    circuit_layer : CircuitLayer, optional
    """
    missing = stored.missing(units)
    if missing:
        how = {"precision": stored.settings["precision"], "circuit_layer": circuit_layer}
        circuits = UnitCircuits(network, layer, *unit_rows(layer, missing), **how)
        found = find_references(circuits, load, usable, stored.settings["number"], batch_size)
        while stored.missing(missing):  # again where a run beside this one has written what it had read before
            stored.write(missing, found)
    return stored.read(units)


def channel_references(channels, *how):
    """The same of the channels themselves."""
    return unit_references([(channel, 0) for channel in channels], *how)


def find_references(units, load, usable, number, batch_size):
    """The images of largest activation of each unit, and the circuits of these.

    All images are read once for the former, and the references alone once more. Memory depends on R x n alone.

    Parameters
    ----------
    units : UnitCircuits
    load : function of (batches, description) that returns ImageBatches
    usable : LongTensor [N], ascending
    number : int
        n; at most N.
    batch_size : int

    Returns
    -------
    References

    Raises
    ------
    UserError
        Fewer images than references, one that cannot be read, or for which the network gives no finite values.
    """
    _require_enough(len(usable), number)
    strongest, loader = Strongest(number), load(batches_of(usable, batch_size), "largest activations")
    for indices, pixels, _ in loader:
        if len(indices):
            maxima = units.maxima(pixels)
            require_finite_values([maxima], indices, loader.images)
            strongest.add(maxima.cpu(), indices)
    _require_enough(len(usable) - loader.skipped, number)
    features = _reference_circuits(units, strongest.indices, load, batch_size)
    return References(strongest.indices, strongest.values, features)


def _require_enough(there, number):
    if there < number:
        raise UserError(f"there are {there} usable training images, fewer than {number} references: ask for fewer")


def _reference_circuits(units, references, load, batch_size):
    """Circuits [R, n, F] of the references [R, n] of units."""
    images, times = references.unique(return_counts=True)
    # equally often wanted ones together: beyond the layer, a backward pass serves one unit of each image of a batch
    images = images[times.argsort(descending=True, stable=True)]
    features = torch.empty(*references.shape, units.num_features)
    loader = load(batches_of(images, batch_size), "circuits of references")
    for indices, pixels, _ in loader:
        if len(indices):
            wanted = torch.stack([(references == image).any(1) for image in indices])
            _, circuits = units.measure(pixels)
            for own, of, found in circuits(wanted.to(pixels.device)):
                own, of = indices[own.cpu()], of.cpu()
                require_finite_values([found], own, loader.images)
                places = (references[of] == own[:, None]).int().argmax(1)
                features[of, places] = found.cpu()
    if loader.skipped:
        raise UserError(f"{loader.skipped} reference images cannot be read any more")
    return features
