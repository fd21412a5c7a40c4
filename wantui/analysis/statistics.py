"""Permutation tests and intervals for differences between groups, paired by seed.

Videos of one seed share their initial noise. Under the null hypothesis, the values of one seed can be exchanged between
groups. So tests permute groups within seeds; for two groups, they flip the signs of the differences of seeds.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from wantui.analysis.arrays import CACHED_CHUNK_VALUES, FloatArray, split_rows
from wantui.analysis.permutation_p import compare_with_observed, compute_family_wise_p

MAX_EXACT_PAIRS = 14
"""Maximum number n of pairs for which all 2^n sign flips are tried."""
RESAMPLE_COUNT = 9999
"""Number of random sign flips or permutations if there are too many to try all."""
RANDOM_SEED = 20240229
"""Seed of all random draws, so that reports are reproducible."""
MAX_EXACT_PERMUTATIONS = 1 << MAX_EXACT_PAIRS
"""Maximum number of permutations that are all tried; above it, RESAMPLE_COUNT are drawn.

It exceeds RESAMPLE_COUNT, so a p of drawn permutations, at least 1 / (RESAMPLE_COUNT + 1), is never below the
smallest p of all permutations.
"""
MAX_CORRECTED_TESTS = (RESAMPLE_COUNT + 1) // 20
"""Maximum number of tests with which a corrected p of 0.05 is attainable."""
MAX_CACHED_VALUES = 4_000_000
"""Maximum number of random permutation values that are kept for the next test."""
MEAN_ROUNDING_TOLERANCE = 1e-12
"""Size of a mean, relative to its terms, up to which it is only a rounding error and would order permutations at
random."""
LARGE_NONCENTRALITY = 1e4
"""Noncentrality above which the noncentral t distribution is approximated by its shift over a scaled chi."""


@dataclass(frozen=True)
class Effect:
    """Mean of paired differences, with interval, standardised size and p."""

    pair_count: int
    mean: float
    interval_low: float
    interval_high: float
    """95 % interval of the mean; NaN if all differences are equal, because they show no scatter."""
    d_z: float
    """d_z with Hedges' correction: mean over standard deviation of the differences, times 1 - 3 / (4 (n - 1) - 1).
    NaN for two differences, where the correction would be 0."""
    p: float
    """Two-sided p of a sign-flip test of the mean."""


def compute_paired_effect(differences: FloatArray) -> Effect:
    """Return the effect of n paired differences, with Student's interval; see `compute_paired_effects`.

    Raises:
        ValueError: there are fewer than two differences, or some are not finite.
    """
    return compute_paired_effects(np.asarray(differences, dtype=np.float64)[:, None])[0]


def compute_paired_effects(differences: FloatArray) -> list[Effect]:
    """Return the effect of each column of n paired differences [n, m], with Student's interval.

    If all differences are equal, which happens for outcomes with few values, there is no interval: its width would be
    0, as if the mean of other seeds were known exactly.

    Raises:
        ValueError: there are fewer than two differences, or some are not finite.
    """
    n = len(differences)
    if n < 2:
        raise ValueError(f"cannot compute an effect: it needs at least two differences, but there are {n}")
    if not np.isfinite(differences).all():
        finite_count = np.isfinite(differences).all(1).sum()
        raise ValueError(f"cannot compute an effect: only {finite_count} of {n} differences are finite")
    # Each column alone, so that its mean does not depend on the other columns.
    columns = [np.ascontiguousarray(column) for column in differences.T]
    return [_describe_effect(column, p) for column, p in zip(columns, run_sign_flip_tests(differences), strict=True)]


def _describe_effect(differences: FloatArray, p: float) -> Effect:
    n, mean, deviation = len(differences), float(differences.mean()), float(differences.std(ddof=1))
    # Equal numbers may have a deviation of rounding.
    if deviation <= MEAN_ROUNDING_TOLERANCE * float(np.abs(differences).max()):
        return Effect(n, mean, math.nan, math.nan, math.copysign(math.inf, mean) if mean else 0.0, p)
    half_width = compute_t_quantile(0.975, n - 1) * deviation / math.sqrt(n)
    correction = 1 - 3 / (4 * (n - 1) - 1) if n > 2 else math.nan  # with two it would be 0
    return Effect(n, mean, mean - half_width, mean + half_width, correction * mean / deviation, p)


def compute_mean_half_width(values: FloatArray) -> FloatArray:
    """Return half the width of Student's 95 % interval for the mean over the first axis, of at least two values."""
    n = len(values)
    return np.asarray(compute_t_quantile(0.975, n - 1) * values.std(axis=0, ddof=1) / math.sqrt(n))


