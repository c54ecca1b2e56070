"""Passes over images whose values are kept block by block, so that a stopped pass goes on where it was."""

from collections.abc import Callable, Iterator
from itertools import chain, islice

import numpy as np
from torch import Tensor

from utils.images.batches import ImageBatch, ImageSource, batches_of
from utils.store.files import Layout
from utils.store.unfinished import KEPT_IMAGES, Unfinished

Arrays = dict[str, np.ndarray]


def pass_in_blocks(
    kept: Unfinished,
    layout: Callable[[Tensor], Layout],
    source: ImageSource,
    indices: Tensor,
    description: str,
    *,
    measure: Callable[[Tensor, Iterator[ImageBatch]], Arrays],
) -> list[Arrays]:
    """The arrays that ``measure`` makes of the batches of each block of images, in order.

    A block has KEPT_IMAGES images. Blocks that an earlier run has kept are not read again.

    Parameters
    ----------
    kept
        Where the arrays of a block are kept.
    layout
        Returns the layout of the arrays of a block of indices.
    source, indices
        The images.
    description
        Text of the progress bar.
    measure
        Called with the indices of a block and its batches.
    """
    blocks = list(indices.split(KEPT_IMAGES))
    keys = [[int(block[0]), len(block)] for block in blocks]
    stored = [kept.find_arrays(key, layout(block)) for key, block in zip(keys, blocks, strict=True)]
    plans = [
        [] if arrays else batches_of(block, source.batch_size) for block, arrays in zip(blocks, stored, strict=True)
    ]
    done = sum(len(block) for block, arrays in zip(blocks, stored, strict=True) if arrays)
    batches = iter(source.batches(list(chain.from_iterable(plans)), description, done) if any(plans) else ())
    results = []
    for key, block, arrays, plan in zip(keys, blocks, stored, plans, strict=True):
        if arrays is None:
            arrays = measure(block, islice(batches, len(plan)))
            kept.keep_arrays(key, arrays)
        results.append(arrays)
    for _ in batches:  # the bar ends
        pass
    return results
