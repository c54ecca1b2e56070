"""Stage 4: what is measured of validation images, in one pass over them."""

import numpy as np
import torch

from utils.errors import UserError
from utils.images.batches import ImageFiles, batches_of
from utils.images.listing import class_folders, has_images, list_images
from utils.method.disentangling import merge
from utils.method.evaluation import spatial_sums
from utils.method.importance import attribution_shares
from utils.method.patches import TOP_IMAGES, most_activating, patch, peaks
from utils.method.polysemanticity import cosine_similarities
from utils.networks.arithmetic import network_arithmetic
from utils.networks.feature_visualization import maximise_activation
from utils.networks.recording import Recorder
from utils.networks.splitting import DisentangledLayer, in_place_of


def list_validation(root, classes, splits, all_classes):
    """Images of the classes of all splits, and of all other classes if asked for.

    Parameters
    ----------
    root : Path
        ``val/``.
    classes : ClassMap
    splits : list of (Split, rho)
    all_classes : bool

    Returns
    -------
    images : ImageList
    outputs : list of int
        The classes of the splits.
    """
    outputs = sorted({output for split, _ in splits for concept in split.concepts for output in concept})
    own = [classes.folder(output) for output in outputs]
    if not all_classes:
        return list_images(root, own), outputs
    others = [name for name in class_folders(root) if name not in own and has_images(root / name)]
    return list_images(root, [*own, *others]), outputs


def plan_batches(images, classes, outputs, batch_size):
    """Batches of one class each: of each batch the class, a network output, and the indices of its images."""
    plan = []
    for output in outputs:
        folder = images.folders.index(classes.folder(output))
        plan += [(output, batch) for batch in batches_of(np.flatnonzero(images.folder_of == folder), batch_size)]
    targets, batches = zip(*plan, strict=True)
    return targets, list(batches)


def concepts_of_images(split, classes, images):
    """Which concept of a split each image is of: 0 .. K-1, or -1."""
    concept_of = {classes.folder(output): k for k, concept in enumerate(split.concepts) for output in concept}
    return np.array([concept_of.get(name, -1) for name in images.folders])[images.folder_of]


class SplitMeasures:
    """What is measured of one split at one rho; everything that is the same for all batches is made once."""

    def __init__(self, layer, split, rho):
        """``layer``: Layer, ``split``: Split, ``rho``: float."""
        self.channel = split.channel
        self.outputs = {output for concept in split.concepts for output in concept}
        self.disentangled = DisentangledLayer(layer, [split], [rho])
        self.kept = []
        self._rows, self._biases = split.rows(rho).double(), split.biases()
        biases = None if split.bias is None else split.bias.expand(len(self._rows))
        self._maps, self._places = layer.maps(split.shown_rows(rho), biases), layer.places(layer.module.weight.device)

    def sums(self, tap_sums, positions):
        """Spatial sums of the original channel [B] and of ``c'_1 .. c'_K, r`` [B, K + 1], from float64 tap sums."""
        sums = spatial_sums(self._rows, self._biases, tap_sums, positions)
        return {"original": merge(sums, dim=1), "sums": sums}

    def peaks(self, x):
        """Largest activations of the original channel and ``c'_1 .. c'_K`` [B, K + 1] and where [B, K + 1, 2] they are.

        From the layer's input.
        """
        with torch.no_grad():
            values, centres = peaks(self._maps(x), self._places)
        return {"peaks": values, "centres": centres}

    def keep(self, batch):
        self.kept.append({name: values.cpu() for name, values in batch.items()})

    def arrays(self):
        """All that was kept, as arrays by name; empty if no image could be read."""
        names = self.kept[0] if self.kept else ()
        return {name: torch.cat([batch[name] for batch in self.kept]).numpy() for name in names}


