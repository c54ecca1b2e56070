"""The share of the original channel that each disentangled channel carries, and the distribution of activations."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

CLEAN_OWN = 0.8
CLEAN_OTHER = 0.2
OVERSHOOTING = -0.25, 1.25


def fractions_of_original(original: ArrayLike, sums: ArrayLike) -> np.ndarray:
    """The fractions ``sum(c'_k) / sum(a_c)`` and ``sum(r) / sum(a_c)`` of each image: [n], [n, K + 1] -> [n, K + 1].

    Infinite or NaN where the original sum is exactly 0.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(sums) / np.asarray(original)[:, None]


@dataclass
class Summary:
    """Fractions of one concept over its included images: ``mean``, ``std`` and ``median`` [K + 1].

    NaN without images; the sample standard deviation is NaN with one. Of ``images`` of the concept, ``included`` have a
    relative attribution of at least tau; of these the fractions are over the ``counted`` ones, whose original sum is
    positive.
    """

    mean: np.ndarray
    std: np.ndarray
    median: np.ndarray
    counted: int
    included: int
    images: int

    def of(self, channels: list[int]) -> "Summary":
        """The Summary of some of the channels."""
        return Summary(
            mean=self.mean[channels],
            std=self.std[channels],
            median=self.median[channels],
            counted=self.counted,
            included=self.included,
            images=self.images,
        )


def summarise(original: ArrayLike, sums: ArrayLike, included: ArrayLike) -> Summary:
    """Summary of a concept's images: ``original`` [n], ``sums`` [n, K + 1], ``included`` [n] bool."""
    original = np.asarray(original)
    sums = np.asarray(sums)
    included = np.asarray(included, dtype=bool)
    counted = included & (original > 0)
    nothing = np.full(sums.shape[1], np.nan)
    fractions = fractions_of_original(original[counted], sums[counted])
    return Summary(
        mean=fractions.mean(0) if len(fractions) else nothing,
        std=fractions.std(0, ddof=1) if len(fractions) > 1 else nothing,
        median=np.median(fractions, axis=0) if len(fractions) else nothing,
        counted=int(counted.sum()),
        included=int(included.sum()),
        images=len(original),
    )


def failed_conditions(summary: Summary, concept: int) -> list[str]:
    """The conditions that keep a concept's summary from being clean, as text: none if it is clean.

    Clean: the mean fraction of its own channel ``c'_k`` (k = ``concept``, from 0) is at least 0.8, and that of every
    other one but the residual at most 0.2.
    """
    if not summary.counted:
        return ["no image"]
    own_mean = summary.mean[concept]
    largest_other = np.delete(summary.mean[:-1], concept).max()
    failed = [f"own {own_mean:.2f}"] if own_mean < CLEAN_OWN else []
    return failed + ([f"other {largest_other:.2f}"] if largest_other > CLEAN_OTHER else [])


def overshoots(summary: Summary) -> bool:
    """Whether a new channel's mean fraction is far above 1 (all of the original channel), or far below 0."""
    means = summary.mean[:-1]
    return bool((means > OVERSHOOTING[1]).any() or (means < OVERSHOOTING[0]).any())


def auroc(positives: ArrayLike, negatives: ArrayLike) -> float:
    """Area under the ROC curve, in 0..1: how well larger values separate ``positives`` [n] from ``negatives`` [m].

    The probability that a positive is above a negative, ties counting half (the Mann-Whitney statistic). NaN without
    positives or without negatives.
    """
    positives = np.asarray(positives)
    negatives = np.asarray(negatives)
    if not len(positives) or not len(negatives) or np.isnan(positives).any() or np.isnan(negatives).any():
        return np.nan
    ordered = np.sort(negatives)
    twice_above = np.searchsorted(ordered, positives, "left") + np.searchsorted(ordered, positives, "right")
    return float(twice_above.sum() / 2 / (len(positives) * len(negatives)))


class ConceptAreas(NamedTuple):
    """Areas under the ROC curve, one concept against the others: of its new channel, and of the original channel in its
    better direction, ``max(A, 1 - A)``. NaN if there is only one concept, or no image of it or of the others."""

    new: float
    original: float


def separation(originals: list[np.ndarray], sums: list[np.ndarray]) -> list[ConceptAreas]:
    """How well the channels separate each concept from the other ones.

    Parameters
    ----------
    originals : list of K arrays [n_k]
        Spatial sums of the original channel in the images of each concept.
    sums : list of K arrays [n_k, more than K]
        Those of ``c'_1 .. c'_K`` and more.

    Returns
    -------
    list of K ConceptAreas
    """
    if len(sums) == 1:
        return [ConceptAreas(np.nan, np.nan)]
    areas = []
    for k in range(len(sums)):
        others = [j for j in range(len(sums)) if j != k]
        new = auroc(sums[k][:, k], np.concatenate([sums[j][:, k] for j in others]))
        original = auroc(originals[k], np.concatenate([originals[j] for j in others]))
        areas.append(ConceptAreas(new, max(original, 1 - original)))
    return areas


def density_curves(
    samples: dict[str, np.ndarray], points: int = 256
) -> tuple[np.ndarray, dict[str, np.ndarray | None]]:
    """Gaussian kernel density estimates of several samples on one grid.

    Parameters
    ----------
    samples : dict of label -> array [n]
    points : int
        Of the grid, for the range of all samples together and again for the range of each one, so that a narrow
        curve beside a wide one is drawn as it is.

    Returns
    -------
    grid : array
        Ascending; all values, with a margin on both sides.
    curves : dict of label -> array or None
        None if no density can be estimated: fewer than two values that differ in float32.
    """
    from scipy.stats import gaussian_kde  # takes a second, which summaries do not need

    densities = {
        label: gaussian_kde(sample) if len(np.unique(np.float32(sample))) > 1 else None
        for label, sample in samples.items()
    }
    everything = np.concatenate(list(samples.values()))
    margin = 0.1 * np.ptp(everything) or max(0.1 * abs(everything[0]), 0.1)
    ranges = [(everything.min() - margin, everything.max() + margin)]
    for label, estimate in densities.items():
        if estimate is not None:
            reach = 6 * np.sqrt(estimate.covariance.item())
            ranges.append((samples[label].min() - reach, samples[label].max() + reach))
    grid = np.unique(np.concatenate([np.linspace(low, high, points) for low, high in ranges]))
    return grid, {label: estimate and estimate(grid) for label, estimate in densities.items()}
