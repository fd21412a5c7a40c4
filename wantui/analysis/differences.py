"""Differences between groups in each metric, paired by seed, with intervals and family-wise p."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from wantui.analysis.arrays import CACHED_CHUNK_VALUES, FloatArray, split_rows
from wantui.analysis.final_states import SPREAD_METRIC
from wantui.analysis.group import Group
from wantui.analysis.metrics import METRICS, describe_ratio_base, get_metric_unit, get_ratio_origin
from wantui.analysis.permutation_p import compute_family_wise_p
from wantui.analysis.permuted_differences import PermutedDifferences
from wantui.analysis.statistics import (
    Effect,
    adjust_false_discovery,
    compute_paired_effects,
    compute_ratio_interval,
    count_pairs_needed,
    draw_within_seed_permutations,
    run_max_t_test,
    run_sign_flip_tests,
)
from wantui.formatting import format_interval, format_percent_change

SIGNIFICANCE_LEVEL = 0.05
"""Largest p that counts as significant."""
P_HEADER = "p, corrected"
"""Header of the p column; each p is corrected for all tests of one answer."""
ROUNDING_TOLERANCE = 1e-10
"""Relative difference up to which two values count as equal."""
DECIMALS_BY_LIMIT = ((10, 0), (0.01, 1), (0.001, 2))
"""Number of decimals in percentages, by the smallest absolute change to which it applies."""
MAX_DECIMALS = 3
"""Number of decimals in percentages for smaller changes."""
GroupIndexPairs = Sequence[tuple[int, int]]
"""Indices of the first and the second group of each compared pair."""


@dataclass(frozen=True)
class Difference:
    """Difference of one metric between two groups."""

    metric: str
    first_group: str
    second_group: str
    paired_effect: Effect
    relative_difference: float
    """Difference relative to the distance of the second group's mean from the metric's `ratio_origin`: 0.1 is 10 %
    more. NaN for logarithms, which have no ratio."""
    relative_low: float
    relative_high: float
    """95 % interval of the share, with both means uncertain (Fieller); NaN if one of the means may be 0."""
    is_relative: bool
    """Whether texts give the difference in percent: if all compared pairs of the metric have a share, here and in the
    comparison at cfg_scale 1, so that all differences of a metric have one unit."""
    family_p: float
    """p over all metrics and pairs of groups (max-T); at least the sign-flip p of this pair."""
    discovery_p: float
    """Benjamini-Hochberg adjusted p over all metrics and pairs of groups."""
    seeds_needed: int | None
    """Number of seeds at which a difference as large as the equivalence margin is detected with a power of 0.8."""
    phrasing_count: int
    """Number of phrasings that both groups share."""
    phrasing_p: float
    """Sign-flip p with phrasings as units instead of seeds; NaN with fewer than two phrasings."""
    seed_values: FloatArray = field(compare=False, repr=False)
    """Values [seeds, 2] of both groups, averaged over phrasings."""

    def compute_seed_effects(self, is_relative: bool) -> FloatArray:
        """Return effects [seeds] whose mean is the effect: the differences of the seeds, in the metric's unit.

        If the effects are relative, their mean is `relative_difference`. A single seed has no ratio of means, so each
        seed gets the linearised ratio (the delta method), whose scatter over seeds is that of the ratio.
        """
        first, second = self.seed_values.T
        if not is_relative:
            return np.asarray(first - second)
        origin = get_ratio_origin(self.metric)
        reference_mean = float(second.mean()) - origin
        ratio = (float(first.mean()) - origin) / reference_mean
        residuals = (first - origin - ratio * (second - origin)) / abs(reference_mean)
        return np.asarray(self.relative_difference + residuals)


def is_ratio_metric(metric: str) -> bool:
    """Return whether a relative difference of the metric is meaningful; False for labels, whose scale is unknown."""
    return metric == SPREAD_METRIC or (metric in METRICS and METRICS[metric].has_ratio_scale)


def compute_family_p(values: FloatArray, group_pairs: GroupIndexPairs, pairwise_p: FloatArray) -> FloatArray:
    """Return max-T p [pairs, metrics] over the whole family, with groups permuted within units.

    With three or more groups, the largest of three p is returned. Permutations of all groups assume that the groups can
    be exchanged, and mix the scatter of groups with unequal variances. Sign flips change the signs of all differences
    of a unit together; they keep the scatter of each group, but assume symmetric differences. Permutations have more
    orders than the signs of one pair, so p could fall below the p of the pair's own test, which does not depend on
    other groups.

    Args:
        values: [units, groups, metrics].
        pairwise_p: [pairs, metrics] sign-flip p of each pair alone.
    """
    unit_count, group_count, metric_count = values.shape
    if group_count == 2:
        return run_max_t_test(values[:, 0] - values[:, 1])[None]
    permuted = PermutedDifferences(values, group_pairs)
    orders = draw_within_seed_permutations(unit_count, group_count)
    order_chunks = split_rows(orders, permuted.values_per_order, CACHED_CHUNK_VALUES)
    permuted_p = compute_family_wise_p(
        np.abs(permuted.compute_t(chunk)).reshape(len(chunk), -1) for chunk in order_chunks
    )
    pair_differences = np.stack([values[:, i] - values[:, j] for i, j in group_pairs], axis=1)
    flipped_p = run_max_t_test(pair_differences.reshape(unit_count, -1))
    return np.maximum(np.maximum(permuted_p, flipped_p).reshape(len(group_pairs), metric_count), pairwise_p)


def remove_rounding_differences(values: FloatArray) -> FloatArray:
    """Equalise values [..., groups, metrics] that differ between groups only by rounding.

    Otherwise the rounding of a constant metric could have the same sign for all seeds, and be "significant".
    """
    sort_order = np.argsort(values, axis=-2)
    sorted_values = np.take_along_axis(values, sort_order, axis=-2)
    for group in range(1, values.shape[-2]):
        below, above = sorted_values[..., group - 1, :], sorted_values[..., group, :]
        with np.errstate(invalid="ignore"):
            sorted_values[..., group, :] = np.where(above - below <= ROUNDING_TOLERANCE * np.abs(above), below, above)
    equalised_values = np.empty_like(values)
    np.put_along_axis(equalised_values, sort_order, sorted_values, axis=-2)
    return equalised_values


@dataclass(frozen=True)
class PairEffects:
    """Uncorrected tests of each pair of groups in each metric; all corrections start from them."""

    seed_effects: list[list[Effect]]
    """[pairs][metrics] effects with seeds as units."""
    phrasing_p: FloatArray
    """[pairs, metrics] p with phrasings as units; NaN with one phrasing."""

    def select_metrics(self, columns: Sequence[int]) -> "PairEffects":
        """Return the tests of the metrics in some columns."""
        return PairEffects([[row[m] for m in columns] for row in self.seed_effects], self.phrasing_p[:, list(columns)])


def compute_pair_effects(cell_values: FloatArray, group_pairs: GroupIndexPairs) -> PairEffects:
    """Test each pair of groups in each metric of cell values [seeds, phrasings, groups, metrics]."""
    seed_means, phrasing_means = cell_values.mean(1), cell_values.mean(0)
    metric_count = cell_values.shape[3]
    has_phrasings = len(phrasing_means) > 1
    phrasing_p = [
        run_sign_flip_tests(phrasing_means[:, i] - phrasing_means[:, j]) if has_phrasings else [np.nan] * metric_count
        for i, j in group_pairs
    ]
    return PairEffects(
        [compute_paired_effects(seed_means[:, i] - seed_means[:, j]) for i, j in group_pairs],
        np.array(phrasing_p, dtype=np.float64).reshape(len(group_pairs), metric_count),
    )


def compare_group_pairs(
    groups: Sequence[Group],
    metric_names: Sequence[str],
    cell_values: FloatArray,
    group_pairs: GroupIndexPairs,
    equivalence_margin: float,
    effects: PairEffects,
    absolute_metrics: Collection[str] = (),
) -> list[Difference]:
    """Return the difference of each pair of groups in each metric, with p corrected for these metrics and pairs.

    Args:
        cell_values: values [seeds, phrasings, groups, metrics].
        equivalence_margin: equivalence margin, as a share of the mean's distance from the metric's `ratio_origin` (for
            logarithms, as an amount).
        effects: tests of the same pairs and metrics.
        absolute_metrics: metrics whose differences are never in percent.
    """
    seed_means, phrasing_count = cell_values.mean(1), cell_values.shape[1]
    pairwise_p = np.array([[effect.p for effect in row] for row in effects.seed_effects])
    family_p = compute_family_p(seed_means, group_pairs, pairwise_p)
    discovery_p = adjust_false_discovery(pairwise_p.ravel()).reshape(family_p.shape)
    shares = compute_shares(metric_names, seed_means, group_pairs)
    is_relative = [
        name not in absolute_metrics and bool(np.isfinite(shares[:, m]).all()) for m, name in enumerate(metric_names)
    ]
    differences = []
    for k, (i, j) in enumerate(group_pairs):
        for m, name in enumerate(metric_names):
            first_values, second_values = seed_means[:, i, m], seed_means[:, j, m]
            relative_difference, relative_low, relative_high = map(float, shares[k, m])
            min_difference = equivalence_margin
            if is_ratio_metric(name):
                min_difference *= abs(float(second_values.mean()) - get_ratio_origin(name))
            test_count = len(group_pairs) * (1 if m == 0 else len(metric_names))
            differences.append(
                Difference(
                    metric=name,
                    first_group=groups[i].name,
                    second_group=groups[j].name,
                    paired_effect=effects.seed_effects[k][m],
                    relative_difference=relative_difference,
                    relative_low=relative_low,
                    relative_high=relative_high,
                    is_relative=is_relative[m],
                    family_p=float(family_p[k, m]),
                    discovery_p=float(discovery_p[k, m]),
                    seeds_needed=_count_seeds_needed(first_values - second_values, min_difference, test_count),
                    phrasing_count=phrasing_count,
                    phrasing_p=float(effects.phrasing_p[k, m]),
                    seed_values=np.stack([first_values, second_values], axis=1),
                )
            )
    return differences


def compute_shares(metric_names: Sequence[str], seed_means: FloatArray, group_pairs: GroupIndexPairs) -> FloatArray:
    """Return the relative differences [pairs, metrics, 3] with the ends of their intervals; NaN without a ratio.

    Args:
        seed_means: values [seeds, groups, metrics].
    """
    shares = [
        [_compute_relative_difference(name, *seed_means[:, [i, j], m].T) for m, name in enumerate(metric_names)]
        for i, j in group_pairs
    ]
    return np.array(shares).reshape(len(group_pairs), len(metric_names), 3)


def _compute_relative_difference(
    metric: str, first_values: FloatArray, second_values: FloatArray
) -> tuple[float, float, float]:
    """Return the difference relative to the second mean, with its interval; NaN if ratios are meaningless.

    Ratios are meaningless without a ratio scale, and if one of the means may be 0.

    Metrics with a ratio scale have one sign, so no group can have less than -100 % of another. An interval of the ratio
    contains 0 only if the scatter of the groups is as large as their means, and then says nothing about the ratio.

    Args:
        first_values, second_values: values [seeds].
    """
    nan, origin = float("nan"), get_ratio_origin(metric)
    first_values, second_values = first_values - origin, second_values - origin
    reference_mean = float(second_values.mean())
    if reference_mean == 0 or not is_ratio_metric(metric):
        return nan, nan, nan
    low, high = compute_ratio_interval(first_values, second_values)
    if not low > 0:
        return nan, nan, nan
    sign = 1 if reference_mean > 0 else -1
    low, high = sorted((sign * (low - 1), sign * (high - 1)))
    return float((first_values - second_values).mean()) / abs(reference_mean), low, high


def _count_seeds_needed(paired_differences: FloatArray, min_difference: float, test_count: int) -> int | None:
    deviation = float(paired_differences.std(ddof=1))
    return (
        count_pairs_needed(min_difference / deviation, alpha=SIGNIFICANCE_LEVEL / test_count) if deviation > 0 else None
    )


def format_relative_changes(changes: Sequence[float]) -> list[str]:
    """Format relative changes in percent, with signs and equally many decimals: more for small changes."""
    largest = max(abs(change) for change in changes)
    decimals = next((decimals for limit, decimals in DECIMALS_BY_LIMIT if largest >= limit), MAX_DECIMALS)
    return [format_percent_change(change, decimals) for change in changes]


def format_effect_parts(
    effect: float, low: float, high: float, unit: str = "", is_relative: bool = False, specification: str = "+.3g"
) -> tuple[str, str, str]:
    """Return the texts of an effect and its interval limits, if any; in percent if the effect is relative.

    Verdicts, answers and tables of differences between groups use this function, so that they show the same digits.
    Slopes, places and interactions have formats of their own.

    Args:
        unit: unit of the effect if it is not relative; the ends have none.
        specification: format of numbers that are not relative.
    """
    has_interval = math.isfinite(low) and math.isfinite(high)
    if is_relative:
        texts = format_relative_changes((effect, low, high) if has_interval else (effect,))
    else:
        texts = [f"{value:{specification}}" for value in ((effect, low, high) if has_interval else (effect,))]
        texts[0] = f"{texts[0]} {unit}".rstrip()
    return (texts[0], texts[1], texts[2]) if has_interval else (texts[0], "", "")


def format_difference_parts(difference: Difference) -> tuple[str, str, str]:
    """Return a difference and the ends of its interval, in percent or in the metric's unit."""
    if difference.is_relative:
        shares = (difference.relative_difference, difference.relative_low, difference.relative_high)
        return format_effect_parts(*shares, is_relative=True)
    effect = difference.paired_effect
    return format_effect_parts(
        effect.mean, effect.interval_low, effect.interval_high, get_metric_unit(difference.metric)
    )


def format_difference(difference: Difference) -> str:
    """Format a difference with its interval: in percent or in the metric's unit."""
    change, low, high = format_difference_parts(difference)
    if difference.is_relative:
        return f"{change}{describe_ratio_base(difference.metric)} (95 % interval {low} to {high})"
    return f"{change} ({describe_interval(difference.paired_effect)})"


def describe_interval(effect: Effect, specification: str = "+.3g") -> str:
    """Return the interval of an effect in words, or why the effect has no interval."""
    if not np.isfinite(effect.interval_low):
        return "no interval: all seeds have the same difference, which shows no scatter"
    return f"95 % interval {format_interval(effect.interval_low, effect.interval_high, specification)}"
