"""Interval for the length of the mean paired difference."""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from scipy import special

from wantui.analysis.arrays import FloatArray
from wantui.analysis.differences import SIGNIFICANCE_LEVEL
from wantui.analysis.statistics import MEAN_ROUNDING_TOLERANCE, draw_sign_flips

MIN_INTERVAL_SEEDS = 4
"""Minimum number of seeds for an interval; the variance of the squared length has a factor 1 / (n - 3)."""
BISECTION_COUNT = 20
"""Steps of a bisection; they find the end of an interval to a millionth of the range searched."""
TAIL_TABLE_SIZE = 512


def estimate_squared_distance(difference_gram: FloatArray) -> float:
    """Return the squared length of the mean of n paired differences, without bias.

    It is the mean of <d_s, d_t> over pairs of different seeds (Chen and Qin 2010). Chance can make it negative.

    Args:
        difference_gram: [n, n] inner products of the paired differences, divided by D.
    """
    n = len(difference_gram)
    return (float(difference_gram.sum()) - float(np.trace(difference_gram))) / (n * (n - 1))


def estimate_distance_interval(difference_gram: FloatArray, p: float) -> tuple[float, float]:
    """Return the 95 % interval (low, high) of the length |mean| of n paired differences.

    The lower end inverts the sign-flip test (`_LengthTest`), and the upper end Student's approximation
    (`_find_largest_length`). Their tails depend on the length (`compute_upper_tail`): at 0, the upper tail has 5 %, so
    the interval contains 0 exactly if p is above SIGNIFICANCE_LEVEL.

    Args:
        difference_gram: [n, n] inner products of the paired differences, divided by D.
        p: p of `places.run_place_test`.

    Returns:
        Lower and upper end; 0 if all differences are 0, and NaN with fewer than MIN_INTERVAL_SEEDS seeds, or if all
        differences are equal, which shows no scatter.
    """
    n, trace = len(difference_gram), float(np.trace(difference_gram))
    if not trace:
        return 0.0, 0.0
    if n < MIN_INTERVAL_SEEDS or trace - float(difference_gram.sum()) / n <= MEAN_ROUNDING_TOLERANCE * trace:
        return math.nan, math.nan
    squared_length = estimate_squared_distance(difference_gram)
    low = 0.0
    if p <= SIGNIFICANCE_LEVEL:
        low = _bisect(_LengthTest(difference_gram).is_too_short, 0.0, math.sqrt(max(squared_length, 0.0)))
    return low, _find_largest_length(difference_gram, squared_length)


class _LengthTest:
    """Sign-flip test of whether the mean of n paired differences has at least a given length.

    With the residuals r_s = d_s - a u, where a is the length and u the direction of the mean, flips e_s of the signs
    give the estimate a^2 + 2 a <u, mean(e_s r_s)> + sum over s != t of e_s e_t <r_s, r_t> / (n (n - 1)). It is a
    quadratic polynomial in a for each flip. With a = 0 this is the test of `places.run_place_test`.
    """

    def __init__(self, difference_gram: FloatArray) -> None:
        n = len(difference_gram)
        flips, _ = draw_sign_flips(n)
        self._squared_length = estimate_squared_distance(difference_gram)
        self._tolerance = MEAN_ROUNDING_TOLERANCE * float(np.abs(difference_gram).sum()) / n**2
        # Products of the differences with the direction of their mean.
        projections = difference_gram.sum(1) / math.sqrt(float(difference_gram.sum()))
        sign_sums, flipped_projections = flips.sum(1), flips @ projections
        squares = ((flips @ difference_gram) * flips).sum(1)
        pair_count = n * (n - 1)
        self._constant = (squares - np.trace(difference_gram)) / pair_count
        self._linear = 2 * flipped_projections / n
        self._linear += 2 * (projections.sum() - sign_sums * flipped_projections) / pair_count
        self._quadratic = 1 - 2 * sign_sums / n + (sign_sums**2 - n) / pair_count

    def is_too_short(self, length: float) -> bool:
        """Return whether means of this length too rarely give an estimate as large as the observed one."""
        estimates = self._constant + length * (self._linear + length * self._quadratic)
        scatter = float(estimates.std())
        upper_tail = compute_upper_tail(length * length / scatter if scatter else math.inf)
        return bool(np.mean(estimates >= self._squared_length - self._tolerance) <= upper_tail)


