"""Rank correlations of metrics with other values of the same videos, such as attention or external labels.

Two questions must not be mixed, because videos differ by seed and by variation:

across seeds: of two videos of one variation, does the one with the larger value have the larger metric? Ranks are taken
    among the seeds of each variation, which removes differences between variations; rho is Spearman's, averaged over
    variations. Under the null hypothesis, the values of whole seeds can be exchanged: the test permutes seeds, and
    keeps the videos of one seed together.
across variations: of two videos of one seed, does the one with the larger value have the larger metric? Ranks are taken
    among the variations of each seed; rho is averaged over seeds. The test permutes variations, and keeps the videos of
    one variation together: the same prompt with many seeds is one prompt. Everything else that differs between the
    prompts can cause such a correlation.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from wantui.analysis.arrays import FloatArray, split_rows
from wantui.analysis.differences import SIGNIFICANCE_LEVEL
from wantui.analysis.statistics import MAX_EXACT_PERMUTATIONS, RANDOM_SEED, RESAMPLE_COUNT, compute_t_quantile

ACROSS_SEEDS, ACROSS_VARIATIONS = "seeds", "variations"
MIN_SEEDS = 4
"""Minimum number of seeds; with fewer, no rank correlation can have p below 0.05."""
MIN_INTERVAL_UNITS = 4
"""Minimum number of seeds or variations for an interval: with three, each part of the jackknife would rank only two
units."""
TIE_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Correlation:
    """Rank correlation of a metric with another value."""

    metric: str
    covariate: str
    """Name of the other value."""
    across: str
    """seeds or variations."""
    rho: float
    """Mean of Spearman's rho over the variations (or seeds) in which both vary; NaN if there is none."""
    low: float
    """Lower end of the 95 % interval; NaN if it cannot be computed."""
    high: float
    p: float
    """Two-sided permutation p of this correlation alone."""
    family_p: float
    """p over all metrics and values: the share of permutations whose largest |rho| is at least |rho|."""
    min_attainable_p: float
    """Smallest p that this number of seeds (or variations) can give."""
    is_settled: bool = True
    """False for a metric that depends on the steps of the sampler at every stride."""

    @property
    def is_found(self) -> bool:
        """Return whether the overall p value is significant and the interval, if there is one, excludes 0.

        It is False for metrics that have not settled, because they measure the sampler's steps or rounding.
        """
        return self.is_settled and self.family_p <= SIGNIFICANCE_LEVEL and not self.low <= 0 <= self.high

    @property
    def label(self) -> str:
        """Return the metric, marked if it has not settled."""
        return self.metric if self.is_settled else f"{self.metric} (not settled)"


@dataclass(frozen=True)
class MergedCorrelation:
    """A correlation of a metric with one value, or with several that order the videos alike."""

    covariates: tuple[str, ...]
    correlation: Correlation


def find_clearest_correlation(correlations: Sequence[Correlation]) -> Correlation:
    """Return the clearest correlation.

    Significant correlations come first, then settled metrics, then the smallest overall p value, then the strongest
    correlation.
    """
    return min(correlations, key=lambda item: (not item.is_found, not item.is_settled, item.family_p, -abs(item.rho)))


def merge_equal_correlations(correlations: Sequence[Correlation]) -> list[MergedCorrelation]:
    """Merge correlations of one metric that have equal rho, interval and p."""
    items_by_key: dict[tuple[str, ...], list[Correlation]] = {}
    for item in correlations:
        numbers = (item.rho, item.low, item.high, item.p, item.family_p)
        items_by_key.setdefault((item.metric, *(f"{number:.9g}" for number in numbers)), []).append(item)
    return [MergedCorrelation(tuple(item.covariate for item in items), items[0]) for items in items_by_key.values()]


def correlate_values(
    metrics: dict[str, FloatArray], covariates: dict[str, FloatArray], across: str
) -> list[Correlation]:
    """Return the correlation of each metric with each covariate.

    Args:
        metrics: values [variations, seeds] of each metric.
        covariates: values [variations, seeds] of each covariate.
        across: seeds or variations.
    """
    # [names, blocks, units]: ranks are taken among the units of a block
    metric_values, covariate_values = (
        np.stack([values if across == ACROSS_SEEDS else values.T for values in values_by_name.values()])
        for values_by_name in (metrics, covariates)
    )
    observed, p, family_p = _test_correlations(metric_values, covariate_values)
    min_p = compute_min_permutation_p(*metric_values.shape[1:])
    correlations = []
    for (c, covariate), (m, metric) in itertools.product(enumerate(covariates), enumerate(metrics)):
        low, high = compute_rho_interval(metric_values[m], covariate_values[c])
        values = (float(observed[c, m]), low, high, float(p[c, m]), float(family_p[c, m]))
        correlations.append(Correlation(metric, covariate, across, *values, min_p))
    return correlations