def measure_splits(loader, plan, network, layer, splits, precision):
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
    layer : Layer
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
    measures = [SplitMeasures(layer, split, rho) for split, rho in splits]
    with Recorder(network, layer) as recorder:
        for target, (indices, pixels, _) in zip(plan, loader, strict=True):
            if len(indices):
                targets = torch.full((len(indices),), target, device=loader.device)
                with network_arithmetic(precision, loader.device):
                    record = recorder.forward_with_gradient(pixels, targets)
                shares = attribution_shares(record.activation, record.gradient)
                _require_finite(record, indices, loader.images)
                tap_sums = layer.tap_sums(record.input).double().cpu()
                for one in (one for one in measures if target in one.outputs):
                    arithmetic = network_arithmetic(precision, loader.device)
                    with in_place_of(network, layer, one.disentangled), arithmetic, torch.no_grad():
                        split_logits = network(pixels)
                    one.keep(
                        {
                            "indices": indices,
                            "targets": targets,
                            "predictions": record.logits.argmax(1),
                            "split_predictions": split_logits.argmax(1),
                            **one.sums(tap_sums, record.activation.shape[2]),
                            "shares": shares[:, one.channel].clone(),  # a view would keep all channels'
                            **one.peaks(record.input),
                        }
                    )
    return [one.arrays() for one in measures]


def measure_peaks(loader, network, layer, splits, precision):
    """One pass over any images: ``indices``, ``peaks`` and ``centres`` as ``measure_splits`` has them, for each split.

    Only images among the most activating ones of any of a split's channels are kept, however many there are.
    """
    measures = [SplitMeasures(layer, split, rho) for split, rho in splits]
    with Recorder(network, layer) as recorder:
        for indices, pixels, _ in loader:
            if len(indices):
                with network_arithmetic(precision, loader.device):
                    record = recorder.forward(pixels)
                _require_finite(record, indices, loader.images)
                for one in measures:
                    one.keep({"indices": indices, **one.peaks(record.input)})
                    one.kept = [strongest(one.kept)]
    return [one.arrays() for one in measures]


def strongest(batches):
    """Of batches as ``measure_peaks`` has them, the images among the most activating ones of any channel, as one."""
    together = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    order = together["peaks"].sort(dim=0, descending=True, stable=True).indices[:TOP_IMAGES]
    images = order.unique()
    return {name: values[images] for name, values in together.items()}


def _require_finite(record, indices, images):
    """Raise a UserError that names an image for which the network gives NaN or infinite values."""
    values = [record.input, record.activation, record.logits, *([] if record.gradient is None else [record.gradient])]
    finite = torch.stack([value.flatten(1).isfinite().all(1) for value in values]).all(0).cpu()
    if not finite.all():
        path = images.path(int(indices[~finite][0]))
        raise UserError(f"the network gives NaN or infinite values for {path}: it cannot be measured")


def result_of(opened, run, tau, measured, images, classes):
    """The result of an opened split, as it is stored."""
    split = opened.split
    return {
        "run": run,
        **{key: opened.context[key] for key in ("weights_sha256", "layer", "only_correct")},
        "channel": split.channel,
        "concepts": split.concepts,
        "concept_names": [classes.concept_name(concept) for concept in split.concepts],
        "cosines": cosine_similarities(split.arvs).tolist(),
        "rho": opened.rho,
        "rho_objective": split.objective,
        "tau": tau,
        "images": _images_of_concepts(measured, images, split.concepts, tau),
    }


def _images_of_concepts(measured, images, concepts, tau):
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
        ``indices``, ``peaks`` and ``centres``, as ``measure_splits`` has them.
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
            picture = files[measured["indices"][number]]
            if picture.reason is not None:
                raise UserError(f"cannot read image {images.path(picture.index)} again ({picture.reason})")
            patches.append((patch(picture.crop.numpy(), measured["centres"][number, channel], size), groups[number]))
        shown.append(patches)
    return shown


def visualize(network, layer, split, rho, transform, device):
    """Images made to activate the original channel and ``c'_1 .. c'_K``: uint8 array [K + 1, seeds, H, W, 3]."""
    rows = split.shown_rows(rho)
    biases = None if split.bias is None else split.bias.expand(len(rows))
    return maximise_activation(network, layer, rows, biases, transform, device=device).numpy()
