"""A map of a channel: its reference images, by what they are clustered by, and where in them it is strongest."""

from dataclasses import dataclass

import torch

from utils.concept_sources.image_sets import MapImages
from utils.concept_sources.source_registry import SOURCES
from utils.errors import UserError, printable
from utils.images.batches import ImageFiles, batches_of
from utils.method.patches import patch, peaks
from utils.method.planar_map import in_unit_square, principal_components, with_room
from utils.networks.precision import network_arithmetic
from utils.networks.recording import Recorder, require_finite

IN_A_ROW = 8
MOST_PICTURES = 80


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


def map_image_finders(opened, study):
    """What finds the images of the maps of splits, whatever source their concepts are from: {path: function of it}.

    Parameters
    ----------
    opened : list of OpenedSplit
        Of one network and layer.
    study : Study
        Of the training images that the splits were made from.
    """
    found = {}
    for name in dict.fromkeys(one.file.source["name"] for one in opened):
        by_source = [one for one in opened if one.file.source["name"] == name]
        found |= dict.fromkeys([one.path for one in by_source], SOURCES.get(name).map_images(by_source, study))
    return found


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
