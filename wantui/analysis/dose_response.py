"""Dose-response: how a metric changes with the number to which a setting is set, paired by seed.

The slope of a seed is that of the least-squares line through its values, averaged over phrasings. It equals the mean of
the phrasings' slopes, because a design has all values of the setting for each seed and phrasing. The seed is the unit
of the tests, as for differences between groups.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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
from wantui.analysis.verdicts import MIN_PHRASINGS, describe_alone_p, format_margin, is_within_margin
from wantui.formatting import format_count, format_percent_change


@dataclass(frozen=True)
class Doses:
    """Numbers to which the grouping setting is set, and the groups that have them."""

    setting_name: str
    values: tuple[float, ...]
    """Values of the setting, rising."""
    group_indices: tuple[int, ...]
    """Index of the group with each value."""

    @property
    def range_text(self) -> str:
        """Return the setting with its range, such as "cfg_scale from 1 to 6"."""
        return f"{self.setting_name} from {self.value_texts[0]} to {self.value_texts[-1]}"

    @property
    def value_texts(self) -> list[str]:
        """Return the values with six significant digits, or with as many as it takes to tell them apart."""
        texts_by_digits = ([f"{value:.{digits}g}" for value in self.values] for digits in range(6, 18))
        return next(texts for texts in texts_by_digits if len(set(texts)) == len(texts))

    @property
    def slope_weights(self) -> FloatArray:
        """Return the weights w of values y [doses] for which sum(w y) is the least-squares slope of y."""
        centred = np.array(self.values) - np.mean(self.values)
        centred -= centred.mean()  # for close values, the rounding of their mean would turn a constant into a slope
        return np.asarray(centred / (centred**2).sum())

    def make_group_weights(self, group_count: int) -> FloatArray:
        """Return the slope weights of all groups; groups without a number have 0."""
        weights = np.zeros(group_count)
        weights[list(self.group_indices)] = self.slope_weights
        return weights

    def compute_slopes(self, cell_values: FloatArray) -> FloatArray:
        """Return the slopes [seeds, phrasings, metrics] of values [seeds, phrasings, groups, metrics]."""
        values = cell_values[:, :, list(self.group_indices)]
        values = values - values[:, :, :1]  # constant values have the slope 0 exactly
        return np.asarray(np.einsum("spdm,d->spm", values, self.slope_weights))

    def describe_extrapolation(self) -> str:
        """Return a note if one unit of the setting is more than the measured range; otherwise an empty text."""
        first, last = self.values[0], self.values[-1]
        if last - first >= 1 - 1e-9:  # 4.1 - 3.1 is below 1
            return ""
        return (
            f"{self.setting_name} was measured only from {self.value_texts[0]} to {self.value_texts[-1]}, so a slope "
            "per unit extrapolates beyond this range"
        )


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
    answer_p: float = math.nan
    """p in the answer that includes the metric, corrected for the metrics of that answer; NaN if no answer does."""

    @property
    def answer_or_family_p(self) -> float:
        """Return the p that decides on the slope: that of its answer or, without one, `family_p`."""
        return self.family_p if math.isnan(self.answer_p) else self.answer_p

    @property
    def p(self) -> float:
        """Return the larger p of the sign-flip and the permutation test."""
        return max(self.slope.p, self.permutation_p)

    @property
    def declared_p(self) -> float:
        """Return the p that decides on the declared metric: if phrasings are tested too, the larger one."""
        return max(self.p, self.phrasing_p) if self.phrasing_count >= MIN_PHRASINGS else self.p


@dataclass(frozen=True)
class DoseResponse:
    """Change of all metrics with a setting."""

    doses: Doses
    group_names: tuple[str, ...]
    """Group name of each value."""
    trends: tuple[Trend, ...]
    """Trend of each metric, the declared metric first."""
    verdict_kind: str
    """rises, falls, flat or cannot tell."""
    verdict_text: str


def find_doses(groups: Sequence[Group], grouping: str) -> Doses | None:
    """Return the numbers of the grouping setting.

    The result is None unless exactly one setting forms the groups, at least two of its values are numbers, and no
    number occurs twice.
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
            return None
        (path,) = parts.setting_paths
        name = shorten_path(path, list_setting_paths(videos))
        numbers = [to_number(group.videos[0].setting_values.get(path)) for group in groups]
    doses = sorted((number, index) for index, number in enumerate(numbers) if number is not None)
    is_distinct = len({dose for dose, _ in doses}) == len(doses)  # batches may differ in another prompt of one value
    if len(doses) < 2 or not is_distinct:
        return None
    return Doses(name, tuple(number for number, _ in doses), tuple(index for _, index in doses))


