"""How close the outputs of a split network are to those of the original."""

from typing import Any

import torch
from torch import Tensor

# Upper limits of the errors of a correct split, relative to the original's values. A network can amplify rounding ten
# thousandfold on the way to the logits. Correct splits had errors of up to 3e-4 in fp32 and 5e-13 in fp64, so the fp32
# limit refuses some correct splits. The fp64 limit is far above rounding, and far below the effect of a mistake in a
# row or in the merge.
LARGEST_ERRORS = {"fp64": 1e-9, "fp32": 1e-4}


class EqualityCheck:
    """Compares a split network with the original on batches of real images, in fp32 and if possible in fp64."""

    def __init__(self) -> None:
        self._measured = {"fp64": _Measurements(), "fp32": _Measurements()}

    def add(
        self, channels: Tensor, merged: Tensor, logits: Tensor, split_logits: Tensor, precision: str = "fp32"
    ) -> None:
        """Add a batch.

        Parameters
        ----------
        channels, merged : Tensor [B, n, positions]
            The original channels that are split, and the merged ones.
        logits, split_logits : Tensor [B, outputs]
            Logits of the original and of the split network.
        precision : str
            Precision in which both networks ran: ``fp32`` or ``fp64``.
        """
        measured = self._measured[precision]
        measured.images += len(logits)
        measured.changed_predictions += int((logits.argmax(1) != split_logits.argmax(1)).sum())
        measured.channels.add(channels, merged)
        measured.logits.add(logits[:, None], split_logits[:, None])

    def state(self) -> dict[str, dict[str, Any]]:
        """What was measured, as plain values, for ``include``."""
        return {precision: measured.state() for precision, measured in self._measured.items()}

    def include(self, state: dict[str, dict[str, Any]]) -> None:
        """Add what another check of the same channels has measured."""
        for precision, measured in self._measured.items():
            measured.include(state[precision])

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
        """The precision that decides: ``fp64``, or ``fp32`` if the network does not compute in fp64.

        The network counts as not computing in fp64 if it fails in fp64, or if equal channels give different logits:
        then something after the layer computes in a lower precision.
        """
        limit = LARGEST_ERRORS["fp64"]
        channels, logits = self._measured["fp64"].errors()
        in_fp64 = self._measured["fp64"].images > 0 and not channels < limit <= logits
        return "fp64" if in_fp64 else "fp32"

    def errors(self) -> tuple[float, float]:
        """Largest error of a channel relative to its largest magnitude, and of the logits relative to their range."""
        return self._measured[self.precision].errors()

    def fp32_errors(self) -> tuple[float, float]:
        """As ``errors``, but always in fp32."""
        return self._measured["fp32"].errors()

    def is_equal(self) -> bool:
        """Whether images were compared, and both errors are below the limit of the precision that decides."""
        return self.images > 0 and all(error < LARGEST_ERRORS[self.precision] for error in self.errors())


class _Measurements:
    """Measurements in one precision."""

    def __init__(self) -> None:
        self.images = 0
        self.changed_predictions = 0
        self.channels = _Difference()
        self.logits = _Difference()

    def state(self) -> dict[str, Any]:
        """As in ``EqualityCheck.state``."""
        counts = {"images": self.images, "changed_predictions": self.changed_predictions}
        return {**counts, "channels": self.channels.state(), "logits": self.logits.state()}

    def include(self, state: dict[str, Any]) -> None:
        """As in ``EqualityCheck.include``."""
        self.images += state["images"]
        self.changed_predictions += state["changed_predictions"]
        self.channels.include(*map(_fp64, state["channels"]))
        self.logits.include(*map(_fp64, state["logits"]))

    def errors(self) -> tuple[float, float]:
        """As in ``EqualityCheck.errors``."""
        channel_error = self.channels.relative_to(torch.maximum(self.channels.highest, -self.channels.lowest))
        logit_error = self.logits.relative_to(self.logits.highest - self.logits.lowest)
        return channel_error, logit_error


class _Difference:
    """For each of n channels, the largest difference of values from the original, and the original's range.

    Values have the shape [B, n, m]. Results are NaN if a value was NaN.
    """

    def __init__(self) -> None:
        self.largest = torch.zeros(1, dtype=torch.float64)
        self.lowest = torch.full((1,), torch.inf, dtype=torch.float64)
        self.highest = torch.full((1,), -torch.inf, dtype=torch.float64)

    def add(self, original: Tensor, values: Tensor) -> None:
        """Add a batch."""
        original = original.double()
        values = values.double()
        largest = (values - original).abs().amax((0, 2)).cpu()
        self.include(largest, original.amin((0, 2)).cpu(), original.amax((0, 2)).cpu())

    def include(self, largest: Tensor, lowest: Tensor, highest: Tensor) -> None:
        """Add the largest differences, and the lowest and highest values of the original, of other images: [n] each."""
        self.largest = torch.maximum(self.largest, largest)
        self.lowest = torch.minimum(self.lowest, lowest)
        self.highest = torch.maximum(self.highest, highest)

    def state(self) -> list[list[float]]:
        return [self.largest.tolist(), self.lowest.tolist(), self.highest.tolist()]

    def relative_to(self, scale: Tensor) -> float:
        """The largest ratio of a channel's difference to its scale [n]."""
        return float(torch.where(self.largest == 0, 0, self.largest / scale).max())


def _fp64(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