def compute_ratio_interval(
    values: FloatArray, reference: FloatArray, confidence_level: float = 0.95
) -> tuple[float, float]:
    """Return the interval of mean(values) / mean(reference) of n pairs, with both means uncertain (Fieller 1954).

    The interval contains the ratios r for which a t test does not reject mean(values - r reference) = 0. It contains 1
    exactly if Student's interval of the difference contains 0. It is NaN if the mean of the reference may be 0, because
    the ratio is then unbounded.
    """
    n = len(values)
    t2 = compute_t_quantile((1 + confidence_level) / 2, n - 1) ** 2 / n
    a, b = float(values.mean()), float(reference.mean())
    (vaa, vab), (_, vbb) = np.cov(values, reference) * t2
    # The roots of (a - r b)^2 = t^2 var(values - r reference) / n.
    square, linear, constant = b * b - vbb, a * b - vab, a * a - vaa
    if square <= 0:
        return math.nan, math.nan
    # At r = a / b the two sides differ by -t^2 var / n: what is below 0 here is rounding, as of proportional values.
    root = math.sqrt(max(linear * linear - square * constant, 0.0))
    return (linear - root) / square, (linear + root) / square


@lru_cache(maxsize=8)
def draw_sign_flips(n: int) -> tuple[FloatArray, bool]:
    """Return signs [flips, n] of a sign-flip test, and whether these are all 2^n flips. The first row flips nothing."""
    if n <= MAX_EXACT_PAIRS:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=n)))
    else:
        signs = np.random.default_rng(RANDOM_SEED).choice((1.0, -1.0), size=(RESAMPLE_COUNT + 1, n))
        signs[0] = 1.0
    signs.flags.writeable = False
    return signs, n <= MAX_EXACT_PAIRS


def run_sign_flip_test(differences: FloatArray) -> float:
    """Return the two-sided p of the mean of n paired differences.

    It is the share of sign flips whose |mean| is at least as large. The test is exact with up to MAX_EXACT_PAIRS pairs;
    with more, it uses RESAMPLE_COUNT random flips and the observed signs.
    """
    return run_sign_flip_tests(np.asarray(differences, dtype=np.float64)[:, None])[0]


def run_sign_flip_tests(differences: FloatArray) -> list[float]:
    """Return p of `run_sign_flip_test` for each column of differences [n, m]."""
    flips, _ = draw_sign_flips(len(differences))
    sums = np.abs(flips @ differences)
    # Equal sums differ by the rounding of their terms, not of their own size: differences that cancel sum to 1e-17.
    p: list[float] = np.mean(sums >= sums[0] - MEAN_ROUNDING_TOLERANCE * np.abs(differences).sum(0), axis=0).tolist()
    return p


def compute_min_attainable_p(n: int) -> float:
    """Return the smallest two-sided p that n pairs can give."""
    return 2 / 2**n if n <= MAX_EXACT_PAIRS else 1 / (RESAMPLE_COUNT + 1)


def count_min_pairs(test_count: int = 1, alpha: float = 0.05) -> int:
    """Return the smallest number of pairs that can give a p of at most `alpha`, corrected for a number of tests.

    Raises:
        ValueError: no number of pairs can (for 0.05: above MAX_CORRECTED_TESTS tests).
    """
    for n in range(2, MAX_EXACT_PAIRS + 2):
        if test_count * compute_min_attainable_p(n) <= alpha:
            return n
    raise ValueError(f"no number of pairs gives p = {alpha:g} for {test_count} tests")


