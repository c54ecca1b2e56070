"""Stage 4: embeddings of validation images and of patches by another network, and activations of units on them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from functools import partial
from itertools import accumulate, chain
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from utils.errors import UserError
from utils.images.batches import ImageBatch, ImageFiles, ImageSource, batches_of
from utils.images.decoding import Picture, crop_with_pil
from utils.images.folders import ImageList
from utils.images.transform import Transform
from utils.method.embedding_scores import Monosemanticity
from utils.method.patches import patch
from utils.networks.embedder import Embedder
from utils.networks.opened_network import OpenedNetwork
from utils.networks.precision import network_arithmetic
from utils.store.embeddings import EmbeddingFile, Embeddings
from utils.store.files import Layout
from utils.store.image_passes import pass_in_blocks
from utils.store.importance_store import ImportanceStore
from utils.store.study import Study
from utils.store.unfinished import KEPT_IMAGES, Unfinished

NOT_READ = "{} validation images cannot be read any more"
MOST_MAP_VALUES = 2**24  # of all units' maps, in memory at once


# --------------------------------------------------------------------------------------------------------------------
# Embeddings


def embeddings_of(source: ImageSource, batches: Iterable[ImageBatch], embedder: Embedder, precision: str) -> Embeddings:
    """Embeddings of the images of batches that could be read, on the CPU.

    Parameters
    ----------
    source : ImageSource
        With the embedder's transform.
    batches : iterable of ImageBatch
        Batches of ``source``.
    embedder : Embedder
        On the device of ``source``.
    precision : str
        Precision of the embedder's arithmetic.

    Raises
    ------
    UserError
        An unreadable image; NaN, infinite values or nothing but zeros for one.
    """
    embedded = [torch.empty(0, dtype=torch.long)]
    values = [torch.empty(0, embedder.size)]
    for batch in batches:
        if not len(batch.indices):
            continue
        with network_arithmetic(precision, source.loading.device):
            of_batch = embedder.embed(batch.pixels).cpu()
        impossible = ~of_batch.isfinite().all(1) | ~of_batch.any(1)
        if impossible.any():
            path = source.images.path(int(batch.indices[impossible][0]))
            raise UserError(f"--embedding {embedder.model} gives no embedding of {path}: NaN, infinite or all zero")
        embedded.append(batch.indices)
        values.append(of_batch)
    return Embeddings(torch.cat(embedded), torch.cat(values))


def validation_embeddings(store: ImportanceStore, study: Study, embedder: Embedder) -> tuple[Embeddings, Path]:
    """Embeddings of the images that a val store has measured: made in one pass, kept next to the store, and reused.

    Parameters
    ----------
    store : ImportanceStore
        The val store, complete, its ``meta`` read.
    study : Study
        Says where embeddings are kept, and how images are read.
    embedder : Embedder
        On the study's device.

    Returns
    -------
    Embeddings
    path : Path
        The file in which they are kept.
    """
    origin = {
        "format": 1,
        "store": store.meta,
        "embedder": embedder.fingerprint,
        "features": embedder.features,
        "transform": asdict(embedder.transform),
        "precision": study.precision,
        "decoding": study.decoding,
    }
    file = EmbeddingFile(study.store_dir, study.run, embedder.model, embedder.size, origin)
    embeddings = file.read()
    if embeddings is None:
        images, indices = store.measured_images(study.data_dir / store.meta["images"])
        source = ImageSource(images, embedder.transform, study.batch_size, study.loading)
        kept = Unfinished(file.path, origin)

        def measure(_: torch.Tensor, batches: Iterator[ImageBatch]) -> dict[str, np.ndarray]:
            return file.arrays(embeddings_of(source, batches, embedder, study.precision))

        blocks = pass_in_blocks(kept, lambda _: file.layout, source, indices, "embeddings", measure=measure)
        embeddings = Embeddings(
            *(torch.from_numpy(np.concatenate([block[name] for block in blocks])) for name in file.layout)
        )
        file.write(embeddings)
        kept.remove()
    return embeddings, file.path


class PatchFiles(ImageFiles):
    """Patches of images: cut out of what the studied network sees, resized to the embedder's input.

    Parameters
    ----------
    images : ImageList
        The image of each patch.
    transform : Transform
        The embedder's.
    crop : function
        Function that decodes an image.
    seen_with : Transform
        Transform of the studied network.
    centres : array [P, 2]
        Row and column, as fractions of the sides of what it sees.
    size : int
        Side of a patch, in its pixels.
    """

    def __init__(
        self,
        images: ImageList,
        transform: Transform,
        crop: Callable = crop_with_pil,
        *,
        seen_with: Transform,
        centres: np.ndarray,
        size: int,
    ) -> None:
        super().__init__(images, seen_with, crop)
        self.whole = replace(transform, resize_size=transform.crop_size)
        self.centres = centres
        self.size = size

    def __getitem__(self, number: int) -> Picture:
        picture = super().__getitem__(number)
        if picture.crop is not None:
            cut = patch(picture.crop.numpy(), self.centres[number], self.size)
            picture.crop = self.whole.crop(Image.fromarray(np.ascontiguousarray(cut)))
        return picture


def patch_embeddings(
    source: ImageSource,
    indices: np.ndarray,
    centres: np.ndarray,
    *,
    size: int,
    embedder: Embedder,
    precision: str,
) -> torch.Tensor:
    """Embeddings of patches of images, [P, D] float32 on the CPU.

    Each patch reads its image, so a caller with very many units asks for some of them at a time. Patches are decoded by
    PIL, and an unreadable image is an error.

    Parameters
    ----------
    source : ImageSource
        With the transform of the studied network.
    indices : array of int [P]
        The image of each patch.
    centres : array [P, 2]
        Row and column of its centre, as fractions of the sides of what the studied network sees.
    size : int
        Its side, in pixels of that.
    embedder : Embedder
        On the device of ``source``; patches are resized to its input.
    precision : str
        Precision of the embedder's arithmetic.
    """
    patches = replace(
        source,
        images=source.images.at(np.asarray(indices, dtype=int)),
        transform=embedder.transform,
        loading=replace(source.loading, decoding="pil", skip_unreadable=False),
        files=partial(PatchFiles, seen_with=source.transform, centres=np.asarray(centres), size=size),
    )
    return embeddings_of(patches, patches.in_order(range(len(indices)), None), embedder, precision).values


# --------------------------------------------------------------------------------------------------------------------
# Activations of images that have embeddings


def unit_monosemanticity(
    network: OpenedNetwork,
    rows: torch.Tensor,
    biases: torch.Tensor | None,
    source: ImageSource,
    embeddings: Embeddings,
    *,
    kept: Unfinished,
) -> Monosemanticity:
    """One pass of the studied network: how similar the images are that activate each of R units.

    A unit is any row of weights on the layer's input; its activation is ``sum_hw max(c', 0)``. Units go in blocks, so
    that maps need a bounded memory, in addition to R x D numbers that are kept.

    Parameters
    ----------
    network : OpenedNetwork
    rows : Tensor [R, C_in, taps]
    biases : Tensor [R] or None
    source : ImageSource
        With the transform of the studied network.
    embeddings : Embeddings
        Embeddings of the images that are read.
    kept : Unfinished
        Where the sums are kept after every KEPT_IMAGES images.
    """
    device = network.device
    layer = network.layer
    block = max(1, MOST_MAP_VALUES // (source.batch_size * layer.num_positions))
    maps = {
        first: layer.maps(
            rows[first : first + block].to(device),
            None if biases is None else biases[first : first + block].to(device),
        )
        for first in range(0, len(rows), block)
    }
    running = Monosemanticity(len(rows), embeddings.values.shape[1], device)
    layout: Layout = {name: (values.dtype, values.shape) for name, values in running.state().items()}
    state = kept.find_arrays("monosemanticity", layout)
    if state is not None:
        running.restore(state)
    done = running.images
    blocks = embeddings.indices[done:].split(KEPT_IMAGES)
    plans = [batches_of(block, source.batch_size) for block in blocks]
    loader = source.batches(list(chain.from_iterable(plans)), "monosemanticity", done)
    last_of_blocks = set(accumulate(map(len, plans)))
    with torch.no_grad():
        for number, (batch, record) in enumerate(network.records(loader), start=1):
            of_batch = embeddings.values[torch.searchsorted(embeddings.indices, batch.indices)].to(device)
            for first, apply in maps.items():
                running.add(apply(record.input).clamp_(min=0).sum(-1), of_batch, first)
            if loader.skipped:
                raise UserError(NOT_READ.format(loader.skipped))
            if number in last_of_blocks:
                kept.keep_arrays("monosemanticity", running.state())
    if loader.skipped:  # a last batch of which nothing could be read does not come
        raise UserError(NOT_READ.format(loader.skipped))
    return running
