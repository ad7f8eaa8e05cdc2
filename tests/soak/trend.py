"""Whether a row of samples grows: a line is fitted that single samples do not bend, and what it gains has a bound.

The line is Theil's and Sen's: its slope is the median of the slopes between all pairs of samples (P. K. Sen, "Estimates
of the regression coefficient based on Kendall's tau", 1968). A sawtooth, as files and memory make it, has none.
"""

from itertools import combinations
from statistics import median
from typing import NamedTuple

MAX_SAMPLES = 600
"""Of more samples every second, third ... is taken: the pairs grow with their square."""

WARM_UP = 0.25
"""The share of the run that is not looked at: what has a limit fills up to it."""

FEWEST = 5
"""With fewer samples nothing can be said."""


class Bound(NamedTuple):
    """How much something may grow from the end of the warm-up to the end of the run, whatever its length: the larger of
    so many units, and such a share of its median."""

    units: float
    share: float
    unit: str


class Trend(NamedTuple):
    """What became of one row of samples."""

    name: str
    median: float
    growth: float
    allowed: float
    unit: str

    @property
    def grows(self) -> bool:
        return self.growth > self.allowed

    def told(self) -> str:
        verdict = "GROWS" if self.grows else "flat"
        return (
            f"{verdict:5}  {self.name}: {self.median:.1f} {self.unit}, {self.growth:+.1f} by the end "
            f"(allowed {self.allowed:.1f})"
        )


def slope(samples: list[tuple[float, float]]) -> float:
    """Of the fitted line through ``(seconds, value)``, in units a second; 0 for fewer than two samples."""
    step = -(-len(samples) // MAX_SAMPLES) or 1
    slopes = [(v - u) / (t - s) for (s, u), (t, v) in combinations(samples[::step], 2) if t > s]
    return median(slopes) if slopes else 0.0


def trend(name: str, samples: list[tuple[float, float]], bound: Bound) -> Trend:
    """Of the samples after the warm-up. Raises ValueError for too few."""
    begin, end = samples[0][0], samples[-1][0]
    warm = [sample for sample in samples if sample[0] >= begin + WARM_UP * (end - begin)]
    if len(warm) < FEWEST:
        raise ValueError(f"{name}: {len(warm)} samples after the warm-up, which are too few to tell")
    middle = median(value for _, value in warm)
    growth = slope(warm) * (warm[-1][0] - warm[0][0])
    return Trend(
        name, middle, growth, max(bound.units, bound.share * abs(middle)) if bound.share else bound.units, bound.unit
    )
