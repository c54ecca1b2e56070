"""Whether the logits of an image depend on the other images of its batch, or on chance."""

import torch
from torch import Tensor, nn

from utils.errors import UserError

LARGEST_DIFFERENCE = 1e-3  # of the range of the logits; kernels for other batch sizes round differently, up to 3e-4


def check_independence(network: nn.Module, images: Tensor) -> None:
    """Raise UserError if an image's logits depend on the other images of its batch, or on chance.

    Importances and splits would then depend on the batches, and a second run would give others. Not for compiled
    networks: call it before compiling.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode, in fp32.
    images : Tensor [B, 3, H, W]
        Real ones, on the network's device. For a single image only two passes are compared.
    """
    with torch.no_grad():
        logits = network(images)
        again = network(images)
        alone = network(images[-1:]) if len(images) > 1 else logits
    limit = LARGEST_DIFFERENCE * (logits.max() - logits.min())
    if ((again - logits).abs() > limit).any():
        raise UserError(
            "two passes over the same images give different logits: is there dropout or other randomness that .eval() "
            "does not turn off?"
        )
    if ((alone - logits[-1:]).abs() > limit).any():
        raise UserError(
            "the logits of an image depend on the other images of its batch: is there a BatchNorm without running "
            "statistics (track_running_stats=False), or one that .eval() does not reach?"
        )
