"""Final states of matched groups: distances, spread of each group, and tests of spread and location."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wantui.analysis.arrays import FloatArray
from wantui.analysis.comparability import VideoNamer
from wantui.analysis.dispersion import (
    MIN_GROUP_VIDEOS,
    PermutationTest,
    compute_distances_to_median,
    compute_median_weights,
    compute_squared_distances,
    compute_total_variance,
    compute_unbiased_squared_mean,
    run_permanova,
    run_permdisp,
)
from wantui.analysis.group import Group
from wantui.analysis.groups import MatchedGroups
from wantui.analysis.statistics import RANDOM_SEED, run_sign_flip_tests
from wantui.analysis.trajectory import NoGeometryError
from wantui.analysis.video import Video

SPREAD_METRIC = "spread"
"""Name of the metric "spread": distance of the final latents to the spatial median of their group, / sqrt(D)."""
RELABELLING_COUNT = 500
"""Number of random exchanges of groups, over all pairs."""
RELABELLING_CHUNK_SIZE = 50
"""Number of exchanges whose medians are computed together; with 200 videos in a group, they need about 32 MB."""


VideoKey = tuple[Path, int]
"""Batch folder and number of a video."""


class UnusableProjectionsError(NoGeometryError):
    """Raised if the projections of some videos cannot be used; the message names the first such video.

    Args:
        groups: groups that contain the videos.
        reasons: reasons by video.
    """

    def __init__(self, groups: Sequence[Group], reasons: Mapping[VideoKey, str]) -> None:
        all_videos = [video for group in groups for video in group.videos]
        namer = VideoNamer(all_videos)
        unusable_videos = [video for video in all_videos if get_video_key(video) in reasons]
        message = f"{namer.name_video(unusable_videos[0])}: {reasons[get_video_key(unusable_videos[0])]}"
        if len(unusable_videos) > 1:
            message += f" ({len(unusable_videos) - 1} of the other videos cannot be used either)"
        super().__init__(message)
        self.reasons = reasons


@dataclass(frozen=True)
class DispersionCurve:
    """Dispersion of a group's videos at every noise level, independently of the trajectories' stride."""

    sigmas: FloatArray
    """[N + 1] noise levels, without the levels of Heun's predictors."""
    dispersion: FloatArray
    """[N + 1] sqrt(W^2 / D) at each noise level."""