def run_max_t_test(differences: FloatArray) -> FloatArray:
    """Return the family-wise p of each column of paired differences [n, m] (Westfall and Young 1993).

    It is the share of sign flips whose largest |t| is at least the column's |t|.
    """
    return compute_family_wise_p(np.abs(t_values) for t_values in iterate_flipped_t(differences))


def iterate_flipped_t(differences: FloatArray) -> Iterator[FloatArray]:
    """Yield t [flips, m] of the columns of paired differences [n, m], in chunks of sign flips."""
    n, column_count = differences.shape
    flips, _ = draw_sign_flips(n)
    mean_squares = (differences**2).mean(0)
    for flip_chunk in split_rows(flips, column_count, CACHED_CHUNK_VALUES):
        means = flip_chunk @ differences / n
        yield np.copysign(compute_absolute_t(means, np.maximum(mean_squares - means**2, 0) * n / (n - 1), n), means)


def compute_absolute_t(means: FloatArray, variances: FloatArray, n: int) -> FloatArray:
    """Return |t| of means of n values: infinite if all values are equal but not 0, and 0 if the mean is 0."""
    absolute_means = np.abs(means)
    absolute_means[absolute_means <= MEAN_ROUNDING_TOLERANCE * np.sqrt(variances)] = 0
    is_constant = variances <= 1e-14 * absolute_means**2
    with np.errstate(divide="ignore", invalid="ignore"):
        t = absolute_means / np.sqrt(variances / n)
    if is_constant.any():
        t[is_constant] = np.where(absolute_means[is_constant] != 0, np.inf, 0.0)
    return t


def adjust_false_discovery(p: FloatArray) -> FloatArray:
    """Return Benjamini-Hochberg adjusted p; NaN stays NaN."""
    adjusted = np.full(len(p), np.nan)
    is_finite = np.isfinite(p)
    if is_finite.any():
        adjusted[is_finite] = stats.false_discovery_control(p[is_finite])
    return adjusted


def count_pairs_needed(d_z: float, power: float = 0.8, alpha: float = 0.05) -> int | None:
    """Return the number of pairs with which a two-sided test detects an effect of d_z = `d_z`; None if `d_z` is 0.

    `d_z` is the smallest effect of interest, declared in advance; the observed effect would only restate its p (Hoenig
    and Heisey 2001). The number has the given power in a paired t test, and is at least what a sign-flip test needs
    for a p of 0.05, whatever `alpha` is.
    """
    if not abs(d_z) > 1e-3:
        return None
    min_pairs = count_min_pairs()
    low_count, high_count = min_pairs - 1, min_pairs
    while _compute_power(d_z, high_count, alpha) < power:
        low_count, high_count = high_count, 2 * high_count
    while high_count - low_count > 1:
        middle_count = (low_count + high_count) // 2
        low_count, high_count = (
            (middle_count, high_count)
            if _compute_power(d_z, middle_count, alpha) < power
            else (low_count, middle_count)
        )
    # With the minimum number of pairs, a sign-flip test needs equal signs of all differences.
    return high_count + int(high_count == min_pairs and float(special.ndtr(abs(d_z))) ** min_pairs < power)


def _compute_power(d_z: float, n: int, alpha: float) -> float:
    """Return the power of a two-sided paired t test, from its near tail; at 0.8 the far tail adds less than 1e-5."""
    if n < 2:
        return 0.0
    critical_t, noncentrality = compute_t_quantile(1 - alpha / 2, n - 1), abs(d_z) * math.sqrt(n)
    if noncentrality > LARGE_NONCENTRALITY:  # nctdtr gives NaN there
        return float(special.chdtr(n - 1, (n - 1) * min(noncentrality / critical_t, 1e9) ** 2))
    # Not stats.nct.cdf, which gives NaN far below the shift: both comparisons of the search would then be false.
    return 1 - float(special.nctdtr(n - 1, noncentrality, critical_t))