def _find_largest_length(difference_gram: FloatArray, squared_length: float) -> float:
    """Return the largest length for which the estimate of the squared length is not too small.

    The estimate for a length a has the variance 4 a^2 v / n + 2 T / (n (n - 1)), where v is the variance of the
    differences along their mean, and T the trace of the squared covariance. T is estimated without bias for any
    distribution (Himeno and Yamada 2014). The estimate is too small if it is Student's quantile of standard errors
    below a^2.
    """
    n, total = len(difference_gram), float(difference_gram.sum())
    seed_means = difference_gram.mean(1)
    centred = difference_gram - seed_means[:, None] - seed_means[None, :] + total / n**2
    trace = float(np.trace(centred)) / (n - 1)
    squares_trace = float((centred**2).sum()) / (n - 1) ** 2
    fourth_moment = float((np.diagonal(centred) ** 2).sum()) / (n - 1)
    squared_covariance_trace = (
        (n - 1) * ((n - 1) * (n - 2) * squares_trace + trace**2 - n * fourth_moment) / (n * (n - 2) * (n - 3))
    )
    mean_variance = float(seed_means.var(ddof=1)) * n**2 / total if total > 0 else 0.0
    constant = 2 * max(squared_covariance_trace, 0.0) / (n * (n - 1))

    def is_long_enough(length: float) -> bool:
        error = math.sqrt(4 * length**2 * mean_variance / n + constant)
        if not error:
            return length**2 <= squared_length
        lower_tail = SIGNIFICANCE_LEVEL - compute_upper_tail(length**2 / error)
        return squared_length - length**2 >= special.stdtrit(n - 1, lower_tail) * error

    high = math.sqrt(float(np.trace(difference_gram)) / n)
    while is_long_enough(high):
        high *= 2
    return _bisect(is_long_enough, 0.0, high)


def compute_upper_tail(distance_from_bound: float) -> float:
    """Return the probability above the acceptance region of a mean, out of the 5 % outside of the region.

    The acceptance region of a normal mean mu >= 0 with unit variance contains the x with the largest ratio of
    likelihoods f(x | mu) / f(x | max(x, 0)) (Feldman and Cousins 1998, Phys. Rev. D 57, 3873). With the upper end
    mu + b, the lower end is mu - b, or mu / 2 - b^2 / (2 mu) if that is negative. So 1 - Phi(b) is 5 % at mu = 0, and
    2.5 % from mu = 1.96 on.

    Args:
        distance_from_bound: mu, in standard deviations.
    """
    means, upper_tails = _tabulate_upper_tails()
    return float(np.interp(distance_from_bound, means, upper_tails))


@cache
def _tabulate_upper_tails() -> tuple[FloatArray, FloatArray]:
    """Return increasing means mu, and the upper-tail probabilities of their acceptance regions.

    For mu < b, Phi(-mu / 2 - b^2 / (2 mu)) = Phi(b) - 0.95, which is solved for mu.
    """
    upper_tails = np.linspace(SIGNIFICANCE_LEVEL, SIGNIFICANCE_LEVEL / 2, TAIL_TABLE_SIZE)
    b = -special.ndtri(upper_tails[1:])
    lower_quantiles = -special.ndtri(SIGNIFICANCE_LEVEL - upper_tails[1:])
    means = lower_quantiles - np.sqrt(np.maximum(lower_quantiles**2 - b**2, 0.0))
    return np.concatenate([[0.0], means]), upper_tails


def _bisect(is_before: Callable[[float], bool], low: float, high: float) -> float:
    """Return the point between low and high at which a condition that holds at low no longer holds."""
    for _ in range(BISECTION_COUNT):
        middle = (low + high) / 2
        low, high = (middle, high) if is_before(middle) else (low, middle)
    return high
