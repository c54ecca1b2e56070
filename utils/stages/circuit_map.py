"""A map of a channel: its reference images, by what they are clustered by, and where in them it is strongest."""

from dataclasses import dataclass

import torch

from utils.errors import UserError, printable
from utils.images.batches import ImageFiles, batches_of
from utils.method.circuits import circuits
from utils.method.patches import patch, peaks
from utils.method.planar_map import in_unit_square, principal_components, with_room
from utils.networks.arithmetic import network_arithmetic
from utils.networks.recording import Recorder
from utils.stages.least_squares import StoredInputs
from utils.stages.references import usable_images
from utils.stages.unlabelled import stored_method, strongest_images
from utils.stages.validation import require_finite
from utils.store.references import ReferenceStore

LABELLED = 300  # images of concepts that are classes, equally many of each
IN_A_ROW = 8
MOST_PICTURES = 80
TOLERANCE = 1e-3  # of an ARV, relative to its largest entry
AGAIN = "run disentangle_channel.py again"


@dataclass
class MapImages:
    """The images that a channel's map shows: ``indices`` [n] in the training store, those of largest activation first.

    ``concepts`` [n] says which concept (from 0) an image is of, or -1: dropped; ``features`` [n, F] are what images
    are compared by.
    """

    indices: torch.Tensor
    concepts: torch.Tensor
    features: torch.Tensor


@dataclass
class CircuitMap:
    """Where the images of MapImages lie.

    ``scores`` [n, 2] are the principal components of their features, ``shares`` [2] what these explain. ``shown`` are
    the concepts of most images, ascending; ``pictured`` the images (from 0) that have room for a picture, ``rows`` of
    each shown concept its images of largest activation.
    """

    images: MapImages
    scores: torch.Tensor
    shares: torch.Tensor
    shown: list
    pictured: list
    rows: list


