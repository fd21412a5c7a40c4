"""Answers on place, room and path for a numeric setting: how much each changes per unit of the setting."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from wantui.analysis.answer import (
    Answer,
    describe_correction,
    describe_p,
    describe_path,
    describe_room,
    explain_conflicts,
    explain_missing,
    list_unmeasured,
    warn_about_few_seeds,
)
from wantui.analysis.answer_evidence import (
    ALIKE,
    CANNOT_TELL,
    DIFFERS,
    DISTANCE,
    EQUIVALENCE_METRICS,
    FAMILIES_BY_METRIC,
    NOT_MEASURED,
    PLACE,
    ROOM,
    AnswerData,
    Evidence,
    compute_omnibus_p,
)
from wantui.analysis.differences import SIGNIFICANCE_LEVEL
from wantui.analysis.dose_response import Doses, Trend, compute_trends, is_flat
from wantui.analysis.metrics import METRICS
from wantui.analysis.statistics import run_max_t_test
from wantui.formatting import format_count, format_interval, format_percent, join_and_shorten


def answer_trend_question(data: AnswerData, doses: Doses, question: str, metric_names: Sequence[str]) -> Answer:
    """Return how place, room or path changes with a numeric setting.

    Only the slopes decide. A test for any difference between the groups is one more chance of a false positive, so its
    result is a note.

    Args:
        metric_names: metrics of the question; none for place.
    """
    evidence = _collect_place_evidence(data) if question == PLACE else _collect_evidence(data, doses, metric_names)
    min_p = data.min_attainable_p
    if not evidence:
        return Answer(
            question=question,
            kind=NOT_MEASURED,
            verdict_parts=(NOT_MEASURED,),
            effects_text=explain_missing(data, question),
            min_attainable_p=min_p,
        )
    if question == PLACE:
        verdict_parts, effects_text = _describe_place(data, doses, evidence[0])
    elif question == ROOM:
        alike_claim = f"flat within {format_percent(data.equivalence_margin)} in"
        claims = ("room ", f"grows with {doses.range_text} in", f"shrinks with {doses.range_text} in", alike_claim)
        verdict_parts, effects_text = describe_room(claims, evidence)
    else:
        verdict_parts, effects_text = describe_path(f"paths change with {doses.range_text} in", evidence)
    any_difference_p = {}
    if len(data.groups) > 2:  # the slope over two groups is their difference
        any_difference_p = compute_omnibus_p(data, question, [item.metric for item in evidence])
    correction = describe_correction(len(evidence), 1)
    notes = [
        *warn_about_few_seeds(data),
        *explain_conflicts(evidence, correction),
        *filter(None, [_describe_other_differences(data, evidence, any_difference_p)]),
        *list_unmeasured(data, question),
        *filter(None, [doses.describe_extrapolation()]),
    ]
    return Answer(
        question=question,
        kind=DIFFERS if any(item.kind == DIFFERS for item in evidence) else CANNOT_TELL,
        verdict_parts=tuple(verdict_parts),
        effects_text=f"Per unit of {doses.setting_name}: {effects_text}",
        p_text=describe_p(correction, min_p),
        notes=tuple(notes),
        p_by_metric={item.metric: item.p for item in evidence},
        any_difference_p=any_difference_p,
        min_attainable_p=min_p,
        correction=correction,
        evidence=tuple(evidence),
        setting_name=doses.setting_name,
    )


def _collect_place_evidence(data: AnswerData) -> list[Evidence]:
    slope = data.place_slope
    if slope is None:
        return []
    differs = slope.p <= SIGNIFICANCE_LEVEL and not slope.low <= 0
    return [
        Evidence(
            metric=DISTANCE,
            label=DISTANCE,
            family="",
            effect=slope.distance,
            low=slope.low,
            high=slope.high,
            is_relative=False,
            unit="",
            p=slope.p,
            uncorrected_p=slope.p,
            kind=DIFFERS if differs else CANNOT_TELL,
        )
    ]


def _collect_evidence(data: AnswerData, doses: Doses, metric_names: Sequence[str]) -> list[Evidence]:
    """Return the slope of each metric, with p corrected for these metrics."""
    if not metric_names:
        return []
    values = data.cell_values[..., [list(data.metric_names).index(name) for name in metric_names]]
    trends = compute_trends(doses, metric_names, values)
    p = np.array([trend.family_p for trend in trends])
    if data.tests_phrasings:
        p = np.maximum(p, run_max_t_test(doses.compute_slopes(values).mean(0)))
    return [_make_evidence(data, doses, trend, float(p[m])) for m, trend in enumerate(trends)]


def _make_evidence(data: AnswerData, doses: Doses, trend: Trend, p: float) -> Evidence:
    slope, metric = trend.slope, trend.metric
    share = (trend.relative_slope, trend.relative_low, trend.relative_high)
    is_relative = all(map(math.isfinite, share)) and metric not in data.absolute_metrics
    effect, low, high = share if is_relative else (slope.mean, slope.interval_low, slope.interval_high)
    kind = CANNOT_TELL
    if p <= SIGNIFICANCE_LEVEL and not slope.interval_low <= 0 <= slope.interval_high:
        kind = DIFFERS
    elif p > SIGNIFICANCE_LEVEL and metric in EQUIVALENCE_METRICS and is_flat(trend, doses, data.equivalence_margin):
        kind = ALIKE
    return Evidence(
        metric=metric,
        label=data.groups[0].label_metric(metric),
        family=FAMILIES_BY_METRIC.get(metric, ""),
        effect=effect,
        low=low,
        high=high,
        is_relative=is_relative,
        unit=METRICS[metric].unit if metric in METRICS else "",
        p=p,
        uncorrected_p=trend.p,
        kind=kind,
    )


def _describe_place(data: AnswerData, doses: Doses, item: Evidence) -> tuple[list[str], str]:
    """Return verdict and details of the shift of the final states."""
    assert data.place_slope is not None
    claim = f"the final latents shift with {doses.range_text}"
    interval_text = f"95 %: {format_interval(item.low, item.high, '.3g')}; " if math.isfinite(item.low) else ""
    return (
        [claim if item.kind == DIFFERS else f"cannot tell whether {claim}"],
        f"{DISTANCE} {item.effect:.3g} ({interval_text}by chance up to {data.place_slope.chance_distance:.3g}), "
        f"p {item.p:.3g}",
    )


def _describe_other_differences(
    data: AnswerData, evidence: Sequence[Evidence], any_difference_p: Mapping[str, float]
) -> str:
    """Return a note about metrics that differ between the groups without a clear slope; empty if there are none."""
    metrics = [item.metric for item in evidence if item.kind != DIFFERS]
    names = [
        f"{PLACE if metric == DISTANCE else metric} (p {any_difference_p[metric]:.3g})"
        for metric in metrics
        if any_difference_p.get(metric, 1.0) <= SIGNIFICANCE_LEVEL
    ]
    if not names:
        return ""
    groups_text = format_count(len(data.groups), "group")
    return (
        f"the {groups_text} differ without a clear slope in {join_and_shorten(names)}, by a separate test for any "
        "difference, which the verdict does not count"
    )
