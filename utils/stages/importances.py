"""Stage 1: one forward pass over the images, chunk by chunk."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np
import PIL
import torch
import torchvision

from utils.errors import UserError
from utils.images.batches import ImageBatches, batches_of
from utils.method.importance import FLOAT16_MAX, attribution_shares, channel_importances, relative_importances
from utils.networks.independence import check_independence
from utils.networks.layers import check_normal_form
from utils.networks.precision import network_arithmetic
from utils.networks.recording import Recorder
from utils.store.importance_store import STORE_FORMAT, identity

FIRST_BATCH = 8  # images


@dataclass(frozen=True)
class StoreSettings:
    """What a store is to be made of, beside its network: which ``images`` (``train`` or ``val``), and how."""

    model: str
    images: str
    precision: str
    decoding: str
    compiled: bool
    skip_unreadable: bool
    chunk_size: int


def describe_store(settings, network, layer, transform, images, classes):
    """``meta.json``: what the store is made of. No time, host or number of processes.

    Parameters
    ----------
    settings : StoreSettings
    network : LoadedNetwork
    layer : Layer
    transform : Transform
    images : ImageList
    classes : dict
        The map of class folders to network outputs.
    """
    return {
        "format": STORE_FORMAT,
        "images": settings.images,
        **identity(settings.model, network, layer),
        "weights": network.weights,
        "kind": layer.kind,
        "positions": layer.num_positions,
        "num_inputs": layer.num_inputs,
        "num_taps": layer.num_taps,
        "transform": {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(transform).items()},
        "precision": settings.precision,
        "decoding": settings.decoding,
        "compilation": "inductor" if settings.compiled else "none",
        "skip_unreadable": settings.skip_unreadable,
        "chunk_size": settings.chunk_size,
        "num_images": len(images),
        "data_sha256": images.digest(),
        "classes": classes,
        "class_counts": images.counts(),
        "versions": {
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "numpy": np.__version__,
            "pillow": PIL.__version__,
        },
    }


def check_on_images(network, images, transform, loading):
    """Refuse, on a first real batch, a network that gives an image other logits in another batch, or by chance."""
    first = [list(range(min(len(images), FIRST_BATCH)))]
    for batch in ImageBatches(images, transform, first, None, **{**loading, "num_workers": 0}):
        if len(batch.indices):
            check_independence(network, batch.pixels)


def fill_store(store, chunks, network, layer, images, transform, *, batch_size, precision, loading):
    """Make chunks. One loader serves all of them; a batch never crosses a chunk's end.

    Parameters
    ----------
    store : ImportanceStore
        Begun.
    chunks : list of int
    network : nn.Module
        Frozen, on the device of ``loading``.
    layer : Layer
    images : ImageList
    transform : Transform
    batch_size : int
    precision : str
    loading : dict
        Further arguments of ``ImageBatches``.
    """
    plan = [(chunk, batch) for chunk in chunks for batch in batches_of(store.chunk_range(chunk), batch_size)]
    loader = ImageBatches(images, transform, [batch for _, batch in plan], "importances", **loading)
    outputs = torch.tensor([store.meta["classes"][folder] for folder in images.folders])
    targets = outputs[torch.from_numpy(images.folder_of)].to(loader.device)
    validation, kept, checked = store.meta["images"] == "val", [], False
    with Recorder(network, layer) as recorder, ChunkWriter(store) as writer:
        for (chunk, batch), (indices, pixels, contents) in zip(plan, loader, strict=True):
            if len(indices):
                own = targets[indices.to(loader.device, non_blocking=True)]
                with network_arithmetic(precision, loader.device):
                    record = recorder.forward_with_gradient(pixels, own)
                if not checked:
                    check_normal_form(layer, record)
                    checked = True
                labels = {"targets": own, "indices": indices, "content": torch.from_numpy(contents)}
                kept.append({**importances_of(layer, record), **labels})
                if validation:
                    kept[-1] |= evaluation_of(record)
            if batch[-1] == store.chunk_range(chunk)[-1]:
                writer.write(chunk, kept)
                kept = []


class ChunkWriter:
    """Writes chunks in a thread of its own, one at a time, so that the device need not wait for a disk.

    An error of the thread is raised by the next ``write``, or at the end of the ``with`` block.
    """

    def __init__(self, store):
        self.store, self._thread, self._writing = store, ThreadPoolExecutor(1, "write"), None

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self._thread.shutdown(wait=True)
        if kind is None:
            self._finish()

    def _finish(self):
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def write(self, chunk, batches):
        """Write what was kept of a chunk's batches, as soon as the chunk before is written."""
        names = batches[0] if batches else ()
        arrays = {name: torch.cat([batch[name] for batch in batches]) for name in names}
        copied = {name: _to_host(values) for name, values in arrays.items()}
        event = torch.cuda.current_stream().record_event() if _on_cuda(arrays) else None
        self._finish()
        self._writing = self._thread.submit(self._write, chunk, copied, event)

    def _write(self, chunk, arrays, event):
        if event is not None:
            event.synchronize()
        if not all(arrays[name].isfinite().all() for name in ("positive_sums", "input_sums") if name in arrays):
            raise UserError("the network gives NaN or infinite values: are --weights, --mean and --std those it needs?")
        self.store.write_chunk(chunk, [arrays] if arrays else [])


def _on_cuda(arrays):
    return any(values.is_cuda for values in arrays.values())


def _to_host(values):
    """Values on the CPU; from a GPU into pinned memory, which is ready once what was queued so far is done."""
    if not values.is_cuda:
        return values
    return torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)


def importances_of(layer, record):
    """What is kept of a batch of images."""
    relative, positive_sums = relative_importances(channel_importances(record.activation, record.gradient))
    return {
        "relative_importances": relative,
        "positive_sums": positive_sums,
        "input_sums": layer.tap_sums(record.input),
        "predictions": record.logits.argmax(1),
    }


def evaluation_of(record):
    """What is kept of a batch of validation images on top: half precision is what inclusion is defined on."""
    shares = attribution_shares(record.activation, record.gradient)
    return {"shares": shares.half(), "logits": record.logits.clamp(-FLOAT16_MAX, FLOAT16_MAX).half()}
