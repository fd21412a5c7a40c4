"""Differences between groups in each metric, paired by seed, with intervals and family-wise p."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wantui.analysis.final_states import SPREAD_METRIC
from wantui.analysis.groups import Group
from wantui.analysis.statistics import (
    Effect,
    Floats,
    adjust_false_discovery,
    compute_paired_effect,
    compute_ratio_interval,
    compute_t_statistic,
    count_pairs_needed,
    draw_within_seed_permutations,
    run_max_t_test,
)
from wantui.analysis.trajectory import METRICS
from wantui.formatting import format_percent_change

ALPHA = 0.05
ROUNDING_TOLERANCE = 1e-10
"""Relative difference up to which two values count as equal."""
GroupPairs = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Difference:
    """Difference of one metric between two groups."""

    metric: str
    first: str
    second: str
    effect: Effect
    share: float
    """Difference relative to the second group's mean: 0.1 is 10 % more. NaN for logarithms, which have no ratio."""
    low: float
    high: float
    """95 % interval of the share, with both means uncertain (Fieller)."""
    family_p: float
    """p over all metrics and pairs of groups (max-T); at least the sign-flip p of this pair."""
    discovery_p: float
    """Benjamini-Hochberg adjusted p over all metrics and pairs of groups."""
    needed: int | None
    """Number of seeds that detect a difference of the equivalence margin with a power of 0.8."""
    phrasings: int
    """Number of phrasings that both groups share."""
    phrasing_p: float
    """Sign-flip p with phrasings as units instead of seeds; NaN with fewer than two phrasings."""


def is_ratio_metric(metric: str) -> bool:
    """Return whether a relative difference of the metric is meaningful."""
    return metric == SPREAD_METRIC or METRICS[metric].is_ratio


def compute_family_p(values: Floats, pairs: GroupPairs, pairwise_p: Floats) -> Floats:
    """Return max-T p [pairs, metrics] over the whole family, with groups permuted within units.

    With three or more groups, all groups are permuted. That allows more orders than the signs of one pair, so p could
    fall below the p of the pair's own test, which assumes nothing about the other groups. The larger p is returned.

    Args:
        values: [units, groups, metrics].
        pairwise_p: [pairs, metrics] sign-flip p of each pair alone.
    """
    n, groups, metrics = values.shape
    if groups == 2:
        return run_max_t_test(values[:, 0] - values[:, 1])[None]
    first_groups, second_groups = [i for i, _ in pairs], [j for _, j in pairs]
    max_t_chunks: list[Floats] = []
    observed = np.empty(0)
    orders = draw_within_seed_permutations(n, groups)
    for order_chunk in np.array_split(orders, max(1, len(orders) * n * len(pairs) * metrics // 2_000_000)):
        permuted = np.take_along_axis(values[None], order_chunk[..., None], axis=2)
        differences = permuted[:, :, first_groups] - permuted[:, :, second_groups]
        t = compute_t_statistic(differences.mean(1), differences.var(axis=1, ddof=1), n).reshape(len(order_chunk), -1)
        observed = t[0] if not max_t_chunks else observed
        max_t_chunks.append(t.max(1))
    max_t = np.concatenate(max_t_chunks)
    adjusted = np.array([np.mean(max_t >= t * (1 - 1e-9)) for t in observed])
    return np.maximum(adjusted.reshape(len(pairs), metrics), pairwise_p)


def equalise_within_rounding(cells: Floats) -> Floats:
    """Make values [..., groups, metrics] equal that differ between groups only by rounding.

    Otherwise the rounding of a constant metric could have the same sign for all seeds, and be "significant".
    """
    order = np.argsort(cells, axis=-2)
    ascending = np.take_along_axis(cells, order, axis=-2)
    for group in range(1, cells.shape[-2]):
        below, above = ascending[..., group - 1, :], ascending[..., group, :]
        with np.errstate(invalid="ignore"):
            ascending[..., group, :] = np.where(above - below <= ROUNDING_TOLERANCE * np.abs(above), below, above)
    result = np.empty_like(cells)
    np.put_along_axis(result, order, ascending, axis=-2)
    return result


def compare_pairs(
    groups: Sequence[Group], names: Sequence[str], cells: Floats, pairs: GroupPairs, margin: float
) -> list[Difference]:
    """Return the difference of each pair of groups in each metric.

    Args:
        cells: values [seeds, phrasings, groups, metrics].
        margin: equivalence margin, as a share of the mean (for logarithms, as an amount).
    """
    values, by_phrasing = cells.mean(1), cells.mean(0)
    effects = [[compute_paired_effect(values[:, i, m] - values[:, j, m]) for m in range(len(names))] for i, j in pairs]
    raw = np.array([[effect.p for effect in row] for row in effects])
    family = compute_family_p(values, pairs, raw)
    discovery = adjust_false_discovery(raw.ravel()).reshape(family.shape)
    result = []
    for k, (i, j) in enumerate(pairs):
        for m, name in enumerate(names):
            first_values, second_values = values[:, i, m], values[:, j, m]
            share, low, high = (
                _compute_relative_difference(first_values, second_values)
                if is_ratio_metric(name)
                else (float("nan"),) * 3
            )
            phrasings = by_phrasing[:, i, m] - by_phrasing[:, j, m]
            min_difference = margin * abs(float(second_values.mean())) if is_ratio_metric(name) else margin
            tests = len(pairs) * (1 if m == 0 else len(names))
            result.append(
                Difference(
                    name,
                    groups[i].name,
                    groups[j].name,
                    effects[k][m],
                    share,
                    low,
                    high,
                    float(family[k, m]),
                    float(discovery[k, m]),
                    _count_seeds_needed(first_values - second_values, min_difference, tests),
                    len(phrasings),
                    compute_paired_effect(phrasings).p if len(phrasings) > 1 else float("nan"),
                )
            )
    return result


def _compute_relative_difference(first_values: Floats, second_values: Floats) -> tuple[float, float, float]:
    """Return the difference as a share of the second mean, with its interval."""
    mean = float(second_values.mean())
    if mean == 0:
        return float("nan"), float("nan"), float("nan")
    low, high = compute_ratio_interval(first_values, second_values)
    sign = 1 if mean > 0 else -1
    low, high = sorted((sign * (low - 1), sign * (high - 1)))
    return float((first_values - second_values).mean()) / abs(mean), low, high


def _count_seeds_needed(paired_differences: Floats, min_difference: float, test_count: int) -> int | None:
    deviation = float(paired_differences.std(ddof=1))
    return count_pairs_needed(min_difference / deviation, alpha=ALPHA / test_count) if deviation > 0 else None


def format_interval(difference: Difference) -> str:
    """Format a difference with its interval: in percent, or in the metric's unit if ratios are meaningless."""
    if np.isfinite([difference.share, difference.low, difference.high]).all():
        change = format_percent_change(difference.share)
        low, high = format_percent_change(difference.low), format_percent_change(difference.high)
        return f"{change} (95 % interval {low} to {high})"
    unit = "" if difference.metric == SPREAD_METRIC else f" {METRICS[difference.metric].unit}".rstrip()
    e = difference.effect
    return f"{e.mean:+.3g}{unit} (95 % interval {e.low:+.3g} to {e.high:+.3g})"
