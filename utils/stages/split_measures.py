"""Stage 4: what is measured of each split on validation images, and its card's patches."""

from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import torch

from utils.concept_sources.source_registry import SOURCES
from utils.errors import UserError, printable
from utils.images.batches import ImageBatches, ImageFiles
from utils.method.disentangling import merge, spatial_sums
from utils.method.patches import TOP_IMAGES, most_activating, patch, peaks, ranks
from utils.method.polysemanticity import cosine_similarities
from utils.networks.opened_network import OpenedNetwork
from utils.stages.validation import contents_digest


class SplitMeasures:
    """What is measured of one split at one rho; everything that is the same for all batches is made once.

    ``layer`` is None where the layer's input is not at hand: then there are no peaks.
    """

    def __init__(self, opened, layer=None):
        """``opened``: OpenedSplit."""
        split, rho = opened.file.split, opened.rho
        self.split, self.keys, self.kept = split, opened.keys, []
        self._rows, self._biases = split.rows(rho), split.biases()
        self._positions = split.positions
        self._maps = None
        if layer is not None:
            biases = None if split.bias is None else split.bias.expand(len(self._rows))
            self._maps = layer.maps(split.shown_rows(rho), biases)
            self._places = layer.places(layer.module.weight.device)

    def add(self, key, batch):
        """Keep what a MeasuredBatch of a group of images says of the split."""
        sums = spatial_sums(self._rows, self._biases, batch.tap_sums, self._positions)
        self.keep(
            indices=batch.indices,
            contents=batch.contents,
            groups=np.full(len(batch.indices), self.keys.index(key)),
            targets=batch.targets,
            predictions=batch.predictions,
            original=merge(sums, dim=1),
            sums=sums,
            shares=batch.shares[:, self.split.channel].float(),
            **({} if self._maps is None else self.peaks(batch.input)),
        )

    def peaks(self, x):
        """Largest activations of the original channel and ``c'_1 .. c'_K`` [B, K + 1] and where [B, K + 1, 2] they are.

        From the layer's input.
        """
        with torch.no_grad():
            values, centres = peaks(self._maps(x), self._places)
        return {"peaks": values.cpu(), "centres": centres.cpu()}

    def keep(self, **batch):
        self.kept.append({name: np.asarray(values) for name, values in batch.items()})

    def arrays(self):
        """All that was kept, as arrays by name; empty if no image could be read."""
        names = self.kept[0] if self.kept else ()
        return {name: np.concatenate([batch[name] for batch in self.kept]) for name in names}


def evaluate(opened, known, source, results, pictures):
    """Measure splits on validation images that come group by group; a split is ready when its last one has come.

    All sums follow from those of the layer's input, so that they agree in whatever precision the network runs.

    Parameters
    ----------
    opened : list of OpenedSplit
    known : list of dict
        Of ``describe_result``, one each.
    source : ImagePass or StoredValidation
    results : Results
    pictures : bool
        Whether pictures are wanted, which need the arrays of all.

    Yields
    ------
    number : int
        Which of ``opened``.
    result : dict or None
        Where it is there already, and equal.
    arrays : dict of arrays, or None
        Else what was measured: ``groups`` (places in the split's ``keys``), ``indices``, ``contents``, ``targets``,
        ``predictions`` [n]; spatial sums of the channel
        ``original`` [n] and of ``c'_1 .. c'_K, r`` ``sums`` [n, K + 1]; the channel's relative attribution ``shares``
        [n]; where the layer's input is at hand, ``peaks`` [n, K + 1] and ``centres`` [n, K + 1, 2] of the channel and
        ``c'_1 .. c'_K``.
    """
    missing = []
    for number, one in enumerate(known):
        result = None if pictures else results.find(one)
        if result is None:
            missing.append(number)
        else:
            yield number, result, None
    measures = {number: SplitMeasures(opened[number], source.layer) for number in missing}
    keys, last = source.with_images(list(measures.values()))
    last = dict(zip(measures, last, strict=True))
    for key, of_group in groupby(source.batches(keys), key=itemgetter(0)):
        using = {number: one for number, one in measures.items() if key in one.keys}
        for _, batch in of_group:
            for one in using.values() if batch is not None else ():
                one.add(key, batch)
        for number, one in using.items():
            if last[number] == key:
                yield number, None, one.arrays()
                del measures[number]


def measure_peaks(
    loader: ImageBatches, network: OpenedNetwork, measures: list[SplitMeasures]
) -> list[dict[str, np.ndarray]]:
    """One pass over any images: ``indices``, ``peaks`` and ``centres`` as ``evaluate`` has them, for each split.

    Only images among the most activating ones of any of a split's channels are kept, however many there are.
    """
    for batch, record in network.records(loader):
        for of_split in measures:
            of_split.keep(indices=batch.indices, **of_split.peaks(record.input))
            of_split.kept = [strongest(of_split.kept)]
    return [of_split.arrays() for of_split in measures]


