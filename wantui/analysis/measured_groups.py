"""Measurement of video groups: matching, the values of all metrics, and the tests of each pair.

A comparison is built from this measurement (`compare.build_comparison`).
"""

import difflib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wantui.analysis.arrays import FloatArray
from wantui.analysis.design_warnings import find_design_warnings, find_identical_trajectory_warnings
from wantui.analysis.differences import (
    GroupIndexPairs,
    PairEffects,
    compute_pair_effects,
    compute_shares,
    remove_rounding_differences,
)
from wantui.analysis.final_states import SPREAD_METRIC, FinalStates
from wantui.analysis.group_names import CannotCompareError
from wantui.analysis.groups import MatchedGroups
from wantui.analysis.matching import match_groups_and_final_states
from wantui.analysis.metrics import METRICS
from wantui.analysis.strides import describe_stride_checks, find_unsettled_metrics, list_unsettled_stride_checks
from wantui.analysis.video import Video


@dataclass(frozen=True)
class MeasuredGroups:
    """Matched groups with the values of their metrics, and the tests of each pair of groups in each metric."""

    grouping: str
    primary_metric: str
    groups: MatchedGroups
    final_states: FinalStates | None
    shown_names: list[str]
    """Metrics that are compared, the declared one first."""
    all_names: list[str]
    """Metrics that the answers use: first the compared metrics, then others."""
    all_values: FloatArray
    """Values of all metrics, [seeds, phrasings, groups, metrics]."""
    effects: PairEffects
    """Uncorrected tests of all pairs and metrics."""
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
        return _list_pairs(self.groups)

    @property
    def shown_values(self) -> FloatArray:
        """Return the values of the compared metrics, [seeds, phrasings, groups, metrics]."""
        return self.all_values[..., : len(self.shown_names)]

    @property
    def primary_values(self) -> FloatArray:
        """Return the values of the declared metric, [seeds, phrasings, groups]."""
        return self.all_values[..., 0]

    def find_absolute_metrics(self) -> set[str]:
        """Return the metrics whose differences cannot be given in percent for all pairs of groups."""
        shares = compute_shares(self.all_names, self.all_values.mean(1), self.group_pairs)
        return {name for m, name in enumerate(self.all_names) if not np.isfinite(shares[:, m]).all()}


def measure_groups(
    videos: Sequence[Video], grouping: str, primary_metric: str, metrics: Sequence[str] | None
) -> MeasuredGroups:
    """Match the groups, compute the values of their metrics, and test each pair of groups.

    Args:
        primary_metric: declared metric.
        metrics: metrics and external labels to explore; default all of METRICS, and all labels of the videos.

    Raises:
        CannotCompareError: there are fewer than two groups or seeds, more than MAX_GROUPS groups, or an unknown metric.
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
    warnings += describe_stride_checks(list_unsettled_stride_checks(matched_videos, shown_names))
    pairs = _list_pairs(matched_groups)
    return MeasuredGroups(
        grouping=grouping,
        primary_metric=primary_metric,
        groups=matched_groups,
        final_states=final_states,
        shown_names=shown_names,
        all_names=all_names,
        all_values=all_values,
        effects=compute_pair_effects(all_values, pairs),
        unsettled_names=[name for name in find_unsettled_metrics(matched_videos) if name in all_names],
        no_states_reason=no_states_reason,
        no_spread_reason=no_spread_reason,
        warnings=tuple(warnings),
        exclusion_reasons=tuple(exclusion_reasons),
        unreadable_videos=tuple(unreadable_videos),
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


def _list_pairs(matched_groups: MatchedGroups) -> GroupIndexPairs:
    return list(itertools.combinations(range(len(matched_groups.groups)), 2))
