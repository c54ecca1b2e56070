"""Linear readouts of the layer's input: mean differences and linear probes of concepts, by stored training images."""

from functools import cache

from torch import Tensor

from utils.method.disentangling import Concept
from utils.method.probes import linear_probe, mean_difference
from utils.store.scores import MEAN_DIFFERENCE, PROBE, ScoredUnit
from utils.store.tap_sums import StoredTapSums

FITTED_BY = {MEAN_DIFFERENCE: mean_difference, PROBE: linear_probe}


class InputReadouts:
    """The readouts of concepts, those of equal classes once.

    Parameters
    ----------
    tap_sums : StoredTapSums
        Of the training images, with which readouts are fitted.
    """

    def __init__(self, tap_sums: StoredTapSums) -> None:
        self._tap_sums = tap_sums
        self._of_classes = cache(lambda unit, classes: self._fit(unit, Concept("", list(classes))))

    def of(self, unit: ScoredUnit, concept: Concept) -> Tensor:
        """The row [C_in, taps] of one of READOUTS, for tap sums that are not standardised; without bias."""
        if concept.kind == "images":  # a list of images, or classes without the listed ones
            return self._fit(unit, concept)
        return self._of_classes(unit, tuple(sorted(concept.classes)))

    def _fit(self, unit: ScoredUnit, concept: Concept) -> Tensor:
        return self._tap_sums.as_rows(FITTED_BY[unit](self._tap_sums.probed(concept)))
