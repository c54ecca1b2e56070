"""Stage 1: one forward pass over the images, chunk by chunk."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import PIL
import torch
import torchvision

from utils.errors import UserError
from utils.images.batches import ImageSource, PlannedBatch, batches_by_group, batches_of, equal_batches_of
from utils.images.folders import ImageList
from utils.images.transform import Transform
from utils.method.importance import FLOAT16_MAX, attribution_shares, channel_importances, relative_importances
from utils.networks.independence import check_independence
from utils.networks.layers import Layer, check_normal_form
from utils.networks.loading import LoadedNetwork
from utils.networks.opened_network import OpenedNetwork
from utils.networks.recording import Record
from utils.store.importance_store import EQUAL_BATCHES, STORE_FORMAT, ImportanceStore, identity

FIRST_BATCH = 8  # images


@dataclass(frozen=True)
class StoreSettings:
    """Settings of a store apart from its network: which ``images`` (``train`` or ``val``), and how they are read."""

    model: str
    images: str
    precision: str
    decoding: str
    compiled: bool
    skip_unreadable: bool
    chunk_size: int


def describe_store(
    settings: StoreSettings,
    network: LoadedNetwork,
    layer: Layer,
    *,
    transform: Transform,
    images: ImageList,
    classes: dict[str, int],
) -> dict[str, Any]:
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
        "transform": {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(transform).items()
        },
        "precision": settings.precision,
        "decoding": settings.decoding,
        "compilation": "inductor" if settings.compiled else "none",
        "skip_unreadable": settings.skip_unreadable,
        "chunk_size": settings.chunk_size,
        "batches": EQUAL_BATCHES,
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


def check_on_images(network: OpenedNetwork, source: ImageSource) -> None:
    """Refuse, on a first real batch, a network that gives an image other logits in another batch, or by chance."""
    first = list(range(min(len(source.images), FIRST_BATCH)))
    in_this_process = replace(source, loading=replace(source.loading, num_workers=0))
    for batch in in_this_process.batches([first], None).readable():
        check_independence(network.module, batch.pixels)


def planned_batches(store: ImportanceStore, chunks: list[int], batch_size: int) -> list[PlannedBatch[int]]:
    """The batches of some chunks, of which none crosses a chunk's end.

    In a store begun by an earlier version each chunk has full batches and a rest, which ``--compile`` compiles, too.
    """
    cut = equal_batches_of if store.meta.get("batches") == EQUAL_BATCHES else batches_of
    return batches_by_group({chunk: store.chunk_range(chunk) for chunk in chunks}, batch_size, cut)


def fill_store(store: ImportanceStore, chunks: list[int], network: OpenedNetwork, source: ImageSource) -> None:
    """Make chunks of a store that has been begun. One loader serves all.

    NaN and infinite values are looked for when a chunk is written, so that no batch waits for the device.
    """
    images = source.images
    plan = planned_batches(store, chunks, source.batch_size)
    loader = source.batches([planned.indices for planned in plan], "importances")
    outputs = torch.tensor([store.meta["classes"][folder] for folder in images.folders])
    targets = outputs[torch.from_numpy(images.folder_of)]
    is_validation = store.meta["images"] == "val"
    kept: list[dict[str, torch.Tensor]] = []
    is_checked = False
    with ChunkWriter(store) as writer:
        # the records are not named, so that an error raised here closes them, and with them the progress bar
        for planned, (batch, record) in zip(
            plan, network.records_in_step(loader, targets, check_finite=False), strict=True
        ):
            if record is not None:
                if not is_checked:
                    check_normal_form(network.layer, record)
                    is_checked = True
                kept.append(
                    {
                        **importances_of(network.layer, record),
                        "targets": targets[batch.indices],
                        "indices": batch.indices,
                        "content": torch.from_numpy(batch.contents),
                        **(evaluation_of(record) if is_validation else {}),
                    }
                )
            if planned.is_last:
                writer.write(planned.group, kept)
                kept = []


class ChunkWriter:
    """Writes chunks in a separate thread, one at a time, so that the device need not wait for a disk.

    An error of the thread is raised by the next ``write``, or at the end of the ``with`` block.
    """

    def __init__(self, store: ImportanceStore) -> None:
        self.store = store
        self._thread = ThreadPoolExecutor(1, "write")
        self._writing: Future | None = None

    def __enter__(self) -> "ChunkWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown(wait=True)
        if kind is None:
            self._finish()

    def _finish(self) -> None:
        writing = self._writing
        self._writing = None
        if writing is not None:
            writing.result()

    def write(self, chunk: int, batches: list[dict[str, torch.Tensor]]) -> None:
        """Write what was kept of a chunk's batches, as soon as the chunk before is written."""
        names = list(batches[0]) if batches else []
        arrays = {name: torch.cat([batch[name] for batch in batches]) for name in names}
        copied = {name: _to_host(values) for name, values in arrays.items()}
        event = torch.cuda.current_stream().record_event() if _on_cuda(arrays) else None
        self._finish()
        self._writing = self._thread.submit(self._write, chunk, copied, event)

    def _write(self, chunk: int, arrays: dict[str, torch.Tensor], event: torch.cuda.Event | None) -> None:
        if event is not None:
            event.synchronize()
        if not all(arrays[name].isfinite().all() for name in ("positive_sums", "input_sums") if name in arrays):
            raise UserError("the network gives NaN or infinite values: are --weights, --mean and --std right?")
        self.store.write_chunk(chunk, [arrays] if arrays else [])


def _on_cuda(arrays: dict[str, torch.Tensor]) -> bool:
    return any(values.is_cuda for values in arrays.values())


def _to_host(values: torch.Tensor) -> torch.Tensor:
    """Values on the CPU; from a GPU into pinned memory, which is filled when the operations queued so far are done."""
    if not values.is_cuda:
        return values
    return torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)


def importances_of(layer: Layer, record: Record) -> dict[str, torch.Tensor]:
    """The values that are stored of a batch of images. The record has a gradient."""
    assert record.gradient is not None  # the pass had targets
    relative, positive_sums = relative_importances(channel_importances(record.activation, record.gradient))
    return {
        "relative_importances": relative,
        "positive_sums": positive_sums,
        "input_sums": layer.tap_sums(record.input),
        "predictions": record.logits.argmax(1),
    }


def evaluation_of(record: Record) -> dict[str, torch.Tensor]:
    """The additional values of a batch of validation images. Inclusion is defined on shares in half precision."""
    assert record.gradient is not None  # the pass had targets
    shares = attribution_shares(record.activation, record.gradient)
    return {"shares": shares.half(), "logits": record.logits.clamp(-FLOAT16_MAX, FLOAT16_MAX).half()}
