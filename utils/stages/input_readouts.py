"""Linear readouts of the layer's input: mean differences and linear probes of concepts, by stored training images."""

from functools import cache

from torch import Tensor

from utils.method.disentangling import Concept
from utils.method.probes import linear_probe, mean_difference
from utils.store.scores import MEAN_DIFFERENCE, PROBE, ScoredUnit
from utils.store.tap_sums import StoredTapSums


class InputReadouts:
    """The readouts of concepts, those of equal classes once.

    Parameters
    ----------
    tap_sums : StoredTapSums
        Of the training images, with which readouts are fitted.
    """

    def __init__(self, tap_sums: StoredTapSums) -> None:
        self._tap_sums = tap_sums
        self._of_classes = cache(lambda classes: self._fit(Concept("", list(classes))))

    def of(self, concept: Concept) -> dict[ScoredUnit, Tensor]:
        """The rows [C_in, taps] of the READOUTS of a concept, for tap sums that are not standardised; without bias."""
        return self._of_classes(tuple(sorted(concept.classes))) if concept.classes else self._fit(concept)

    def _fit(self, concept: Concept) -> dict[ScoredUnit, Tensor]:
        probed = self._tap_sums.probed(concept)
        fitted = {MEAN_DIFFERENCE: mean_difference(probed), PROBE: linear_probe(probed)}
        return {unit: self._tap_sums.as_rows(weights) for unit, weights in fitted.items()}
