"""Dose-response: how a metric changes with the number to which a setting is set, paired by seed.

The slope of each seed is the least-squares line through its values, averaged over phrasings; a design has all values of
the setting for each seed and phrasing, so this is the mean of the slopes of the phrasings. The seed is the unit of
the tests, as for differences between groups.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wantui.analysis.arrays import FloatArray
from wantui.analysis.comparability import find_differing_settings
from wantui.analysis.differences import SIGNIFICANCE_LEVEL, describe_interval, is_ratio_metric
from wantui.analysis.group import Group
from wantui.analysis.group_names import find_grouping_parts
from wantui.analysis.metrics import describe_ratio_base, get_metric_unit, get_ratio_origin
from wantui.analysis.setting_values import list_setting_paths, shorten_path, to_number
from wantui.analysis.statistics import (
    Effect,
    adjust_false_discovery,
    compute_mean_half_width,
    compute_min_attainable_p,
    compute_paired_effect,
    compute_ratio_interval,
    count_min_pairs,
    run_max_t_test,
    run_trend_test,
)
from wantui.analysis.verdicts import MIN_PHRASINGS, format_margin, is_within_margin
from wantui.formatting import format_count, format_percent_change


@dataclass(frozen=True)
class Trend:
    """Change of one metric with a setting."""

    metric: str
    slope: Effect
    """Change of the metric for each unit of the setting, with Student's interval and sign-flip p over seeds."""
    permutation_p: float
    """p of the slope if each seed's values are permuted over the setting's values."""
    relative_slope: float
    """Slope relative to the distance of the mean from the metric's `ratio_origin`: 0.1 is 10 % of it for each unit. NaN
    without a ratio scale."""
    relative_low: float
    relative_high: float
    """95 % interval of the relative slope, with both slope and mean uncertain (Fieller)."""
    family_p: float
    """p over all metrics (max-T of the seeds' slopes)."""
    discovery_p: float
    """Benjamini-Hochberg adjusted p over all metrics."""
    phrasing_count: int
    phrasing_p: float
    """Sign-flip p with phrasings as units; NaN with fewer than two phrasings."""
    seed_values: FloatArray
    """[seeds, doses] values, averaged over phrasings."""
    means: FloatArray
    """[doses] means over seeds."""
    half_widths: FloatArray
    """[doses] half the width of Student's 95 % interval of each mean."""

    @property
    def p(self) -> float:
        """Return the larger p of the sign-flip and the permutation test."""
        return max(self.slope.p, self.permutation_p)


@dataclass(frozen=True)
class DoseResponse:
    """Change of all metrics with a setting."""

    setting_name: str
    doses: tuple[float, ...]
    """Values of the setting, rising."""
    group_names: tuple[str, ...]
    """Group name of each value."""
    trends: tuple[Trend, ...]
    """Trend of each metric, the declared metric first."""
    verdict_kind: str
    """rises, falls, flat or cannot tell."""
    verdict_text: str


def find_doses(groups: Sequence[Group], grouping: str) -> tuple[str, list[tuple[float, int]]]:
    """Return the name of the grouping setting, and pairs of (number, group index) sorted by number.

    Both are empty unless exactly one setting forms the groups, at least two of its values are numbers, and no number
    occurs twice.
    """
    videos = [video for group in groups for video in group.videos]
    numbers: list[float | None]
    if grouping == "batch":
        differing_settings = find_differing_settings(videos)
        name, numbers_by_folder = differing_settings.only_name, differing_settings.numbers_by_folder
        numbers = [numbers_by_folder.get(group.videos[0].folder) for group in groups]
    else:
        parts = find_grouping_parts(videos, grouping)
        if parts.brackets or len(parts.setting_paths) != 1:
            return "", []
        (path,) = parts.setting_paths
        name = shorten_path(path, list_setting_paths(videos))
        numbers = [to_number(group.videos[0].setting_values.get(path)) for group in groups]
    doses = sorted((number, index) for index, number in enumerate(numbers) if number is not None)
    is_distinct = len({dose for dose, _ in doses}) == len(doses)  # batches may differ in another prompt of one value
    return (name, doses) if len(doses) > 1 and is_distinct else ("", [])


def compute_dose_response(
    groups: Sequence[Group],
    grouping: str,
    metric_names: Sequence[str],
    cell_values: FloatArray,
    equivalence_margin: float,
) -> DoseResponse | None:
    """Return how each metric changes with the grouping setting, or None if that setting is not numeric.

    Args:
        metric_names: metrics, the declared metric first.
        cell_values: [seeds, phrasings, groups, metrics] values.
    """
    setting_name, numbered_groups = find_doses(groups, grouping)
    if not numbered_groups:
        return None
    doses = np.array([dose for dose, _ in numbered_groups])
    values = cell_values[:, :, [index for _, index in numbered_groups]]
    weights = _compute_slope_weights(doses)
    slopes = np.einsum("spdm,d->spm", values, weights)
    seed_slopes = slopes.mean(1)
    family_p = run_max_t_test(seed_slopes)
    permutation_p = [run_trend_test(values.mean(1)[..., m], weights) for m in range(len(metric_names))]
    effects = [compute_paired_effect(seed_slopes[:, m]) for m in range(len(metric_names))]
    p = np.array([max(effect.p, p) for effect, p in zip(effects, permutation_p, strict=True)])
    discovery_p = adjust_false_discovery(p)
    trends = tuple(
        _build_trend(
            name,
            values[..., m],
            slopes[..., m],
            effects[m],
            (permutation_p[m], float(max(family_p[m], p[m])), float(discovery_p[m])),
        )
        for m, name in enumerate(metric_names)
    )
    kind, text = _judge_trend(trends[0], setting_name, doses, weights, equivalence_margin)
    return DoseResponse(
        setting_name, tuple(doses.tolist()), tuple(groups[i].name for _, i in numbered_groups), trends, kind, text
    )