@lru_cache(maxsize=1024)
def compute_t_quantile(probability: float, degrees_of_freedom: int) -> float:
    """Return a quantile of Student's t distribution, much faster than stats.t.ppf."""
    return float(special.stdtrit(degrees_of_freedom, probability))


def is_equivalent(differences: FloatArray, margin: float, alpha: float = 0.05) -> bool:
    """Return whether two one-sided t tests (Schuirmann 1987) show that the mean is between -margin and margin."""
    n = len(differences)
    half_width = compute_t_quantile(1 - alpha, n - 1) * float(differences.std(ddof=1)) / math.sqrt(n)
    return bool(abs(differences.mean()) + half_width < margin)


def is_ratio_equivalent(values: FloatArray, reference: FloatArray, margin: float, alpha: float = 0.05) -> bool:
    """Return whether two one-sided tests show that mean(values) / mean(reference) is between 1 - margin and 1 + margin.

    Two one-sided t tests are run, of values - (1 + margin) reference and values - (1 - margin) reference, which treat
    the mean of the reference as uncertain too.
    """
    if reference.mean() < 0:
        values, reference = -values, -reference
    n = len(values)
    t = compute_t_quantile(1 - alpha, n - 1) / math.sqrt(n)
    above, below = values - (1 + margin) * reference, values - (1 - margin) * reference
    return bool(above.mean() + t * above.std(ddof=1) < 0 < below.mean() - t * below.std(ddof=1))


def draw_within_seed_permutations(
    seed_count: int, group_count: int, random_count: int | None = None
) -> NDArray[np.int64]:
    """Return m orders of the groups within each of n seeds, [m, n, groups], read-only; the first is the observed order.

    If there are at most MAX_EXACT_PERMUTATIONS, returns all orders with the first seed fixed, because every statistic
    here is invariant under renaming the groups. Otherwise returns the observed order and `random_count`, by default
    RESAMPLE_COUNT, random ones.
    """
    if math.factorial(group_count) ** (seed_count - 1) <= MAX_EXACT_PERMUTATIONS:
        return _list_permutations(seed_count, group_count)
    random_count = RESAMPLE_COUNT if random_count is None else random_count
    is_small = random_count * seed_count * group_count <= MAX_CACHED_VALUES
    draw = _draw_permutations if is_small else _draw_permutations.__wrapped__
    return draw(seed_count, group_count, random_count)


@lru_cache(maxsize=2)
def _list_permutations(seed_count: int, group_count: int) -> NDArray[np.int64]:
    group_orders = np.array(list(itertools.permutations(range(group_count))), dtype=np.int64)
    order_indices = np.array(list(itertools.product(range(len(group_orders)), repeat=seed_count - 1)), dtype=np.int64)
    other_seed_orders = group_orders[order_indices.reshape(len(order_indices), seed_count - 1)]
    first_seed_orders = np.broadcast_to(group_orders[0], (len(order_indices), 1, group_count))
    orders = np.concatenate([first_seed_orders, other_seed_orders], axis=1)
    orders.flags.writeable = False
    return orders


@lru_cache(maxsize=2)
def _draw_permutations(seed_count: int, group_count: int, random_count: int) -> NDArray[np.int64]:
    generator = np.random.default_rng(RANDOM_SEED)
    orders = np.argsort(generator.random((random_count + 1, seed_count, group_count)), axis=2)
    orders[0] = np.arange(group_count)
    orders.flags.writeable = False
    return orders


def run_omnibus_test(values: FloatArray) -> float:
    """Return p of a within-seed permutation test for any difference between groups, from values [n, groups]."""
    seed_count, group_count = values.shape
    if np.ptp(values, axis=1).max() <= 1e-10 * np.abs(values).max():
        return 1.0  # equal up to rounding, which would order permutations by chance
    orders = draw_within_seed_permutations(seed_count, group_count)
    permuted_values = np.take_along_axis(values[None], orders, axis=2)
    between_squares = ((permuted_values.mean(1) - values.mean()) ** 2).sum(1)
    between_squares[between_squares <= MEAN_ROUNDING_TOLERANCE**2 * ((values - values.mean()) ** 2).mean()] = 0
    return float(compare_with_observed(between_squares).mean())


