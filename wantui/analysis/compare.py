"""Comparison of video groups, paired by seed, with a verdict on one declared metric."""

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from wantui.analysis.answer import Answer
from wantui.analysis.answer_evidence import collect_answer_data
from wantui.analysis.answers import answer_questions
from wantui.analysis.arrays import FloatArray
from wantui.analysis.calibrated_effect import add_explanation_notes
from wantui.analysis.comparison import Comparison
from wantui.analysis.differences import (
    SIGNIFICANCE_LEVEL,
    Difference,
    GroupIndexPairs,
    compare_group_pairs,
    compute_family_p,
)
from wantui.analysis.dispersion import PermutationTest
from wantui.analysis.dose_response import DoseResponse, Doses, add_answer_p, compute_dose_response, find_doses
from wantui.analysis.final_states import SPREAD_METRIC, FinalStates
from wantui.analysis.group import Group, GroupSummary
from wantui.analysis.groups import MatchedGroups, summarise_group_metric
from wantui.analysis.measured_groups import MeasuredGroups, measure_groups
from wantui.analysis.metrics import get_ratio_origin
from wantui.analysis.null_models import GaussianNull, build_gaussian_null
from wantui.analysis.statistics import compute_omnibus_p, draw_sign_flips
from wantui.analysis.verdicts import MIN_PHRASINGS, Verdict, judge_difference
from wantui.analysis.video import Video

DEFAULT_EQUIVALENCE_MARGIN = 0.05
"""Default equivalence margin, as a share of the mean."""
MIN_SEEDS_FOR_FALSE_POSITIVE_RATE = 10
"""Minimum number of seeds for reporting the false-positive rate; with fewer it is too noisy."""


def compare_groups(
    videos: Sequence[Video],
    grouping: str = "variation",
    primary_metric: str = SPREAD_METRIC,
    metrics: Sequence[str] | None = None,
    equivalence_margin: float = DEFAULT_EQUIVALENCE_MARGIN,
) -> Comparison:
    """Compare groups of videos.

    Seeds that are not in every group are excluded, and so are videos whose settings differ from most videos.
    The seed is the unit: the phrasings that all groups share are averaged for each seed.

    Args:
        primary_metric: declared metric, which decides the verdict; all other metrics are exploratory.
        metrics: metrics and external labels to explore; default all of METRICS, and all labels of the videos.
        equivalence_margin: equivalence margin, as a share of the mean.

    Raises:
        CannotCompareError: there are fewer than two groups or seeds, more than MAX_GROUPS groups, or an unknown metric.
    """
    measured = measure_groups(videos, grouping, primary_metric, metrics)
    return build_comparison(measured, equivalence_margin, measured.find_absolute_metrics())


