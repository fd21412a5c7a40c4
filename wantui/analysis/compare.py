"""Comparison of video groups, paired by seed, with a verdict on one declared metric."""

import difflib
import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wantui.analysis.answer import Answer
from wantui.analysis.answer_evidence import collect_answer_data
from wantui.analysis.answers import answer_questions
from wantui.analysis.arrays import FloatArray
from wantui.analysis.calibrated_effect import add_explanation_notes
from wantui.analysis.comparison import Comparison
from wantui.analysis.design_warnings import find_design_warnings, find_identical_trajectory_warnings
from wantui.analysis.differences import (
    SIGNIFICANCE_LEVEL,
    Difference,
    GroupIndexPairs,
    PairEffects,
    compare_group_pairs,
    compute_family_p,
    compute_pair_effects,
    remove_rounding_differences,
)
from wantui.analysis.dispersion import PermutationTest
from wantui.analysis.dose_response import Doses, compute_dose_response, find_doses
from wantui.analysis.final_states import SPREAD_METRIC, FinalStates
from wantui.analysis.group import Group, GroupSummary
from wantui.analysis.group_names import CannotCompareError
from wantui.analysis.groups import MatchedGroups, summarise_group_metric
from wantui.analysis.matching import match_groups_and_final_states
from wantui.analysis.metrics import METRICS, get_ratio_origin
from wantui.analysis.null_models import GaussianNull, build_gaussian_null
from wantui.analysis.statistics import compute_omnibus_p, draw_sign_flips
from wantui.analysis.strides import find_unsettled_metrics, list_unsettled_stride_checks
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
    absolute_metrics: Collection[str] = (),
) -> Comparison:
    """Compare groups of videos.

    Seeds that are not in every group are excluded, and so are videos whose settings differ from most videos.
    The seed is the unit: the phrasings that all groups share are averaged for each seed.

    Args:
        primary_metric: declared metric, which decides the verdict; all other metrics are exploratory.
        metrics: metrics and external labels to explore; default all of METRICS, and all labels of the videos.
        equivalence_margin: equivalence margin, as a share of the mean.
        absolute_metrics: metrics whose differences are never in percent.

    Raises:
        CannotCompareError: there are fewer than two groups or seeds, more than MAX_GROUPS groups, or an unknown metric.
    """
    matched = _match_values(videos, grouping, primary_metric, metrics)
    groups, group_pairs, final_states = matched.groups.groups, matched.group_pairs, matched.final_states
    effects = compute_pair_effects(matched.all_values, group_pairs)
    metric_names, cell_values = matched.shown_names, matched.shown_values
    shown_effects = effects.select_metrics(range(len(metric_names)))
    differences = compare_group_pairs(
        groups, metric_names, cell_values, group_pairs, equivalence_margin, shown_effects, absolute_metrics
    )
    doses = find_doses(groups, grouping)
    nulls_by_group = _build_gaussian_nulls(groups, final_states)
    chance_interval, relative_chance_interval, false_positive_rate = _compute_chance_interval(matched, differences)
    location_test, spread_test, squared_distances = _test_final_states(final_states, matched.groups, group_pairs)
    comparison = Comparison(
        grouping=grouping,
        primary_metric=primary_metric,
        seeds=matched.groups.seeds,
        groups=groups,
        summaries_by_metric=_summarise_groups(groups, metric_names, cell_values, nulls_by_group),
        differences=tuple(differences),
        verdicts=tuple(_judge_group_pairs(matched, differences, equivalence_margin)),
        omnibus_p=compute_omnibus_p(matched.primary_values.mean(1)),
        location_test=location_test,
        spread_test=spread_test,
        squared_centroid_distances_by_pair=squared_distances,
        dispersion_curves_by_group=final_states.curves_by_group if final_states is not None else {},
        sigmas_by_group={group.name: _get_group_noise_levels(group) for group in groups},
        chance_interval=chance_interval,
        false_positive_rate=false_positive_rate,
        gaussian_nulls_by_group=nulls_by_group,
        stride=groups[0].stride,
        warnings=matched.warnings,
        exclusion_reasons=matched.exclusion_reasons,
        unreadable_videos=matched.unreadable_videos,
        dose_response=None
        if doses is None
        else compute_dose_response(groups, doses, metric_names, cell_values, equivalence_margin),
        phrasing_numbers=tuple(matched.groups.phrasing_numbers.tolist()),
        answers=_answer_questions(matched, effects, equivalence_margin, absolute_metrics, doses),
        relative_chance_interval=relative_chance_interval,
    )
    return add_explanation_notes(comparison)


