"""Tests and intervals for paired differences: the video is the unit, seeds are blocks.

Videos of one seed share their initial noise. Under the hypothesis that two groups are alike, the values of one seed can
be exchanged between them: tests permute within seeds, and the difference of a seed has either sign with equal chance.
"""

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Floats = NDArray[np.float64]
EXACT_UP_TO = 14
"""Pairs for which all 2^n signs are tried."""
RESAMPLES = 9999
SEED = 20240229
"""Seed of all random draws, so that a report is reproducible."""
EXACT_ORDERS = 1 << EXACT_UP_TO
"""Permutations within blocks that are all tried; beyond, `RESAMPLES` are drawn. More than RESAMPLES, so that no drawn
p, 1 / (RESAMPLES + 1) at least, falls below the least that exists."""
LARGE_SHIFT = 1e4
"""Noncentrality beyond which the noncentral t distribution is that of its shift over a scaled chi."""


@dataclass(frozen=True)
class Effect:
    """The mean of paired differences, with its size and interval."""

    n: int
    mean: float
    low: float
    high: float
    """95 % interval of the mean."""
    size: float
    """d_z with Hedges' correction: mean over standard deviation of the differences, times 1 - 3 / (4 (n - 1) - 1).
    NaN for two differences, for which that is no correction."""
    p: float
    """Two-sided, of a sign-flip test of the mean."""
    method: str = "t"
    """Method that computed the interval."""


def effect(differences: Floats) -> Effect:
    """Return the effect of n paired differences, with Student's interval.

    Raises:
        ValueError: fewer than two, or values that are not finite.
    """
    differences = np.asarray(differences, dtype=np.float64)
    n = len(differences)
    if n < 2 or not np.isfinite(differences).all():
        raise ValueError(f"an effect needs two finite differences at least, and has {np.isfinite(differences).sum()}")
    mean, deviation = float(differences.mean()), float(differences.std(ddof=1))
    if deviation == 0:
        return Effect(n, mean, mean, mean, math.copysign(math.inf, mean) if mean else 0.0, sign_flip(differences))
    half = _t_quantile(0.975, n - 1) * deviation / math.sqrt(n)
    correction = 1 - 3 / (4 * (n - 1) - 1) if n > 2 else math.nan  # with two it would be 0
    return Effect(n, mean, mean - half, mean + half, correction * mean / deviation, sign_flip(differences))


def ratio_interval(values: Floats, reference: Floats, level: float = 0.95) -> tuple[float, float]:
    """Return the interval of mean(values) / mean(reference), of n pairs (Fieller 1954).

    The ratio r is in it where a t test of values - r reference finds no mean other than 0: both means are uncertain,
    and the interval holds 1 exactly where Student's interval of the difference holds 0. NaN where the mean of the
    reference may be 0, so that the ratio has no bound.
    """
    n = len(values)
    t2 = _t_quantile((1 + level) / 2, n - 1) ** 2 / n
    a, b = float(values.mean()), float(reference.mean())
    (vaa, vab), (_, vbb) = np.cov(values, reference) * t2
    # The roots of (a - r b)^2 = t^2 var(values - r reference) / n.
    square, linear, constant = b * b - vbb, a * b - vab, a * a - vaa
    inside = linear * linear - square * constant
    if square <= 0 or inside < 0:
        return math.nan, math.nan
    root = math.sqrt(inside)
    return (linear - root) / square, (linear + root) / square


@lru_cache(maxsize=8)
def signs(n: int) -> tuple[Floats, bool]:
    """Return signs [flips, n] for a sign-flip test, and whether they are all that there are. The first row has no
    flips."""
    if n <= EXACT_UP_TO:
        drawn = np.array(list(itertools.product((1.0, -1.0), repeat=n)))
    else:
        drawn = np.random.default_rng(SEED).choice((1.0, -1.0), size=(RESAMPLES + 1, n))
        drawn[0] = 1.0
    drawn.flags.writeable = False
    return drawn, n <= EXACT_UP_TO


def sign_flip(differences: Floats) -> float:
    """Return the two-sided p of the mean of n paired differences: the share of sign flips whose |mean| is as large.

    Exact for n <= 14; with 9999 random flips (the observed one counted in) for more.
    """
    flips, _ = signs(len(differences))
    means = np.abs(flips @ differences)
    return float(np.mean(means >= means[0] * (1 - 1e-12)))


def min_attainable_p(n: int) -> float:
    """Return the smallest two-sided p that n pairs can give."""
    return 2 / 2**n if n <= EXACT_UP_TO else 1 / (RESAMPLES + 1)


def max_t(differences: Floats) -> Floats:
    """Return p of each column of paired differences [n, m], for the whole family: the share of flips whose greatest |t|
    is as large as the column's (Westfall and Young 1993)."""
    n, m = differences.shape
    flips, _ = signs(n)
    means = flips @ differences / n
    variance = (differences**2).mean(0) - means**2
    t = t_statistic(means, np.maximum(variance, 0) * n / (n - 1), n)
    largest = t.max(1)
    return np.array([np.mean(largest >= t[0, j] * (1 - 1e-9)) for j in range(m)])


