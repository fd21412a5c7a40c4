"""Verdicts on the declared metric between two groups."""

import math
from dataclasses import dataclass

import numpy as np

from wantui.analysis.arrays import FloatArray
from wantui.analysis.differences import SIGNIFICANCE_LEVEL, Difference, format_difference, is_ratio_metric
from wantui.analysis.metrics import METRICS, describe_ratio_base, get_metric_unit, get_ratio_origin
from wantui.analysis.statistics import (
    MEAN_ROUNDING_TOLERANCE,
    compute_min_attainable_p,
    count_min_pairs,
    is_equivalent,
    is_ratio_equivalent,
)
from wantui.formatting import format_count, format_percent

MIN_PHRASINGS = 6
"""Minimum number of phrasings with which a sign-flip test over phrasings can give p below 0.05."""


@dataclass(frozen=True)
class Verdict:
    """Verdict on the declared metric between two groups."""

    first_group: str
    second_group: str
    kind: str
    """differs, alike or cannot tell."""
    p: float
    """p over seeds, corrected for all pairs of groups; with MIN_PHRASINGS or more, the larger of this p and the p over
    phrasings."""
    verdict_text: str
    metric: str = ""


def judge_difference(
    difference: Difference,
    first_values: FloatArray,
    second_values: FloatArray,
    seed_p: float,
    phrasing_p: float,
    equivalence_margin: float,
    pair_count: int,
) -> Verdict:
    """Return the verdict on two groups.

    Args:
        first_values, second_values: values [seeds, phrasings] of the declared metric in each group.
        seed_p: p over seeds, corrected for all pairs of groups.
        phrasing_p: p by phrasings, over all pairs; not used with fewer than MIN_PHRASINGS.
        equivalence_margin: equivalence margin, as a share of the mean's distance from the metric's `ratio_origin` (for
            logarithms, as an amount).
        pair_count: number of group pairs.
    """
    seed_count, phrasing_count = first_values.shape
    tests_phrasings = phrasing_count >= MIN_PHRASINGS
    value_pairs = [(first_values.mean(1), second_values.mean(1))]
    if tests_phrasings:
        value_pairs.append((first_values.mean(0), second_values.mean(0)))
    evidence = _describe_evidence(difference, seed_p, phrasing_p, first_values.shape, pair_count)
    if tests_phrasings:
        seed_p = max(seed_p, phrasing_p)
    group_names, metric = f"{difference.first_group} against {difference.second_group}", difference.metric
    few_phrasings = "this sentence" if phrasing_count == 1 else f"these {phrasing_count} phrasings"
    phrasing_scope = "" if tests_phrasings else f", of {few_phrasings}"
    is_alike = all(is_within_margin(metric, *value_pair, equivalence_margin) for value_pair in value_pairs)

    def make_verdict(kind: str, text: str) -> Verdict:
        return Verdict(difference.first_group, difference.second_group, kind, seed_p, text, metric)

    contains_zero = difference.paired_effect.interval_low <= 0 <= difference.paired_effect.interval_high
    if seed_p <= SIGNIFICANCE_LEVEL and contains_zero:  # signs and sizes of the differences disagree
        skew_reason = "the differences are skewed: p is significant, but the interval contains 0"
        return make_verdict("cannot tell", f"{group_names}: cannot tell in {metric}; {skew_reason}. {evidence}")
    if seed_p <= SIGNIFICANCE_LEVEL:
        direction = "more" if difference.paired_effect.mean > 0 else "less"
        margin_note = "; within the equivalence margin" if is_alike else ""
        return make_verdict("differs", f"{group_names}: {direction} {metric}{phrasing_scope}: {evidence}{margin_note}")
    if compute_min_attainable_p(seed_count) > SIGNIFICANCE_LEVEL:
        seed_note = (
            f"{format_count(seed_count, 'seed')} cannot give a p below "
            f"{compute_min_attainable_p(seed_count):.3g}; generate at least {count_min_pairs()}"
        )
        return make_verdict("cannot tell", f"{group_names}: cannot tell in {metric}; {seed_note}. {evidence}")
    margin_text = format_margin(metric, equivalence_margin)
    if is_alike:
        return make_verdict(
            "alike", f"{group_names}: alike in {metric}, within {margin_text}{phrasing_scope}: {evidence}"
        )
    seeds_advice = ""
    if difference.seeds_needed is not None and difference.seeds_needed > seed_count:
        seeds_advice = f"; to find a difference of {margin_text}, about {difference.seeds_needed:,} seeds are needed"
    return make_verdict("cannot tell", f"{group_names}: cannot tell in {metric}; {evidence}{seeds_advice}")


def _describe_evidence(
    difference: Difference, seed_p: float, phrasing_p: float, shape: tuple[int, ...], pair_count: int
) -> str:
    """Return difference, effect size and p in words, for values [seeds, phrasings]."""
    seed_count, phrasing_count = shape
    p_text = describe_alone_p(seed_p, phrasing_p, phrasing_count)
    p_text += f", corrected for {pair_count} pairs of groups" if pair_count > 1 else ""
    d_z = difference.paired_effect.d_z
    size_text = f"d_z {d_z:.2f}, " if math.isfinite(d_z) else ""  # two seeds give none
    return f"{format_difference(difference)}, {size_text}{p_text}, {format_count(seed_count, 'seed')}"


def describe_alone_p(seed_p: float, phrasing_p: float, phrasing_count: int) -> str:
    """Return the p that decides on the declared metric: of seeds or, if phrasings are tested too, the larger one."""
    if phrasing_count < MIN_PHRASINGS:
        return f"p {seed_p:.3g} of this metric alone"
    units = f"over seeds and over {phrasing_count} phrasings"
    return f"p {max(seed_p, phrasing_p):.3g} of this metric alone (the larger of the tests {units})"


def is_within_margin(
    metric: str, first_values: FloatArray, second_values: FloatArray, equivalence_margin: float
) -> bool:
    """Return whether two one-sided tests show that the means of paired values [n] are within the margin.

    Labels often have few values, such as 0 and 1. If all seeds have the same difference of a label, the t tests assume
    that other seeds have it too, so nothing is shown.
    """
    if not is_ratio_metric(metric):
        differences, scale = first_values - second_values, max(np.abs(first_values).max(), np.abs(second_values).max())
        has_scatter = np.ptp(differences) > MEAN_ROUNDING_TOLERANCE * scale
        return (has_scatter or metric in METRICS) and is_equivalent(differences, equivalence_margin)
    if np.array_equal(first_values, second_values):  # a share of a mean of 0 allows no other difference
        return True
    origin = get_ratio_origin(metric)
    return is_ratio_equivalent(first_values - origin, second_values - origin, equivalence_margin)


def format_margin(metric: str, equivalence_margin: float) -> str:
    """Format the equivalence margin of a metric, such as "5 %" or "5 % of the distance from 1"."""
    if is_ratio_metric(metric):
        return f"{format_percent(equivalence_margin)}{describe_ratio_base(metric)}"
    return f"{equivalence_margin:g} {get_metric_unit(metric)}".rstrip()
