"""Stage 1: one forward pass over the images, chunk by chunk."""

from dataclasses import asdict

import numpy as np
import PIL
import torch
import torchvision

from utils.errors import UserError
from utils.images.batches import ImageBatches, batches_of
from utils.images.classes import map_folders
from utils.method.importance import channel_importances, relative_importances
from utils.networks.arithmetic import network_arithmetic
from utils.networks.normal_form import check_normal_form
from utils.networks.recording import Recorder
from utils.store.importances import identity


def describe_store(args, network, layer, transform, images):
    """``meta.json``: what the store is made of. No time, host or number of processes."""
    return {
        **identity(args.model, network, layer),
        "weights": network.weights,
        "num_inputs": layer.num_inputs,
        "num_taps": layer.num_taps,
        "transform": {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(transform).items()},
        "precision": args.precision,
        "decoding": args.decode,
        "compilation": "inductor" if args.compile else "none",
        "skip_unreadable": args.skip_unreadable,
        "chunk_size": args.chunk_size,
        "num_images": len(images),
        "data_sha256": images.digest(),
        "classes": map_folders(images.folders, layer.num_outputs),
        "class_counts": images.counts(),
        "versions": {
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "numpy": np.__version__,
            "pillow": PIL.__version__,
        },
    }


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
    targets = outputs[torch.from_numpy(images.folder_of)]
    kept, checked = [], False
    with Recorder(network, layer) as recorder:
        for (chunk, batch), (indices, pixels, _) in zip(plan, loader, strict=True):
            if len(indices):
                own = targets[indices].to(loader.device)
                with network_arithmetic(precision, loader.device):
                    record = recorder.forward_with_gradient(pixels, own)
                if not checked:
                    check_normal_form(layer, record)
                    checked = True
                kept.append({**importances_of(layer, record), "targets": own, "indices": indices})
            if batch[-1] == store.chunk_range(chunk)[-1]:
                _require_finite(kept)
                store.write_chunk(chunk, kept)
                kept = []


def importances_of(layer, record):
    """What is kept of a batch of images."""
    relative, positive_sums = relative_importances(channel_importances(record.activation, record.gradient))
    return {
        "relative_importances": relative,
        "positive_sums": positive_sums,
        "input_sums": layer.tap_sums(record.input),
        "predictions": record.logits.argmax(1),
    }


def _require_finite(kept):
    if not all(batch[name].isfinite().all() for batch in kept for name in ("positive_sums", "input_sums")):
        raise UserError("the network gives NaN or infinite values: are --weights, --mean and --std those it needs?")
