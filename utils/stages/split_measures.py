"""Stage 4: the measurements of each split on validation images, and the patches of its card."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from utils.concept_sources.source_registry import SOURCES
from utils.errors import UserError, printable
from utils.images.batches import ImageFiles
from utils.images.folders import ClassMap, ImageList
from utils.images.transform import Transform
from utils.method.disentangling import GroupKey, merge, spatial_sums
from utils.method.patches import most_activating, patch, peaks, ranks
from utils.method.polysemanticity import cosine_similarities
from utils.networks.layers import Layer
from utils.processes import progress
from utils.stages.strongest_patches import TopPatches
from utils.stages.validation import MeasuredBatch, ValidationImages, contents_digest
from utils.store.opened_splits import OpenedSplit
from utils.store.results import Results


class SplitMeasures:
    """The measurements of one split at one rho; everything that is the same for all batches is made once.

    Without ``layer`` the layer's input cannot be used: then there are no peaks.
    """

    def __init__(self, opened: OpenedSplit, layer: Layer | None = None) -> None:
        split = opened.file.split
        self.split = split
        self.keys = opened.keys
        self.kept: list[dict[str, np.ndarray]] = []
        self._rows = split.rows(opened.rho)
        self._maps = None
        if layer is not None:
            biases = None if split.bias is None else split.bias.expand(len(self._rows))
            self._maps = layer.maps(split.shown_rows(opened.rho), biases)
            self._places = layer.places(layer.weight.device)

    def add(self, key: GroupKey, batch: MeasuredBatch) -> None:
        """Add the measurements of a MeasuredBatch of a group of images."""
        sums = spatial_sums(self._rows, self.split.biases(), batch.tap_sums, self.split.positions)
        self.keep(
            indices=batch.indices,
            contents=batch.contents,
            groups=np.full(len(batch.indices), self.keys.index(key)),
            targets=batch.targets,
            predictions=batch.predictions,
            original=merge(sums, dim=1),
            sums=sums,
            shares=batch.shares[:, self.split.channel].float(),
            **({} if batch.input is None or self._maps is None else self.peaks(batch.input)),
        )

    def peaks(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Largest activations of the original channel and ``c'_1 .. c'_K`` [B, K + 1] and where [B, K + 1, 2] they are.

        From the layer's input.
        """
        assert self._maps is not None  # there is a layer
        with torch.no_grad():
            values, centres = peaks(self._maps(x), self._places)
        return {"peaks": values.cpu(), "centres": centres.cpu()}

    def keep(self, **batch: ArrayLike) -> None:
        self.kept.append({name: np.asarray(values) for name, values in batch.items()})

    def arrays(self) -> dict[str, np.ndarray]:
        """All measurements, as arrays by name, in the order of ``keys``; empty if no image could be read."""
        names = list(self.kept[0]) if self.kept else []
        kept = sorted(self.kept, key=lambda batch: batch["groups"][0])
        return {name: np.concatenate([batch[name] for batch in kept]) for name in names}


def evaluate(
    opened: list[OpenedSplit],
    described: list[dict[str, Any]],
    validation: ValidationImages,
    results: Results,
    pictures: bool,
) -> Iterator[tuple[int, dict[str, Any] | None, dict[str, np.ndarray]]]:
    """Measure splits on validation images that come group by group; a split is ready when its last one has come.

    All sums follow from those of the layer's input, so that they do not depend on the network's precision.

    Parameters
    ----------
    opened : list of OpenedSplit
    described : list of dict
        From ``describe_result``, one for each split.
    validation : ValidationImages
    results : Results
    pictures : bool
        Whether there will be pictures, which need the arrays of all splits.

    Yields
    ------
    number : int
        Index in ``opened``.
    result : dict or None
        The stored result where there is an equal one.
    arrays : dict of arrays
        Empty where there is a stored result. Else the measurements: ``groups`` (indices into the split's ``keys``),
        ``indices``, ``contents``, ``targets``, ``predictions`` [n]; spatial sums of the channel ``original`` [n] and of
        ``c'_1 .. c'_K, r`` ``sums`` [n, K + 1]; the channel's relative attribution ``shares`` [n]; where the layer's
        input can be used, ``peaks`` [n, K + 1] and ``centres`` [n, K + 1, 2] of the channel and ``c'_1 .. c'_K``.
    """
    measures: dict[int, SplitMeasures] = {}
    stored = progress(described, "stored results", unit=" splits", delay=2, leave=False)
    for number, of_split in enumerate(stored):
        result = None if pictures else results.find(of_split)
        if result is None:
            measures[number] = SplitMeasures(opened[number], validation.layer)
        else:
            yield number, result, {}
    keys, last = validation.with_images(list(measures.values()))
    last_of = dict(zip(measures, last, strict=True))
    for key, of_group in groupby(validation.batches(keys), key=itemgetter(0)):
        users = {number: of_split for number, of_split in measures.items() if key in of_split.keys}
        for batch in (batch for _, batch in of_group if batch is not None):
            for user in users.values():
                user.add(key, batch)
        for number, user in users.items():
            if last_of[number] == key:
                yield number, None, user.arrays()
                del measures[number]


# --------------------------------------------------------------------------------------------------------------------
# Results


