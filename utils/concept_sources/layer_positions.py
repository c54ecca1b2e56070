"""Positions of a layer's output in training images, which dictionaries are trained on: from a pass over the images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from utils.errors import UserError
from utils.images.batches import ImageBatch
from utils.method.position_sample import drawn_positions, sample_positions
from utils.networks.coordinates import LayerCoordinates
from utils.networks.recording import require_finite_values
from utils.store.dictionary_files import packed_positions, position_layout, positions_file, unpacked_positions
from utils.store.files import Layout
from utils.store.image_passes import pass_in_blocks
from utils.store.study import Study


def stored_positions(study: Study, number: int) -> Tensor:
    """Coordinates of ``number`` positions of the training images: [n, D] float32.

    Misclassified images count whatever ``only_correct`` is, since a dictionary describes the layer and no class. The
    positions come from their file, or from a pass over as few images as have them, which is kept block by block.

    Raises
    ------
    UserError
        An image cannot be read any more, or the network gives values for an image that are not finite.
    """
    num_positions = study.meta["positions"]
    weight, _ = study.weight_and_bias
    dimension = min(len(weight), weight[0].numel())  # that of LayerCoordinates: a stored file needs no network
    file = positions_file(study, number, dimension)
    stored = file.read()
    if stored is None:
        sample = sample_positions(study.labels.indices, num_positions, number)
        counts = dict(zip(sample.images.tolist(), sample.counts.tolist(), strict=True))
        coordinates = LayerCoordinates.of(study.network.layer)

        def layout(indices: Tensor) -> Layout:
            return position_layout(sum(counts[index] for index in indices.tolist()), coordinates.number)

        def measure(indices: Tensor, batches: Iterator[ImageBatch]) -> dict[str, Any]:
            parts = []
            num_read = 0
            for batch in batches:
                num_read += len(batch.indices)
                if len(batch.indices):
                    at_positions = coordinates.of_input(study.network.input_of(batch.pixels))
                    require_finite_values([at_positions], batch.indices, source.images)
                    drawn = [drawn_positions(index, num_positions, counts[index]) for index in batch.indices.tolist()]
                    images = torch.arange(len(drawn)).repeat_interleave(torch.tensor(list(map(len, drawn))))
                    parts.append(at_positions.cpu()[images, torch.cat(drawn)])
            if num_read < len(indices):
                raise UserError(f"{len(indices) - num_read} images cannot be read any more")
            return packed_positions(torch.cat(parts))

        source = study.image_source(study.training)
        blocks = pass_in_blocks(file.unfinished, layout, source, sample.images, "positions", measure=measure)
        stored = {name: _joined([block[name] for block in blocks]) for name in position_layout(None, dimension)}
        file.write(stored)
    return unpacked_positions(stored)


def _joined(parts: list[Any]) -> Any:
    return torch.cat([torch.from_numpy(part) for part in parts]).numpy()