@dataclass(frozen=True)
class _MatchedValues:
    """Matched groups with the values of their metrics."""

    groups: MatchedGroups
    final_states: FinalStates | None
    shown_names: list[str]
    """Metrics that are compared, the declared one first."""
    all_names: list[str]
    """Metrics that the answers use: first the compared metrics, then others."""
    all_values: FloatArray
    """Values of all metrics, [seeds, phrasings, groups, metrics]."""
    unsettled_names: list[str]
    """Metrics that depend on the stride."""
    no_states_reason: str
    """Reason why final states are not compared; empty if they are."""
    no_spread_reason: str
    """Reason why spread is not compared; empty if it is."""
    warnings: tuple[str, ...]
    exclusion_reasons: tuple[tuple[str, str], ...]
    unreadable_videos: tuple[str, ...]

    @property
    def group_pairs(self) -> GroupIndexPairs:
        return list(itertools.combinations(range(len(self.groups.groups)), 2))

    @property
    def shown_values(self) -> FloatArray:
        """Return the values of the compared metrics, [seeds, phrasings, groups, metrics]."""
        return self.all_values[..., : len(self.shown_names)]

    @property
    def primary_values(self) -> FloatArray:
        """Return the values of the declared metric, [seeds, phrasings, groups]."""
        return self.all_values[..., 0]


def _match_values(
    videos: Sequence[Video], grouping: str, primary_metric: str, metrics: Sequence[str] | None
) -> _MatchedValues:
    """Match the groups, and compute the values of their metrics.

    Raises:
        CannotCompareError: see `compare_groups`.
    """
    shown_names = _choose_metrics(videos, primary_metric, metrics)
    matched_groups, exclusion_reasons, unreadable_videos, final_states, no_states_reason = (
        match_groups_and_final_states(videos, grouping, primary_metric)
    )
    groups = matched_groups.groups
    warnings = [*find_identical_trajectory_warnings(groups), *find_design_warnings(matched_groups, grouping)]
    no_spread_reason = no_states_reason if final_states is None else final_states.no_spread_reason
    if no_spread_reason:
        lacking_text = f"place and {SPREAD_METRIC} are" if final_states is None else f"{SPREAD_METRIC} is"
        warnings.append(f"{lacking_text} not compared: {no_spread_reason}")
    else:
        shown_names.insert(0 if primary_metric == SPREAD_METRIC else 1, SPREAD_METRIC)
    all_names, all_values, incomplete_names = _compute_cell_values(
        matched_groups, final_states, list(dict.fromkeys([*shown_names, *METRICS]))
    )
    if incomplete_shown := [name for name in incomplete_names if name in shown_names]:
        warnings.append(f"not compared, because some videos have no value: {', '.join(incomplete_shown)}")
    shown_names = [name for name in all_names if name in shown_names]
    matched_videos = [video for group in groups for video in group.videos]
    warnings += [check.description for check in list_unsettled_stride_checks(matched_videos, shown_names)]
    return _MatchedValues(
        groups=matched_groups,
        final_states=final_states,
        shown_names=shown_names,
        all_names=all_names,
        all_values=all_values,
        unsettled_names=[name for name in find_unsettled_metrics(matched_videos) if name in all_names],
        no_states_reason=no_states_reason,
        no_spread_reason=no_spread_reason,
        warnings=tuple(warnings),
        exclusion_reasons=tuple(exclusion_reasons),
        unreadable_videos=tuple(unreadable_videos),
    )


