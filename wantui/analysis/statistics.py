"""Tests and intervals for paired differences: the video is the unit, seeds are blocks.

Videos of one seed share their initial noise. Under the hypothesis that two groups are alike, the values of one seed can
be exchanged between them: tests permute within seeds, and the difference of a seed has either sign with equal chance.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
EXACT_UP_TO = 14
"""Pairs for which all 2^n signs are tried."""
RESAMPLES = 9999
SEED = 20240229
"""Of whatever is drawn at random, so that a report can be made again."""
BCA_FROM = 20
"""Pairs from which the interval is a bootstrap one; below, BCa's coverage is poor and Student's t is taken."""


@dataclass(frozen=True)
class Effect:
    """The mean of paired differences, with its size and interval."""

    n: int
    mean: float
    low: float
    high: float
    """95 % interval of the mean."""
    method: str
    """t or BCa."""
    size: float
    """d_z with Hedges' correction: mean over standard deviation of the differences, times 1 - 3 / (4 (n - 1) - 1).
    NaN for two differences, for which that is no correction."""
    p: float
    """Two-sided, of a sign-flip test of the mean."""


def effect(differences: Floats) -> Effect:
    """Of n paired differences.

    Raises:
        ValueError: fewer than two, or values that are not finite.
    """
    differences = np.asarray(differences, dtype=np.float64)
    n = len(differences)
    if n < 2 or not np.isfinite(differences).all():
        raise ValueError(f"an effect needs two finite differences at least, and has {np.isfinite(differences).sum()}")
    mean, deviation = float(differences.mean()), float(differences.std(ddof=1))
    if deviation == 0:
        return Effect(n, mean, mean, mean, "t", math.copysign(math.inf, mean) if mean else 0.0, sign_flip(differences))
    if n >= BCA_FROM:
        found = stats.bootstrap((differences,), np.mean, method="BCa", rng=np.random.default_rng(SEED))
        low, high, method = float(found.confidence_interval.low), float(found.confidence_interval.high), "BCa"
    else:
        half = float(stats.t.ppf(0.975, n - 1)) * deviation / math.sqrt(n)
        low, high, method = mean - half, mean + half, "t"
    correction = 1 - 3 / (4 * (n - 1) - 1) if n > 2 else math.nan  # with two it would be 0
    return Effect(n, mean, low, high, method, correction * mean / deviation, sign_flip(differences))


def signs(n: int) -> tuple[Floats, bool]:
    """Signs [flips, n] for a sign-flip test, and whether they are all that there are. The first row has no flips."""
    if n <= EXACT_UP_TO:
        return np.array(list(itertools.product((1.0, -1.0), repeat=n))), True
    drawn = np.random.default_rng(SEED).choice((1.0, -1.0), size=(RESAMPLES + 1, n))
    drawn[0] = 1.0
    return drawn, False


def sign_flip(differences: Floats) -> float:
    """Two-sided p of the mean of n paired differences: the share of sign flips whose |mean| is as large.

    Exact for n <= 14; with 9999 random flips (the observed one counted in) for more.
    """
    flips, _ = signs(len(differences))
    means = np.abs(flips @ differences)
    return float(np.mean(means >= means[0] * (1 - 1e-12)))


def least_p(n: int) -> float:
    """The smallest two-sided p that n pairs can give."""
    return 2 / 2**n if n <= EXACT_UP_TO else 1 / (RESAMPLES + 1)


def max_t(differences: Floats) -> Floats:
    """p of each column of paired differences [n, m], for the whole family: the share of flips whose greatest |t| is as
    large as the column's (Westfall and Young 1993). Columns without any spread get NaN."""
    n, m = differences.shape
    flips, _ = signs(n)
    means = flips @ differences / n
    squares = (differences**2).sum(0)
    variance = np.maximum(squares / n - means**2, 0) * n / (n - 1)
    usable = np.ptp(differences, axis=0) > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(usable, np.abs(means) / np.sqrt(variance / n), np.nan)
    largest = np.nanmax(np.where(usable, t, -np.inf), axis=1) if usable.any() else np.full(len(flips), -np.inf)
    found = np.array([np.mean(largest >= t[0, j] * (1 - 1e-9)) for j in range(m)])
    return np.where(usable, found, np.nan)


def false_discovery(p: Floats) -> Floats:
    """Benjamini and Hochberg's adjusted p; NaN stays NaN."""
    found = np.full(len(p), np.nan)
    known = np.isfinite(p)
    if known.any():
        found[known] = stats.false_discovery_control(p[known])
    return found


def pairs_needed(size: float, power: float = 0.8, alpha: float = 0.05) -> int | None:
    """Pairs for which a two-sided paired t test finds an effect of d_z = `size` with this power; None for none."""
    if not abs(size) > 1e-3:
        return None
    if math.isinf(size):
        return 2
    low, high = 1, 2
    while _power(size, high, alpha) < power:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _power(size, middle, alpha) < power else (low, middle)
    return high


def _power(size: float, n: int, alpha: float) -> float:
    if n < 2:
        return 0.0
    critical, shift = stats.t.ppf(1 - alpha / 2, n - 1), abs(size) * math.sqrt(n)
    return float(stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift))


def is_within(differences: Floats, margin: float, alpha: float = 0.05) -> bool:
    """Whether the mean is shown to lie within -margin to margin: two one-sided t tests (Schuirmann 1987)."""
    n = len(differences)
    half = float(stats.t.ppf(1 - alpha, n - 1)) * float(differences.std(ddof=1)) / math.sqrt(n)
    return bool(abs(differences.mean()) + half < margin)


def within_seed_permutations(n: int, groups: int, count: int = RESAMPLES) -> NDArray[np.int64]:
    """[count + 1, n, groups] orders of the groups within each of n seeds; the first leaves all in place."""
    random = np.random.default_rng(SEED)
    orders = np.argsort(random.random((count + 1, n, groups)), axis=2)
    orders[0] = np.arange(groups)
    return orders


def omnibus(values: Floats, count: int = 1999) -> float:
    """p of a within-seed permutation test that any of several groups differs: values [n, groups] of one metric."""
    n, groups = values.shape
    orders = within_seed_permutations(n, groups, count)
    permuted = np.take_along_axis(values[None], orders, axis=2)
    between = ((permuted.mean(1) - values.mean()) ** 2).sum(1)
    return float(np.mean(between >= between[0] * (1 - 1e-12)))


def null_splits(values: Floats, splits: int = 500, seed: int = SEED) -> tuple[Floats, Floats]:
    """A/A: differences between random halves of one group, and the p of a sign-flip test on their random pairs.

    Args:
        values: [n] of one metric of one group.

    Returns:
        Differences of the halves' means, and p, [splits] each.
    """
    random = np.random.default_rng(seed)
    half = len(values) // 2
    differences, found = np.empty(splits), np.empty(splits)
    for split in range(splits):
        order = random.permutation(len(values))
        pairs = values[order[:half]] - values[order[half : 2 * half]]
        differences[split], found[split] = pairs.mean(), sign_flip(pairs)
    return differences, found