@dataclass(frozen=True)
class FinalStates:
    """Final states of all groups, ordered by group, with their distances and dispersion."""

    squared_distances: FloatArray
    """[videos, videos] squared distances / D."""
    scaled_states: FloatArray
    """[groups, videos, k] final states / sqrt(D)."""
    spread_by_group: Mapping[str, FloatArray]
    """Distance of each video to the spatial median of its group, by group; empty if `no_spread_reason` says why."""
    dimension: int
    """D, values per state."""
    curves_by_group: Mapping[str, DispersionCurve]
    """Dispersion by group."""

    @property
    def no_spread_reason(self) -> str:
        """Return why the spread of the groups is unknown although their places are known; empty if it is known."""
        if self.spread_by_group:
            return ""
        return (
            f"{SPREAD_METRIC} needs {MIN_GROUP_VIDEOS} videos in each group, but there are "
            f"{self.scaled_states.shape[1]}. Generate more seeds (videos_per_variation)"
        )

    @classmethod
    def load(cls, groups: Sequence[Group]) -> "FinalStates":
        """Load the stored projections of groups of equal size.

        Raises:
            UnusableProjectionsError: projections are missing, not finite, or differ in shape from most of their group.
            NoGeometryError: the projections of the groups differ in size.
        """
        video_count = len(groups[0].videos)
        dimension = groups[0].videos[0].dimension
        curves_by_group: dict[str, DispersionCurve] = {}
        final_states: list[FloatArray] = []
        reasons: dict[VideoKey, str] = {}
        for group in groups:
            sigmas, states, group_reasons = load_group_states(group)
            reasons |= group_reasons
            if not group_reasons:
                final_states.append(states[:, -1].astype(np.float64))
                curves_by_group[group.name] = _compute_dispersion_curve(sigmas, states, dimension)
        if reasons:
            raise UnusableProjectionsError(groups, reasons)
        if len(dimensions := {states.shape[1] for states in final_states}) > 1:
            raise NoGeometryError(f"the projections of the groups have different numbers of values: {dimensions}")
        scaled_states = np.stack(final_states) / np.sqrt(dimension)
        squared_distances = compute_squared_distances(scaled_states.reshape(-1, scaled_states.shape[2]))
        spread_by_group = {
            group.name: compute_distances_to_median(
                squared_distances[g * video_count : (g + 1) * video_count, g * video_count : (g + 1) * video_count]
            )
            for g, group in enumerate(groups)
            if video_count >= MIN_GROUP_VIDEOS
        }
        return cls(squared_distances, scaled_states, spread_by_group, dimension, curves_by_group)

    def group_by_seed(self, seed_count: int) -> FloatArray:
        """Return the states [groups, seeds, videos, k]; the videos of a group are ordered by seed."""
        group_count, _, state_size = self.scaled_states.shape
        return self.scaled_states.reshape(group_count, seed_count, -1, state_size)

    def compute_squared_centroid_distances(
        self, matched_groups: MatchedGroups, group_pairs: Sequence[tuple[int, int]]
    ) -> dict[tuple[str, str], float]:
        """Return the unbiased |mean paired difference|^2 of each pair of groups."""
        group_names = [group.name for group in matched_groups.groups]
        seed_means = self.group_by_seed(len(matched_groups.seeds)).mean(2)
        return {
            (group_names[i], group_names[j]): compute_unbiased_squared_mean(seed_means[i] - seed_means[j])
            for i, j in group_pairs
        }

    def run_permanova(self, matched_groups: MatchedGroups) -> PermutationTest:
        return run_permanova(self.squared_distances, matched_groups.cell_indices)

    def run_permdisp(self, matched_groups: MatchedGroups) -> PermutationTest:
        return run_permdisp(self.squared_distances, matched_groups.cell_indices)

    def resample_spread(
        self, matched_groups: MatchedGroups, group_pairs: Sequence[tuple[int, int]]
    ) -> tuple[FloatArray, FloatArray]:
        """Exchange two groups at random within each seed, and recompute `spread` and its test.

        Groups are first moved so that their medians coincide, because a distance between groups is not spread. The
        results show the procedure on these videos under the null hypothesis. The share of rejections can exceed the
        level of the test, because each relabelling moves the medians to which all distances are measured.

        Returns:
            [relabellings] differences in mean spread, and the sign-flip p of each.
        """
        generator = np.random.default_rng(RANDOM_SEED)
        seed_count = len(matched_groups.seeds)
        mean_differences: list[float] = []
        p_values: list[float] = []
        centred_states = [_centre_states_on_median(states) for states in self.scaled_states]
        for i, j in group_pairs:
            states = np.concatenate([centred_states[i], centred_states[j]])
            squared_distances = compute_squared_distances(states)
            indices = np.arange(len(states)).reshape(2, seed_count, -1)
            is_swapped = generator.integers(0, 2, (max(1, RELABELLING_COUNT // len(group_pairs)), seed_count)) == 1
            for some_swapped in np.array_split(is_swapped, math.ceil(len(is_swapped) / RELABELLING_CHUNK_SIZE)):
                # [relabellings, 2, videos of a group]
                members = np.stack(
                    [
                        np.where(some_swapped[..., None], indices[1 - k], indices[k]).reshape(len(some_swapped), -1)
                        for k in (0, 1)
                    ],
                    axis=1,
                )
                spreads = compute_distances_to_median(squared_distances[members[..., :, None], members[..., None, :]])
                seed_means = spreads.reshape(*members.shape[:2], seed_count, -1).mean(3)
                seed_differences = seed_means[:, 0] - seed_means[:, 1]
                mean_differences.extend(seed_differences.mean(1))
                p_values.extend(run_sign_flip_tests(seed_differences.T))
        return np.array(mean_differences), np.array(p_values)


def get_video_key(video: Video) -> VideoKey:
    """Return the key of a video in `UnusableProjectionsError.reasons`."""
    return video.folder, video.video_index


def load_group_states(group: Group) -> tuple[FloatArray, NDArray[np.float32], dict[VideoKey, str]]:
    """Return noise levels [N + 1], projected states [videos, N + 1, k], and the videos whose projection cannot be used.

    The states are complete only if no video is unusable.
    """
    projected_paths: list[tuple[VideoKey, FloatArray, NDArray[np.float32]]] = []
    reasons: dict[VideoKey, str] = {}
    for video in group.videos:
        key = get_video_key(video)
        try:
            sigmas, states = video.load_projected_path()
        except NoGeometryError as error:
            reasons[key] = str(error)
            continue
        projected_paths.append((key, sigmas, states))
        if not np.isfinite(states).all():
            reasons[key] = "its projection contains NaN or infinity"
    shape_counts = Counter(states.shape for _, _, states in projected_paths).most_common(1)
    for key, _, states in projected_paths:
        if states.shape != (common_shape := shape_counts[0][0]):
            others_text = "most" if 2 * shape_counts[0][1] > len(projected_paths) else "other"
            reasons[key] = f"its projection has shape {states.shape}, but {common_shape} in {others_text} videos"
    if reasons:
        return np.empty(0), np.empty((0, 0, 0), dtype=np.float32), reasons
    return projected_paths[0][1], np.stack([states for _, _, states in projected_paths]), {}


def _compute_dispersion_curve(sigmas: FloatArray, states: NDArray[np.float32], dimension: int) -> DispersionCurve:
    """Return the dispersion of projected states [videos, N + 1, k]."""
    variances = [
        compute_total_variance(compute_squared_distances(states[:, i]) / dimension) for i in range(states.shape[1])
    ]
    return DispersionCurve(sigmas, np.sqrt(variances))


def _centre_states_on_median(states: FloatArray) -> FloatArray:
    """Shift states [n, k] so that their spatial median is 0."""
    return states - compute_median_weights(compute_squared_distances(states)) @ states