def t_statistic(means: Floats, variance: Floats, n: int) -> Floats:
    """Return |t| of means of n values: infinite where all are equal but not 0, and 0 where all are 0."""
    equal = variance <= 1e-14 * means**2
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(means) / np.sqrt(variance / n)
    return np.where(equal, np.where(means != 0, np.inf, 0.0), t)


def false_discovery(p: Floats) -> Floats:
    """Benjamini and Hochberg's adjusted p; NaN stays NaN."""
    adjusted = np.full(len(p), np.nan)
    known = np.isfinite(p)
    if known.any():
        adjusted[known] = stats.false_discovery_control(p[known])
    return adjusted


def pairs_needed(size: float, power: float = 0.8, alpha: float = 0.05) -> int | None:
    """Return the pairs with which a two-sided test finds an effect of d_z = `size` with this power; None for none.

    `size` is the smallest effect of interest, declared in advance; the observed effect would only restate its p (Hoenig
    and Heisey 2001). Power is that of a paired t test, and never fewer pairs than a sign-flip test needs.
    """
    if not abs(size) > 1e-3:
        return None
    least = next(n for n in itertools.count(2) if min_attainable_p(n) <= 0.05)
    low, high = least - 1, least
    while _power(size, high, alpha) < power:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _power(size, middle, alpha) < power else (low, middle)
    # With the fewest pairs a sign-flip test needs all of them to have the same sign.
    return high + int(high == least and float(special.ndtr(abs(size))) ** least < power)


def _power(size: float, n: int, alpha: float) -> float:
    """Return the power of a two-sided paired t test, by its near side; the far one adds less than 1e-5 to 0.8."""
    if n < 2:
        return 0.0
    critical, shift = _t_quantile(1 - alpha / 2, n - 1), abs(size) * math.sqrt(n)
    if shift > LARGE_SHIFT:  # nctdtr gives NaN there
        return float(special.chdtr(n - 1, (n - 1) * min(shift / critical, 1e9) ** 2))
    # stats.nct.cdf gives NaN far below the shift, which compares as too little power and as enough.
    return 1 - float(special.nctdtr(n - 1, shift, critical))


@lru_cache(maxsize=1024)
def _t_quantile(p: float, degrees: int) -> float:
    """Return the quantile of Student's t distribution; many times as fast as stats.t.ppf."""
    return float(special.stdtrit(degrees, p))


def is_equivalent(differences: Floats, margin: float, alpha: float = 0.05) -> bool:
    """Return whether the mean is shown to be within -margin to margin: two one-sided t tests (Schuirmann 1987)."""
    n = len(differences)
    half = _t_quantile(1 - alpha, n - 1) * float(differences.std(ddof=1)) / math.sqrt(n)
    return bool(abs(differences.mean()) + half < margin)


def is_ratio_equivalent(values: Floats, reference: Floats, margin: float, alpha: float = 0.05) -> bool:
    """Return whether mean(values) / mean(reference) is shown to be within 1 - margin to 1 + margin.

    Two one-sided t tests, of values - (1 + margin) reference and values - (1 - margin) reference: the mean of the
    reference is not taken as known.
    """
    if reference.mean() < 0:
        values, reference = -values, -reference
    n = len(values)
    t = _t_quantile(1 - alpha, n - 1) / math.sqrt(n)
    above, below = values - (1 + margin) * reference, values - (1 - margin) * reference
    return bool(above.mean() + t * above.std(ddof=1) < 0 < below.mean() - t * below.std(ddof=1))


def within_seed_permutations(n: int, groups: int, count: int = RESAMPLES) -> NDArray[np.int64]:
    """Return orders [m, n, groups] of the groups within each of n seeds; the first leaves all in place.

    All that there are, up to a renaming of the groups, where they are few: the first seed keeps its order then, as
    every statistic here is the same when the groups are renamed. Else that order and `count` drawn ones.
    """
    if math.factorial(groups) ** (n - 1) <= EXACT_ORDERS:
        each = np.array(list(itertools.permutations(range(groups))), dtype=np.int64)
        which = np.array(list(itertools.product(range(len(each)), repeat=n - 1)), dtype=np.int64)
        others = each[which.reshape(len(which), n - 1)]
        first = np.broadcast_to(each[0], (len(which), 1, groups))
        return np.concatenate([first, others], axis=1)
    random = np.random.default_rng(SEED)
    orders = np.argsort(random.random((count + 1, n, groups)), axis=2)
    orders[0] = np.arange(groups)
    return orders


def omnibus(values: Floats) -> float:
    """Return p of a within-seed permutation test that any of several groups differs: values [n, groups] of one
    metric."""
    n, groups = values.shape
    if np.ptp(values, axis=1).max() <= 1e-10 * np.abs(values).max():
        return 1.0  # equal but for rounding, which would order permutations by chance
    orders = within_seed_permutations(n, groups)
    permuted = np.take_along_axis(values[None], orders, axis=2)
    between = ((permuted.mean(1) - values.mean()) ** 2).sum(1)
    return float(np.mean(between >= between[0] * (1 - 1e-9)))
