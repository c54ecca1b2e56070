"""Stage 4: embeddings of validation images and of patches by another network, and what units activate beside them."""

from dataclasses import asdict, replace
from functools import partial

import numpy as np
import torch
from PIL import Image

from utils.errors import UserError
from utils.images.batches import ImageBatches, ImageFiles, batches_of
from utils.images.decoding import crop_with_pil
from utils.method.embedding_scores import Monosemanticity
from utils.method.patches import patch
from utils.networks.precision import network_arithmetic
from utils.networks.recording import Recorder, require_finite
from utils.store.embeddings import EmbeddingFile, Embeddings

MOST_MAP_VALUES = 2**24  # of all units' maps, in memory at once


# --------------------------------------------------------------------------------------------------------------------
# Embeddings


def embeddings_of(images, indices, embedder, description, *, batch_size, precision, loading, **files):
    """One pass of the embedder over images: Embeddings of those that could be read, on the CPU.

    Parameters
    ----------
    images : ImageList
    indices : sequence of int
        Which of them, ascending.
    embedder : Embedder
        On its device.
    description : str
        Of the progress bar.
    batch_size : int
    precision : str
        Of the embedder's arithmetic.
    loading : dict
        Of ``flags.loading``.
    files : optional
        ``files=`` of ImageBatches.

    Raises
    ------
    UserError
        An unreadable image; NaN, infinite values or nothing but zeros for one.
    """
    found, device = [(torch.empty(0, dtype=torch.long), torch.empty(0, embedder.size))], loading["device"]
    batches = batches_of(indices, batch_size)
    for batch in ImageBatches(images, embedder.transform, batches, description, **loading, **files):
        if len(batch.indices):
            with network_arithmetic(precision, device):
                values = embedder.embed(batch.pixels).cpu()
            impossible = ~values.isfinite().all(1) | ~values.any(1)
            if impossible.any():
                path = images.path(int(batch.indices[impossible][0]))
                raise UserError(f"--embedding {embedder.model} gives no embedding of {path}: NaN, infinite or all zero")
            found.append((batch.indices, values))
    return Embeddings(*map(torch.cat, zip(*found, strict=True)))


def validation_embeddings(store_dir, run, store, root, embedder, *, batch_size, precision, loading):
    """Embeddings of the images that a val store has measured: made in one pass, kept beside the store, and reused.

    Parameters
    ----------
    store_dir : Path or str
    run : str
    store : ImportanceStore
        The val store, complete, its ``meta`` read.
    root : Path
        ``val/``.
    embedder : Embedder
    batch_size, precision, loading :
        As ``embeddings_of`` has them.

    Returns
    -------
    Embeddings
    path : Path
        Where they are kept.
    """
    origin = {
        "format": 1,
        "store": store.meta,
        "embedder": embedder.fingerprint,
        "features": embedder.features,
        "transform": asdict(embedder.transform),
        "precision": precision,
        "decoding": loading["decode"],
    }
    file = EmbeddingFile(store_dir, run, embedder.model, embedder.size, origin)
    found = file.read()
    if found is None:
        images, indices = store.measured_images(root)
        how = {"batch_size": batch_size, "precision": precision, "loading": loading}
        found = embeddings_of(images, indices, embedder, "embeddings", **how)
        file.write(found)
    return found, file.path


class PatchFiles(ImageFiles):
    """Patches of images: cut out of what the network studied sees, resized to the embedder's input.

    Parameters
    ----------
    images : ImageList
        The image of each patch.
    transform : Transform
        The embedder's.
    crop : function
        That decodes an image.
    seen : Transform
        Of the network studied.
    centres : array [P, 2]
        Row and column, as fractions of the sides of what it sees.
    size : int
        Side of a patch, in its pixels.
    """

    def __init__(self, images, transform, crop=crop_with_pil, *, seen, centres, size):
        super().__init__(images, seen, crop)
        self.whole, self.centres, self.size = replace(transform, resize_size=transform.crop_size), centres, size

    def __getitem__(self, number):
        picture = super().__getitem__(number)
        if picture.reason is None:
            cut = patch(picture.crop.numpy(), self.centres[number], self.size)
            picture.crop = self.whole.crop(Image.fromarray(np.ascontiguousarray(cut)))
        return picture


def patch_embeddings(images, indices, centres, size, seen, embedder, *, batch_size, precision, loading):
    """Embeddings of patches of images, [P, D] float32 on the CPU.

    Each patch reads its image, so a caller with very many units asks for some of them at a time.

    Parameters
    ----------
    images : ImageList
    indices : array of int [P]
        The image of each patch.
    centres : array [P, 2]
        Row and column of its centre, as fractions of the sides of what the network studied sees.
    size : int
        Its side, in pixels of that.
    seen : Transform
        Of the network studied.
    embedder : Embedder
        On its device; patches are resized to its input.
    batch_size, precision, loading :
        As ``embeddings_of`` has them; patches are decoded by PIL, and an unreadable image is an error.
    """
    loading = {**loading, "decode": "pil", "skip_unreadable": False}
    how = {"batch_size": batch_size, "precision": precision, "loading": loading}
    files = partial(PatchFiles, seen=seen, centres=np.asarray(centres), size=size)
    own = images.at(np.asarray(indices, dtype=int))
    return embeddings_of(own, range(len(own)), embedder, "embeddings of patches", **how, files=files).values


# --------------------------------------------------------------------------------------------------------------------
# Activations beside them


def unit_monosemanticity(network, layer, rows, biases, images, embeddings, seen, *, batch_size, precision, loading):
    """One pass of the network studied: how alike the images are that activate each of some units.

    A unit is any row of weights on the layer's input; its activation is ``sum_hw max(c', 0)``. Units go in blocks, so
    that maps need a bounded memory, beside R x D numbers that are kept.

    Parameters
    ----------
    network : nn.Module
        On its device.
    layer : Layer
    rows : Tensor [R, C_in, taps]
    biases : Tensor [R] or None
    images : ImageList
    embeddings : Embeddings
        Of the images that are looked at.
    seen : Transform
        Of the network studied.
    batch_size, precision, loading :
        As ``embeddings_of`` has them, for the network studied.

    Returns
    -------
    Monosemanticity
        Of R units.
    """
    device = loading["device"]
    block = max(1, MOST_MAP_VALUES // (batch_size * layer.num_positions))
    maps = {
        first: layer.maps(
            rows[first : first + block].to(device),
            None if biases is None else biases[first : first + block].to(device),
        )
        for first in range(0, len(rows), block)
    }
    running = Monosemanticity(len(rows), embeddings.values.shape[1], device)
    batches = batches_of(embeddings.indices, batch_size)
    loader = ImageBatches(images, seen, batches, "monosemanticity", **loading)
    with Recorder(network, layer) as recorder, torch.no_grad():
        for indices, pixels, _ in loader:
            if len(indices):
                with network_arithmetic(precision, device):
                    record = recorder.forward(pixels)
                require_finite(record, indices, images)
                own = embeddings.values[torch.searchsorted(embeddings.indices, indices)].to(device)
                for first, apply in maps.items():
                    running.add(apply(record.input).clamp_(min=0).sum(-1), own, first)
    return running
