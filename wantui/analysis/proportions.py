"""Shares of seeds with an outcome: Wilson's interval, and the noise level at which a share passes one half."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats

from wantui.analysis.arrays import FloatArray

NORMAL_QUANTILE = float(special.ndtri(0.975))
FIT_DIGITS = 12
MIN_SEEDS_FOR_HALF = 6
"""Smallest number of seeds that can show at the 5 % level that a share is not one half: 2 / 2^6 is 0.03."""


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
    """The noise level at which the share of seeds with an outcome, which falls with the noise level, is one half."""

    estimate: float
    """Crossing of one half by the decreasing fit; NaN if the fit does not cross."""
    low: float
    high: float
    """Interval; 0 and infinity where the measured levels give no bound."""
    is_above_range: bool
    """True if the fit stays above one half at all measured levels."""
    is_below_range: bool
    """True if the fit is below one half at all measured levels."""


def fit_monotonic(shares: FloatArray, *, is_increasing: bool) -> FloatArray:
    """Return the isotonic fit of shares.

    The fit is rounded, because rounding errors of pooled shares would move a fit of exactly one half above or below it.
    """
    return np.asarray(optimize.isotonic_regression(shares, increasing=is_increasing).x).round(FIT_DIGITS)


def find_half_share_level(sigmas: Sequence[float], counts: Sequence[int], total: int) -> HalfShareLevel:
    """Return the noise level at which a share that falls with the noise level passes one half, with its 95 % interval.

    The estimate is where a decreasing (isotonic) fit crosses one half, on a line between two levels. The interval is
    that of the sign test for a median: from the d-th lowest to the d-th highest of the levels at which seeds leave,
    interpolated between the two d with coverage above and below 95 % (Hettmansperger and Sheather 1986). A seed leaves
    somewhere between two measured levels, and its level is rounded outwards. Only the outcomes of different seeds are
    assumed to be independent, not those of a seed at several levels, as in a logistic fit. A bootstrap of few seeds has
    too little coverage.

    Args:
        sigmas: rising noise levels.
        counts: number of seeds with the outcome at each level.
        total: number of seeds.
    """
    fit = fit_monotonic(np.asarray(counts) / total, is_increasing=False)
    estimate = _find_crossing(np.asarray(sigmas, dtype=np.float64), fit)
    low, high = 0.0, math.inf
    if total >= MIN_SEEDS_FOR_HALF:
        (outer_low, outer_high), (inner_low, inner_high), weight = _find_order_statistic_intervals(
            sigmas, counts, total
        )
        low = outer_low + weight * (inner_low - outer_low)
        high = outer_high if math.isinf(outer_high) else outer_high + weight * (inner_high - outer_high)
    return HalfShareLevel(estimate, low, high, bool(fit[-1] > 0.5), bool(fit[0] < 0.5))


def _find_order_statistic_intervals(
    sigmas: Sequence[float], counts: Sequence[int], total: int
) -> tuple[tuple[float, float], tuple[float, float], float]:
    """Return two intervals from the d-th lowest to the d-th highest level, and the weight of the second interval.

    The first interval has the largest d with coverage of at least 95 %, and the second interval has d + 1.
    """
    d = int(stats.binom.ppf(0.025, total, 0.5))
    outer, inner = (1 - 2 * stats.binom.cdf(count - 1, total, 0.5) for count in (d, d + 1))
    share = (outer - 0.95) / (outer - inner)
    weight = (total - d) * share / (d + (total - 2 * d) * share)
    (outer_ends, inner_ends) = (_find_order_statistics(sigmas, counts, total, count) for count in (d, d + 1))
    return outer_ends, inner_ends, float(weight)


def _find_order_statistics(
    sigmas: Sequence[float], counts: Sequence[int], total: int, order: int
) -> tuple[float, float]:
    """Return bounds of the `order`-th lowest and the `order`-th highest level at which a seed leaves.

    The lower bound is the last of the lowest levels at which fewer than `order` seeds have left, or 0. The upper bound
    is the first of the highest levels at which fewer than `order` seeds stay, or infinity.
    """
    staying = next((i for i, count in enumerate(counts) if total - count >= order), len(counts))
    left = next((i for i, count in enumerate(reversed(counts)) if count >= order), len(counts))
    return sigmas[staying - 1] if staying else 0.0, sigmas[len(sigmas) - left] if left else math.inf


def _find_crossing(sigmas: FloatArray, fit: FloatArray) -> float:
    """Return the middle of the noise levels at which a decreasing piecewise linear curve is one half; NaN if none."""
    if fit[0] < 0.5 or fit[-1] > 0.5:
        return math.nan
    at_half = sigmas[fit == 0.5]
    if len(at_half):
        return float((at_half[0] + at_half[-1]) / 2)
    after = int(np.argmax(fit < 0.5))
    share = (fit[after - 1] - 0.5) / (fit[after - 1] - fit[after])
    return float(sigmas[after - 1] + share * (sigmas[after] - sigmas[after - 1]))
