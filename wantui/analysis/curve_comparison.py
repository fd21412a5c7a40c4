"""Comparison of groups' curves over the noise level: bands of means, bands of videos, and cluster tests."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from wantui.analysis.arrays import FloatArray
from wantui.analysis.clusters import (
    Cluster,
    ClusterTest,
    compute_family_mass_p,
    compute_family_masses,
    run_cluster_test,
)
from wantui.analysis.differences import remove_rounding_differences
from wantui.analysis.groups import MatchedGroups
from wantui.analysis.metrics import CURVES, METRICS
from wantui.analysis.statistics import compute_mean_half_width, compute_min_attainable_p

VIDEO_QUANTILES = (0.025, 0.975)
"""Quantiles that bound the central 95 % of a group's videos."""
MAX_TESTED_PAIRS = 45
"""Maximum number of group pairs whose curves are tested."""


@dataclass(frozen=True)
class GroupCurve:
    """Curve of one group: its mean over seeds, and its videos."""

    group_name: str
    sigmas: FloatArray
    """[s] noise levels."""
    mean: FloatArray
    """[s] mean over seeds; the videos of a seed are averaged first."""
    low: FloatArray
    """[s] lower end of Student's 95 % interval of the mean over seeds."""
    high: FloatArray
    videos_low: FloatArray
    """[s] lower end of the central 95 % of the videos."""
    videos_high: FloatArray


@dataclass(frozen=True)
class CurveDifference:
    """Difference of a curve between two groups, paired by seed."""

    first_group: str
    second_group: str
    mean: FloatArray
    """[s] mean over seeds of first minus second."""
    low: FloatArray
    """[s] lower end of Student's 95 % interval of the mean paired difference, of each noise level alone."""
    high: FloatArray
    t_values: FloatArray
    """[s] t of the paired differences."""
    clusters: tuple[Cluster, ...]

    @property
    def p(self) -> float:
        """Return the smallest p of the clusters; 1 without a cluster."""
        return min((cluster.p for cluster in self.clusters), default=1.0)


@dataclass(frozen=True)
class CurveComparison:
    """Comparison of one curve between groups."""

    curve_name: str
    curves: tuple[GroupCurve, ...]
    differences: tuple[CurveDifference, ...]
    """Differences of all pairs of groups; empty if `untested_reason` says why."""
    untested_reason: str = ""
    is_settled: bool = True
    """False if the metric of this name depends on the steps at the stride of the curve."""

    @property
    def label(self) -> str:
        """Return the name of the curve, with a mark if the sampler's steps dominate it."""
        return self.curve_name if self.is_settled else f"{self.curve_name} (not settled)"


def compare_curves(
    matched_groups: MatchedGroups, curve_names: Sequence[str] = tuple(CURVES)
) -> tuple[CurveComparison, ...]:
    """Compare curves between groups of the same seeds and phrasings.

    `family_p` is computed from the largest mass over all curves and pairs, with the same sign flips in each. With three
    or more groups, the groups are also permuted within seeds, and the larger p counts.
    """
    groups, values_by_curve, curves_by_name = matched_groups.groups, [], []
    for name in curve_names:
        curves, values = _collect_curves(matched_groups, name)
        curves_by_name.append(curves)
        values_by_curve.append(values)
    pairs = list(itertools.combinations(range(len(groups)), 2))
    reason = _explain_untested(curves_by_name[0], len(pairs))
    if reason:
        return tuple(
            CurveComparison(name, curves, (), reason, _is_settled(matched_groups, name))
            for name, curves in zip(curve_names, curves_by_name, strict=True)
        )
    seed_values = [remove_rounding_differences(np.stack(values, axis=1)) for values in values_by_curve]
    tests = [[run_cluster_test(values[:, i] - values[:, j]) for i, j in pairs] for values in seed_values]
    all_tests = [test for curve_tests in tests for test in curve_tests]
    permuted_masses = None if len(pairs) == 1 else compute_family_masses(seed_values, pairs)

    def compute_family_p(mass: float) -> float:
        return compute_family_mass_p(mass, all_tests, permuted_masses)

    return tuple(
        CurveComparison(
            name,
            curves,
            tuple(
                _build_difference(groups[i].name, groups[j].name, values[:, i] - values[:, j], test, compute_family_p)
                for (i, j), test in zip(pairs, curve_tests, strict=True)
            ),
            is_settled=_is_settled(matched_groups, name),
        )
        for name, curves, values, curve_tests in zip(curve_names, curves_by_name, seed_values, tests, strict=True)
    )


def _is_settled(matched_groups: MatchedGroups, name: str) -> bool:
    """Return whether the metric with the name of a curve is measured at the stride of the curve, and has settled."""
    return name not in METRICS or all(group.label_metric(name) == name for group in matched_groups.groups)


def _explain_untested(curves: Sequence[GroupCurve], pair_count: int) -> str:
    """Return why curves are not tested; empty if they are tested."""
    if any(not np.array_equal(curves[0].sigmas, curve.sigmas) for curve in curves):
        return "the groups have different noise levels, so their curves have no common points"
    if pair_count > MAX_TESTED_PAIRS:
        return f"there are {pair_count:,} pairs of groups, but curves of at most {MAX_TESTED_PAIRS} pairs are tested"
    return ""


def _collect_curves(matched_groups: MatchedGroups, name: str) -> tuple[tuple[GroupCurve, ...], list[FloatArray]]:
    """Return the curve of each group, and its values [seeds, s], averaged over phrasings."""
    curves, seed_values = [], []
    for group in matched_groups.groups:
        video_curves = [CURVES[name](video.trajectory) for video in group.videos if video.trajectory is not None]
        sigmas, values = video_curves[0][0], np.stack([values for _, values in video_curves])
        cells = values.reshape(len(matched_groups.seeds), -1, len(sigmas))
        seed_means = matched_groups.average_over_remaining_settings(cells).mean(1)
        half_widths = compute_mean_half_width(seed_means)
        mean, (videos_low, videos_high) = seed_means.mean(0), np.quantile(values, VIDEO_QUANTILES, axis=0)
        curves.append(
            GroupCurve(group.name, sigmas, mean, mean - half_widths, mean + half_widths, videos_low, videos_high)
        )
        seed_values.append(seed_means)
    return tuple(curves), seed_values


def _build_difference(
    first_group: str,
    second_group: str,
    differences: FloatArray,
    test: ClusterTest,
    compute_family_p: Callable[[float], float],
) -> CurveDifference:
    mean, half_widths = differences.mean(0), compute_mean_half_width(differences)
    clusters = tuple(
        replace(cluster, family_p=max(cluster.p, compute_family_p(cluster.mass))) for cluster in test.clusters
    )
    return CurveDifference(
        first_group, second_group, mean, mean - half_widths, mean + half_widths, test.t_values, clusters
    )


def describe_cluster_test(seed_count: int) -> str:
    """Describe the test of the curves, its interpretation, and the smallest p that the seeds can give."""
    return (
        "curves over the noise level, cluster-based permutation test (Maris and Oostenveld 2007): a low p shows that "
        "two curves differ somewhere; the noise levels of a cluster show where the difference is clearest, "
        "not where it begins or ends; (not settled): the sampler's steps dominate the curve; "
        f"smallest possible p with {seed_count} seeds: {compute_min_attainable_p(seed_count):.3g}"
    )