def build_comparison(
    measured: MeasuredGroups, equivalence_margin: float, absolute_metrics: Collection[str]
) -> Comparison:
    """Return the comparison of measured groups: corrected p, verdicts, answers and null models.

    Args:
        equivalence_margin: equivalence margin, as a share of the mean.
        absolute_metrics: metrics whose differences are not in percent.
    """
    groups, group_pairs, final_states = measured.groups.groups, measured.group_pairs, measured.final_states
    metric_names, cell_values = measured.shown_names, measured.shown_values
    shown_effects = measured.effects.select_metrics(range(len(metric_names)))
    differences = compare_group_pairs(
        groups, metric_names, cell_values, group_pairs, equivalence_margin, shown_effects, absolute_metrics
    )
    doses = find_doses(groups, measured.grouping)
    nulls_by_group = _build_gaussian_nulls(groups, final_states)
    chance_interval, relative_chance_interval, false_positive_rate = _compute_chance_interval(measured, differences)
    location_test, spread_test, squared_distances = _test_final_states(final_states, measured.groups, group_pairs)
    answers = _answer_questions(measured, equivalence_margin, absolute_metrics, doses)
    comparison = Comparison(
        grouping=measured.grouping,
        primary_metric=measured.primary_metric,
        seeds=measured.groups.seeds,
        groups=groups,
        summaries_by_metric=_summarise_groups(groups, metric_names, cell_values, nulls_by_group),
        differences=tuple(differences),
        verdicts=tuple(_judge_group_pairs(measured, differences, equivalence_margin)),
        omnibus_p=compute_omnibus_p(measured.primary_values.mean(1)),
        location_test=location_test,
        spread_test=spread_test,
        squared_centroid_distances_by_pair=squared_distances,
        dispersion_curves_by_group=final_states.curves_by_group if final_states is not None else {},
        sigmas_by_group={group.name: _get_group_noise_levels(group) for group in groups},
        chance_interval=chance_interval,
        false_positive_rate=false_positive_rate,
        gaussian_nulls_by_group=nulls_by_group,
        stride=groups[0].stride,
        warnings=measured.warnings,
        exclusion_reasons=measured.exclusion_reasons,
        unreadable_videos=measured.unreadable_videos,
        dose_response=_compute_dose_response(measured, doses, equivalence_margin, answers),
        phrasing_numbers=tuple(measured.groups.phrasing_numbers.tolist()),
        answers=answers,
        relative_chance_interval=relative_chance_interval,
    )
    return add_explanation_notes(comparison)


def _answer_questions(
    measured: MeasuredGroups,
    equivalence_margin: float,
    absolute_metrics: Collection[str],
    doses: Doses | None,
) -> tuple[Answer, ...]:
    return answer_questions(
        collect_answer_data(
            measured.groups,
            measured.final_states,
            measured.all_names,
            measured.all_values,
            measured.effects,
            measured.unsettled_names,
            equivalence_margin,
            measured.no_states_reason,
            measured.no_spread_reason,
            absolute_metrics,
            doses,
        )
    )


def _compute_dose_response(
    measured: MeasuredGroups, doses: Doses | None, equivalence_margin: float, answers: Sequence[Answer]
) -> DoseResponse | None:
    """Return the change of the metrics with a numeric setting, with the p of the answers on its slopes."""
    if doses is None:
        return None
    dose_response = compute_dose_response(
        measured.groups.groups, doses, measured.shown_names, measured.shown_values, equivalence_margin
    )
    slope_answers = (answer for answer in answers if answer.setting_name)
    return add_answer_p(
        dose_response, {metric: p for answer in slope_answers for metric, p in answer.p_by_metric.items()}
    )


def _build_gaussian_nulls(groups: Sequence[Group], final_states: FinalStates | None) -> dict[str, GaussianNull]:
    """Return the Gaussian flow of each group, computed from the stored final states."""
    if final_states is None:
        return {group.name: build_gaussian_null(group.videos, None) for group in groups}
    scale = math.sqrt(final_states.dimension)
    return {
        group.name: build_gaussian_null(group.videos, states * scale)
        for group, states in zip(groups, final_states.scaled_states, strict=True)
    }


def _test_final_states(
    final_states: FinalStates | None, matched_groups: MatchedGroups, group_pairs: GroupIndexPairs
) -> tuple[PermutationTest | None, PermutationTest | None, dict[tuple[str, str], float]]:
    """Return PERMANOVA, PERMDISP and the squared distances between centroids by pair."""
    if final_states is None:
        return None, None, {}
    return (
        final_states.run_permanova(matched_groups),
        None if final_states.no_spread_reason else final_states.run_permdisp(matched_groups),
        final_states.compute_squared_centroid_distances(matched_groups, group_pairs),
    )