def _answer_questions(
    matched: _MatchedValues,
    effects: PairEffects,
    equivalence_margin: float,
    absolute_metrics: Collection[str],
    doses: Doses | None,
) -> tuple[Answer, ...]:
    return answer_questions(
        collect_answer_data(
            matched.groups,
            matched.final_states,
            matched.all_names,
            matched.all_values,
            effects,
            matched.unsettled_names,
            equivalence_margin,
            matched.no_states_reason,
            matched.no_spread_reason,
            absolute_metrics,
            doses,
        )
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


def _choose_metrics(videos: Sequence[Video], primary_metric: str, metrics: Sequence[str] | None) -> list[str]:
    """Return the metrics to compare, except `spread`, the declared metric first.

    Raises:
        CannotCompareError: a metric is unknown.
    """
    known_metrics = [*METRICS, *dict.fromkeys(label for video in videos for label in video.labels)]
    explored_metrics = known_metrics if metrics is None else list(metrics)
    for name in (primary_metric, *explored_metrics):
        if name != SPREAD_METRIC and name not in known_metrics:
            near = difflib.get_close_matches(name, [SPREAD_METRIC, *known_metrics], 1)
            suggestion = f"Did you mean {near[0]}? " if near else ""
            known_text = ", ".join([SPREAD_METRIC, *known_metrics])
            raise CannotCompareError(f"unknown metric {name!r}. {suggestion}Known metrics: {known_text}")
    return [name for name in dict.fromkeys((primary_metric, *explored_metrics)) if name != SPREAD_METRIC]


def _compute_cell_values(
    matched_groups: MatchedGroups, final_states: FinalStates | None, metric_names: Sequence[str]
) -> tuple[list[str], FloatArray, list[str]]:
    """Return the metrics that all videos have, their values [seeds, phrasings, groups, metrics], and all other metrics.

    Args:
        metric_names: metrics, the declared metric first.

    Raises:
        CannotCompareError: some videos have no value for the declared metric.
    """
    cell_values = np.stack(
        [np.stack(_collect_group_cell_values(matched_groups, final_states, name), axis=2) for name in metric_names],
        axis=3,
    )
    is_known = [
        not (METRICS[name].needs_guidance_gap and np.isnan(cell_values[..., m]).all())
        if name in METRICS and name != metric_names[0]
        else True
        for m, name in enumerate(metric_names)
    ]
    metric_names = [name for name, known in zip(metric_names, is_known, strict=True) if known]
    cell_values = cell_values[..., np.array(is_known)]
    is_complete = [bool(np.isfinite(cell_values[..., m]).all()) for m in range(len(metric_names))]
    if not is_complete[0]:
        raise CannotCompareError(
            f"cannot compare {metric_names[0]}: some videos have no value for this metric. Declare another metric"
        )
    incomplete_names = [name for name, complete in zip(metric_names, is_complete, strict=True) if not complete]
    complete_names = [name for name, complete in zip(metric_names, is_complete, strict=True) if complete]
    values = remove_rounding_differences(cell_values[..., np.array(is_complete)])
    return complete_names, matched_groups.average_over_remaining_settings(values), incomplete_names


def _collect_group_cell_values(
    matched_groups: MatchedGroups, final_states: FinalStates | None, metric: str
) -> list[FloatArray]:
    """Return the values of one metric, [seeds, phrasings] for each group."""
    if metric == SPREAD_METRIC:
        assert final_states is not None
        return [
            matched_groups.arrange_values_by_cell(final_states.spread_by_group[group.name].tolist())
            for group in matched_groups.groups
        ]
    return [
        matched_groups.arrange_values_by_cell([video.compute_metric(metric) for video in group.videos])
        for group in matched_groups.groups
    ]


def _judge_group_pairs(
    matched: _MatchedValues, differences: Sequence[Difference], equivalence_margin: float
) -> list[Verdict]:
    """Return the verdict on each pair of groups."""
    group_pairs, primary_values = matched.group_pairs, matched.primary_values
    primary_differences = [difference for difference in differences if difference.metric == matched.shown_names[0]]
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
    matched: _MatchedValues, differences: Sequence[Difference]
) -> tuple[tuple[float, float], tuple[float, float], float]:
    """Return how much groups differ that are exchanged within seeds.

    The results are the central 95 % of the differences, the same range relative to the second group (NaN if the
    differences are in the unit), and the share of exchanges that the test calls different.

    Args:
        differences: differences of all pairs and metrics, the declared metric first.
    """
    group_pairs, primary_values = matched.group_pairs, matched.primary_values
    nan, seed_count = float("nan"), len(matched.groups.seeds)
    if seed_count < 4:
        return (nan, nan), (nan, nan), nan
    metric, false_positive_rate = matched.shown_names[0], nan
    if metric == SPREAD_METRIC:
        assert matched.final_states is not None
        sampled_differences, p = matched.final_states.resample_spread(matched.groups, group_pairs)
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