def _compute_slope_weights(doses: FloatArray) -> FloatArray:
    """Return the weights w of values y for which sum(w y) is the least-squares slope of y over the doses."""
    centred = doses - doses.mean()
    return np.asarray(centred / (centred**2).sum())


def _build_trend(
    metric: str, values: FloatArray, slopes: FloatArray, effect: Effect, p: tuple[float, float, float]
) -> Trend:
    """Return the trend of one metric.

    Args:
        values: [seeds, phrasings, doses].
        slopes: [seeds, phrasings].
        p: permutation, family-wise and adjusted p.
    """
    seed_values, phrasing_slopes = values.mean(1), slopes.mean(0)
    seed_means = seed_values.mean(1)
    relative_slope = low = high = math.nan
    distances = seed_means - get_ratio_origin(metric)
    if is_ratio_metric(metric) and distances.mean() != 0:
        sign = math.copysign(1, distances.mean())
        low, high = sorted(sign * end for end in compute_ratio_interval(slopes.mean(1), distances))
        relative_slope = effect.mean / abs(float(distances.mean()))
    permutation_p, family_p, discovery_p = p
    return Trend(
        metric=metric,
        slope=effect,
        permutation_p=permutation_p,
        relative_slope=relative_slope,
        relative_low=low,
        relative_high=high,
        family_p=family_p,
        discovery_p=discovery_p,
        phrasing_count=len(phrasing_slopes),
        phrasing_p=compute_paired_effect(phrasing_slopes).p if len(phrasing_slopes) > 1 else math.nan,
        seed_values=seed_values,
        means=seed_values.mean(0),
        half_widths=compute_mean_half_width(seed_values),
    )


def describe_slope_range(dose_response: DoseResponse) -> str:
    """Return a note if one unit of the setting is more than the measured range; otherwise an empty text."""
    first, last = dose_response.doses[0], dose_response.doses[-1]
    if last - first >= 1 - 1e-9:  # 4.1 - 3.1 is below 1
        return ""
    name = dose_response.setting_name
    return f"{name} was measured only from {first:g} to {last:g}, so a slope per unit extrapolates beyond this range"


def format_slope(trend: Trend, setting_name: str) -> str:
    """Format a slope with its interval, and its share of the mean."""
    unit = f" {get_metric_unit(trend.metric)}".rstrip()
    slope = trend.slope
    text = f"{slope.mean:+.3g}{unit} for each unit of {setting_name} ({describe_interval(slope)}"
    if math.isfinite(trend.relative_slope) and math.isfinite(trend.relative_low):
        base = describe_ratio_base(trend.metric)
        text += f"; {format_percent_change(trend.relative_slope)}{base or ' of the mean'}"
    return f"{text})"


def _judge_trend(
    trend: Trend, setting_name: str, doses: FloatArray, weights: FloatArray, equivalence_margin: float
) -> tuple[str, str]:
    """Return the kind and the text of the verdict on the declared metric."""
    seed_count = len(trend.seed_values)
    tests_phrasings = trend.phrasing_count >= MIN_PHRASINGS
    p, p_text = trend.p, f"p {trend.p:.3g}"
    if tests_phrasings:
        p = max(p, trend.phrasing_p)
        p_text += f" over seeds, {trend.phrasing_p:.3g} over {trend.phrasing_count} phrasings"
    scope = "this sentence" if trend.phrasing_count == 1 else f"these {trend.phrasing_count} phrasings"
    scope = "" if tests_phrasings else f", of {scope}"
    evidence = f"{format_slope(trend, setting_name)}, {p_text}, {format_count(seed_count, 'seed')}{scope}"
    dose_range = f"{setting_name} from {doses[0]:g} to {doses[-1]:g}"
    unknown = f"cannot tell whether {trend.metric} changes with {dose_range}"
    contains_zero = trend.slope.interval_low <= 0 <= trend.slope.interval_high
    if p <= SIGNIFICANCE_LEVEL and not contains_zero:
        kind = "rises" if trend.slope.mean > 0 else "falls"
        return kind, f"{trend.metric} {kind} with {dose_range}: {evidence}"
    if p <= SIGNIFICANCE_LEVEL:
        reason = "the slopes are skewed: p is significant, but the interval contains 0"
        return "cannot tell", f"{unknown}; {reason}. {evidence}"
    if compute_min_attainable_p(seed_count) > SIGNIFICANCE_LEVEL:
        reason = (
            f"{format_count(seed_count, 'seed')} cannot give a p below {compute_min_attainable_p(seed_count):.3g}; "
            f"generate at least {count_min_pairs()}"
        )
        return "cannot tell", f"{unknown}; {reason}. {evidence}"
    lines = trend.seed_values.mean(1)[:, None] + (trend.seed_values @ weights)[:, None] * (doses - doses.mean())
    if is_within_margin(trend.metric, lines[:, -1], lines[:, 0], equivalence_margin):
        margin = format_margin(trend.metric, equivalence_margin)
        return "flat", f"{trend.metric} is flat over {dose_range}, within {margin}: {evidence}"
    return "cannot tell", f"{unknown}: {evidence}"