def strongest(batches):
    """Of batches as ``measure_peaks`` has them, the images among the most activating ones of any channel, as one."""
    together = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    order = np.argsort(-together["peaks"], axis=0, kind="stable")[:TOP_IMAGES]
    images = np.unique(order)
    return {name: values[images] for name, values in together.items()}


# --------------------------------------------------------------------------------------------------------------------
# Results


def describe_result(opened, run, tau, source):
    """All of a result that is known before anything is measured; what is there and equal need not be measured again.

    Parameters
    ----------
    opened : OpenedSplit
    run : str
    tau : float
    source : ImagePass or StoredValidation
    """
    split, file = opened.file.split, opened.file
    own = len(split.own_concepts)
    return {
        "run": run,
        "split": opened.path.stem,
        "split_sha256": file.sha256,
        **{key: file.context[key] for key in ("weights_sha256", "layer", "transform")},
        "precision": source.precision,
        "decoding": source.decoding,
        "only_correct": file.settings["only_correct"],
        "channel": split.channel,
        "concepts_from": file.source["name"],
        "found_by": file.found_by(),
        "assignment": SOURCES.get(file.source["name"]).assignment(file.source["state"]),
        "concepts": split.classes,
        "concept_names": [concept.name for concept in split.own_concepts],
        "background": file.background,
        "split_by": split.division.name,
        "cosines": cosine_similarities(split.arvs[:own]).tolist(),
        "rho": opened.rho,
        "division": split.division.settings(),
        "tau": tau,
        "files_sha256": source.files_digest(opened.keys),
    }


def result_of(described, arrays, opened, source):
    """A result: what is known of it, and what was measured, concept by concept, as lists for a JSON file.

    ``validation`` has a digest of the images of each group, so that results of different images are never summed up
    together. An image set may be empty: of a class, images were asked for.
    """
    names = ("targets", "predictions", "original", "sums", "shares")
    parts, validation, images = [], {}, source.images
    for number, keys in enumerate(opened.groups, start=1):
        own = np.isin(arrays.get("groups", []), [opened.keys.index(key) for key in keys])
        if not own.any() and any(len(source.indices(key)) for key in keys):
            raise UserError(f"concept {number} has no readable image in {images.root}")
        paths = [str(images.path(index).relative_to(images.root)) for index in arrays["indices"][own]]
        included = (arrays["shares"][own] >= described["tau"]).tolist()
        parts.append({"paths": paths, **{name: arrays[name][own].tolist() for name in names}, "included": included})
        for key in keys:
            of_group = arrays["groups"] == opened.keys.index(key)
            measured = arrays["indices"][of_group], arrays["contents"][of_group]
            validation[source.name(key)] = contents_digest(images, *measured)
    return {**described, "validation": validation, "images": parts}


# --------------------------------------------------------------------------------------------------------------------
# Pictures


class Patch(NamedTuple):
    """A patch of an image: array [size, size, 3], the image's concept (from 0, or -1), class name, and rank from 1."""

    picture: np.ndarray
    concept: int
    name: str
    rank: int


def names_of_folders(images, classes):
    """The class name of each of the images' folders; that of a folder without an output is its own."""
    return [classes.name(classes.outputs[name]) if name in classes.outputs else printable(name)
            for name in images.folders]  # fmt: skip


def top_patches(images, transform, measured, concepts, names, size, rule="ranked"):
    """The patches of ``size`` pixels that are shown for each channel, read again from their files.

    Parameters
    ----------
    images : ImageList
    transform : Transform
    measured : dict
        ``indices``, ``peaks`` and ``centres``, as ``evaluate`` has them.
    concepts : array [len(images)]
        Which concept (from 0) each image is of, or -1.
    names : list
        The class name of each of the images' folders.
    size : int
    rule : str
        ``ranked`` or ``paper``, of ``utils.method.patches``.

    Returns
    -------
    list of K + 1 lists of Patch
    """
    files, groups, shown = ImageFiles(images, transform), concepts[measured["indices"]], []
    for values, centres in zip(measured["peaks"].T, measured["centres"].swapaxes(0, 1), strict=True):
        patches, rank = [], ranks(values)
        for number in most_activating(values, groups if rule == "paper" else None):
            picture = files[measured["indices"][number]]
            if picture.reason is not None:
                raise UserError(f"cannot read image {images.path(picture.index)} again ({picture.reason})")
            cut, name = patch(picture.crop.numpy(), centres[number], size), names[images.folder_of[picture.index]]
            patches.append(Patch(cut, int(groups[number]), name, int(rank[number])))
        shown.append(patches)
    return shown
