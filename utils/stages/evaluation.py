"""What stage 4 measures of validation images, in one pass over them."""

import numpy as np
import torch

from utils.errors import UserError
from utils.images.batches import ImageFiles
from utils.method.disentangling import merge
from utils.method.evaluation import disentangled_sums
from utils.method.importance import attribution_shares
from utils.method.patches import TOP_IMAGES, most_activating, patch, peaks
from utils.networks.arithmetic import network_arithmetic
from utils.networks.kinds import tap_sums
from utils.networks.recording import forward, forward_with_gradient
from utils.networks.splitting import channels_split, original_and_disentangled


def measure(loader, plan, network, layer_name, splits, precision):
    """One pass over images of the splits' concepts: what is kept of each, as a dictionary of arrays for each split.

    All sums follow from those of the layer's input, so that they agree in whatever precision the network runs.

    Parameters
    ----------
    loader : ImageBatches
    plan : list of int
        Of each batch the network output that is the class of its images, so that a batch is the same however many
        splits there are.
    network : nn.Module
        The original, frozen, on the loader's device.
    layer_name : str
    splits : list of (Split, rho)
    precision : str

    Returns
    -------
    list of dict
        ``indices``, ``targets``, ``predictions`` and, by the split network, ``split_predictions`` [n]; spatial sums of
        the channel ``original`` [n] and of ``c'_1 .. c'_K, r`` ``sums`` [n, K + 1]; the channel's relative attribution
        ``shares`` [n]; ``peaks`` [n, K + 1] and ``centres`` [n, K + 1, 2] of the channel and ``c'_1 .. c'_K``. Empty
        if no image could be read.
    """
    layer, kept = network.get_submodule(layer_name), [[] for _ in splits]
    channels = [original_and_disentangled(layer, split, rho) for split, rho in splits]
    uses = [{output for concept in split.concepts for output in concept} for split, _ in splits]
    for target, (indices, pixels) in zip(plan, loader, strict=True):
        if len(indices):
            targets = torch.full((len(indices),), target, device=loader.device)
            with network_arithmetic(precision, loader.device):
                record = forward_with_gradient(network, layer, pixels, targets)
            shares = attribution_shares(record.activation, record.gradient)
            require_finite(record, indices, loader.images)
            inputs, positions = tap_sums(layer, record.input), record.activation[0, 0].numel()
            for n, (split, rho) in enumerate(splits):
                if target in uses[n]:
                    arithmetic = network_arithmetic(precision, loader.device)
                    with channels_split(network, layer_name, [split], [rho]), arithmetic, torch.no_grad():
                        split_logits = network(pixels)
                    sums = disentangled_sums(split, rho, inputs, positions)
                    batch = {
                        "indices": indices,
                        "targets": targets,
                        "predictions": record.logits.argmax(1),
                        "split_predictions": split_logits.argmax(1),
                        "original": merge(sums, dim=1),
                        "sums": sums,
                        "shares": shares[:, split.channel].clone(),  # a view would keep all channels'
                        **_peaks(channels[n], record),
                    }
                    kept[n].append({name: values.cpu() for name, values in batch.items()})
    return [_together(batches) for batches in kept]


def measure_peaks(loader, network, layer_name, splits, precision):
    """One pass over any images: ``indices``, ``peaks`` and ``centres`` as ``measure`` has them, for each split.

    Only images among the most activating ones of any of a split's channels are kept, however many there are.
    """
    layer, kept = network.get_submodule(layer_name), [[] for _ in splits]
    channels = [original_and_disentangled(layer, split, rho) for split, rho in splits]
    for indices, pixels in loader:
        if len(indices):
            with network_arithmetic(precision, loader.device):
                record = forward(network, layer, pixels)
            require_finite(record, indices, loader.images)
            for n, channel in enumerate(channels):
                batch = {"indices": indices, **_peaks(channel, record)}
                kept[n] = strongest([*kept[n], {name: values.cpu() for name, values in batch.items()}])
    return [_together(batches) for batches in kept]


def strongest(batches):
    """Of batches as ``measure_peaks`` has them, the images among the most activating ones of any channel, as one."""
    together = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    order = together["peaks"].sort(dim=0, descending=True, stable=True).indices[:TOP_IMAGES]
    images = order.unique()
    return [{name: values[images] for name, values in together.items()}]


def require_finite(record, indices, images):
    """Raise a UserError that names an image for which the network gives NaN or infinite values."""
    values = [record.input, record.activation, record.logits, *([] if record.gradient is None else [record.gradient])]
    finite = torch.stack([value.flatten(1).isfinite().all(1) for value in values]).all(0).cpu()
    if not finite.all():
        path = images.path(int(indices[~finite][0]))
        raise UserError(f"the network gives NaN or infinite values for {path}: it cannot be measured")


def _peaks(channels, record):
    with torch.no_grad():
        values, centres = peaks(channels(record.input.float()))
    return {"peaks": values, "centres": centres}


def _together(kept):
    return {name: torch.cat([batch[name] for batch in kept]).numpy() for name in kept[0]} if kept else {}


def images_of_concepts(measured, images, concepts, tau):
    """What was measured, concept by concept, as lists for a JSON file."""
    names = ("targets", "predictions", "split_predictions", "original", "sums", "shares")
    parts = []
    for number, concept in enumerate(concepts, start=1):
        own = np.isin(measured.get("targets", []), concept)
        if not own.any():
            raise UserError(f"concept {number} has no readable image in {images.root}")
        paths = [str(images.path(index).relative_to(images.root)) for index in measured["indices"][own]]
        included = (measured["shares"][own] >= tau).tolist()
        parts.append({"paths": paths, **{name: measured[name][own].tolist() for name in names}, "included": included})
    return parts


def top_patches(images, transform, measured, concepts, size):
    """The patches of ``size`` pixels that are shown for each channel, read again from their files.

    Parameters
    ----------
    images : ImageList
    transform : Transform
    measured : dict
        ``indices``, ``peaks`` and ``centres``, as ``measure`` has them.
    concepts : array [len(images)]
        Which concept (from 0) each image is of, or -1.
    size : int

    Returns
    -------
    list of K + 1 lists of (array [size, size, 3], concept)
    """
    files, groups, shown = ImageFiles(images, transform), concepts[measured["indices"]], []
    for channel in range(measured["peaks"].shape[1]):
        patches = []
        for number in most_activating(measured["peaks"][:, channel], groups):
            index, crop, reason = files[measured["indices"][number]]
            if reason is not None:
                raise UserError(f"cannot read image {images.path(index)} again ({reason})")
            patches.append((patch(crop.numpy(), measured["centres"][number, channel], size), groups[number]))
        shown.append(patches)
    return shown
