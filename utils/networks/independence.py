"""Does a network give each image its own logits, whatever else is in the batch, and the same ones each time?"""

import torch

from utils.errors import UserError

LARGEST_DIFFERENCE = 1e-3  # of the range of the logits; kernels for other batch sizes round differently, up to 3e-4


def check_independence(network, images):
    """Raise UserError where an image's logits depend on the other images of its batch, or on chance.

    Importances and splits would then depend on the batches, and no second run would give the same. Not for compiled
    networks: call it before.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode, in fp32.
    images : Tensor [B, 3, H, W]
        Real ones, on the network's device. Of a single one only two passes are compared.
    """
    with torch.no_grad():
        logits, again = network(images), network(images)
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
