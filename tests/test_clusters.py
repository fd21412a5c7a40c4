"""Cluster tests of curves, against an enumeration of all flips with scipy, and by simulation where nothing differs."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from synthetic_videos import synthetic_videos

from wantui.analysis.clusters import compute_family_masses, find_clusters, run_cluster_test
from wantui.analysis.compare import compare_groups
from wantui.analysis.curve_comparison import CurveComparison, compare_curves
from wantui.analysis.groups import MatchedGroups
from wantui.analysis.metrics import CURVES
from wantui.analysis.serialize_curves import build_curve_records
from wantui.analysis.strides import apply_stride_to_videos

FloatArray = NDArray[np.float64]


def draw_smooth_noise(random: np.random.Generator, shape: tuple[int, ...], correlation: float = 0.8) -> FloatArray:
    """Return values whose neighbours along the last axis are correlated, as those of a curve are."""
    values = random.normal(size=shape)
    for level in range(1, shape[-1]):
        values[..., level] = correlation * values[..., level - 1] + math.sqrt(1 - correlation**2) * values[..., level]
    return values


def list_cluster_masses(differences: FloatArray) -> list[float]:
    """Return the masses of all clusters by scipy's t test, level by level."""
    test = stats.ttest_1samp(differences, 0)
    masses: list[float] = []
    previous_sign = 0
    for t, p in zip(test.statistic, test.pvalue, strict=True):
        sign = int(np.sign(t)) if p < 0.05 else 0
        if sign and sign == previous_sign:
            masses[-1] += t
        elif sign:
            masses.append(t)
        previous_sign = sign
    return masses


@pytest.mark.parametrize("effect", [2.0, 3.0])
def test_cluster_p_equals_an_enumeration_of_all_sign_flips(effect: float) -> None:
    differences = draw_smooth_noise(np.random.default_rng(3), (6, 12))
    differences[:, 4:8] += effect
    null_masses = [
        max(map(abs, list_cluster_masses(np.array(signs)[:, None] * differences)), default=0.0)
        for signs in itertools.product((1, -1), repeat=6)
    ]
    clusters = run_cluster_test(differences).clusters
    masses = list_cluster_masses(differences)
    assert len(masses) == len(clusters) > 0
    assert [cluster.mass for cluster in clusters] == pytest.approx(masses)
    assert [cluster.p for cluster in clusters] == [np.mean(np.array(null_masses) >= abs(m) - 1e-9) for m in masses]


@pytest.mark.slow
def test_cluster_p_over_three_groups_equals_an_enumeration_of_all_permutations() -> None:
    values = draw_smooth_noise(np.random.default_rng(5), (3, 3, 6))
    values[:, 0] += 1.5
    pairs = [(0, 1), (0, 2), (1, 2)]
    largest = []
    for orders in itertools.product(itertools.permutations(range(3)), repeat=3):
        permuted = np.stack([values[seed, list(order)] for seed, order in enumerate(orders)])
        masses = [m for i, j in pairs for m in list_cluster_masses(permuted[:, i] - permuted[:, j])]
        largest.append(max(map(abs, masses), default=0.0))
    family_masses = compute_family_masses([values], pairs)
    # With the first seed fixed: each order is six times in the full enumeration, which renames the groups.
    assert sorted(family_masses) == pytest.approx(sorted(largest)[::6])


def test_results_for_many_seeds_do_not_store_the_t_of_all_flips() -> None:
    test = run_cluster_test(draw_smooth_noise(np.random.default_rng(4), (20, 30)))
    assert test.t_values.base is None
    assert test.null_masses.nbytes == 10_000 * 8


def test_clusters_are_runs_of_one_sign() -> None:
    t = np.array([0.1, 3.0, 4.0, -3.0, -5.0, 0.0, 2.5])
    assert find_clusters(t, 2.0) == [(1, 2, 7.0), (3, 4, -8.0), (6, 6, 2.5)]
    assert find_clusters(t, 9.0) == []


def test_levels_without_values_belong_to_no_cluster() -> None:
    differences = np.random.default_rng(1).normal(5, 1, (6, 5))
    differences[2, 2] = np.nan
    result = run_cluster_test(differences)
    assert [(cluster.first_level, cluster.last_level) for cluster in result.clusters] == [(0, 1), (3, 4)]
    assert result.t_values[2] == 0


def test_equal_curves_have_no_cluster() -> None:
    result = run_cluster_test(np.zeros((6, 4)))
    assert result.clusters == ()
    assert not result.t_values.any()


def test_cluster_test_of_one_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two seeds are needed, but there are 1"):
        run_cluster_test(np.ones((1, 4)))


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["normal", "heavy tails"])
@pytest.mark.parametrize("seeds", [8, 12])
def test_cluster_test_calls_equal_curves_different_in_five_percent(noise: str, seeds: int) -> None:
    run_count = 600 if seeds == 8 else 200
    random, calls = np.random.default_rng(seeds), 0
    for _ in range(run_count):
        values = draw_smooth_noise(random, (seeds, 2, 20))
        if noise == "heavy tails":
            values *= 1 / np.sqrt(random.chisquare(2, (seeds, 2, 1)))  # a curve of t with two degrees of freedom
        clusters = run_cluster_test(values[:, 0] - values[:, 1]).clusters
        calls += any(cluster.p <= 0.05 for cluster in clusters)
    # The exact binomial interval that a true rate of 5 % leaves in one of 1,000 runs.
    low, high = stats.binom.interval(0.999, run_count, 0.05)
    assert low <= calls <= high


