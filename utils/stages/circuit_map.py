"""A map of a channel: its reference images, placed by the features of their clusters, and its strongest patches."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from utils.concept_sources.image_sets import MapImages
from utils.concept_sources.source_registry import SOURCES
from utils.errors import UserError, printable
from utils.images.batches import ImageFiles, ImageSource
from utils.method.order import largest_first
from utils.method.patches import patch, peaks
from utils.method.planar_map import in_unit_square, principal_components, with_room
from utils.networks.opened_network import OpenedNetwork
from utils.store.opened_splits import OpenedSplit
from utils.store.study import Study

IN_A_ROW = 8
MOST_PICTURES = 80


@dataclass(frozen=True)
class CircuitMap:
    """The positions of MapImages on a map.

    ``scores`` [n, 2] are the principal components of their features, ``shares`` [2] the share of the variance that each
    explains. ``shown`` are the concepts of most images, ascending; ``pictured`` the images (from 0) that have room for
    a picture, ``rows`` of each shown concept its images of largest activation.
    """

    images: MapImages
    scores: torch.Tensor
    shares: torch.Tensor
    shown: list[int]
    pictured: list[int]
    rows: list[list[int]]


def map_image_finders(opened: list[OpenedSplit], study: Study) -> dict[Path, Callable[[OpenedSplit], MapImages]]:
    """For each split, by its path, the function that finds the images of its map, for any source of concepts.

    Parameters
    ----------
    opened : list of OpenedSplit
        Splits of one network and layer.
    study : Study
        Has the training images that the splits were made from.
    """
    finders: dict[Path, Callable[[OpenedSplit], MapImages]] = {}
    for name in dict.fromkeys(split.file.source["name"] for split in opened):
        of_source = [split for split in opened if split.file.source["name"] == name]
        finders |= dict.fromkeys([split.path for split in of_source], SOURCES.get(name).map_images(of_source, study))
    return finders


def make_map(images: MapImages, side: float, most_concepts: int) -> CircuitMap:
    """The CircuitMap of MapImages.

    Parameters
    ----------
    images : MapImages
    side : float
        Side of a picture, as a fraction of the distance between the centres of the outermost images.
    most_concepts : int
        The largest concepts are shown, at most this many.
    """
    scores, shares = principal_components(images.features)
    sizes = images.concepts[images.concepts >= 0].bincount()
    shown = sorted(k for k in largest_first(sizes, most_concepts).tolist() if sizes[k])
    of_concept = {k: (images.concepts == k).nonzero().flatten().tolist() for k in (*range(len(sizes)), -1)}
    # the strongest image of each concept, then the second one of each, and so on; the dropped images come last
    ranks = {image: (k < 0, rank, k) for k, members in of_concept.items() for rank, image in enumerate(members)}
    pictured = with_room(in_unit_square(scores), sorted(ranks, key=ranks.__getitem__), side, MOST_PICTURES)
    return CircuitMap(images, scores, shares, shown, pictured, [of_concept[k][:IN_A_ROW] for k in shown])


@dataclass(frozen=True)
class MapReader:
    """Reads the pictures of maps, and finds the places where a channel is strongest.

    ``source`` reads the images of the training store, with contents; ``patch_size`` is in pixels.
    """

    source: ImageSource
    network: OpenedNetwork
    patch_size: int

    def pictures(self, indices: Iterable[int]) -> list[np.ndarray]:
        """Images as the network sees them, before normalisation: uint8 arrays [H, W, 3]."""
        files = ImageFiles(self.source.images, self.source.transform)
        crops = []
        for index in indices:
            picture = files[int(index)]
            if picture.crop is None:
                path = printable(str(self.source.images.path(picture.index)))
                raise UserError(f"cannot read image {path} ({printable(str(picture.reason))})")
            crops.append(picture.crop.numpy())
        return crops

    def patches(self, channel: int, indices: Sequence[int]) -> list[np.ndarray]:
        """The patch around the place where a channel is strongest in each image [n]: arrays [h, w, 3]."""
        centres = self.strongest_places(channel, indices)
        pictures = self.pictures(indices)
        return [patch(picture, centre, self.patch_size) for picture, centre in zip(pictures, centres, strict=True)]

    def strongest_places(self, channel: int, indices: Sequence[int]) -> torch.Tensor:
        """The place in each image [n] where a channel is largest, as fractions of the sides: [n, 2]."""
        places = self.network.layer.places(self.network.device)
        centres: dict[int, torch.Tensor] = {}
        loader = self.source.in_order(indices, f"strongest places of channel {channel}")
        for batch, record in self.network.records(loader):
            _, of_batch = peaks(record.activation[:, [channel]].float(), places)
            centres |= dict(zip(batch.indices.tolist(), of_batch[:, 0].cpu(), strict=True))
        if loader.skipped:
            raise UserError(f"{loader.skipped} reference images cannot be read any more")
        return torch.stack([centres[int(index)] for index in indices])
