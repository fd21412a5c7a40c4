"""Mean curves of groups over the noise level, with 95 % intervals over seeds; median curves of videos."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wantui.analysis.arrays import FloatArray
from wantui.analysis.group import Group
from wantui.analysis.metrics import CURVES
from wantui.analysis.statistics import compute_mean_half_width
from wantui.analysis.video import Video


@dataclass(frozen=True)
class MeanCurve:
    """Mean curve of one group."""

    group_name: str
    sigmas: FloatArray
    """[s] noise levels."""
    mean: FloatArray
    """[s] mean over seeds; the videos of a seed are averaged first."""
    low: FloatArray
    """[s] lower end of Student's 95 % interval of the mean; NaN with one seed."""
    high: FloatArray
    """[s] upper end of the interval."""
    seed_count: int
    excluded_count: int
    """Number of videos without a trajectory, or with different noise levels than most videos of the group."""


def compute_mean_curves(groups: Sequence[Group], curve_name: str) -> list[MeanCurve]:
    """Return the mean curve of each group that has a trajectory.

    Args:
        curve_name: one of CURVES.
    """
    mean_curves = (_compute_mean_curve(group, curve_name) for group in groups)
    return [mean_curve for mean_curve in mean_curves if mean_curve is not None]


def _compute_mean_curve(group: Group, curve_name: str) -> MeanCurve | None:
    curves_by_sigmas: dict[tuple[float, ...], list[tuple[int, FloatArray]]] = {}
    for video in group.videos:
        if video.trajectory is not None:
            sigmas, values = CURVES[curve_name](video.trajectory)
            curves_by_sigmas.setdefault(tuple(sigmas.tolist()), []).append((video.seed, values))
    if not curves_by_sigmas:
        return None
    sigma_counts = Counter({sigmas: len(curves) for sigmas, curves in curves_by_sigmas.items()})
    common_sigmas, video_count = sigma_counts.most_common(1)[0]
    values_by_seed: dict[int, list[FloatArray]] = {}
    for seed, values in curves_by_sigmas[common_sigmas]:
        values_by_seed.setdefault(seed, []).append(values)
    seed_means = np.stack([np.mean(curves, axis=0) for curves in values_by_seed.values()])
    low, high = _compute_intervals(seed_means)
    return MeanCurve(
        group.name,
        np.array(common_sigmas),
        seed_means.mean(0),
        low,
        high,
        len(seed_means),
        len(group.videos) - video_count,
    )


def _compute_intervals(seed_means: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return Student's 95 % interval of the mean over [seeds, s] at each noise level; NaN with one seed."""
    seed_count, level_count = seed_means.shape
    if seed_count < 2:
        return np.full(level_count, np.nan), np.full(level_count, np.nan)
    half_widths = compute_mean_half_width(seed_means)
    return seed_means.mean(0) - half_widths, seed_means.mean(0) + half_widths


@dataclass(frozen=True)
class MedianCurve:
    """Median curve of the videos that have the same noise levels."""

    values: FloatArray
    """[s] median over videos at each noise level."""
    video_count: int


MedianCurves = dict[tuple[str, tuple[float, ...]], MedianCurve]
"""Median curves by curve name and noise levels."""


def compute_median_curves(videos: Sequence[Video], curve_names: Sequence[str]) -> MedianCurves:
    """Return the median of each curve over the videos with the same noise levels.

    Args:
        curve_names: names in CURVES.
    """
    curves: dict[tuple[str, tuple[float, ...]], list[FloatArray]] = {}
    for trajectory in (video.trajectory for video in videos if video.trajectory is not None):
        for name in curve_names:
            sigmas, values = CURVES[name](trajectory)
            curves.setdefault((name, tuple(sigmas.tolist())), []).append(values)
    return {key: MedianCurve(np.median(np.stack(values), axis=0), len(values)) for key, values in curves.items()}
