"""How near a split network is to the original."""

import torch


class EqualityCheck:
    """How far a split network is from the original, over batches of real images."""

    def __init__(self):
        self._channel, self._logits, self.images = _Difference(), _Difference(), 0

    def add(self, channel, merged, logits, split_logits):
        """Add a batch: the channel and the merged one [B, H, W], both networks' logits [B, outputs]."""
        self.images += len(channel)
        self._channel.add(channel, merged)
        self._logits.add(logits, split_logits)

    def errors(self):
        """Largest difference of the channel over its largest magnitude, and of the logits over the original's range."""
        channel, logits = self._channel, self._logits
        return channel.over(torch.maximum(channel.highest, -channel.lowest)), logits.over(
            logits.highest - logits.lowest
        )


class _Difference:
    """The largest difference from a reference so far, and the reference's range; NaN where there was one."""

    def __init__(self):
        self.largest, self.lowest, self.highest = torch.tensor(0.0), torch.tensor(torch.inf), torch.tensor(-torch.inf)

    def add(self, reference, values):
        reference, values = reference.float(), values.float()
        self.largest = torch.maximum(self.largest, (values - reference).abs().max().cpu())
        self.lowest = torch.minimum(self.lowest, reference.min().cpu())
        self.highest = torch.maximum(self.highest, reference.max().cpu())

    def over(self, scale):
        return 0.0 if self.largest == 0 else float(self.largest / scale)