def compute_dose_response(
    groups: Sequence[Group],
    doses: Doses,
    metric_names: Sequence[str],
    cell_values: FloatArray,
    equivalence_margin: float,
) -> DoseResponse:
    """Return how each metric changes with the grouping setting.

    Args:
        metric_names: metrics, the declared metric first.
        cell_values: [seeds, phrasings, groups, metrics] values.
    """
    trends = compute_trends(doses, metric_names, cell_values)
    kind, text = _judge_trend(trends[0], doses, equivalence_margin)
    return DoseResponse(doses, tuple(groups[i].name for i in doses.group_indices), trends, kind, text)


def add_answer_p(dose_response: DoseResponse, p_by_metric: Mapping[str, float]) -> DoseResponse:
    """Return the dose-response with the p of the answers, so that tables and answers show the same p."""
    trends = [replace(trend, answer_p=p_by_metric.get(trend.metric, math.nan)) for trend in dose_response.trends]
    return replace(dose_response, trends=tuple(trends))


def compute_trends(doses: Doses, metric_names: Sequence[str], cell_values: FloatArray) -> tuple[Trend, ...]:
    """Return the change of each metric with a setting, with p corrected for these metrics.

    Args:
        cell_values: [seeds, phrasings, groups, metrics] values.
    """
    values, slopes = cell_values[:, :, list(doses.group_indices)], doses.compute_slopes(cell_values)
    seed_slopes = slopes.mean(1)
    family_p = run_max_t_test(seed_slopes)
    permutation_p = [run_trend_test(values.mean(1)[..., m], doses.slope_weights) for m in range(len(metric_names))]
    effects = [compute_paired_effect(seed_slopes[:, m]) for m in range(len(metric_names))]
    p = np.array([max(effect.p, p) for effect, p in zip(effects, permutation_p, strict=True)])
    discovery_p = adjust_false_discovery(p)
    return tuple(
        _build_trend(
            name,
            values[..., m],
            slopes[..., m],
            effects[m],
            (permutation_p[m], float(max(family_p[m], p[m])), float(discovery_p[m])),
        )
        for m, name in enumerate(metric_names)
    )


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


def is_flat(trend: Trend, doses: Doses, equivalence_margin: float) -> bool:
    """Return whether two one-sided tests show that the ends of the fitted line are within the margin of each other."""
    centred = np.array(doses.values) - np.mean(doses.values)
    lines = trend.seed_values.mean(1)[:, None] + (trend.seed_values @ doses.slope_weights)[:, None] * centred
    return is_within_margin(trend.metric, lines[:, -1], lines[:, 0], equivalence_margin)


def format_slope(trend: Trend, setting_name: str) -> str:
    """Format a slope with its interval, and its share of the mean."""
    unit = f" {get_metric_unit(trend.metric)}".rstrip()
    slope = trend.slope
    text = f"{slope.mean:+.3g}{unit} for each unit of {setting_name} ({describe_interval(slope)}"
    if math.isfinite(trend.relative_slope) and math.isfinite(trend.relative_low):
        base = describe_ratio_base(trend.metric)
        text += f"; {format_percent_change(trend.relative_slope)}{base or ' of the mean'}"
    return f"{text})"


def _judge_trend(trend: Trend, doses: Doses, equivalence_margin: float) -> tuple[str, str]:
    """Return the kind and the text of the verdict on the declared metric."""
    seed_count = len(trend.seed_values)
    tests_phrasings = trend.phrasing_count >= MIN_PHRASINGS
    p = trend.declared_p
    p_text = describe_alone_p(trend.p, trend.phrasing_p, trend.phrasing_count)
    scope = "this sentence" if trend.phrasing_count == 1 else f"these {trend.phrasing_count} phrasings"
    scope = "" if tests_phrasings else f", of {scope}"
    evidence = f"{format_slope(trend, doses.setting_name)}, {p_text}, {format_count(seed_count, 'seed')}{scope}"
    unknown = f"cannot tell whether {trend.metric} changes with {doses.range_text}"
    contains_zero = trend.slope.interval_low <= 0 <= trend.slope.interval_high
    if p <= SIGNIFICANCE_LEVEL and not contains_zero:
        kind = "rises" if trend.slope.mean > 0 else "falls"
        return kind, f"{trend.metric} {kind} with {doses.range_text}: {evidence}"
    if p <= SIGNIFICANCE_LEVEL:
        reason = "the slopes are skewed: p is significant, but the interval contains 0"
        return "cannot tell", f"{unknown}; {reason}. {evidence}"
    if compute_min_attainable_p(seed_count) > SIGNIFICANCE_LEVEL:
        reason = (
            f"{format_count(seed_count, 'seed')} cannot give a p below {compute_min_attainable_p(seed_count):.3g}; "
            f"generate at least {count_min_pairs()}"
        )
        return "cannot tell", f"{unknown}; {reason}. {evidence}"
    if is_flat(trend, doses, equivalence_margin):
        margin = format_margin(trend.metric, equivalence_margin)
        return "flat", f"{trend.metric} is flat over {doses.range_text}, within {margin}: {evidence}"
    return "cannot tell", f"{unknown}: {evidence}"
