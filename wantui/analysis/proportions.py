"""Shares of seeds with an outcome: Wilson's interval, and the noise level at which a share passes one half."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats

from wantui.analysis.arrays import FloatArray

NORMAL_QUANTILE = float(special.ndtri(0.975))
MIN_SEEDS_FOR_HALF = 6
"""Fewest seeds that can show at the 5 % level that a share is not one half: 2 / 2^6 is 0.03."""


@dataclass(frozen=True)
class Proportion:
    """A share of independent units, with Wilson's 95 % interval."""

    count: int
    total: int

    @property
    def share(self) -> float:
        return self.count / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Return Wilson's score interval (Wilson 1927); NaN without units.

        It contains the shares p for which |count / n - p| <= z sqrt(p (1 - p) / n).
        """
        if not self.total:
            return math.nan, math.nan
        n, z = self.total, NORMAL_QUANTILE
        centre = (self.share + z * z / (2 * n)) / (1 + z * z / n)
        half_width = z / (1 + z * z / n) * math.sqrt(self.share * (1 - self.share) / n + z * z / (4 * n * n))
        # With a count of 0 or n, the end is 0 or 1 exactly; the formula leaves rounding.
        return (
            0.0 if self.count == 0 else max(0.0, centre - half_width),
            1.0 if self.count == n else min(1.0, centre + half_width),
        )


@dataclass(frozen=True)
class HalfShareLevel:
    """The noise level at which half of the seeds have an outcome; the share falls as the noise level rises."""

    estimate: float
    """Crossing of one half by the decreasing fit; NaN if the fit does not cross."""
    low: float
    high: float
    """Interval; 0 and infinity where the measured levels give no bound."""
    is_above_range: bool
    """True if the fit stays above one half at all measured levels."""
    is_below_range: bool
    """True if the fit is below one half at all measured levels."""


def find_half_share_level(
    sigmas: Sequence[float], counts: Sequence[int], total: int, alpha: float = 0.05
) -> HalfShareLevel:
    """Return the noise level at which a share that falls with the noise level passes one half, with its interval.

    The estimate is where a decreasing (isotonic) fit crosses one half, on a line between two levels. The interval
    inverts exact binomial tests of a share of one half at each level: its lower end is the last of the lowest levels at
    which significantly more than half of the seeds have the outcome, and its upper end the first of the highest levels
    at which significantly fewer have it. Whatever the dependence between the levels of a seed, each end errs with a
    probability of at most alpha / 2: an error needs a wrong result at one particular level, the first beyond the true
    one. A logistic fit would assume that the outcomes of a seed at several levels are independent, and a bootstrap of
    few seeds covers too little.

    Args:
        sigmas: rising noise levels.
        counts: number of seeds with the outcome at each level.
        total: number of seeds.
    """
    is_more = stats.binom.sf(np.asarray(counts) - 1, total, 0.5) <= alpha / 2
    is_less = stats.binom.cdf(np.asarray(counts), total, 0.5) <= alpha / 2
    more_count = next((i for i, more in enumerate(is_more) if not more), len(is_more))
    less_count = next((i for i, less in enumerate(is_less[::-1]) if not less), len(is_less))
    low = sigmas[more_count - 1] if more_count else 0.0
    high = sigmas[len(sigmas) - less_count] if less_count else math.inf
    fit = optimize.isotonic_regression(np.asarray(counts) / total, increasing=False).x
    estimate = _find_crossing(np.asarray(sigmas, dtype=np.float64), fit)
    return HalfShareLevel(estimate, low, high, bool(fit[-1] > 0.5), bool(fit[0] < 0.5))


def _find_crossing(sigmas: FloatArray, fit: FloatArray) -> float:
    """Return the middle of the noise levels at which a decreasing broken line is one half; NaN if it never is."""
    if fit[0] < 0.5 or fit[-1] > 0.5:
        return math.nan
    at_half = sigmas[fit == 0.5]
    if len(at_half):
        return float((at_half[0] + at_half[-1]) / 2)
    after = int(np.argmax(fit < 0.5))
    share = (fit[after - 1] - 0.5) / (fit[after - 1] - fit[after])
    return float(sigmas[after - 1] + share * (sigmas[after] - sigmas[after - 1]))


def compute_half_share_level_difference(first: HalfShareLevel, second: HalfShareLevel) -> tuple[float, float, float]:
    """Return the difference of two half levels, and an interval from theirs: estimate, low and high.

    If each interval has a level of 97.5 %, that of the difference has at least 95 % (Bonferroni), however the two
    depend on each other.
    """
    return first.estimate - second.estimate, first.low - second.high, first.high - second.low