def _judge_group_pairs(
    measured: MeasuredGroups, differences: Sequence[Difference], equivalence_margin: float
) -> list[Verdict]:
    """Return the verdict on each pair of groups."""
    group_pairs, primary_values = measured.group_pairs, measured.primary_values
    primary_differences = [difference for difference in differences if difference.metric == measured.shown_names[0]]
    pairwise_p = np.array([[difference.paired_effect.p] for difference in primary_differences])
    family_p = compute_family_p(primary_values.mean(1)[:, :, None], group_pairs, pairwise_p)[:, 0]
    phrasing_p = np.full(len(group_pairs), math.nan)
    if primary_values.shape[1] >= MIN_PHRASINGS:
        pairwise_p = np.array([[difference.phrasing_p] for difference in primary_differences])
        phrasing_p = compute_family_p(primary_values.mean(0)[:, :, None], group_pairs, pairwise_p)[:, 0]
    return [
        judge_difference(
            difference,
            primary_values[..., i],
            primary_values[..., j],
            float(family_p[k]),
            float(phrasing_p[k]),
            equivalence_margin,
            len(group_pairs),
        )
        for k, ((i, j), difference) in enumerate(zip(group_pairs, primary_differences, strict=True))
    ]


def _summarise_groups(
    groups: Sequence[Group],
    metric_names: Sequence[str],
    cell_values: FloatArray,
    nulls_by_group: Mapping[str, GaussianNull],
) -> dict[str, dict[str, GroupSummary]]:
    summaries_by_metric = {}
    for m, name in enumerate(metric_names):
        summaries_by_metric[name] = {
            group.name: _summarise_spread(cell_values[..., g, m])
            if name == SPREAD_METRIC
            else summarise_group_metric(group, name, nulls_by_group[group.name])
            for g, group in enumerate(groups)
        }
    return summaries_by_metric


def _summarise_spread(values: FloatArray) -> GroupSummary:
    nan = float("nan")
    return GroupSummary(values.size, float(values.mean()), float(values.std(ddof=1)), nan, nan)


def _compute_chance_interval(
    measured: MeasuredGroups, differences: Sequence[Difference]
) -> tuple[tuple[float, float], tuple[float, float], float]:
    """Return how much groups differ that are exchanged within seeds.

    The results are the central 95 % of the differences, the same range relative to the second group (NaN if the
    differences are in the unit), and the share of exchanges that the test calls different.

    Args:
        differences: differences of all pairs and metrics, the declared metric first.
    """
    group_pairs, primary_values = measured.group_pairs, measured.primary_values
    nan, seed_count = float("nan"), len(measured.groups.seeds)
    if seed_count < 4:
        return (nan, nan), (nan, nan), nan
    metric, false_positive_rate = measured.shown_names[0], nan
    if metric == SPREAD_METRIC:
        assert measured.final_states is not None
        sampled_differences, p = measured.final_states.resample_spread(measured.groups, group_pairs)
        if seed_count >= MIN_SEEDS_FOR_FALSE_POSITIVE_RATE:
            false_positive_rate = float(np.mean(p <= SIGNIFICANCE_LEVEL))
    else:
        seed_means, (flips, _) = primary_values.mean(1), draw_sign_flips(seed_count)
        sampled_differences = np.concatenate(
            [flips @ (seed_means[:, i] - seed_means[:, j]) / seed_count for i, j in group_pairs]
        )
    relative_interval = (nan, nan)
    if differences[0].is_relative:
        second_means = primary_values.mean((0, 1))[[j for _, j in group_pairs]] - get_ratio_origin(metric)
        relative_interval = _find_central_range(
            sampled_differences.reshape(len(group_pairs), -1) / np.abs(second_means)[:, None]
        )
    return _find_central_range(sampled_differences), relative_interval, false_positive_rate


def _find_central_range(values: FloatArray) -> tuple[float, float]:
    """Return the ends of the central 95 % of all values."""
    return float(np.quantile(values, 0.025)), float(np.quantile(values, 0.975))


def _get_group_noise_levels(group: Group) -> FloatArray:
    trajectory = group.videos[0].trajectory
    assert trajectory is not None
    return trajectory.sigmas