def compare_synthetic_curves(folder: Path, groups: int = 2) -> tuple[MatchedGroups, tuple[CurveComparison, ...]]:
    videos = synthetic_videos(folder, dict.fromkeys("abcd"[:groups], 1.0), seeds=6, phrasings=2)
    matched = compare_groups(videos, grouping="1", primary_metric="length", metrics=["length"]).matched_groups
    return matched, compare_curves(matched)


@pytest.mark.slow
def test_bands_of_means_and_of_videos_are_distinguished(tmp_path: Path) -> None:
    matched, comparisons = compare_synthetic_curves(tmp_path)
    assert [comparison.curve_name for comparison in comparisons] == list(CURVES)
    for comparison in comparisons:
        for group, curve in zip(matched.groups, comparison.curves, strict=True):
            videos = np.stack([CURVES[comparison.curve_name](v.trajectory)[1] for v in group.videos if v.trajectory])
            seed_means = videos.reshape(6, 2, -1).mean(1)
            half_width = stats.t.ppf(0.975, 5) * stats.sem(seed_means)
            assert curve.mean == pytest.approx(videos.mean(0))
            assert curve.low == pytest.approx(videos.mean(0) - half_width)
            assert curve.high == pytest.approx(videos.mean(0) + half_width)
            assert curve.videos_low == pytest.approx(np.quantile(videos, 0.025, axis=0))
            assert curve.videos_high == pytest.approx(np.quantile(videos, 0.975, axis=0))


@pytest.mark.slow
def test_band_of_a_difference_is_paired_by_seed(tmp_path: Path) -> None:
    matched, comparisons = compare_synthetic_curves(tmp_path)
    velocity = next(comparison for comparison in comparisons if comparison.curve_name == "velocity")
    first, second = (
        np.stack([v.trajectory.velocity for v in group.videos if v.trajectory]).reshape(6, 2, -1).mean(1)
        for group in matched.groups
    )
    (difference,) = velocity.differences
    test = stats.ttest_rel(first, second)
    interval = test.confidence_interval()
    assert difference.t_values == pytest.approx(test.statistic)
    assert difference.low == pytest.approx(interval.low)
    assert difference.high == pytest.approx(interval.high)


@pytest.mark.slow
def test_p_over_all_curves_is_at_least_the_p_of_the_curve(tmp_path: Path) -> None:
    for group_count in (2, 3):
        _, comparisons = compare_synthetic_curves(tmp_path / str(group_count), group_count)
        clusters = [c for comparison in comparisons for d in comparison.differences for c in d.clusters]
        assert clusters
        assert all(cluster.family_p >= cluster.p for cluster in clusters)


@pytest.mark.slow
def test_curves_with_different_noise_levels_are_not_tested(tmp_path: Path) -> None:
    matched, _ = compare_synthetic_curves(tmp_path)
    coarse = replace(matched.groups[1], videos=tuple(apply_stride_to_videos(matched.groups[1].videos, 2)))
    comparisons = compare_curves(replace(matched, groups=(matched.groups[0], coarse)))
    assert all("different noise levels" in comparison.untested_reason for comparison in comparisons)
    assert not any(comparison.differences for comparison in comparisons)
    assert all(len(comparison.curves) == 2 for comparison in comparisons)


@pytest.mark.slow
def test_json_names_the_noise_levels_of_each_cluster(tmp_path: Path) -> None:
    _, comparisons = compare_synthetic_curves(tmp_path)
    records = build_curve_records(comparisons)
    assert records.keys() == CURVES.keys()
    for comparison in comparisons:
        (record,), (difference,) = records[comparison.curve_name]["differences"], comparison.differences
        sigmas = comparison.curves[0].sigmas
        assert [(cluster["from"], cluster["to"]) for cluster in record["clusters"]] == [
            (sigmas[cluster.first_level], sigmas[cluster.last_level]) for cluster in difference.clusters
        ]
        assert record["p"] == difference.p


@pytest.mark.slow
def test_curve_that_the_steps_dominate_is_marked(tmp_path: Path) -> None:
    matched, _ = compare_synthetic_curves(tmp_path)
    unsettled = [
        replace(group, videos=tuple(replace(video, unsettled_metrics=("turning",)) for video in group.videos))
        for group in matched.groups
    ]
    comparisons = compare_curves(replace(matched, groups=tuple(unsettled)))
    labels = {comparison.curve_name: comparison.label for comparison in comparisons}
    assert labels["turning"] == "turning (not settled)"
    assert labels["norm"] == "norm"
    assert [name for name, record in build_curve_records(comparisons).items() if not record["settled"]] == ["turning"]
