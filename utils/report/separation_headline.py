"""The lines that lead wherever a separation is shown: how many concepts stand above their null, and by how much."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from utils.defaults import SEPARATION_MOST_DRAWS
from utils.divisions.division_registry import DIVISIONS
from utils.divisions.nulls import Null
from utils.method.significance import FEWEST_GROUPS, Interval, mean_with_interval, ratio_with_interval
from utils.report.numbers import interval_text
from utils.store.scores import NEW, ORIGINAL, PROBE, unit_of

LARGEST_Q = 0.05  # a concept with a smaller q value stands above its primary null
FEW_OF_ALL = 0.25  # share of concepts above their null, up to which a mean gain above 0 is explained
MOST_OF_ALL = 0.5  # share of concepts that must have the least p for any to pass, above which the draws are too few


@dataclass(frozen=True)
class MeanSeparation:
    """Average precision, as means over concepts; NaN where it was not measured.

    ``before`` is of the original channel, ``after`` of the new channels, ``null`` of the primary null, ``probe`` of a
    linear probe of the layer's input.
    """

    before: float
    after: float
    null: float
    probe: float

    @property
    def gain(self) -> float:
        """The gain of the new channels over the null."""
        return self.after - self.null


@dataclass(frozen=True)
class Headline:
    """What leads of the rows of a separation, of a channel or of a layer.

    Parameters
    ----------
    above
        Number of concepts that stand above their primary null.
    concepts, channels
        Numbers of those that were measured.
    nulls
        Their primary null, in words.
    meanings
        How it is made.
    draws
        The fewest and the most draws that a concept could have had.
    mean
    gain
        Over the primary null, with the interval over channels.
    way
        The gain as a share of that of a linear probe of the layer's input, a ratio of means, with its interval.
    """

    above: int
    concepts: int
    channels: int
    nulls: str
    meanings: str
    draws: tuple[int, int]
    mean: MeanSeparation
    gain: Interval
    way: Interval

    @property
    def count(self) -> str:
        """The first line."""
        fewest, most = self.draws
        draws = _range(str(fewest), str(most))
        least = _range(f"{1 / (1 + most):.2g}", f"{1 / (1 + fewest):.2g}")
        return (
            f"{self.above} of {self.concepts} concepts stand above their primary null ({self.nulls}) "
            f"at q < {LARGEST_Q} ({draws} draws, min p {least})"
        )

    @property
    def precision(self) -> str:
        """The second line."""
        interval = interval_text(self.gain.low, self.gain.high, label="95 % interval ")
        if not interval:
            channels = "1 channel" if self.channels == 1 else f"{self.channels} channels"
            interval = f" (no 95 % interval: {channels}, fewer than {FEWEST_GROUPS})"
        return (
            f"Mean AP {self.mean.before:.3f} before the split, {self.mean.after:.3f} after it, "
            f"{self.mean.null:.3f} for the null; gain over the null {self.gain.mean:+.3f}{interval}"
        )

    @property
    def of_the_way(self) -> str:
        """How far the new channels go from the null to a linear probe of the layer's input; empty if it is unknown."""
        if np.isnan(self.way.mean) or not self.mean.probe > self.mean.null:
            return ""
        interval = interval_text(self.way.low, self.way.high, ".0%", label="95 % interval ")
        return (
            f"That is {self.way.mean:.0%}{interval} of the way from the null to a linear probe of the layer's input "
            f"(AP {self.mean.probe:.3f}), which is not restricted to the channel"
        )

    @property
    def of_mean_alone(self) -> str:
        """That the mean gain is above 0 while few concepts, or none, are shown to be; empty otherwise."""
        if not self.gain.low > 0 or self.above > FEW_OF_ALL * self.concepts:
            return ""
        shown = f"only {self.above} of {self.concepts} concepts stand" if self.above else "no concept stands"
        return f"The mean gain is above 0 (its interval excludes 0), but {shown} above the null individually"

    @property
    def caution(self) -> str:
        """That few concepts can pass with so few draws: n have the least p of m, and q = p m / n; empty with enough."""
        most = self.draws[1]
        least = 1 / (1 + most)
        if least / LARGEST_Q <= MOST_OF_ALL:
            return ""
        return (
            f"With {most} draws the smallest p is {least:.2g}, so few concepts can pass at q < {LARGEST_Q}: more than "
            f"{least / LARGEST_Q:.0%} of those measured together must have that p (--draws {SEPARATION_MOST_DRAWS})"
        )


def _range(least: str, most: str) -> str:
    return least if least == most else f"{least} to {most}"


def primary_null(row: dict[str, Any]) -> Null:
    """The null that decides on a row of a separation, by the way its split was divided."""
    return DIVISIONS.get(row["split_by"]).primary_null


def null_precision(row: dict[str, Any]) -> float:
    """Average precision of the primary null, as the mean over draws."""
    return row[unit_of(primary_null(row)).ap]


def is_above_null(row: dict[str, Any]) -> bool:
    """Whether the concept of a row stands above its primary null."""
    return bool(row["q_null"] < LARGEST_Q)


def headline(rows: Sequence[dict[str, Any]] | None) -> Headline | None:
    """The Headline of rows of separations, without those that could not be measured; None if there is no other one."""
    measured = [row for row in rows or () if not np.isnan(row["q_null"])]
    if not measured:
        return None
    channels = [row["channel"] for row in measured]
    most_draws = [row["most_draws"] for row in measured]
    gains = [row[NEW.ap] - null_precision(row) for row in measured]
    return Headline(
        above=sum(map(is_above_null, measured)),
        concepts=len(measured),
        channels=len(set(channels)),
        nulls=_words_of_nulls(measured),
        meanings="; ".join(sorted({primary_null(row).meaning for row in measured})),
        draws=(min(most_draws), max(most_draws)),
        mean=mean_separation(measured),
        gain=mean_with_interval(gains, channels),
        way=ratio_with_interval(gains, [row[PROBE.ap] - null_precision(row) for row in measured], channels),
    )


def mean_separation(rows: Sequence[dict[str, Any]] | None) -> MeanSeparation:
    """The MeanSeparation of rows, without those that could not be measured."""
    measured = [row for row in rows or () if not np.isnan(row[NEW.ap])]
    if not measured:
        return MeanSeparation(np.nan, np.nan, np.nan, np.nan)
    return MeanSeparation(
        before=float(np.mean([row[ORIGINAL.ap] for row in measured])),
        after=float(np.mean([row[NEW.ap] for row in measured])),
        null=float(np.mean([null_precision(row) for row in measured])),
        probe=float(np.mean([row[PROBE.ap] for row in measured])),
    )


def _words_of_nulls(rows: Sequence[dict[str, Any]]) -> str:
    """The primary null of rows; where it depends on how splits were divided, that of each way."""
    divisions = [DIVISIONS.get(name) for name in sorted({row["split_by"] for row in rows})]
    phrases = {division.primary_null.phrase for division in divisions}
    if len(phrases) == 1:
        return phrases.pop()
    return "; ".join(f"{division.words}: {division.primary_null.phrase}" for division in divisions)