def compute_mean_rho(values: FloatArray, others: FloatArray) -> float:
    """Return the mean of Spearman's rho over the blocks [blocks, units] in which both values vary; NaN if none."""
    ranks, other_ranks = _standardise_ranks(values), _standardise_ranks(others)
    varies = (ranks != 0).any(-1) & (other_ranks != 0).any(-1)
    return float((ranks * other_ranks).sum(-1)[varies].mean()) if varies.any() else math.nan


def _standardise_ranks(values: FloatArray) -> FloatArray:
    """Return ranks along the last axis, centred and of unit length; 0 where all values are equal."""
    ranks = stats.rankdata(values, axis=-1)
    ranks -= ranks.mean(-1, keepdims=True)
    lengths = np.sqrt((ranks**2).sum(-1, keepdims=True))
    return np.divide(ranks, lengths, out=np.zeros_like(ranks), where=lengths > 0)


def _test_correlations(
    metric_values: FloatArray, covariate_values: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return rho, p and the overall p value, each [covariates, metrics], from values [names, blocks, units]."""
    metric_ranks, covariate_ranks = _standardise_ranks(metric_values), _standardise_ranks(covariate_values)
    metric_count, _, unit_count = metric_ranks.shape
    varies = (covariate_ranks != 0).any(-1)[:, None] & (metric_ranks != 0).any(-1)[None]
    block_counts = varies.sum(-1)
    orders = draw_unit_orders(unit_count)
    flat_metrics = metric_ranks.reshape(metric_count, -1).T
    chunks = []
    for order_chunk in split_rows(orders, covariate_ranks.size):
        permuted = np.moveaxis(covariate_ranks[..., order_chunk], 2, 0)
        sums = permuted.reshape(len(order_chunk), len(covariate_ranks), -1) @ flat_metrics
        with np.errstate(invalid="ignore"):
            chunks.append(sums / block_counts)
    observed, null = chunks[0][0], np.nan_to_num(np.abs(np.concatenate(chunks)))
    bounds = np.abs(observed) - TIE_TOLERANCE
    p = np.where(np.isnan(bounds), np.nan, (null >= np.nan_to_num(bounds)).mean(0))
    largest = null.max((1, 2))
    family_p = np.array([[np.mean(largest >= bound) if bound == bound else np.nan for bound in row] for row in bounds])
    return observed, p, family_p


def draw_unit_orders(unit_count: int) -> NDArray[np.int64]:
    """Return orders [m, units] of whole seeds or variations; all blocks share an order.

    Return all orders if there are at most MAX_EXACT_PERMUTATIONS; otherwise RESAMPLE_COUNT random ones and the observed
    one. The observed order is the first.
    """
    if math.factorial(unit_count) <= MAX_EXACT_PERMUTATIONS:
        return np.array(list(itertools.permutations(range(unit_count))), dtype=np.int64)
    generator = np.random.default_rng(RANDOM_SEED)
    orders = np.argsort(generator.random((RESAMPLE_COUNT + 1, unit_count)), axis=1)
    orders[0] = np.arange(unit_count)
    return orders


def compute_min_permutation_p(block_count: int, unit_count: int) -> float:
    """Return the smallest two-sided p that permuting the units can give.

    In one block, or with two units, the reverse of an order has the opposite rho, with the same absolute value.
    """
    order_count = math.factorial(unit_count)
    if order_count > MAX_EXACT_PERMUTATIONS:
        return 1 / (RESAMPLE_COUNT + 1)
    return (2 if block_count == 1 or unit_count == 2 else 1) / order_count


def compute_rho_interval(values: FloatArray, others: FloatArray) -> tuple[float, float]:
    """Return the 95 % interval of the mean rho over blocks, from values [blocks, units].

    The interval is a jackknife of Fisher's z that omits one unit of all blocks at a time, with Student's t (Miller
    1974). It is NaN with fewer than MIN_INTERVAL_UNITS units, if rho is 1, -1 or undefined when one of the units is
    omitted, or if the bias correction moves the interval away from rho, which can happen with few units and tied ranks.
    """
    unit_count = values.shape[1]
    if unit_count < MIN_INTERVAL_UNITS:
        return math.nan, math.nan
    full = compute_mean_rho(values, others)
    parts = np.array(
        [compute_mean_rho(np.delete(values, unit, 1), np.delete(others, unit, 1)) for unit in range(unit_count)]
    )
    if not (abs(full) < 1 - TIE_TOLERANCE and (np.abs(parts) < 1 - TIE_TOLERANCE).all()):
        return math.nan, math.nan
    pseudovalues = unit_count * math.atanh(full) - (unit_count - 1) * np.arctanh(parts)
    half_width = compute_t_quantile(0.975, unit_count - 1) * pseudovalues.std(ddof=1) / math.sqrt(unit_count)
    low, high = (float(np.tanh(pseudovalues.mean() + sign * half_width)) for sign in (-1, 1))
    return (low, high) if low <= full <= high else (math.nan, math.nan)
