"""The network in use, and passes over images that record its layer of interest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import nn

from utils.images.batches import ImageBatch, ImageBatches
from utils.networks.arithmetic import fastest_memory_format
from utils.networks.layers import Layer
from utils.networks.precision import network_arithmetic
from utils.networks.recording import Record, Recorder, layer_input, require_finite


@dataclass(frozen=True)
class OpenedNetwork:
    """The network in use, in evaluation mode, all parameters frozen, on its device.

    ``layer`` is its layer of interest; ``precision`` that of its arithmetic, ``fp32``, ``tf32`` or ``bf16``;
    ``weights`` describes the source of its weights, for people.
    """

    module: nn.Module
    layer: Layer
    precision: str
    weights: str = ""

    @property
    def device(self) -> torch.device:
        return self.layer.weight.device

    def to(self, device: torch.device) -> OpenedNetwork:
        """The same network, moved to a device."""
        self.module.to(device).to(memory_format=fastest_memory_format(self.precision, device))
        return self

    def arithmetic(self) -> AbstractContextManager[None]:
        """The context in which the network is called."""
        return network_arithmetic(self.precision, self.device)

    def records(self, loader: ImageBatches) -> Iterator[tuple[ImageBatch, Record]]:
        """One pass: each batch in which an image could be read, and its Record without gradient."""
        for batch, record in self.records_in_step(loader):
            if record is not None:
                yield batch, record

    def records_in_step(
        self, loader: ImageBatches, targets: torch.Tensor | None = None, *, check_finite: bool = True
    ) -> Iterator[tuple[ImageBatch, Record | None]]:
        """One pass: every batch of the plan and its Record, or None if no image of the batch could be read.

        Parameters
        ----------
        targets : LongTensor [N], optional
            The network output that is the own class of each image of the list; with it, records have the gradient.
        check_finite : bool
            Whether NaN and infinite values are looked for, which waits for the device in every batch.

        Raises
        ------
        UserError
            The network gives NaN or infinite values for an image, which it names.
        """
        if targets is not None:
            targets = targets.to(self.device)  # once: the copy of a batch's own targets would be from pageable memory
        with Recorder(self.module, self.layer) as recorder:
            for batch in loader:
                if not len(batch.indices):
                    yield batch, None
                    continue
                with self.arithmetic():
                    if targets is None:
                        record = recorder.forward(batch.pixels)
                    else:
                        of_batch = targets[batch.indices.to(self.device, non_blocking=True)]
                        record = recorder.forward_with_gradient(batch.pixels, of_batch)
                if check_finite:
                    require_finite(record, batch.indices, loader.images)
                yield batch, record

    def layer_inputs(self, loader: ImageBatches) -> Iterator[tuple[ImageBatch, torch.Tensor]]:
        """One pass up to the layer: each batch in which an image could be read, and what enters the layer."""
        for batch in loader.readable():
            yield batch, self.input_of(batch.pixels)

    def input_of(self, pixels: torch.Tensor) -> torch.Tensor:
        """What enters the layer of images [B, 3, H, W], from a pass up to the layer."""
        with self.arithmetic(), torch.no_grad():
            return layer_input(self.module, self.layer.module, pixels)