def describe_result(opened: OpenedSplit, run: str, tau: float, validation: ValidationImages) -> dict[str, Any]:
    """All fields of a result that are known before anything is measured; an equal one need not be measured again."""
    file = opened.file
    split = file.split
    num_concepts = len(split.own_concepts)
    return {
        **validation.describe(opened, run),
        "only_correct": file.settings["only_correct"],
        "channel": split.channel,
        "concepts_from": file.source["name"],
        "found_by": file.found_by(),
        "assignment": SOURCES.get(file.source["name"]).assignment(file.source["state"]),
        "concepts": split.classes,
        "concept_names": [concept.name for concept in split.own_concepts],
        "background": file.background,
        "split_by": split.division.name,
        "cosines": cosine_similarities(split.arvs[:num_concepts]).tolist(),
        "rho": opened.rho,
        "division": split.division.settings(),
        "tau": tau,
        "files_sha256": validation.files_digest(opened.keys),
    }


def result_of(
    described: dict[str, Any], arrays: dict[str, np.ndarray], opened: OpenedSplit, validation: ValidationImages
) -> dict[str, Any]:
    """A result: what describes it, and the measurements of each concept, as lists for a JSON file.

    ``validation`` has a digest of the images of each group, so that results of different images are never summed up
    together. An image set may be empty; a class may not, as its images were requested.
    """
    names = ("targets", "predictions", "original", "sums", "shares")
    parts: list[dict[str, list]] = []
    digests = {}
    images = validation.images
    for number, keys in enumerate(opened.groups, start=1):
        of_concept = np.isin(arrays.get("groups", []), [opened.keys.index(key) for key in keys])
        if not of_concept.any() and any(len(validation.indices(key)) for key in keys):
            raise UserError(f"concept {number} has no readable image in {images.root}")
        paths = [str(images.path(index).relative_to(images.root)) for index in arrays["indices"][of_concept]]
        included = (arrays["shares"][of_concept] >= described["tau"]).tolist()
        measured = {name: arrays[name][of_concept].tolist() for name in names}
        parts.append({"paths": paths, **measured, "included": included})
        for key in keys:
            of_group = arrays["groups"] == opened.keys.index(key)
            contents = arrays["contents"][of_group]
            digests[validation.name(key)] = contents_digest(images, arrays["indices"][of_group], contents)
    return {**described, "validation": digests, "images": parts}


# --------------------------------------------------------------------------------------------------------------------
# Pictures


class Patch(NamedTuple):
    """A patch of an image: array [size, size, 3], the image's concept (from 0, or -1), class name, and rank from 1."""

    picture: np.ndarray
    concept: int
    name: str
    rank: int


def names_of_folders(images: ImageList, classes: ClassMap) -> list[str]:
    """The class name of each of the images' folders; a folder without an output is its own name."""
    outputs = classes.outputs
    return [classes.name(outputs[name]) if name in outputs else printable(name) for name in images.folders]


@dataclass(frozen=True)
class ConceptImages:
    """Images that patches are cut out of, and the names that are written next to the patches.

    ``transform`` is that of the network; ``concepts`` [n] says which concept (from 0) each image is of, or -1;
    ``names`` are the class names of the images' folders.
    """

    images: ImageList
    transform: Transform
    concepts: np.ndarray
    names: list[str]


class ChannelPeaks(NamedTuple):
    """The largest activations of a channel in n images: ``indices`` and ``values`` [n], and their places [n, 2]."""

    indices: np.ndarray
    values: np.ndarray
    centres: np.ndarray


def peaks_of_concepts(measured: dict[str, np.ndarray]) -> list[ChannelPeaks]:
    """The ChannelPeaks of the channel and ``c'_1 .. c'_K`` in the images that ``evaluate`` has measured."""
    by_channel = zip(measured["peaks"].T, measured["centres"].swapaxes(0, 1), strict=True)
    return [ChannelPeaks(measured["indices"], values, centres) for values, centres in by_channel]


def peaks_of_all(strongest: TopPatches) -> list[ChannelPeaks]:
    """The ChannelPeaks of units in the images of their strongest patches among all."""
    units = zip(strongest.images.numpy(), strongest.values.numpy(), strongest.centres.numpy(), strict=True)
    return [ChannelPeaks(*(part[images >= 0] for part in (images, *parts))) for images, *parts in units]


def top_patches(
    images: ConceptImages, channels: list[ChannelPeaks], size: int, rule: str = "ranked"
) -> list[list[Patch]]:
    """The patches that are shown for each channel, read again from their files.

    Parameters
    ----------
    images : ConceptImages
    channels : list of ChannelPeaks
    size : int
        Side of a patch in pixels.
    rule : str
        ``ranked`` or ``paper``, of ``utils.method.patches``.
    """
    files = ImageFiles(images.images, images.transform)
    shown = []
    for indices, values, centres in channels:
        rank = ranks(values)
        groups = images.concepts[indices]
        patches = []
        for number in most_activating(values, groups if rule == "paper" else None):
            picture = files[indices[number]]
            if picture.crop is None:
                raise UserError(f"cannot read image {images.images.path(picture.index)} again ({picture.reason})")
            cut = patch(picture.crop.numpy(), centres[number], size)
            name = images.names[images.images.folder_of[picture.index]]
            patches.append(Patch(cut, int(groups[number]), name, int(rank[number])))
        shown.append(patches)
    return shown