def compute_omnibus_p(values: FloatArray) -> float:
    """Return the p for any difference between groups, from values [n, groups] of one metric.

    It is the larger p of two tests. Permutations are exact if all groups have the same distribution, even a skewed one.
    Sign flips keep the variance of each group, whereas permutations mix the variances.
    """
    return max(run_omnibus_test(values), float(run_omnibus_max_test(values[:, :, None])[0]))


def run_omnibus_max_test(values: FloatArray) -> FloatArray:
    """Return p [metrics] for any difference between groups, corrected for all metrics.

    The values are [n, groups, metrics].

    The statistic of a metric is the share of its variance within seeds that lies between groups. p is the share of sign
    flips in which the largest share of all metrics is at least the metric's (Westfall and Young). A flip changes the
    sign of all deviations of a seed from the seed's mean, so each group keeps its variance.
    """
    seed_count, group_count, metric_count = values.shape
    centred = values - values.mean(1, keepdims=True)
    total_squares = (centred**2).sum((0, 1))
    is_constant = total_squares <= (1e-10 * np.abs(values).max((0, 1))) ** 2
    flips, _ = draw_sign_flips(seed_count)
    mean_squares = np.zeros((len(flips), metric_count))
    for group in range(group_count):
        mean_squares += (flips @ centred[:, group] / seed_count) ** 2
    shares = np.where(is_constant, 0.0, seed_count * mean_squares / np.where(is_constant, 1.0, total_squares))
    shares[shares <= MEAN_ROUNDING_TOLERANCE] = 0
    return compute_family_wise_p([shares])


def adjust_family_wise(p: FloatArray) -> FloatArray:
    """Return p corrected for the number of tests (Holm 1979); NaN stays NaN and is not counted."""
    adjusted = np.full(len(p), np.nan)
    finite_indices = np.flatnonzero(np.isfinite(p))
    order = finite_indices[np.argsort(p[finite_indices], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.maximum.accumulate(np.minimum(factors * p[order], 1.0))
    return adjusted


def run_trend_test(values: FloatArray, weights: FloatArray) -> float:
    """Return the two-sided p of the mean of sum(weights * values) over n seeds.

    The test permutes the values [n, k] of each seed within the seed.

    The weights of a slope are symmetric only if the doses are, so a skewed metric can give skewed slopes. A permutation
    test is exact for these slopes; a test of their signs is not. All orders are tried if there are at most
    MAX_EXACT_PERMUTATIONS; otherwise, RESAMPLE_COUNT random orders and the observed one.

    Args:
        weights: [k] weights of the values, with a sum of 0.
    """
    seed_count, dose_count = values.shape
    observed = float((values @ weights).sum())
    if math.factorial(dose_count) ** seed_count <= MAX_EXACT_PERMUTATIONS:
        orders = np.array(list(itertools.permutations(weights)))
        sums = np.zeros(1)
        for seed_sums in values @ orders.T:  # every order of one seed with every order of the seeds before it
            sums = np.add.outer(sums, seed_sums).ravel()
    else:
        generator, chunks = np.random.default_rng(RANDOM_SEED), [np.array([observed])]
        chunk_size = max(1, 2_000_000 // values.size)
        for start in range(0, RESAMPLE_COUNT, chunk_size):
            draw_count = min(chunk_size, RESAMPLE_COUNT - start)
            orders = generator.permuted(np.broadcast_to(weights, (draw_count, *values.shape)), axis=2)
            chunks.append((orders * values).sum((1, 2)))
        sums = np.concatenate(chunks)
    tolerance = MEAN_ROUNDING_TOLERANCE * float(np.abs(weights).max() * np.abs(values).sum())
    return float(np.mean(np.abs(sums) >= abs(observed) - tolerance))
