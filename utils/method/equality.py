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

    def add(self, channels, merged, logits, split_logits, precision="fp32"):
        """Add a batch.

        Parameters
        ----------
        channels, merged : Tensor [B, n, positions]
            The original channels that are split, and the merged ones.
        logits, split_logits : Tensor [B, outputs]
            Of the original and of the split network.
        precision : str
            What both networks ran in: ``fp32`` or ``fp64``.
        """
        measured = self._measured[precision]
        measured.images += len(logits)
        measured.changed_predictions += int((logits.argmax(1) != split_logits.argmax(1)).sum())
        measured.channels.add(channels, merged)
        measured.logits.add(logits[:, None], split_logits[:, None])

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
        limit, (channels, logits) = LARGEST_ERRORS["fp64"], self._measured["fp64"].errors()
        in_fp64 = self._measured["fp64"].images > 0 and not channels < limit <= logits
        return "fp64" if in_fp64 else "fp32"

    def errors(self):
        """Largest difference of a channel over its largest magnitude, and of the logits over the original's range."""
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
        self.channels, self.logits = _Difference(), _Difference()

    def errors(self):
        channels, logits = self.channels, self.logits
        return channels.over(torch.maximum(channels.highest, -channels.lowest)), logits.over(
            logits.highest - logits.lowest
        )


class _Difference:
    """The largest difference from a reference [B, n, values] so far, and the reference's range, of each of n; NaN where
    there was one."""

    def __init__(self):
        self.largest, self.lowest, self.highest = torch.tensor([[0], [torch.inf], [-torch.inf]], dtype=torch.float64)

    def add(self, reference, values):
        reference, values = reference.double(), values.double()
        self.largest = torch.maximum(self.largest, (values - reference).abs().amax((0, 2)).cpu())
        self.lowest = torch.minimum(self.lowest, reference.amin((0, 2)).cpu())
        self.highest = torch.maximum(self.highest, reference.amax((0, 2)).cpu())

    def over(self, scale):
        """The largest share of a scale [n]."""
        return float(torch.where(self.largest == 0, 0, self.largest / scale).max())
