"""How near a split network is to the original."""

import torch
from torch import Tensor

# The limit of a correct split's differences, as shares of the original's values. Networks can enlarge a rounding ten
# thousandfold on its way to the logits: correct splits with 3e-4 in fp32 and 5e-13 in fp64 were seen, so in fp32 the
# limit refuses some. In fp64 it is far above roundings, and far below the effect of a mistake in a row or in the merge.
LARGEST_ERRORS = {"fp64": 1e-9, "fp32": 1e-4}


class EqualityCheck:
    """How far a split network is from the original, over batches of real images, in fp32 and where possible in fp64."""

    def __init__(self) -> None:
        self._measured = {"fp64": _Measured(), "fp32": _Measured()}

    def add(
        self, channels: Tensor, merged: Tensor, logits: Tensor, split_logits: Tensor, precision: str = "fp32"
    ) -> None:
        """Add a batch.

        Parameters
        ----------
        channels, merged : Tensor [B, n, positions]
            The original channels that are split, and the merged ones.
        logits, split_logits : Tensor [B, outputs]
            Of the original and of the split network.
        precision : str
            In which both networks ran: ``fp32`` or ``fp64``.
        """
        measured = self._measured[precision]
        measured.images += len(logits)
        measured.changed_predictions += int((logits.argmax(1) != split_logits.argmax(1)).sum())
        measured.channels.add(channels, merged)
        measured.logits.add(logits[:, None], split_logits[:, None])

    @property
    def images(self) -> int:
        """Number of images compared in fp32; those compared in fp64 are some of them."""
        return self._measured["fp32"].images

    @property
    def changed_predictions(self) -> int:
        """Number of images for which the split network predicts another class in fp32."""
        return self._measured["fp32"].changed_predictions

    @property
    def precision(self) -> str:
        """The precision that decides: ``fp64``, or ``fp32`` where the network does not compute in fp64.

        That is so where it fails in fp64, and where equal channels give unequal logits: then something after the layer
        computes in a lower precision.
        """
        limit = LARGEST_ERRORS["fp64"]
        channels, logits = self._measured["fp64"].errors()
        in_fp64 = self._measured["fp64"].images > 0 and not channels < limit <= logits
        return "fp64" if in_fp64 else "fp32"

    def errors(self) -> tuple[float, float]:
        """Largest difference of a channel over its largest magnitude, and of the logits over the original's range."""
        return self._measured[self.precision].errors()

    def fp32_errors(self) -> tuple[float, float]:
        """The same in fp32, whatever precision decides."""
        return self._measured["fp32"].errors()

    def is_equal(self) -> bool:
        """Whether images were compared, and both errors are below the limit of the precision that decides."""
        return self.images > 0 and all(error < LARGEST_ERRORS[self.precision] for error in self.errors())


class _Measured:
    """Measurements in one precision."""

    def __init__(self) -> None:
        self.images = 0
        self.changed_predictions = 0
        self.channels = _Difference()
        self.logits = _Difference()

    def errors(self) -> tuple[float, float]:
        """As in ``EqualityCheck.errors``."""
        channel_error = self.channels.over(torch.maximum(self.channels.highest, -self.channels.lowest))
        logit_error = self.logits.over(self.logits.highest - self.logits.lowest)
        return channel_error, logit_error


class _Difference:
    """The largest difference of values [B, n, m] from the original ones so far, and the originals' range, of each of n;
    NaN where a value was NaN."""

    def __init__(self) -> None:
        self.largest = torch.zeros(1, dtype=torch.float64)
        self.lowest = torch.full((1,), torch.inf, dtype=torch.float64)
        self.highest = torch.full((1,), -torch.inf, dtype=torch.float64)

    def add(self, original: Tensor, values: Tensor) -> None:
        """Add a batch."""
        original = original.double()
        values = values.double()
        self.largest = torch.maximum(self.largest, (values - original).abs().amax((0, 2)).cpu())
        self.lowest = torch.minimum(self.lowest, original.amin((0, 2)).cpu())
        self.highest = torch.maximum(self.highest, original.amax((0, 2)).cpu())

    def over(self, scale: Tensor) -> float:
        """The largest difference as a share of a scale [n]."""
        return float(torch.where(self.largest == 0, 0, self.largest / scale).max())
