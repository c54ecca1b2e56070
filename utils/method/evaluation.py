"""How much of the original channel each disentangled channel carries, and the distribution of activations."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import gaussian_kde, mannwhitneyu

CLEAN_OWN, CLEAN_OTHER = 0.8, 0.2
OVERSHOOTING = -0.25, 1.25


def fractions_of_original(original, sums):
    """The fractions ``sum(c'_k) / sum(a_c)`` and ``sum(r) / sum(a_c)`` of each image: [n], [n, K + 1] -> [n, K + 1].

    Infinite or NaN where the original sum is exactly 0.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(sums) / np.asarray(original)[:, None]


@dataclass
class Summary:
    """Fractions of one concept over its included images: ``mean``, ``std`` and ``median`` [K + 1].

    NaN without images; the sample standard deviation is NaN with one. ``counted`` images are in them, of ``included``
    (relative attribution of at least tau) of ``images``; the difference of the first two had an original sum that is
    not positive.
    """

    mean: np.ndarray
    std: np.ndarray
    median: np.ndarray
    counted: int
    included: int
    images: int

    def of(self, channels):
        """The same of some of the channels."""
        parts = (getattr(self, name)[channels] for name in ("mean", "std", "median"))
        return Summary(*parts, self.counted, self.included, self.images)


def summarise(original, sums, included):
    """Summary of a concept's images: ``original`` [n], ``sums`` [n, K + 1], ``included`` [n] bool."""
    original, sums, included = np.asarray(original), np.asarray(sums), np.asarray(included, dtype=bool)
    counted = included & (original > 0)
    if not counted.any():
        nothing = np.full(sums.shape[1], np.nan)
        return Summary(nothing, nothing, nothing, 0, int(included.sum()), len(original))
    fractions = fractions_of_original(original[counted], sums[counted])
    std = fractions.std(0, ddof=1) if len(fractions) > 1 else np.full(sums.shape[1], np.nan)
    return Summary(
        fractions.mean(0), std, np.median(fractions, axis=0), int(counted.sum()), int(included.sum()), len(original)
    )


def failed_conditions(summary, concept):
    """What keeps a concept's summary from being clean, as text: nothing if it is.

    Clean: the mean fraction of its own channel ``c'_k`` (k = ``concept``, from 0) is at least 0.8, and that of every
    other one but the residual at most 0.2.
    """
    if not summary.counted:
        return ["no image"]
    own, others = summary.mean[concept], np.delete(summary.mean[:-1], concept)
    failed = [f"own {own:.2f}"] if own < CLEAN_OWN else []
    return failed + ([f"other {others.max():.2f}"] if others.max() > CLEAN_OTHER else [])


def overshoots(summary):
    """Whether a new channel's mean fraction is far above all of the original channel, or far below nothing."""
    return bool((summary.mean[:-1] > OVERSHOOTING[1]).any() or (summary.mean[:-1] < OVERSHOOTING[0]).any())


def auroc(positives, negatives):
    """How well larger values tell ``positives`` [n] from ``negatives`` [m]: the area under the ROC curve, in 0..1.

    The probability that a positive is above a negative, ties counting half (the Mann-Whitney statistic). NaN without
    one of either.
    """
    if not len(positives) or not len(negatives):
        return np.nan
    return mannwhitneyu(positives, negatives).statistic / (len(positives) * len(negatives))


def separation(originals, sums):
    """How well the channels tell each concept from the other ones, as areas under the ROC curve.

    Parameters
    ----------
    originals : list of K arrays [n_k]
        Spatial sums of the original channel in the images of each concept.
    sums : list of K arrays [n_k, more than K]
        Those of ``c'_1 .. c'_K`` and more.

    Returns
    -------
    list of K pairs
        Of concept k against the others: the area of ``c'_k``, and of the original channel in its better direction,
        ``max(A, 1 - A)``; NaN where there is one concept alone, or no image of it or of the others.
    """
    if len(sums) == 1:
        return [(np.nan, np.nan)]
    areas = []
    for k in range(len(sums)):
        others = [j for j in range(len(sums)) if j != k]
        own = auroc(sums[k][:, k], np.concatenate([sums[j][:, k] for j in others]))
        original = auroc(originals[k], np.concatenate([originals[j] for j in others]))
        areas.append((own, max(original, 1 - original)))
    return areas


def density_curves(samples, points=256):
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
        None where no density can be estimated: fewer than two values that differ in float32.
    """
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
    grid = np.unique(np.concatenate([np.linspace(*limits, points) for limits in ranges]))
    return grid, {label: estimate and estimate(grid) for label, estimate in densities.items()}