class MapImageFinder:
    """Finds the images of splits' maps: reference images, or of concepts that are classes the strongest of each.

    Parameters
    ----------
    opened : list of OpenedSplit
        Of one network and layer.
    store : ImportanceStore
        Of training images, complete; the one that the splits were made from.
    run : str
    """

    def __init__(self, opened, store, run):
        self.store, self.run = store, run
        self.labels, (self.weight, self.bias) = store.read_labels(), store.read_layer()
        self._inputs = StoredInputs(store, self.labels, only_correct=False)
        self._strongest = self._references_of_concept_vectors(opened)
        stored = [one for one in opened if one.file.source["from"] not in ("classes", "pure")]
        indices = [torch.tensor(concept.images) for one in stored for concept in one.file.split.own_concepts]
        indices = torch.cat([*indices, *self._strongest.values(), torch.empty(0, dtype=torch.long)])
        if len(indices):
            self._inputs.keep(indices[torch.isin(indices, self.labels.indices)])

    def of(self, opened):
        """The MapImages of a split; UserError where it was made from other training images."""
        split, origin = opened.file.split, opened.file.source["from"]
        sets = self._concept_images(opened.file)
        if not torch.isin(torch.cat(sets), self.labels.indices).all():
            raise UserError(self._other_images(opened))
        if origin == "pure":
            return self._of_pure(opened, sets)
        if origin != "classes":
            self._check_arvs(opened, sets)
        weight, indices = split.weight, torch.cat([*sets, self._dropped(opened, sets)]).sort().values
        tap_sums = self._inputs.of_images(indices)
        order = circuits(weight, tap_sums).sum(1).argsort(descending=True, stable=True)
        method = stored_method(origin, self.weight, self.bias, self.store.meta["positions"])
        return MapImages(indices[order], _concepts_of(indices[order], sets), method.features(weight, tap_sums[order]))

    def _concept_images(self, file):
        """The images of each concept: a set of them; or, of classes, those of largest spatial sum."""
        concepts, sets = file.split.own_concepts, []
        usable = torch.isin(self.labels.indices, usable_images(self.labels, file.settings["only_correct"]))
        for concept in concepts:
            if concept.kind == "images":
                sets.append(torch.tensor(concept.images))
                continue
            own = self.labels.indices[usable & torch.isin(self.labels.targets, torch.tensor(concept.classes))]
            sums = circuits(file.split.weight, self._inputs.of_images(own)).sum(1)
            sets.append(own[sums.argsort(descending=True, stable=True)[: LABELLED // len(concepts)]].sort().values)
        return sets

    def _references_of_concept_vectors(self, opened):
        """The reference images [n] of splits by concept vectors, which are not all in the split: {its path: images}."""
        asked = {}
        for one in opened:
            if one.file.source["from"] == "concept_vectors":
                how = one.file.source["nr_reference_images"], one.file.settings["only_correct"]
                asked.setdefault(how, []).append(one)
        found = {}
        for how, splits in asked.items():
            rows = self.weight[[one.file.split.channel for one in splits]]
            images = strongest_images(self.store, rows, *how)
            found |= {one.path: own for one, own in zip(splits, images, strict=True)}
        return found

    def _dropped(self, opened, sets):
        """Reference images that are of no concept, as many as there were: of near ties another may be last."""
        kept = torch.cat(sets)
        references = self._strongest.get(opened.path, kept)
        return references[~torch.isin(references, kept)][: len(references) - len(kept)]

    def _check_arvs(self, opened, sets):
        """A concept's ARV is the mean circuit of its images: UserError unless it is that of the store's images."""
        split = opened.file.split
        for images, arv in zip(sets, split.arvs, strict=False):
            found = circuits(split.weight.double(), self._inputs.of_images(images).double()).mean(0)
            if (found - arv).abs().max() > TOLERANCE * arv.abs().max():
                raise UserError(self._other_images(opened))

    def _of_pure(self, opened, sets):
        """References and circuits of a split by PURE, which stage 3 has kept beside it."""
        file, channel = opened.file, opened.file.split.channel
        settings = {"number": file.source["nr_reference_images"], "circuit_layer": file.source["circuit_layer"]}
        settings |= {name: file.settings[name] for name in ("precision", "decoding", "only_correct")}
        num_features = file.source["centroids"].shape[1]
        stored = ReferenceStore(opened.path.parent, self.run, self.store.meta, num_features, settings)
        if stored.missing([(channel, 0)]):
            raise UserError(f"{stored.path} has no references of channel {channel}: {AGAIN}")
        references = stored.read([(channel, 0)])
        indices, kept = references.indices[0], torch.cat(sets)
        if not torch.isin(kept, indices).all():
            raise UserError(self._other_images(opened))
        return MapImages(indices, _concepts_of(indices, sets), references.features[0])

    def _other_images(self, opened):
        return f"{opened.path} was made from other training images than those of {self.store.folder}: {AGAIN}"


def _concepts_of(indices, sets):
    """Which of some sets (from 0) each image is in, or -1."""
    concepts = torch.full_like(indices, -1)
    for k, images in enumerate(sets):
        concepts[torch.isin(indices, images)] = k
    return concepts


def make_map(images, side, most_concepts):
    """The CircuitMap of MapImages.

    Parameters
    ----------
    images : MapImages
    side : float
        Of a picture, of the way between the outermost images' middles.
    most_concepts : int
        That are shown: the largest.
    """
    scores, shares = principal_components(images.features)
    sizes = images.concepts[images.concepts >= 0].bincount()
    shown = sorted(k for k in sizes.argsort(descending=True, stable=True)[:most_concepts].tolist() if sizes[k])
    of_concept = {k: (images.concepts == k).nonzero().flatten().tolist() for k in (*range(len(sizes)), -1)}
    # the strongest image of each concept, then the second one of each, and so on; at last what was dropped
    ranks = {image: (k < 0, rank, k) for k, own in of_concept.items() for rank, image in enumerate(own)}
    pictured = with_room(in_unit_square(scores), sorted(ranks, key=ranks.get), side, MOST_PICTURES)
    return CircuitMap(images, scores, shares, shown, pictured, [of_concept[k][:IN_A_ROW] for k in shown])


@dataclass
class MapReader:
    """Reads the pictures of maps: ``images`` are the training store's ImageList, with contents, ``load`` batches them.

    ``network`` is frozen and on its device, ``patch_size`` is in pixels.
    """

    images: object
    transform: object
    network: torch.nn.Module
    layer: object
    load: object
    batch_size: int
    precision: str
    patch_size: int

    def pictures(self, indices):
        """Images as the network sees them, but for normalisation: a list of uint8 arrays [H, W, 3]."""
        files = ImageFiles(self.images, self.transform)
        read = [files[int(index)] for index in indices]
        for one in read:
            if one.reason is not None:
                path = printable(str(self.images.path(one.index)))
                raise UserError(f"cannot read image {path} ({printable(str(one.reason))})")
        return [one.crop.numpy() for one in read]

    def patches(self, channel, indices):
        """The patch around the place where a channel is strongest in each image [n]: a list of arrays [h, w, 3]."""
        centres = self.strongest_places(channel, indices)
        pictures = self.pictures(indices)
        return [patch(picture, centre, self.patch_size) for picture, centre in zip(pictures, centres, strict=True)]

    def strongest_places(self, channel, indices):
        """Where in each image [n] a channel is largest, as fractions of the sides: [n, 2]."""
        places, centres = self.layer.places(self.layer.module.weight.device), {}
        loader = self.load(batches_of(indices, self.batch_size), f"strongest places of channel {channel}")
        with Recorder(self.network, self.layer) as recorder:
            for own, pixels, _ in loader:
                if len(own):
                    with network_arithmetic(self.precision, loader.device):
                        record = recorder.forward(pixels)
                    require_finite(record, own, loader.images)
                    _, found = peaks(record.activation[:, [channel]].float(), places)
                    centres |= dict(zip(own.tolist(), found[:, 0].cpu(), strict=True))
        if loader.skipped:
            raise UserError(f"{loader.skipped} reference images cannot be read any more")
        return torch.stack([centres[int(index)] for index in indices])
