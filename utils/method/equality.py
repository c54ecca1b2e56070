"""How near a split network is to the original."""

import torch

# What a correct split may differ by, as shares of the original's values. Networks can enlarge a rounding ten
# thousandfold on its way to the logits: 3e-4 in fp32 and 5e-13 in fp64 were seen of correct splits, so in fp32 the
# limit refuses some. In fp64 it is far above roundings, and far below what a mistake in a row or in the merge makes.
LARGEST_ERRORS = {"fp64": 1e-9, "fp32": 1e-4}


class EqualityCheck:
    """How far a split network is from the original, over batches of real images, in fp32 and where possible in fp64."""

    def __init__(self):
        self._measured = {"fp64": _Measured(), "fp32": _Measured()}

    def add(self, channel, merged, logits, split_logits, precision="fp32"):
        """Add a batch.

        Parameters
        ----------
        channel, merged : Tensor [B, ...]
            The original channels, and the merged ones.
        logits, split_logits : Tensor [B, outputs]
            Of the original and of the split network.
        precision : str
            What both networks ran in: ``fp32`` or ``fp64``.
        """
        measured = self._measured[precision]
        measured.images += len(channel)
        measured.changed_predictions += int((logits.argmax(1) != split_logits.argmax(1)).sum())
        measured.channel.add(channel, merged)
        measured.logits.add(logits, split_logits)

    @property
    def images(self):
        """Number of images compared in fp32; those compared in fp64 are some of them."""
        return self._measured["fp32"].images

    @property
    def changed_predictions(self):
        """Number of images for which the split network predicts another class in fp32."""
        return self._measured["fp32"].changed_predictions

    @property
    def precision(self):
        """What decides: ``fp64``, or ``fp32`` where the network does not compute in fp64.

        That is so where it fails in fp64, and where equal channels give unequal logits: then something behind the layer
        computes in less.
        """
        limit, (channel, logits) = LARGEST_ERRORS["fp64"], self._measured["fp64"].errors()
        in_fp64 = self._measured["fp64"].images > 0 and not channel < limit <= logits
        return "fp64" if in_fp64 else "fp32"

    def errors(self):
        """Largest difference of the channel over its largest magnitude, and of the logits over the original's range."""
        return self._measured[self.precision].errors()

    def fp32_errors(self):
        """The same in fp32, whatever decides."""
        return self._measured["fp32"].errors()

    def is_equal(self):
        """Whether images were compared, and both errors are below the limit of what decides."""
        return self.images > 0 and all(error < LARGEST_ERRORS[self.precision] for error in self.errors())


class _Measured:
    """What was measured in one precision."""

    def __init__(self):
        self.images = self.changed_predictions = 0
        self.channel, self.logits = _Difference(), _Difference()

    def errors(self):
        channel, logits = self.channel, self.logits
        return channel.over(torch.maximum(channel.highest, -channel.lowest)), logits.over(
            logits.highest - logits.lowest
        )


class _Difference:
    """The largest difference from a reference so far, and the reference's range; NaN where there was one."""

    def __init__(self):
        self.largest, self.lowest, self.highest = torch.tensor([0, torch.inf, -torch.inf], dtype=torch.float64)

    def add(self, reference, values):
        reference, values = reference.double(), values.double()
        self.largest = torch.maximum(self.largest, (values - reference).abs().max().cpu())
        self.lowest = torch.minimum(self.lowest, reference.min().cpu())
        self.highest = torch.maximum(self.highest, reference.max().cpu())

    def over(self, scale):
        return 0.0 if self.largest == 0 else float(self.largest / scale)
